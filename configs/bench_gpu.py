"""Guided sampling from a DiT-XL/2 on one NVIDIA GPU: images a second, use of the card, memory.

    pip install -e ".[cuda12]"  torch diffusers
    python -m experiments.benchmarks.gpu --config=configs/bench_gpu.py --workdir=runs/bench-gpu

torch must be a build with CUDA; without it, its rows are absent. The run takes at most eight
minutes. The most important cases come first. A case that would not end in time is left out by name,
with status 0, and the same command goes on from the rows. Without a GPU the command ends with one
sentence and status 2. `configs/bench_gpu.py:quick` runs everything in small on the CPU.

Its small form has run on an NVIDIA H200; this one has not run on a GPU yet. Expect, by the count of
operations: most of the time is spent in matrix products, so the fraction of the card's own matmul
peak is above one half at batch 8 and more, and less at batch 1.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the benchmark."""

    gpus: int = 1  # GPUs that must be there; 0 for a run on the CPU that shows that it works

    # The network: a DiT with patches of 2 x 2.
    width: int = 1152
    depth: int = 28
    heads: int = 16

    # The cases.
    sizes: tuple[int, ...] = (32, 64)  # H = W of latents: images of 256 x 256 and of 512 x 512
    batches: tuple[int, ...] = (8, 32, 1)  # images of a call, the most important first
    steps: int = 50  # evaluations of DPM-Solver++ 2M
    guidance: float = 4.0  # scale of classifier-free guidance

    # The timing.
    repeats: int = 5  # timed calls of each contender, in turn; the median counts
    peak: int = 8192  # the matmul peak is measured on matrices of this size
    seconds: float = 480.0  # for everything


QUICK = {
    "gpus": 0,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "sizes": (8,),
    "batches": (2,),
    "steps": 3,
    "repeats": 2,
    "peak": 64,
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" shrinks all sizes and needs no GPU."""
    return shrink(Config(), arg, quick=QUICK)
