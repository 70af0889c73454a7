"""Tune a table through a whole run of it, where a run is more than evaluations of a model.

`refine` differentiates row by row, and for that it must evaluate the model at a state and a time.
With stale keys and values the velocity of a row depends on the rows before it, and so does the
forecast of these values on the times of the table. `refine_run` asks only for the endpoints of a
table, and takes all derivatives as central differences of them. It costs two runs for each free
number in every iteration, about four times as much as `refine`.

The optimizer is MINPACK's Levenberg-Marquardt (More 1978, doi:10.1007/BFb0067700), from SciPy.
"""

from collections.abc import Callable

import numpy as np
from scipy import optimize

from flowjax.distances import rms
from flowjax.plans.table import DEPTH, Plan
from flowjax.tune import numbers as numbering
from flowjax.tune.levenberg_marquardt import Iteration, Refined, Starts, check_starts
from flowjax.tune.numbers import Numbers
from flowjax.tune.truth import errors
from flowjax.types import Array, PyTree

# (plan, noise (B, *D), condition) -> endpoints (B, *D)
Run = Callable[[Plan, Array, PyTree], Array]
# Of a central difference, in logarithms of gaps and in corrections, which are in units of a step.
# Endpoints of float32 networks are exact to about 1e-6 of their size.
DIFFERENCE = 3e-3
SHORTEST = 1e-5  # step of a grid, as a part of its span, below which a table is refused
FAR = 1e3  # relative error of a table that is refused


def refine_run(
    run: Run,
    make: Callable[[np.ndarray], Plan],
    grid: Array,
    train: Starts,
    *,
    validation: Starts | None = None,
    iterations: int = 8,
    free: tuple[str, ...] = ("times", "state", "outputs"),
    depth: int = DEPTH,
    progress: Callable[[Iteration], None] | None = None,
) -> Refined:
    """Tune the numbers of `make(grid)` to the converged endpoints, through runs of whole tables.

    Args:
      run: (plan, noise, condition) -> endpoints (B, *D); any function of known numbers.
      make, grid, train, validation, free, depth, progress: as in `refine`. Labels are not shifted
        here: "labels" is refused.
      iterations: tables at most whose derivatives are taken.

    Returns:
      `Refined`; `evaluations` of its history counts rows of runs, all starts together. The damping
      is MINPACK's own, and NaN in the history.

    Raises:
      ValueError: the plan draws noise, the starts are too few, or the first run is not finite.
    """
    name = "tune.stale.refine_run"
    if "labels" in free:
        raise ValueError(f"{name}: free={free!r}; wanted groups without 'labels'.")
    grid = np.asarray(grid, float)
    numbers = numbering.numbers_of(name, make, grid, free, depth)
    check_starts(name, numbers, train)
    # The search begins at the published table itself.
    problem = _Problem(run, numbers, grid, train, validation, progress)
    if not np.all(np.isfinite(problem.ends(problem.plan(problem.start), train))):
        raise ValueError(f"{name}: the run of the first table is not finite; begin with another.")
    problem.note(problem.start)
    # MINPACK has no limit on derivatives, so an exception ends it.
    stopped = "no step"
    try:
        optimize.least_squares(
            problem.residual,
            problem.start,
            jac=lambda theta: problem.slopes(theta, iterations),
            method="lm",
            x_scale="jac",
        )
    except _Enough:
        stopped = "iterations"
    return Refined(problem.best, problem.history, stopped)


class _Enough(Exception):
    """The derivatives of as many tables were taken as the caller allows."""


class _Problem:
    """Residuals and slopes of the endpoint by theta = (logarithms of gaps, corrections)."""

    def __init__(
        self,
        run: Run,
        numbers: Numbers,
        grid: np.ndarray,
        train: Starts,
        validation: Starts | None,
        progress: Callable[[Iteration], None] | None,
    ):
        self.run = run
        self.numbers = numbers
        self.grid = grid
        self.train = train
        self.validation = validation
        self.progress = progress
        # Corrections of times stay zero: the gaps move the times.
        is_time = np.array([column == "t" for column in numbers.column])
        self.moves_times = bool(is_time.any())
        self.others = np.flatnonzero(~is_time)
        gaps = numbering.gaps_of(grid) if self.moves_times else np.zeros(0)
        self.start = np.concatenate([gaps, np.zeros(len(self.others))])
        self.size = float(np.sqrt(np.sum(np.square(np.float64(train.exact)))))
        self.evaluations = 0
        self.history: list[Iteration] = []
        self.best = self.plan(self.start)
        self.least = np.inf
        self.slopes_taken = 0

    def plan(self, theta: np.ndarray) -> Plan | None:
        """The table of theta; None where its grid has collapsed or it is not finite."""
        # Where times are not free, theta has no gaps.
        count = len(theta) - len(self.others)
        grid = numbering.grid_of(theta[:count], self.numbers.span) if count else self.grid
        corrections = np.zeros(self.numbers.count)
        corrections[self.others] = theta[count:]
        if np.min(np.abs(np.diff(grid))) < SHORTEST * abs(grid[-1] - grid[0]):
            return None
        try:
            plan = self.numbers.plan(grid, corrections)
        except ValueError:  # the theory has no finite weights there
            return None
        return plan if all(np.all(np.isfinite(column)) for column in plan) else None

    def ends(self, plan: Plan, starts: Starts) -> np.ndarray:
        """Endpoints of a table in float64."""
        self.evaluations += plan.rows * len(starts.noise)
        return np.asarray(self.run(plan, starts.noise, starts.condition), np.float64)

    def residual(self, theta: np.ndarray) -> np.ndarray:
        """(endpoints - converged) over the size of the converged, flat; large where refused."""
        plan = self.plan(theta)
        if plan is None:
            return np.full(self.train.exact.size, FAR / np.sqrt(self.train.exact.size))
        found = (self.ends(plan, self.train) - self.train.exact).ravel() / self.size
        return np.where(np.isfinite(found), found, FAR)

    def slopes(self, theta: np.ndarray, most: int) -> np.ndarray:
        """Derivatives of the residual (B D, P); called once for each accepted table."""
        if self.slopes_taken:
            self.note(theta)
        if self.slopes_taken == most:
            raise _Enough
        self.slopes_taken += 1
        # Central: the error is of the order of the square of the difference.
        columns = []
        for k in range(len(theta)):
            moved = np.zeros_like(theta)
            moved[k] = DIFFERENCE
            change = self.residual(theta + moved) - self.residual(theta - moved)
            columns.append(change / (2 * DIFFERENCE))
        return np.stack(columns, axis=1)

    def note(self, theta: np.ndarray) -> None:
        """Add an accepted table to the history, and keep it if it is the best so far."""
        plan = self.plan(theta)
        train = self.error_of(plan, self.train)
        validation = self.error_of(plan, self.validation) if self.validation else np.nan
        largest = float(np.max(numbering.l1_sizes(plan)))
        iteration = Iteration(train, validation, np.nan, largest, self.evaluations)
        self.history.append(iteration)
        # Validation decides where there is any: a table may fit its training starts only.
        score = train if np.isnan(validation) else validation
        if score < self.least:
            self.best, self.least = plan, score
        if self.progress:
            self.progress(iteration)

    def error_of(self, plan: Plan, starts: Starts) -> float:
        """Root mean square relative error of a table."""
        return float(rms(errors(self.ends(plan, starts), starts.exact)))
