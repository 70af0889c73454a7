r"""Seconds to a given error: one trained network by diffusers in PyTorch, and by flowjax.

    pip install -e ".[parity]"
    python -m experiments.benchmarks.to_error --config=configs/bench_to_error.py \
        --workdir=runs/bench-to-error

The extra brings torch and diffusers; without them their columns are empty. The command first takes
the errors of all solvers on unseen starts, which need no quiet machine, and then the seconds. A run
that is interrupted goes on from its rows, so that the seconds may be taken later.

Each contender has the plan of its own list that reaches an error with the fewest evaluations. All
run the same network from the same noise in float32, and every timed result is compared with the
endpoint of its plan. Time only on a machine that does nothing else: every row holds the load of the
machine.

Expect: for small errors a tuned table needs half of the evaluations of the best published solver or
fewer, and takes as much less time; for large errors it gains little, or nothing. One evaluation
takes about as long in flowjax as under torch.compile.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the benchmark."""

    # A trained DiT by its name or folder; it is run without guidance.
    model: str = "digits-smooth"
    # RMS errors to the converged endpoints, relative to the RMS norm of these.
    errors: tuple[float, ...] = (0.02, 0.01, 0.005, 0.002, 0.001)

    # The published plans: every solver on the uniform grid of every shift. A solver goes through
    # the numbers of evaluations until it reaches the smallest error.
    nfe: tuple[int, ...] = (4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80)
    shifts: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5)
    # The solvers that diffusers has on the flow path.
    diffusers: tuple[str, ...] = (
        "Euler",
        "DPM++ 2M",
        "DPM++ 3M published",
        "UniPC2",
        "UniPC3",
        "DEIS3",
    )
    # The solvers of flowjax.
    published: tuple[str, ...] = (
        "Euler",
        "DPM++ 2M",
        "UniPC2",
        "UniPC3",
        "AB2",
        "AB3",
        "DPM++ 3M exact",
    )
    # The folder of tuned plans; those that come with flowjax are always used.
    plans: str = "results/tune/plans"

    # The starts on which errors are taken, which no tuning has seen.
    unseen_seed: int = 1
    network_unseen: int = 32
    network_reference: int = 80  # Runge-Kutta steps of the converged endpoints

    # The timed calls.
    batches: tuple[int, ...] = (1, 16)  # images of a call
    # Path of another Python that has flowjax's packages; it adds flowjax under its JAX.
    python: str = unrecorded("")
    repeats: int = 15  # timed calls of each contender, in turn; the median counts


# A few minutes on 2 cores, most of them for torch.compile.
QUICK = {
    "errors": (0.05,),
    "nfe": (6, 8),
    "shifts": (0.7, 1.0),
    "diffusers": ("UniPC3",),
    "published": ("UniPC3", "AB3"),
    "network_unseen": 8,
    "network_reference": 20,
    "batches": (2,),
    "repeats": 3,
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" shrinks all sizes, for a test that the command works."""
    return shrink(Config(), arg, quick=QUICK)
