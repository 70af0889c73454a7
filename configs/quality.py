"""How good are the shipped models: do their samples have the class that was asked for, the data's statistics, and are they new?

    python -m experiments.quality --config=configs/quality.py --workdir=runs/quality             (nine minutes on 2 cores)
    python -m experiments.quality --config=configs/quality.py:quick --workdir=runs/quality-quick

Expect: with guidance 1.5 the classes are right more often than without, for both models, and on digits nearly always; guidance 4
narrows the distribution, so that the Frechet distance is worst there. Digits are new (few near copies); 1906 emoji are few for a
network of millions of parameters, and copies are likely.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the measurement.

    Attributes:
      networks: names or folders of models; their cards say what data they are judged by.
      scales: of guidance.
      seeds, samples: each scale draws `samples` images for each seed; labels go round the classes.
      nfe: evaluations of a sample, by `solver` (a name of `experiments.order.lab`) on uniform times.
      reference: images of the data that each seed's samples are compared with; with `samples` of the rest they make the floor.
      batch: samples run together.
    """

    networks: tuple[str, ...] = ("digits", "emoji")
    scales: tuple[float, ...] = (1.0, 1.5, 4.0)
    seeds: int = 4
    samples: int = 256
    nfe: int = 20
    solver: str = "AB2"
    reference: int = 1024
    batch: int = 64


def get_config(arg=""):
    """`arg` "quick" draws 120 digits a scale."""
    return shrink(
        Config(), arg,
        quick={"networks": ("digits",), "scales": (1.0, 1.5), "seeds": 2, "samples": 60, "nfe": 10, "batch": 60},
    )  # fmt: skip
