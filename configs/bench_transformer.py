"""Sampling from a DiT-S/2 with guidance: flowjax, a Python loop of jitted steps, PyTorch eager and compiled.

    pip install -e ".[parity]"                                     (torch and diffusers; without them their rows are absent)
    python -m experiments.benchmarks.transformer --config=configs/bench_transformer.py --workdir=runs/bench-transformer

16 minutes on 2 cores. All contenders have one network, one noise and one
solver, and each row carries its distance to a float64 reference. Expect: agreement to 1e-4 in float32 and a few percent
in bfloat16; the Python loop as quick as the scan in float32 and slower in bfloat16; torch.compile ahead of both where the
processor's matrix units want oneDNN, most with several images in bfloat16 under JAX 0.10. Time only on a machine that does
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
      python: path of another Python that has flowjax's packages; it adds flowjax under its JAX.
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
    python: str = ""
    repeats: int = 7


def get_config(arg=""):
    """`arg` "quick" shrinks all sizes, for a test that the command works."""
    return shrink(
        Config(), arg,
        quick={"size": 8, "width": 32, "depth": 2, "heads": 2, "steps": 3, "batches": (2,), "dtypes": ("float32",),
               "repeats": 2},
    )  # fmt: skip
