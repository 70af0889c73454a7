"""Tune a table through a whole run of it, where a run is more than evaluations of a model.

`refine` differentiates row by row, and for that it must evaluate the model at a state and a time.
With stale keys and values the velocity of a row depends on the rows before it, and so does the
forecast of these values on the times of the table. `refine_run` asks only for the endpoints of a
table, and takes all derivatives as differences of them. It costs one run for each free number in
every iteration, about twice as much as `refine`.

A run may have other numbers beside its table, such as the weights of the forecasts of its keys and
values. They are tuned together with the table.

The optimizer is MINPACK's Levenberg-Marquardt (More 1978, doi:10.1007/BFb0067700), from SciPy.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import optimize

from flowjax.distances import rms
from flowjax.plans.table import DEPTH, Plan
from flowjax.tune import numbers as numbering
from flowjax.tune.levenberg_marquardt import Iteration, Starts, check_starts
from flowjax.tune.numbers import Numbers
from flowjax.tune.truth import errors
from flowjax.types import Array

# (plan, noise (B, *D), condition) -> endpoints (B, *D); with others, they come last.
Run = Callable[..., Array]
# Of a difference, in logarithms of gaps, in corrections, which are in units of a step, and in other
# numbers. Endpoints of float32 networks are exact to about 1e-6 of their size.
DIFFERENCE = 3e-3
SHORTEST = 1e-5  # step of a grid, as a part of its span, below which a table is refused
FAR = 1e3  # relative error of a table that is refused


class RefinedRun(NamedTuple):
    """A table that was tuned through whole runs.

    Attributes:
      plan: the table of least validation error, or of least training error without validation.
      others: (Q,) the other numbers that go with it.
      history: list of `Iteration`, the first of them before any step.
      stopped: "iterations", or "no step" where no table nearby is better.
    """

    plan: Plan
    others: np.ndarray
    history: list[Iteration]
    stopped: str


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
    others: Array | None = None,
    progress: Callable[[Iteration], None] | None = None,
) -> RefinedRun:
    """Tune the numbers of `make(grid)` to the converged endpoints, through runs of whole tables.

    Args:
      run: (plan, noise, condition) -> endpoints (B, *D); any function of known numbers. With
        `others` it is called as (plan, noise, condition, others).
      make, grid, train, validation, free, depth, progress: as in `refine`. Labels are not shifted
        here: "labels" is refused.
      iterations: tables at most whose derivatives are taken.
      others: (Q,) further numbers of the run, of the order of 1, at which the search begins. Such
        as may not leave an interval, the run itself brings back into it.

    Returns:
      `RefinedRun`; `evaluations` of its history counts rows of runs, all starts together, and
      `validation` is the error of all validation starts, the worst tenth included. The damping is
      MINPACK's own, and NaN in the history.

    Raises:
      ValueError: the plan draws noise, the starts are too few or not complete, `others` is no
        vector, or the first run is not finite.
    """
    name = "tune.stale.refine_run"
    if "labels" in free:
        raise ValueError(f"{name}: free={free!r}; wanted groups without 'labels'.")
    grid = np.asarray(grid, float)
    numbers = numbering.numbers_of(name, make, grid, free, depth)
    if others is not None and (np.ndim(others) != 1 or not np.all(np.isfinite(others))):
        raise ValueError(f"{name}: others={others!r}; wanted a vector (Q,) of finite numbers.")
    check_starts(name, numbers, train, validation, 0 if others is None else len(others))
    # The search begins at the published table itself.
    problem = _Problem(run, numbers, grid, train, validation, others, progress)
    if not np.all(np.isfinite(problem.ends(problem.start, train))):
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
    plan, others = problem.best
    return RefinedRun(plan, others, problem.history, stopped)


class _Enough(Exception):
    """The derivatives of as many tables were taken as the caller allows."""


class _Problem:
    """Residuals and slopes of the endpoint by theta = (logarithms of gaps, corrections, others)."""

    def __init__(
        self,
        run: Run,
        numbers: Numbers,
        grid: np.ndarray,
        train: Starts,
        validation: Starts | None,
        others: np.ndarray | None,
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
        self.weights = np.flatnonzero(~is_time)
        gaps = numbering.gaps_of(grid) if self.moves_times else np.zeros(0)
        self.has_others = others is not None
        others = np.zeros(0) if others is None else np.asarray(others, float)
        # theta is cut here into its three parts.
        self.cuts = np.cumsum([len(gaps), len(self.weights)])
        self.start = np.concatenate([gaps, np.zeros(len(self.weights)), others])
        self.size = float(np.sqrt(np.sum(np.square(np.float64(train.exact)))))
        self.evaluations = 0
        self.history: list[Iteration] = []
        self.best = self.plan(self.start), others
        self.least = np.inf
        self.slopes_taken = 0

    def plan(self, theta: np.ndarray) -> Plan | None:
        """The table of theta; None where its grid has collapsed or it is not finite."""
        # Where times are not free, theta has no gaps.
        gaps, weights, _ = np.split(theta, self.cuts)
        grid = numbering.grid_of(gaps, self.numbers.span) if self.moves_times else self.grid
        corrections = np.zeros(self.numbers.count)
        corrections[self.weights] = weights
        if np.min(np.abs(np.diff(grid))) < SHORTEST * abs(grid[-1] - grid[0]):
            return None
        try:
            plan = self.numbers.plan(grid, corrections)
        except ValueError:  # the theory has no finite weights there
            return None
        return plan if all(np.all(np.isfinite(column)) for column in plan) else None

    def ends(self, theta: np.ndarray, starts: Starts) -> np.ndarray | None:
        """Endpoints of the run of theta in float64; None where its table is refused."""
        plan = self.plan(theta)
        if plan is None:
            return None
        self.evaluations += plan.rows * len(starts.noise)
        given = (plan, starts.noise, starts.condition)
        if self.has_others:
            given = (*given, theta[self.cuts[1] :])
        return np.asarray(self.run(*given), np.float64)

    def residual(self, theta: np.ndarray) -> np.ndarray:
        """(endpoints - converged) over the size of the converged, flat; large where refused."""
        ends = self.ends(theta, self.train)
        if ends is None:
            return np.full(self.train.exact.size, FAR / np.sqrt(self.train.exact.size))
        found = (ends - self.train.exact).ravel() / self.size
        return np.where(np.isfinite(found), found, FAR)

    def slopes(self, theta: np.ndarray, most: int) -> np.ndarray:
        """Derivatives of the residual (B D, P); called once for each accepted table."""
        if self.slopes_taken:
            self.note(theta)
        if self.slopes_taken == most:
            raise _Enough
        self.slopes_taken += 1
        here = self.residual(theta)
        columns = []
        for k in range(len(theta)):
            moved = theta.copy()
            moved[k] += DIFFERENCE
            columns.append((self.residual(moved) - here) / DIFFERENCE)
        return np.stack(columns, axis=1)

    def note(self, theta: np.ndarray) -> None:
        """Add an accepted table to the history, and keep it if it is the best so far."""
        plan = self.plan(theta)
        train = self.error_of(theta, self.train)
        validation = self.error_of(theta, self.validation) if self.validation else np.nan
        largest = float(np.max(numbering.l1_sizes(plan)))
        iteration = Iteration(train, validation, np.nan, largest, self.evaluations)
        self.history.append(iteration)
        # Validation decides where there is any: a table may fit its training starts only.
        score = train if np.isnan(validation) else validation
        if score < self.least:
            self.best, self.least = (plan, theta[self.cuts[1] :].copy()), score
        if self.progress:
            self.progress(iteration)

    def error_of(self, theta: np.ndarray, starts: Starts) -> float:
        """Root mean square relative error of the run of theta."""
        return float(rms(errors(self.ends(theta, starts), starts.exact)))
