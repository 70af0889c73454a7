"""The best table for a given model and number of evaluations.

recipe.py               tune: from a model to an accepted table
truth.py                converged states of the model's ODE
row_by_row.py           rows in closed form, by linear least squares
levenberg_marquardt.py  refine: all numbers of a table at once
stale.py                refine_run: the same through whole runs, such as those of stale attention
jacobian.py             the derivatives of an endpoint by the numbers of its table
numbers.py              the numbers that may change
runner.py               a model in JAX, or as a black box
facts.py                which network a plan was made for; the plans that come with flowjax
"""

from flowjax.tune.facts import check_fits, facts_of, shipped
from flowjax.tune.levenberg_marquardt import Iteration, Refined, Starts, refine
from flowjax.tune.recipe import Errors, Tuned, tune
from flowjax.tune.row_by_row import least_squares
from flowjax.tune.truth import Reference, reference

__all__ = [
    "Errors",
    "Iteration",
    "Reference",
    "Refined",
    "Starts",
    "Tuned",
    "check_fits",
    "facts_of",
    "least_squares",
    "reference",
    "refine",
    "shipped",
    "tune",
]
