"""A table row by row, in closed form, on the model's own trajectory.

Step i of a table with the rows before it known takes the state x_i and the last outputs v_i,
v_{i-1}, ... to

    x_{i+1} = x_i + w_0 x_i + sum_j w_{j+1} v_{i-j},

linear in its weights. The best weights for the converged states X(t_{i+1}) of the same starts solve
one small linear least-squares problem, and the next row goes on from the states that these weights
gave. So a whole table costs one evaluation of the starts for each of its rows, and no derivative.
(OLSS, arXiv:2305.14677, fits schedules in this way.)
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from flowjax import grids
from flowjax.errors import check_choice, check_whole
from flowjax.plans.table import DEPTH, Plan, check_finite
from flowjax.schedules import Linear, Schedule
from flowjax.tune.runner import DERIVATIVES, Runner, at_least_float32, check_batch
from flowjax.tune.truth import Reference, converged
from flowjax.types import Array, PyTree

RIDGE = 1e-10  # added to the diagonal of the normal equations, relative to its mean


def least_squares(
    model: Callable,
    noise: Array,
    grid: Array,
    *,
    condition: PyTree = None,
    reference: Reference | None = None,
    tolerance: float | None = None,
    depth: int = DEPTH,
    schedule: Schedule | None = None,
    derivatives: str = "jvp",
) -> Plan:
    """The table on `grid` whose rows are fitted one after the other to converged states.

    Args:
      model, condition, derivatives: as in `tune.reference`.
      noise: (B, *D) states at grid[0]; B D numbers determine each row's weights.
      grid: (N+1,) strictly monotone times.
      reference: the converged states at the times of the grid; None computes them, to `tolerance`.
      tolerance: of that reference; 1e-3 by default.
      depth: how many of the last outputs a row uses, 1 to 4.
      schedule: the path, for corrections of the data prediction only; linear by default.

    Returns:
      A `Plan` of N rows.

    Raises:
      ValueError: the reference is at other times or of another shape, the condition has another
        length than the noise, or as in `tune.reference`.
    """
    grid = grids.check(grid, "tune.least_squares")
    check_choice("tune.least_squares", "derivatives", derivatives, DERIVATIVES)
    check_whole("tune.least_squares", "depth", depth, 1, DEPTH)
    check_batch("tune.least_squares", noise, condition)
    runner = Runner(model, derivatives)
    if reference is None:
        reference = converged(runner, noise, grid, tolerance or 1e-3, condition)
    _check_reference(reference, grid, np.shape(noise))
    a, b = fit(runner, noise, grid, reference.states, condition, depth)
    plan = table(grid, a, b, schedule)
    check_finite(plan, "tune.least_squares")
    return plan


def _check_reference(reference: Reference, grid: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse a reference of other times than `grid`, or of other starts than `shape` (B, *D)."""
    # Shapes first, since numpy does not compare arrays of different lengths.
    same_length = np.shape(reference.times) == grid.shape
    if not same_length or not np.allclose(reference.times, grid, rtol=0, atol=1e-12):
        raise ValueError(
            "tune.least_squares: the reference is at other times than the grid; make it with "
            "tune.reference(model, noise, grid)."
        )
    wanted = (len(grid), *shape)
    if np.shape(reference.states) != wanted:
        raise ValueError(
            "tune.least_squares: the states of the reference have shape "
            f"{np.shape(reference.states)}; wanted (N+1, B, *D) = {wanted}, for the same starts."
        )


def fit(
    runner: Runner,
    noise: Array,
    grid: np.ndarray,
    states: np.ndarray,
    condition: PyTree,
    depth: int = DEPTH,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the state (N,) and of the last outputs (N, 4) of each row."""
    count = len(grid) - 1
    a = np.ones(count)
    b = np.zeros((count, DEPTH))
    x = np.asarray(at_least_float32(noise))
    outputs = []  # newest first
    for i in range(count):
        here = jnp.asarray(x) if runner.derivatives == "jvp" else x
        velocity = np.asarray(runner.velocity(here, grid[i], condition), np.float64)
        outputs = [velocity, *outputs[: depth - 1]]
        # Columns: the state and the outputs that are known. The unknown is the step, not the state
        # after it.
        # (1 + number of outputs, B D)
        columns = np.stack([np.asarray(x, np.float64).ravel(), *(v.ravel() for v in outputs)])
        step = np.asarray(states[i + 1], np.float64).ravel() - columns[0]
        weights = solve(columns @ columns.T, columns @ step)
        a[i] = 1 + weights[0]
        b[i, : len(outputs)] = weights[1:]
        # The next row starts where these weights lead, not from the converged state, so that it
        # corrects their errors.
        x = (columns[0] + weights @ columns).reshape(x.shape).astype(x.dtype)
    return a, b


def solve(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The solution of the normal equations, with a small ridge for columns that are parallel."""
    scale = np.sqrt(np.maximum(np.diag(normal), 1e-300))
    scaled = normal / scale[:, None] / scale[None]  # unit diagonal, whatever the outputs' sizes
    ridge = RIDGE * np.eye(len(normal))
    return np.linalg.solve(scaled + ridge, right / scale) / scale


def table(grid: np.ndarray, a: np.ndarray, b: np.ndarray, schedule: Schedule | None = None) -> Plan:
    """The Plan whose row i gives a_i x + sum_j b_ij v_{i-j}, one step a row."""
    t = grid[:-1]
    count = len(t)
    data_x, data_v = (schedule or Linear()).prediction_weights("data", t)
    return Plan(
        t=t,
        label_time=t,
        # The outputs in the history are velocities.
        p=np.zeros(count),
        q=np.ones(count),
        a=a,
        b=b,
        s=np.zeros(count),
        # The next evaluation is at the new state itself.
        c=np.ones(count),
        d=np.zeros((count, DEPTH)),
        ends_step=np.ones(count, bool),
        t_next=grid[1:],
        data_x=data_x,
        data_v=data_v,
        counted=np.ones(count, bool),
    )


def on_other_grids(grid: np.ndarray, plan: Plan, schedule: Schedule | None = None) -> Callable:
    """A fitted table as a function of its grid, for `refine`.

    The weights of the state stay, and those of the outputs stay in units of the step.
    """
    state = plan.a
    weights = plan.b / np.diff(grid)[:, None]

    def make(other: np.ndarray) -> Plan:
        return table(other, state, weights * np.diff(other)[:, None], schedule)

    return make
