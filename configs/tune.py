"""A table tuned to a model: what it gains, where the gain comes from, and how far it carries.

The command, for any model and number of evaluations; it leaves a plan file for each in
WORKDIR/plans, with the rows and the page beside them:

    python -m experiments.tune --config=configs/tune.py --workdir=runs/tune \
        --config.model=digits-smooth --config.steps=6,10,20 --config.guidance=1.0

It measures the tables (question `ratio`) and their samples (`quality`). The other questions take
the tables apart; the page that results/tune keeps has all of them:

    python -m experiments.tune --config=configs/tune.py --workdir=results/tune --config.questions=
    python -m experiments.tune --config=configs/tune.py:quick --workdir=runs/tune-quick

The quick run takes about a minute on 2 cores. A full run takes hours, most of them for networks at
20 evaluations and more: time grows with steps^3 (the free numbers, the rows that each is pushed
through, and the reference). A run that was interrupted goes on from its rows and plans.

Expect: the tuned table has 0.002 to 0.6 times the RMS error of the best published solver on its
best grid on exact fields; on `digits-smooth` 0.51, 0.34, 0.16, 0.08 and 0.17 times at 4, 6, 8, 10
and 20 evaluations, on `emoji-smooth` 0.41, 0.24 and 0.09 at 6, 8 and 20. On the other networks of
the digits, three of which receive 1000 t, it has 0.52 to 0.81 at 4 evaluations and 0.21 to 0.45 at
6, 8 and 10 (results/tune). On mixtures in many dimensions a few starts near a border can decide the
RMS error, and then tuning is not accepted.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the experiment; every number of a run is in its rows.

    What only selects rows is not recorded, so that a work directory may gain models, guidance
    scales and numbers of evaluations.
    """

    # One model in the place of `models`: a network (name or folder), or an exact field. Names of
    # fields have hyphens here: "ring", "ring-0.05" (modes of this width), "mixture-16",
    # "two-points", "power-law", "exact-digits", or `module:name` for a field of your own.
    model: str = unrecorded("", is_named=True)
    models: tuple[str, ...] = unrecorded(
        (
            "ring",
            "mixture-16",
            "two-points",
            "power-law",
            "digits-smooth",
            "digits",
            "emoji-smooth",
        )
    )
    steps: tuple[int, ...] = unrecorded((8, 6, 10, 4, 15, 20), is_named=True)
    # Scales for networks; exact fields are measured at 1 alone.
    guidance: tuple[float, ...] = unrecorded((1.0,), is_named=True)
    # Of a `model` that draws for texts: the file that experiments.embed writes. Starts go round the
    # texts.
    embeddings: str = unrecorded("", is_named=True)

    # Tuning: half of the starts train, a quarter validates, a quarter tests.
    seed: int = 0  # of the starts
    # At least so many: tables of many evaluations in few dimensions take as many as they need.
    field_starts: int = 1024
    network_starts: int = 80
    iterations: int = 8
    seconds: float = unrecorded(1e6)  # for the refinement of one table at most
    float64: bool = False  # for networks too; exact fields always are

    # The starts that no tuning has seen, and Runge-Kutta steps of their converged endpoints.
    unseen_seed: int = 1
    field_unseen: int = 1000
    network_unseen: int = 64
    field_reference: int = 400
    network_reference: int = 80

    # Published solvers that the tables stand beside, each on its best grid.
    solvers: tuple[str, ...] = (
        "Euler",
        "DPM++ 2M",
        "AB3",
        "DPM++ 3M exact",
        "UniPC3",
        "AB2",
    )
    shifts: tuple[float, ...] = (1.0, 0.7, 0.5, 1.5, 2.0, 3.0)

    # The questions that take tables apart: their models and numbers of evaluations.
    parts_models: tuple[str, ...] = unrecorded(("ring", "digits-smooth", "mixture-16"))
    parts_steps: tuple[int, ...] = unrecorded((6, 10))
    depths: tuple[int, ...] = unrecorded((1, 2, 3, 4))
    stds: tuple[float, ...] = unrecorded((0.15, 0.05, 0.5))  # widths of the modes of the ring
    jump_shifts: tuple[float, ...] = unrecorded((1.0, 3.0, 6.0))
    transfer_fields: tuple[str, ...] = unrecorded(("ring", "mixture-2", "ring-0.05", "ring-0.5"))
    transfer_networks: tuple[str, ...] = unrecorded(("digits-smooth", "digits", "digits-ot"))
    transfer_steps: tuple[int, ...] = unrecorded((6, 10))
    between_steps: tuple[int, ...] = unrecorded((6, 8, 10))  # the inner ones from their neighbours
    between_guidance: tuple[float, ...] = unrecorded((1.0, 1.5, 2.0))
    rates: tuple[float, ...] = (0.01, 0.003, 0.001, 0.03)  # learning rates of Adam
    adam_budget: float = 4.0  # evaluations of Adam over those of Levenberg-Marquardt

    # Samples by their distribution: `draws` seeds with so many samples each.
    draws: int = 4
    samples: int = 256  # of networks
    field_samples: int = 4096
    # Staleness over devices: a table of the digits takes 8 to 12 minutes of a core at 10 steps,
    # and 36 at 20.
    devices: tuple[int, ...] = unrecorded((2, 4, 8))
    stale_models: tuple[str, ...] = unrecorded(("digits-smooth",))
    stale_steps: tuple[int, ...] = unrecorded((10, 20))
    # Shares of the steps that are synchronous, at the start; the first step always is.
    stale_synchronous: tuple[float, ...] = unrecorded((0.0, 0.25))

    # By the names in their rows; () is all of them.
    questions: tuple[str, ...] = unrecorded(("ratio", "quality"))
    plans: str = unrecorded("")  # the folder of the plan files; WORKDIR/plans by default


# Tens of seconds on a quiet machine.
QUICK = {
    "models": ("ring", "digits-smooth"),
    "steps": (4,),
    "field_starts": 256,
    "network_starts": 16,
    "iterations": 3,
    "field_unseen": 400,
    "network_unseen": 16,
    "field_reference": 200,
    "network_reference": 40,
    "solvers": ("Euler", "DPM++ 2M", "AB3"),
    "shifts": (1.0, 0.7, 0.5),
    "parts_models": ("ring",),
    "parts_steps": (6,),
    "stds": (0.15, 0.05),
    "jump_shifts": (1.0, 3.0),
    "transfer_fields": ("ring", "mixture-2"),
    "transfer_networks": (),
    "transfer_steps": (6,),
    "between_guidance": (),
    "rates": (0.01,),
    "adam_budget": 1.0,
    "draws": 2,
    "samples": 60,
    "field_samples": 512,
    "devices": (2,),
    "stale_models": (),
}


def get_config(arg: str = "") -> Config:
    """The configuration of the full run; `arg` "quick" takes about a minute."""
    return shrink(Config(), arg, quick=QUICK)
