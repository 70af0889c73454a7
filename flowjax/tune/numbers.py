"""The numbers of a table that tuning may change, and how the table follows from them.

A published plan is a function of its grid: `make(grid) -> Plan`. Its tuned table is that plan on
other times, plus corrections,

    t_k                              inner times of the grid
    label_time_i = t_i + u_i gap_i
    a_i  = a_i(grid) + w_i h_i       the state's weight
    b_ij = b_ij(grid) + w_ij h_i     the weights of the outputs that exist in row i
    d_ij = d_ij(grid) + w_ij h_i     the same for rows with substeps or a corrector

with h_i the length of the step that row i belongs to. The times change through the logarithms of
the grid's gaps, so that they stay in order. All corrections begin at 0, so tuning begins
at the published plan. (Keeping the theory's weights as a function of the times, with corrections
added, is the parametrisation of the Generalized Solver, arXiv:2510.17699; there it is trained by
Adam.)

The solver needs derivatives of the table by its numbers. The table is cheap and in float64, so
those by the times are central differences; the others are exact.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from flowjax.errors import check_choice, check_whole
from flowjax.plans.table import DEPTH, Plan, check_finite

FREE = ("times", "labels", "state", "outputs")  # groups of numbers
DIFFERENCE = 1e-6  # of a time, relative to the smaller gap beside it


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The free numbers of a table.

    Attributes:
      make: grid (steps+1,) -> Plan with known numbers, smooth in the grid.
      steps: of the grid.
      span: (start, end) of the grid, which stay.
      free: the groups of `FREE` that may change.
      rows: (P,) the row that each correction changes; -1 for times.
      column: (P,) the name of the column: "t" (a time), "label_time", "a", "b" or "d".
      index: (P,) of a time its place in the grid, of b and d the lag j; else 0.
    """

    make: Callable[[np.ndarray], Plan]
    steps: int
    span: tuple[float, float]
    free: tuple[str, ...]
    rows: np.ndarray
    column: tuple[str, ...]
    index: np.ndarray

    @property
    def count(self) -> int:
        """P, how many numbers are free."""
        return len(self.column)

    def plan(self, grid: np.ndarray, corrections: np.ndarray) -> Plan:
        """The table on `grid` with `corrections` (P,), of which those of times are ignored."""
        plan = self.make(grid)
        h = step_of_row(plan)
        gap = gap_of_row(plan)
        columns = {name: np.array(column) for name, column in plan._asdict().items()}
        for row, name, j, value in zip(
            self.rows, self.column, self.index, corrections, strict=True
        ):
            if name == "label_time":
                columns[name][row] += value * gap[row]
            elif name == "a":
                columns[name][row] += value * h[row]
            elif name != "t":
                columns[name][row, j] += value * h[row]
        return Plan(**columns)

    def tangents(self, grid: np.ndarray, corrections: np.ndarray) -> list[Plan]:
        """Derivatives of the table by each free number: P tables.

        Those by a time keep the corrections fixed, but the weights that follow from the times move.
        """
        plan = self.make(grid)
        h = step_of_row(plan)
        gap = gap_of_row(plan)
        nothing = {name: np.zeros(np.shape(column)) for name, column in plan._asdict().items()}
        found = []
        for row, name, j in zip(self.rows, self.column, self.index, strict=True):
            if name == "t":
                found.append(self._by_time(grid, corrections, j))
                continue
            # A correction changes one number of one column.
            changed = np.zeros_like(nothing[name])
            if name == "label_time":
                changed[row] = gap[row]
            elif name == "a":
                changed[row] = h[row]
            else:
                changed[row, j] = h[row]
            found.append(Plan(**(nothing | {name: changed})))
        return found

    def _by_time(self, grid: np.ndarray, corrections: np.ndarray, k: int) -> Plan:
        """The derivative of the table by the time grid[k]."""
        # A central difference: the table is cheap, in float64, and smooth in its grid.
        size = DIFFERENCE * min(grid[k - 1] - grid[k], grid[k] - grid[k + 1], key=abs)
        after = grid.copy()
        before = grid.copy()
        after[k] += size
        before[k] -= size
        high = self.plan(after, corrections)
        low = self.plan(before, corrections)
        return Plan(*((a.astype(float) - b.astype(float)) / (2 * size) for a, b in zip(high, low)))


