"""How good are the shipped models? The class of their samples, their statistics, and copies.

    python -m experiments.quality --config=configs/quality.py --workdir=runs/quality
    python -m experiments.quality --config=configs/quality.py:quick --workdir=runs/quality-quick

Nine minutes on 2 cores.

Expect: with guidance 1.5 the classes are right more often than without, for both models, and on
digits nearly always. Guidance 4 narrows the distribution, so the Frechet distance is worst there.
Samples are new: at most 0.1 % of those of emoji are copies, fewer than among the 1906 emoji
themselves (1.4 %).
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the measurement."""

    # Names or folders of models; their cards name the data with which samples are compared.
    networks: tuple[str, ...] = ("digits", "emoji")
    scales: tuple[float, ...] = (1.0, 1.5, 4.0)  # of classifier-free guidance

    # Each scale draws `samples` images for each of `seeds` seeds; labels go round the classes.
    seeds: int = 4
    samples: int = 256
    nfe: int = 20  # evaluations of a sample, on uniform times
    solver: str = "AB2"  # a name of the order experiment's table of solvers
    batch: int = 64  # samples drawn together

    # Images of the data with which the samples of each seed are compared. The floor compares as
    # many with `samples` of the remaining ones.
    reference: int = 1024


QUICK = {
    "networks": ("digits",),
    "scales": (1.0, 1.5),
    "seeds": 2,
    "samples": 60,
    "nfe": 10,
    "batch": 60,
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" draws 120 digits a scale."""
    return shrink(Config(), arg, quick=QUICK)
