"""The best table for a given model and number of evaluations."""

from flowjax.tune.levenberg_marquardt import Iteration, Refined, Starts, refine
from flowjax.tune.row_by_row import least_squares
from flowjax.tune.truth import Reference, reference

__all__ = [
    "Iteration",
    "Reference",
    "Refined",
    "Starts",
    "least_squares",
    "reference",
    "refine",
]
