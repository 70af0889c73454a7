"""Tables between tables: for a number of evaluations, or a guidance scale, that was not tuned.

A table of one velocity row a step is a grid and, for each row, the weight of the state and those
of the last outputs in units of the step. Between two such tables the grid is interpolated as a
function of the fraction of the steps done, and the weights as functions of the row's place among
the rows with a full history. The first rows, which lack history, are interpolated row by row.
"""

import numpy as np

from flowjax import Plan
from flowjax.plans.table import DEPTH
from flowjax.schedules import Schedule
from flowjax.tune.row_by_row import table

SHORT = DEPTH - 1  # rows at the start that lack history


def between(
    first: Plan, second: Plan, steps: int, part: float, schedule: Schedule | None = None
) -> Plan:
    """The table of `steps` evaluations at the fraction `part` of the way from `first` to `second`.

    Args:
      first, second: plans of one velocity row a step, as Adams-Bashforth and its tuned tables are.
      steps: rows of the result, more than 3.
      part: 0 is `first`, 1 is `second`.
      schedule: the path; linear by default.

    Raises:
      ValueError: a plan of another form, or of too few rows.
    """
    grids, states, outputs = [], [], []
    # Both tables on as many rows as the result has.
    for plan in (first, second):
        _check(plan)
        grid, state, output = _stretched(plan, steps)
        grids.append(grid)
        states.append(state)
        outputs.append(output)
    grid = (1 - part) * grids[0] + part * grids[1]
    # Weights in units of the step become those of the new grid.
    step = np.diff(grid)
    a = 1 + step * ((1 - part) * states[0] + part * states[1])
    b = step[:, None] * ((1 - part) * outputs[0] + part * outputs[1])
    return table(grid, a, b, schedule)


def _check(plan: Plan) -> None:
    is_velocity = np.all(plan.p == 0) and np.all(plan.q == 1)
    one_a_step = np.all(plan.ends_step) and np.all(plan.c == 1) and not np.any(plan.d)
    if not (is_velocity and one_a_step) or plan.rows <= SHORT:
        raise ValueError(
            f"between: a plan of {plan.rows} rows; wanted more than {SHORT} rows, each a step of "
            "velocities, as a table has that was tuned from Adams-Bashforth."
        )


def _stretched(plan: Plan, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grid (steps+1,), state weights (steps,) and output weights (steps, 4) on other rows."""
    own = np.linspace(0, 1, plan.rows + 1)
    grid = np.interp(np.linspace(0, 1, steps + 1), own, plan.grid)
    step = np.diff(plan.grid)
    weights = np.column_stack([(plan.a - 1) / step, plan.b / step[:, None]])  # (N, 5)
    # A row without history has zeros, which must not mix with the weights of later rows.
    found = np.empty((steps, weights.shape[1]))
    found[:SHORT] = weights[:SHORT]
    # Places of the later rows, 0 for the first of them and 1 for the last.
    old = np.linspace(0, 1, plan.rows - SHORT)
    new = np.linspace(0, 1, steps - SHORT)
    for column in range(weights.shape[1]):
        found[SHORT:, column] = np.interp(new, old, weights[SHORT:, column])
    return grid, found[:, 0], found[:, 1:]
