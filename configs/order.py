"""How much is a solver's order worth? Exact fields, paired noise, every solver as a table.

The demo (this is `make demo`), and the page that results/order keeps:

    python -m experiments.order --config=configs/order.py:quick --workdir=runs/order-quick
    python -m experiments.order --config=configs/order.py --workdir=runs/order-full

A plan of your own, measured beside the others under the name that you give. The module lies in the
current directory or on the Python path, and has `plan(grid) -> flowjax.Plan` or
`plan(schedule, grid) -> flowjax.Plan`:

    --config.solvers="('Euler','DPM++ 2M','mymodule:plan')"

A field of your own is `--config.fields=mymodule:field` in the same way, with
`field(schedule) -> field`.

Expect: the published third-order multistep update measures order 2. Order 3 loses to order 2, and
order 2 to Euler, below a number of steps that grows with shift over the width of the narrowest
mode. The last first-order jump carries most of the error on shifted grids. From about 50 steps on
the ranking is the one of the text books.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the order experiment; every number of a run is in its rows.

    Attributes:
      seeds, samples: starts are drawn for `seeds` seeds, `samples` each; all solvers of a cell have
        the same starts.
      fields: names of `experiments.lab.subjects.FIELDS`, "mixture-D", or `module:name`.
      shifts, nfe, solvers: the matrix of errors; solvers are names of
        `experiments.lab.solvers.SOLVERS`, or `module:name`.
      cause_fields: the fields of the ledger, the defects and the grids.
      claim_steps: step counts of the measured orders.
      stds: the mode widths of the ring, the dial of curvature and crossover.
      couplings: the correlation of noise and data within a mode, the dial that straightens paths.
      dial_nfe: evaluations at which the dials are read.
      crossover_nfe: evaluations among which crossovers are sought.
      tolerances: atol and rtol of the adaptive maps, each with each.
      batches: sizes at which lockstep is counted.
      scales: of guidance.
      networks: names of trained models; the truth of each is its own ODE.
      smooth: twins of the first of them whose clock is smooth.
      network_nfe, network_scales, network_starts, network_steps: the same sizes for networks, whose
        evaluations are dear; their shifts are 1 and 3, and the steps are those of the reference.
      reference_steps: RK4 steps of the reference.
      repeats: timed calls of the cost table.
      questions: which questions to measure, by the names in their rows; () is all of them.
    """

    seeds: int = 10
    samples: int = 24
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
    cause_fields: tuple[str, ...] = (
        "ring",
        "mixture-16",
        "digits",
        "mixture-64",
        "two points",
        "power law",
    )
    claim_steps: tuple[int, ...] = (16, 32, 64, 128, 256)

    # Dials: the width of modes, the coupling of noise and data.
    stds: tuple[float, ...] = (0.05, 0.15, 0.5, 0.02, 0.1, 0.3)
    couplings: tuple[float, ...] = (0.0, 0.5, 0.9)
    dial_nfe: tuple[int, ...] = (6, 10, 20, 40, 15, 30)
    crossover_nfe: tuple[int, ...] = (4, 6, 8, 11, 15, 20, 28, 40, 56, 80, 112, 160)

    # Error control and guidance.
    tolerances: tuple[float, ...] = (0.2, 0.05, 0.02, 0.0078, 2e-3, 5e-4, 1e-4)
    batches: tuple[int, ...] = (1, 8, 64, 512)
    scales: tuple[float, ...] = (1.0, 1.5, 4.0, 7.0)

    # Networks.
    networks: tuple[str, ...] = ("digits", "digits-ot", "digits-reflow", "emoji")
    smooth: tuple[str, ...] = ("digits-smooth",)
    network_nfe: tuple[int, ...] = (5, 10, 20, 40)
    network_scales: tuple[float, ...] = (1.0, 1.5, 4.0, 7.0)
    network_starts: int = 12
    network_steps: int = 512

    reference_steps: int = 400
    repeats: int = 9
    questions: tuple[str, ...] = unrecorded(())


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
