"""Sampling from a DiT-S/2 with guidance: flowjax, a Python loop of jitted steps, PyTorch eager and compiled.

    pip install -e ".[parity]"                                     (torch and diffusers; without them their rows are absent)
    python -m experiments.benchmarks.transformer --config=configs/bench_transformer.py --workdir=runs/bench-transformer

About ten minutes on 2 idle cores (an estimate: not yet run in full). All contenders have one network, one noise and one
solver, and each row carries its distance to a float64 reference. Expect: agreement to 1e-4 in float32 and a few percent
in bfloat16; the Python loop a little slower than the scan; flowjax ahead of torch.compile by as much as diffusers'
network leaves unfused, and no more where matrix products take nearly all the time. Time only on a machine that does
nothing else: every row keeps the load.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the benchmark.

    Attributes:
      size: H = W of the latents, which have 4 channels.
      width, depth, heads: of the DiT; patches are 2 x 2.
      steps: evaluations of DPM-Solver++ 2M.
      guidance: scale of classifier-free guidance.
      batches: images of a call.
      dtypes: of matrix products and stored weights.
      repeats: timed calls of each contender, in turn; the median counts.
    """

    size: int = 32
    width: int = 384
    depth: int = 12
    heads: int = 6
    steps: int = 20
    guidance: float = 4.0
    batches: tuple[int, ...] = (1, 4)
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    repeats: int = 7


def get_config(arg=""):
    """`arg` "quick" shrinks all sizes, for a test that the command works."""
    return shrink(
        Config(), arg,
        quick={"size": 8, "width": 32, "depth": 2, "heads": 2, "steps": 3, "batches": (2,), "dtypes": ("float32",),
               "repeats": 2},
    )  # fmt: skip
