"""Guided sampling from a DiT-XL/2 on one NVIDIA GPU: images a second, share of the card's own matmul peak, memory.

    pip install -e ".[cuda12]"  torch diffusers                    (torch with CUDA; without it its rows are absent)
    python -m experiments.benchmarks.gpu --config=configs/bench_gpu.py --workdir=runs/bench-gpu

At most eight minutes: the cases stand in the order of their worth, one that would not end in time is left out by name,
the status is 0, and the same command goes on from the rows. Where no GPU is, one sentence says so, with status 2.
`configs/bench_gpu.py:quick` runs everything in small on the CPU. Not yet run on a GPU. Expect, by the count of operations:
most of the time in matrix products, so a share of the peak above one half at batch 8 and more, and less at batch 1.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the benchmark.

    Attributes:
      gpus: GPUs that must be there; 0 for a run on the CPU that shows that it runs.
      width, depth, heads: of the DiT; patches are 2 x 2.
      sizes: H = W of the latents; 32 is an image of 256 x 256 and 64 one of 512 x 512.
      batches: images of a call, the most telling first.
      steps: evaluations of DPM-Solver++ 2M.
      guidance: scale of classifier-free guidance.
      repeats: timed calls of each contender, in turn; the median counts.
      peak: the matmul peak is measured on matrices of this size.
      seconds: for everything.
    """

    gpus: int = 1
    width: int = 1152
    depth: int = 28
    heads: int = 16
    sizes: tuple[int, ...] = (32, 64)
    batches: tuple[int, ...] = (8, 32, 1)
    steps: int = 50
    guidance: float = 4.0
    repeats: int = 5
    peak: int = 8192
    seconds: float = 480.0


def get_config(arg=""):
    """`arg` "quick" shrinks all sizes and needs no GPU."""
    return shrink(
        Config(), arg,
        quick={"gpus": 0, "width": 32, "depth": 2, "heads": 2, "sizes": (8,), "batches": (2,), "steps": 3, "repeats": 2,
               "peak": 64},
    )  # fmt: skip
