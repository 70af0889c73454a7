"""Levenberg-Marquardt on all numbers of a table at once.

The residual r(theta) is the endpoint of the table minus the converged endpoint of the same starts,
and theta are the 60 to 120 numbers of tune.numbers. With J = dr/dtheta the step d solves

    (J J^T + mu diag(J J^T)) d = -J r,

accepted if the sum of squares falls; then mu is divided by 5, otherwise multiplied (Marquardt 1963,
doi:10.1137/0111030). A row whose outputs' weights grow beyond a bound adds the excess as a further
residual, since such rows multiply the rounding errors of a network in half precision.

The Jacobian J costs as much as many runs of the table, so after each accepted step it is first
corrected by what the step has shown of it (Broyden, Math. Comp. 19, 1965, p. 577),

    J <- J + (y - J d) (D d)^T / (d^T D d),     y the change of r, D = diag(J^T J),

and computed anew when such a step gains too little.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowjax.distances import rms
from flowjax.errors import check_choice
from flowjax.plans.table import DEPTH, Plan
from flowjax.tune import numbers as numbering
from flowjax.tune.jacobian import endpoints_and_jacobian
from flowjax.tune.numbers import Numbers
from flowjax.tune.runner import DERIVATIVES, Runner, check_batch
from flowjax.tune.truth import errors
from flowjax.types import Array, PyTree

FIRST_DAMPING = 1e-4
DAMPING_FACTOR = 5  # by which mu falls after an accepted step and grows after a rejected one
TRIES = 7  # dampings that are tried in an iteration
PATIENCE = 3  # Jacobians without a better validation error after which refinement ends
LITTLE = 0.01  # the part of the error that an iteration gains at least; after less, it ends
SECANT_STEPS = 8  # with one Jacobian and its corrections, at most
SECANT_TRIES = 2  # dampings that are tried in each of them
SECANT_GAIN = 0.03  # the part of the cost that each of them gains at least


class Iteration(NamedTuple):
    """One accepted step: errors relative to the root mean square norm of the converged endpoints.

    Attributes:
      train: root mean square error of the starts that are fitted.
      validation: the same of the validation starts; NaN without any. In `refine` it is without the
        worst tenth, since a few starts near a border between two kinds of samples would decide it.
        In `tune.stale.refine_run` it is of all validation starts.
      damping: mu of the step.
      largest: the largest L1 size of a row (`numbers.l1_sizes`).
      evaluations: network evaluations spent so far, all starts together.
    """

    train: float
    validation: float
    damping: float
    largest: float
    evaluations: int


class Refined(NamedTuple):
    """What refinement found.

    Attributes:
      plan: the table with the least validation error, or the least training error without
        validation starts.
      history: the start and every accepted step.
      stopped: why it ended: "iterations", "validation", "little" (an iteration gained too little),
        or "no step" (no damping lowered the error).
    """

    plan: Plan
    history: list[Iteration]
    stopped: str


class Starts(NamedTuple):
    """Starts with the converged endpoints that a table is measured against.

    Attributes:
      noise: (B, *D); half precision is taken in float32.
      exact: (B, *D).
      condition: a pytree with leading axis B, or None.
    """

    noise: Array
    exact: np.ndarray
    condition: PyTree = None


def refine(
    model: Callable,
    make: Callable[[np.ndarray], Plan],
    grid: Array,
    train: Starts,
    *,
    validation: Starts | None = None,
    iterations: int = 8,
    free: tuple[str, ...] = ("times", "state", "outputs"),
    depth: int = DEPTH,
    bound: float | None = 20.0,
    derivatives: str = "jvp",
    at_once: int | None = None,
    progress: Callable[[Iteration], None] | None = None,
) -> Refined:
    """Tune the numbers of the table `make(grid)` to the converged endpoints of the training starts.

    Args:
      model: (x, t) -> velocity (B, *D); with a condition, (x, t, condition) -> velocity.
      make: grid -> Plan, for example `lambda grid: plans.adams_bashforth(grid, 3)`.
      grid: (steps+1,) where tuning begins.
      train: the starts that are fitted.
      validation: starts that decide which iteration is kept, and when to stop.
      iterations: Jacobians at most; each serves several steps.
      free: which numbers may change: "times", "labels" (the times that the network receives),
        "state", "outputs".
      depth: how many of the last outputs a row may use.
      bound: of the L1 size of a row's weights of outputs, in units of the step. It is a penalty:
        a row of twice the bound counts like a relative error of 0.01. None: no penalty.
      derivatives: "jvp" or "differences"; the second needs no derivative of the model, which may be
        a numpy or torch function.
      at_once: evaluations of the network in memory at a time; the number of training starts by
        default.
      progress: called with each `Iteration`.

    Raises:
      ValueError: the plan draws noise, no number is free, the starts are too few for the free
        numbers, or their endpoints or conditions have other shapes.
    """
    check_choice("tune.refine", "derivatives", derivatives, DERIVATIVES)
    runner = Runner(model, derivatives)
    numbers = numbering.numbers_of("tune.refine", make, np.asarray(grid, float), free, depth)
    check_starts("tune.refine", numbers, train, validation)
    search = Search(
        runner, numbers, np.asarray(grid, float), train, validation, bound, at_once, progress
    )
    return search.go(iterations)


def check_starts(
    name: str, numbers: Numbers, train: Starts, validation: Starts | None, others: int = 0
) -> None:
    """Refuse starts that are not complete, or do not determine the free numbers.

    Args:
      name: the public function that an error speaks for.
      numbers: of the table.
      train, validation: as in `refine`.
      others: how many numbers are free beside those of the table.
    """
    for starts in (train, validation):
        if starts is not None:
            check_batch(name, starts.noise, starts.condition, starts.exact)
    each = int(np.prod(np.shape(train.noise)[1:]))
    count = numbers.count + others
    # Three equations for each number: fewer fit the starts and not the model.
    wanted = -(-3 * count // each)
    if len(train.noise) < wanted:
        raise ValueError(
            f"{name}: {len(train.noise)} training start(s) of {each} numbers for {count} free "
            f"numbers; give at least {wanted} starts, or free fewer numbers."
        )


class Search:
    """`refine` with a `Runner` and `Numbers` whose arguments have been checked.

    It can be continued, also on other starts, so that several starting tables can be compared after
    a few iterations on some of the starts.

    Attributes:
      history: the start and every accepted step.
      best: the plan of the least validation error so far, and that error.
      stopped: why the last call of `go` ended, as in `Refined`.
      jacobians: how many were computed.
    """

    def __init__(
        self,
        runner: Runner,
        numbers: Numbers,
        grid: np.ndarray,
        train: Starts,
        validation: Starts | None,
        bound: float | None,
        at_once: int | None = None,
        progress: Callable[[Iteration], None] | None = None,
    ):
        """Begin at the table that `numbers` makes on `grid`.

        Raises:
          ValueError: the endpoints of that table are not finite.
        """
        self.runner = runner
        self.numbers = numbers
        self.validation = validation
        self.bound = bound
        self.at_once = at_once
        self.progress = progress
        self.damping = FIRST_DAMPING
        self.stopped = "iterations"
        self.jacobians = 0
        # The start: the published plan itself.
        self.point = _Point(numbering.gaps_of(grid), np.zeros(numbers.count))
        self.plan = numbers.plan(grid, self.point.corrections)
        self.history: list[Iteration] = []
        self.best = (self.plan, np.inf)
        self.on(train)
        self._note()

    def on(self, train: Starts) -> None:
        """Fit these training starts from now on, from the present table.

        Raises:
          ValueError: its endpoints are not finite.
        """
        self.train = train
        self.size = np.sqrt(np.sum(np.square(train.exact)))
        ends = self.runner.run(self.plan, train.noise, train.condition)
        self.cost = float(np.sum(np.square(self._residual(self.plan, ends))))
        self.waited = 0  # Jacobians since the best table
        if not np.isfinite(self.cost):
            raise ValueError(
                "tune.refine: the model is not finite on the way of the starting table; begin "
                "with another grid or plan."
            )

    def go(self, iterations: int) -> Refined:
        """At most so many further Jacobians, with the steps that each of them serves."""
        self.stopped = "iterations"
        for _ in range(iterations):
            before, best = self.cost, self.best[1]
            self.jacobians += 1
            if not self._steps():
                self.stopped = "no step"
                break
            self.waited = 0 if self.best[1] < best else self.waited + 1
            if self.waited >= PATIENCE:
                self.stopped = "validation"
                break
            # The cost is a square.
            if self.cost > (1 - LITTLE) ** 2 * before:
                self.stopped = "little"
                break
        return Refined(self.best[0], self.history, self.stopped)

    def _steps(self) -> bool:
        """The steps of one Jacobian; False if not even the first lowers the cost."""
        residual, jacobian = self._linearised()
        for count in range(1 + SECANT_STEPS):
            cost, damping = self.cost, self.damping
            found = self._step(residual, jacobian, SECANT_TRIES if count else TRIES)
            if found is None:
                # A corrected Jacobian that fails says nothing about the damping of the next one.
                self.damping = damping
                return count > 0
            # Broyden's correction: along the step, J gives what was measured.
            step, moved = found
            size = np.sum(np.square(jacobian), axis=0) * step
            miss = moved - residual - jacobian @ step
            jacobian = jacobian + np.outer(miss, size / (size @ step))
            residual = moved
            self._note()
            if self.cost > (1 - SECANT_GAIN) * cost:
                break
        return True

    def _linearised(self) -> tuple[np.ndarray, np.ndarray]:
        """The residual (M,) at the present table and its Jacobian (M, P')."""
        grid = numbering.grid_of(self.point.log_gaps, self.numbers.span)
        tangents = self.numbers.tangents(grid, self.point.corrections)
        train = self.train
        ends, columns = endpoints_and_jacobian(
            self.runner, self.plan, tangents, train.noise, train.condition, self.at_once
        )
        columns = np.asarray(columns, np.float64) / self.size  # (P, B D)
        excess = _excess_by_numbers(self.numbers, grid, self.point, self.plan, self.bound)
        columns = np.concatenate([columns, excess], axis=1)
        residual = self._residual(self.plan, ends)
        return residual, _by_gaps(self.numbers, grid, columns.T)

    def _residual(self, plan: Plan, ends: np.ndarray) -> np.ndarray:
        """(M,) relative errors of the endpoints, and what passes the bound."""
        error = (ends - self.train.exact).ravel() / self.size
        return np.concatenate([error, _excess(plan, self.bound)])

    def _step(
        self, residual: np.ndarray, jacobian: np.ndarray, tries: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Go to the table of the smallest damping that lowers the cost.

        Returns:
          The step (P',) and the residual there (M,); None, and no move, where no damping does.
        """
        matrix, vector = jacobian.T @ jacobian, jacobian.T @ residual
        for _ in range(tries):
            step = _solved(matrix, vector, self.damping)
            point = _moved(self.numbers, self.point, step)
            plan = _plan_of(self.numbers, point)
            if plan is not None:
                ends = self.runner.run(plan, self.train.noise, self.train.condition)
                moved = self._residual(plan, ends)
                cost = float(np.sum(np.square(moved)))
                if cost < self.cost:  # False for NaN
                    self.point, self.plan, self.cost = point, plan, cost
                    return step, moved
            self.damping *= DAMPING_FACTOR
        return None

    def _note(self) -> None:
        """Put the present table into the history, and keep it if it is the best."""
        found = _iteration(self.runner, self.plan, self.train, self.validation, self.damping)
        self.history.append(found)
        if len(self.history) > 1:
            self.damping /= DAMPING_FACTOR
        if self.progress:
            self.progress(found)
        # The plan of the least validation error is returned, not the last one.
        if _score(found) < self.best[1]:
            self.best = (self.plan, _score(found))


class _Point(NamedTuple):
    """Where the search is.

    Attributes:
      log_gaps: (steps,) logarithms of the grid's gaps.
      corrections: (P,) of the weights and labels; 0 for the times, which follow from the gaps.
    """

    log_gaps: np.ndarray
    corrections: np.ndarray


def _plan_of(numbers: Numbers, point: _Point) -> Plan | None:
    """The table of a point; None where the grid has collapsed or a number is not finite."""
    grid = numbering.grid_of(point.log_gaps, numbers.span)
    smallest = np.min(np.abs(np.diff(grid)))
    # Steps of no length: the theory's weights would be differences of equal numbers.
    if smallest < 1e-5 * abs(grid[-1] - grid[0]) or not np.all(np.isfinite(point.corrections)):
        return None
    try:
        plan = numbers.plan(grid, point.corrections)
    except ValueError:  # the theory has no finite weights there
        return None
    # Networks are trained on times in [0, 1] only.
    inside = np.all((plan.label_time >= 0) & (plan.label_time <= 1))
    finite = all(np.all(np.isfinite(column)) for column in plan)
    return plan if inside and finite else None


def _is_time(numbers: Numbers) -> np.ndarray:
    return np.array([name == "t" for name in numbers.column])


def _by_gaps(numbers: Numbers, grid: np.ndarray, jacobian: np.ndarray) -> np.ndarray:
    """A Jacobian (M, P) by the numbers, as (M, P') by (logarithms of gaps, other numbers)."""
    is_time = _is_time(numbers)
    if not is_time.any():
        return jacobian
    of_gaps = jacobian[:, is_time] @ numbering.grid_by_gaps(grid)
    return np.concatenate([of_gaps, jacobian[:, ~is_time]], axis=1)


def _moved(numbers: Numbers, point: _Point, step: np.ndarray) -> _Point:
    """The point after a step (P',) of (logarithms of gaps, other numbers)."""
    is_time = _is_time(numbers)
    gaps = len(point.log_gaps) if is_time.any() else 0
    corrections = point.corrections.copy()
    corrections[~is_time] += step[gaps:]
    return _Point(point.log_gaps + step[:gaps] if gaps else point.log_gaps, corrections)


def _solved(matrix: np.ndarray, vector: np.ndarray, damping: float) -> np.ndarray:
    """The step of the damped normal equations."""
    size = np.diag(matrix)
    # The gaps have one number too many, since their common factor changes nothing. The small term
    # chooses the shortest step.
    damped = matrix + np.diag(damping * size + 1e-12 * np.mean(size))
    return -np.linalg.solve(damped, vector)


def _excess(plan: Plan, bound: float | None) -> np.ndarray:
    """(N,) residuals of rows whose L1 size passes the bound, small beside an error of 1."""
    if bound is None:
        return np.zeros(plan.rows)
    return 0.01 * np.maximum(numbering.l1_sizes(plan) / bound - 1, 0)


def _excess_by_numbers(
    numbers: Numbers, grid: np.ndarray, point: _Point, plan: Plan, bound: float | None
) -> np.ndarray:
    """(P, N) derivatives of `_excess` by the numbers, by differences."""
    excess = _excess(plan, bound)
    rows = np.zeros((numbers.count, plan.rows))
    # Within the bound they are zero.
    if not np.any(excess):
        return rows
    for k, (name, j) in enumerate(zip(numbers.column, numbers.index, strict=True)):
        small = 1e-6
        if name == "t":
            # A time, by a step that is small beside the gaps around it
            other = grid.copy()
            other[j] += small * min(abs(grid[j - 1] - grid[j]), abs(grid[j] - grid[j + 1]))
            moved = numbers.plan(other, point.corrections)
            size = other[j] - grid[j]
        else:
            corrections = point.corrections.copy()
            corrections[k] += small
            moved = numbers.plan(grid, corrections)
            size = small
        rows[k] = (_excess(moved, bound) - excess) / size
    return rows


def _iteration(
    runner: Runner, plan: Plan, train: Starts, validation: Starts | None, damping: float
) -> Iteration:
    train_error = error_of(runner, plan, train)
    validation_error = trimmed_error_of(runner, plan, validation) if validation else np.nan
    largest = float(np.max(numbering.l1_sizes(plan)))
    return Iteration(train_error, validation_error, damping, largest, runner.evaluations)


def error_of(runner: Runner, plan: Plan, starts: Starts) -> float:
    """Root mean square relative error of a plan on some starts."""
    return float(rms(errors(runner.run(plan, starts.noise, starts.condition), starts.exact)))


def trimmed_error_of(runner: Runner, plan: Plan, starts: Starts) -> float:
    """`error_of` without the tenth of the starts with the largest errors."""
    found = np.sort(errors(runner.run(plan, starts.noise, starts.condition), starts.exact))
    return float(rms(found[: len(found) - len(found) // 10]))


def _score(iteration: Iteration) -> float:
    """What decides which iteration is kept."""
    return iteration.train if np.isnan(iteration.validation) else iteration.validation