def numbers_of(
    name: str,
    make: Callable[[np.ndarray], Plan],
    grid: np.ndarray,
    free: tuple[str, ...],
    depth: int = DEPTH,
) -> Numbers:
    """The free numbers of `make` on grids as long as `grid`.

    Args:
      name: the public function that an error speaks for.
      make: grid -> Plan.
      grid: (steps+1,).
      free: groups of `FREE`.
      depth: how many of the last outputs a row may use, 1 to 4.

    Raises:
      ValueError: an unknown group, groups without any number in this plan, a depth out of range,
        or a plan that tuning cannot take.
    """
    check_whole(name, "depth", depth, 1, DEPTH)
    for group in free:
        check_choice(name, "free", group, FREE)
    plan = make(grid)
    _check_plan(name, plan)
    rows: list[int] = []
    column: list[str] = []
    index: list[int] = []

    def add(row: int, which: str, j: int = 0) -> None:
        rows.append(row)
        column.append(which)
        index.append(j)

    if "times" in free:
        for k in range(1, plan.steps):
            add(-1, "t", k)
    for i in range(plan.rows):
        # The first label stays: shifted, it could pass t = 1.
        if "labels" in free and i > 0:
            add(i, "label_time")
        if "state" in free:
            add(i, "a")
        if "outputs" in free:
            known = range(min(i + 1, depth))  # outputs that exist
            for j in known:
                add(i, "b", j)
            # Weights of the next place of evaluation, in plans that use them.
            if np.any(plan.d[i] != 0):
                for j in known:
                    add(i, "d", j)
    if not rows:
        raise ValueError(
            f"{name}: free={free!r} holds no number of this plan; 'state' and 'outputs' have "
            "numbers in every plan, 'times' from two steps on, and 'labels' from two rows on."
        )
    span = float(grid[0]), float(grid[-1])
    return Numbers(
        make,
        plan.steps,
        span,
        tuple(free),
        np.array(rows, int),
        tuple(column),
        np.array(index, int),
    )


def step_of_row(plan: Plan) -> np.ndarray:
    """(N,) the length, at least 0, of the step that each row belongs to."""
    # Substeps belong to the step that they prepare.
    return np.abs(np.diff(plan.grid))[np.minimum(plan.steps_before, plan.steps - 1)]


def gap_of_row(plan: Plan) -> np.ndarray:
    """(N,) the distance from a row's time to the nearest other time, in which labels shift."""
    # The end of the grid counts too, so that the last label stays apart from it.
    times = np.unique(np.append(plan.t, plan.t_next))
    apart = np.abs(plan.t[:, None] - times[None])
    return np.min(np.where(apart > 1e-12, apart, np.inf), axis=1)


def gaps_of(grid: np.ndarray) -> np.ndarray:
    """Logarithms of the gaps of a grid, (steps,): numbers without constraint."""
    return np.log(np.abs(np.diff(grid)))


def grid_of(log_gaps: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """The grid over `span` whose gaps stand in the ratios exp(log_gaps)."""
    # A softmax: the gaps are positive and fill the span.
    fractions = np.exp(log_gaps - np.max(log_gaps))
    fractions /= fractions.sum()
    grid = span[0] + (span[1] - span[0]) * np.concatenate([[0.0], np.cumsum(fractions)])
    grid[-1] = span[1]  # exactly, without the rounding of the sum
    return grid


def grid_by_gaps(grid: np.ndarray) -> np.ndarray:
    """(steps - 1, steps) derivatives of the inner times of a grid by the logarithms of its gaps."""
    # d fraction_j / d gap_k = fraction_j (1 if j = k else 0) - fraction_j fraction_k, summed over j
    fractions = np.diff(grid) / (grid[-1] - grid[0])
    reached = np.cumsum(fractions)[:-1]  # of the span, at each inner time
    steps = len(fractions)
    before = np.arange(steps)[None] <= np.arange(steps - 1)[:, None]
    return (grid[-1] - grid[0]) * fractions[None] * (before - reached[:, None])


def l1_sizes(plan: Plan) -> np.ndarray:
    """(N,) how much each row can multiply the errors of the velocities that it uses.

    It is the sum of the absolute weights of the outputs over the length of the step: 1 for Euler's
    method. Where a plan keeps data or noise predictions, their weights are multiplied by the weight
    q of the velocity in them.
    """
    weights = np.abs(plan.b) + np.abs(plan.d)
    lagged = np.zeros_like(weights)  # |q| of the row that gave each output
    for j in range(DEPTH):
        rows = np.arange(plan.rows) - j
        lagged[:, j] = np.where(rows >= 0, np.abs(plan.q[np.maximum(rows, 0)]), 0)
    return np.sum(weights * lagged, axis=1) / step_of_row(plan)


def _check_plan(name: str, plan: Plan) -> None:
    """Refuse a plan that tuning cannot take."""
    if np.any(plan.s != 0):
        raise ValueError(
            f"{name}: the plan draws noise in its steps, so its endpoint is no function of the "
            "start; give a plan of an ODE solver (eta=0)."
        )
    if not np.all(plan.counted):
        raise ValueError(
            f"{name}: the plan has rows that only pad; tune it first and pad the result."
        )
    check_finite(plan, name)
