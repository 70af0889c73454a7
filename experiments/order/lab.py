"""Old names of what stands in `experiments.lab` now; import from there."""

from experiments.lab.solvers import (
    SOLVERS,
    Solver,
    log_snr_with_ends,
    plan_of,
    run_plans,
    shifted,
    solve,
)
from experiments.lab.statistics import RESAMPLES, paired, row_norms, scale_of, summary
from experiments.lab.subjects import make_field
from experiments.lab.truth import Cell, Reference, fine_grid, make_cell, reference

__all__ = [
    "RESAMPLES",
    "SOLVERS",
    "Cell",
    "Reference",
    "Solver",
    "fine_grid",
    "log_snr_with_ends",
    "make_cell",
    "make_field",
    "paired",
    "plan_of",
    "reference",
    "row_norms",
    "run_plans",
    "scale_of",
    "shifted",
    "solve",
    "summary",
]
