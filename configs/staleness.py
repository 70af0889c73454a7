"""How much staleness can you bear? Stale attention over n devices against exact attention, emulated on one device.

    python -m experiments.staleness --config=configs/staleness.py:quick --workdir=runs/staleness-quick
    python -m experiments.staleness --config=configs/staleness.py --workdir=runs/staleness

Expect: stale sampling is first order whatever the solver; its distance to the synchronous run grows as (n-1)/n, at most
twofold from two devices on, and not as sqrt(n); a warm-up buys less than the same number of synchronous steps placed
where the sample decides.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the staleness experiment.

    Attributes:
      subjects: "field", the exact field of the digits, and "network".
      network: a name for `flowjax.models.load`, or "random", a small network with random weights, for development.
      seeds: of the starts; all runs of a subject share them.
      field_samples, network_samples: starts a seed. On the field few starts change their datum and rule the RMS: it needs many.
      solvers: names of `experiments.order.lab.SOLVERS` with one evaluation a step.
      steps, devices: the matrix of errors; one synchronous step at the start.
      one_solver, one_steps: the solver and its steps for the questions of warm-up and placement.
      warmups: numbers of synchronous steps at the start, up to `one_steps`.
      placed: numbers of synchronous steps that are placed at the start, in the middle, at the end, or spread.
      claim_steps: step counts of the measured orders, on the field.
      reference_steps: RK4 steps of the converged run.
      pictures: images shown.
    """

    subjects: tuple[str, ...] = ("field", "network")
    network: str = "digits"
    seeds: int = 4
    field_samples: int = 32
    network_samples: int = 8
    solvers: tuple[str, ...] = ("Euler", "DPM++ 2M", "DPM++ 3M exact")
    steps: tuple[int, ...] = (10, 20, 40, 80)
    devices: tuple[int, ...] = (2, 4, 8, 16)
    one_solver: str = "DPM++ 2M"
    one_steps: int = 20
    warmups: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 16, 20)
    placed: tuple[int, ...] = (2, 4, 8)
    claim_steps: tuple[int, ...] = (32, 64, 128, 256)
    reference_steps: int = 160
    pictures: int = 10


def get_config(arg=""):
    """`arg` "quick" is the demo: 10 and 20 steps, up to 8 devices."""
    return shrink(
        Config(),
        arg,
        quick={
            "seeds": 3, "field_samples": 16, "network_samples": 3, "steps": (10, 20), "devices": (2, 4, 8),
            "warmups": (1, 5, 10, 20), "placed": (4,), "claim_steps": (32, 64, 128), "reference_steps": 40, "pictures": 9,
        },
    )  # fmt: skip
