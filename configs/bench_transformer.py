r"""Sampling from a DiT-S/2 with guidance: flowjax, a Python loop of jitted steps, and PyTorch.

    pip install -e ".[parity]"
    python -m experiments.benchmarks.transformer --config=configs/bench_transformer.py \
        --workdir=runs/bench-transformer

16 minutes on 2 cores. The extra brings torch and diffusers; without them their rows are absent. All
contenders have one network, one noise and one solver, and each row holds its distance to a float64
reference. Time only on a machine that does nothing else: every row holds the load of the machine.

Expect: agreement to 1e-4 in float32 and to a few percent in bfloat16. The Python loop takes 0.87
to 1.04 times as long as the scan. torch.compile takes 0.87 to 1.3 times as long under JAX 0.12, and
0.47 to 1.2 times under JAX 0.10, least with several images in bfloat16.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the benchmark."""

    # The network: a DiT with patches of 2 x 2.
    size: int = 32  # H = W of the latents, which have 4 channels
    width: int = 384
    depth: int = 12
    heads: int = 6

    # The cases.
    steps: int = 20  # evaluations of DPM-Solver++ 2M
    guidance: float = 4.0  # scale of classifier-free guidance
    batches: tuple[int, ...] = (1, 4)  # images of a call
    dtypes: tuple[str, ...] = ("float32", "bfloat16")  # of matrix products and stored weights

    # Path of another Python that has flowjax's packages; it adds flowjax under its JAX.
    python: str = ""
    repeats: int = 7  # timed calls of each contender, in turn; the median counts


QUICK = {
    "size": 8,
    "width": 32,
    "depth": 2,
    "heads": 2,
    "steps": 3,
    "batches": (2,),
    "dtypes": ("float32",),
    "repeats": 2,
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" shrinks all sizes, for a test that the command works."""
    return shrink(Config(), arg, quick=QUICK)
