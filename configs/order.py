"""How much is a solver's order worth? Exact fields, paired noise, every solver as a table.

The demo (half of `make demo`), and the page that results/order keeps:

    python -m experiments.order --config=configs/order.py:quick --workdir=runs/demo/order
    python -m experiments.order --config=configs/order.py --workdir=runs/order-full

A plan of your own, measured beside the others under the name that you give. The module lies in the
current directory or on the Python path, and has `plan(grid) -> flowjax.Plan` or
`plan(schedule, grid) -> flowjax.Plan`:

    --config.solvers="('Euler','DPM++ 2M','mymodule:plan')"

A field of your own is `--config.fields=mymodule:field` in the same way, with
`field(schedule) -> field`.

Expect: the published third-order multistep update measures order 2. With few steps on shifted grids
order 3 loses to order 2, and at shift 12 Adams-Bashforth 2 loses to Euler. The last first-order
jump carries most of the error on shifted grids. Adams-Bashforth 3 pays from more than 20 steps on,
up to shift 6; whether the exact 3M with a warm start beats 2M is undecided.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the order experiment; every number of a run is in its rows."""

    # Starts are drawn for `seeds` seeds, `samples` each. All solvers of a cell have the same ones.
    seeds: int = 10
    samples: int = 24

    # The matrix of errors. Fields are names of `experiments.lab.subjects.FIELDS`, "mixture-D", or
    # `module:name`; solvers are names of `experiments.lab.solvers.SOLVERS`, or `module:name`.
    fields: tuple[str, ...] = (
        "digits",
        "ring",
        "mixture-16",
        "mixture-2",
        "mixture-64",
        "two points",
        "power law",
    )
    shifts: tuple[float, ...] = (1.0, 3.0, 6.0, 12.0)
    # The numbers of the demo come first, so that an interrupted run has them.
    nfe: tuple[int, ...] = (5, 10, 20, 40, 4, 6, 8, 12, 15, 25, 30, 50, 60, 80, 100)
    solvers: tuple[str, ...] = (
        "Euler",
        "DPM++ 2M",
        "DPM++ 3M published",
        "DPM++ 3M exact",
        "AB2",
        "AB3",
        "UniPC2",
        "DPM++ 2S",
        "DPM++ 3S",
        "Heun",
        "UniPC3",
        "DEIS3",
    )
    # Solvers that join the matrix later. Each is measured beside DPM++ 2M on the same starts, and
    # a finished work directory gains the rows of those that it lacks, without measuring the others.
    added_solvers: tuple[str, ...] = unrecorded(("DPM++ 3M exact, warm start",))

    # The fields of the ledger, the defects and the grids.
    cause_fields: tuple[str, ...] = (
        "ring",
        "mixture-16",
        "digits",
        "mixture-64",
        "two points",
        "power law",
    )

    # Step counts of the measured orders.
    claim_steps: tuple[int, ...] = (16, 32, 64, 128, 256)

    # The mode widths of the ring, the dial of curvature and crossover.
    stds: tuple[float, ...] = (0.05, 0.15, 0.5, 0.02, 0.1, 0.3)
    # The correlation of noise and data within a mode, the dial that straightens paths.
    couplings: tuple[float, ...] = (0.0, 0.5, 0.9)
    # Evaluations at which the dials are read, and among which crossovers are sought.
    dial_nfe: tuple[int, ...] = (6, 10, 20, 40, 15, 30)
    crossover_nfe: tuple[int, ...] = (4, 6, 8, 11, 15, 20, 28, 40, 56, 80, 112, 160)

    # Adaptive maps: atol and rtol, each with each; and the batch sizes of the lockstep.
    tolerances: tuple[float, ...] = (0.2, 0.05, 0.02, 0.0078, 2e-3, 5e-4, 1e-4)
    batches: tuple[int, ...] = (1, 8, 64, 512)

    # Scales of guidance.
    scales: tuple[float, ...] = (1.0, 1.5, 4.0, 7.0)

    # Trained networks by name; the truth of each is its own ODE. `smooth` are twins of the first of
    # them whose clock is smooth.
    networks: tuple[str, ...] = ("digits", "digits-ot", "digits-reflow", "emoji")
    smooth: tuple[str, ...] = ("digits-smooth",)
    # Networks that receive other times than those at which they are evaluated.
    label_networks: tuple[str, ...] = unrecorded(("digits",))
    # The same sizes for networks, whose evaluations are dear. Their shifts are 1 and 3; the steps
    # are those of the reference.
    network_nfe: tuple[int, ...] = (5, 10, 20, 40)
    network_scales: tuple[float, ...] = (1.0, 1.5, 4.0, 7.0)
    network_starts: int = 12
    network_steps: int = 512

    reference_steps: int = 400  # of RK4
    repeats: int = 9  # timed calls of the cost table
    questions: tuple[str, ...] = unrecorded(())  # by the names in their rows; () is all of them


# The demo: three fields, two shifts, 80 starts.
QUICK = {
    "seeds": 5,
    "samples": 16,
    "fields": ("digits", "ring", "mixture-16"),
    "shifts": (1.0, 3.0),
    "nfe": (5, 10, 20, 40),
    # All but the last two.
    "solvers": Config.solvers[:-2],
    "cause_fields": ("ring", "mixture-16"),
    "claim_steps": (16, 32, 64, 128),
    "stds": (0.05, 0.15, 0.5),
    "couplings": (0.0, 0.9),
    "dial_nfe": (6, 10, 20, 40),
    "crossover_nfe": (4, 6, 8, 11, 15, 20, 28, 40, 56, 80),
    "tolerances": (0.2, 0.05, 0.0078, 1e-3),
    "batches": (1, 64),
    "scales": (1.0, 4.0, 7.0),
    "networks": ("digits",),
    "smooth": (),
    "label_networks": (),
    "network_nfe": (5, 10, 20),
    "network_scales": (1.0,),
    "network_starts": 6,
    "network_steps": 192,
    "reference_steps": 200,
    "repeats": 5,
}


def get_config(arg: str = "") -> Config:
    """The configuration of the full run; `arg` "quick" is the demo."""
    return shrink(Config(), arg, quick=QUICK)
