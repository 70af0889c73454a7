"""How the endpoint of a table moves with each of its numbers.

Row i of a table evaluates the network at x_i and combines. Differentiated by a number p of the
table,

    v_i' = (dv/dx) x_i' + (dv/dt) label_i'         one forward derivative of the network
    x_{i+1}', base', history'                      the row itself, linear in everything: no network

A number of row i changes nothing before that row, and the state after it in a known way, so the
network is differentiated for it from row i + 1 on only: about half of all pairs of numbers and
rows. All numbers that are on their way at row i share the evaluation of the network at x_i. Starts
and numbers are taken in chunks, so that no more evaluations lie in memory at a time than when the
same starts are sampled; nothing of the network is stored.
"""

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.plans.table import DEPTH, Plan
from flowjax.sampling import update
from flowjax.tune.runner import Runner, at_least_float32, rows_of
from flowjax.types import Array, PyTree


def endpoints_and_jacobian(
    runner: Runner,
    plan: Plan,
    tangents: list[Plan],
    noise: Array,
    condition: PyTree = None,
    at_once: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The endpoints of a table and their derivatives by its numbers.

    Args:
      runner: the model.
      plan, tangents: the table and its derivatives by each of P numbers.
      noise: (B, *D) the starts.
      condition: a pytree with leading axis B, or None.
      at_once: how many evaluations of the network may be in memory at a time; B by default.

    Returns:
      (B, *D) float64, and (P, B D) in the type of the starts, at least float32; on the host.
    """
    batch = len(noise)
    count = len(tangents)
    starts, chunk = at_once_shape(batch, at_once)
    ends, columns = [], []
    # Parts of the starts, so that the device never holds the tangents of all of them.
    for first in range(0, batch, starts):
        part = slice(first, first + starts)
        of_part = jax.tree.map(lambda leaf, part=part: leaf[part], condition)
        end, column = endpoint_tangents(runner, plan, tangents, noise[part], of_part, chunk)
        ends.append(np.asarray(end, np.float64))
        columns.append(np.asarray(column).reshape(count, -1))
    return np.concatenate(ends), np.concatenate(columns, axis=1)


def at_once_shape(batch: int, at_once: int | None) -> tuple[int, int]:
    """How many starts, and how many numbers' tangents of each, go through the network together."""
    at_once = batch if at_once is None else at_once
    # About six tangents of each start share one evaluation of the network. A tangent needs the
    # evaluation beside it, so six take the memory of eight evaluations.
    starts = max(1, min(batch, at_once // 8))
    return starts, max(1, 3 * at_once // (4 * starts))


def pushes(tangents: list[Plan]) -> int:
    """How many derivatives of the network one Jacobian takes for each start."""
    moved = np.zeros(len(tangents), bool)
    count = 0
    for row_dot in _row_tangents(tangents, np.float64):
        count += int(np.sum(moved | (row_dot.label_time != 0)))
        moved |= _acts(row_dot)
    return count


def endpoint_tangents(
    runner: Runner,
    plan: Plan,
    tangents: list[Plan],
    noise: Array,
    condition: PyTree = None,
    chunk: int = 8,
) -> tuple[Array, Array]:
    """The same for starts that fit into memory, on the device.

    Args:
      runner: the model.
      plan, tangents: the table and its derivatives by P numbers.
      noise: (b, *D) the starts.
      condition: a pytree with leading axis b, or None.
      chunk: how many numbers' tangents are pushed through the network together.

    Returns:
      (b, *D) and (P, b, *D).
    """
    x = at_least_float32(noise)
    x = jnp.asarray(x) if runner.derivatives == "jvp" else np.asarray(x)
    dtype = x.dtype
    count = len(tangents)
    # The state of a run, and its derivatives, which have a leading axis P.
    base = x
    history = (jnp.zeros_like(x),) * DEPTH
    x_dot = jnp.zeros((count, *x.shape), dtype)
    base_dot = x_dot
    history_dot = (x_dot,) * DEPTH
    moved = np.zeros(count, bool)  # whether a number has changed an earlier row
    for row, row_dot in zip(rows_of(plan, dtype), _row_tangents(tangents, dtype), strict=True):
        velocity = runner.velocity(x, row.label_time, condition)
        # The network's part: only for the numbers whose state or label time moves.
        here = np.flatnonzero(moved | (row_dot.label_time != 0))
        velocity_dot = _pushed(runner, x, row, condition, x_dot, row_dot, here, chunk)
        # The row's own part, for all numbers.
        state = (x, base, history)
        state_dot = (x_dot, base_dot, history_dot)
        state, state_dot = _advance(row, row_dot, velocity, velocity_dot, state, state_dot)
        x, base, history = state
        x_dot, base_dot, history_dot = state_dot
        moved |= _acts(row_dot)
    return x, x_dot


def _row_tangents(tangents: list[Plan], dtype: jnp.dtype) -> list[Plan]:
    """For each row its derivatives by all numbers: every column has a leading axis P."""
    # P tables of N rows become one table whose columns are (P, N) or (P, N, 4).
    stacked = [np.stack(columns).astype(dtype) for columns in zip(*tangents, strict=True)]
    rows = stacked[0].shape[1]
    return [Plan(*(column[:, i] for column in stacked)) for i in range(rows)]


def _acts(row_dot: Plan) -> np.ndarray:
    """(P,) bool: whether a number changes anything in this row that reaches the state after it."""
    acts = np.zeros(len(row_dot.a), bool)
    # Columns that only describe the row, such as t_next, are left out.
    for name in ("label_time", "p", "q", "a", "b", "c", "d"):
        column = np.asarray(getattr(row_dot, name))
        acts |= np.any(column.reshape(len(acts), -1) != 0, axis=1)
    return acts


def _pushed(
    runner: Runner,
    x: Array,
    row: Plan,
    condition: PyTree,
    x_dot: Array,
    row_dot: Plan,
    here: np.ndarray,
    chunk: int,
) -> Array:
    """Derivatives of the velocity (P, b, *D), zero except for the numbers `here`."""
    velocity_dot = jnp.zeros_like(x_dot)
    for first in range(0, len(here), chunk):
        numbers = here[first : first + chunk]
        # The last chunk is filled up, so that every chunk has one shape and one compiled program.
        filled = np.resize(numbers, chunk)
        t_dot = np.asarray(row_dot.label_time)[filled]
        found = runner.push(x, row.label_time, condition, x_dot[filled], t_dot)
        velocity_dot = velocity_dot.at[numbers].set(found[: len(numbers)])
    return velocity_dot


@jax.jit
def _advance(
    row: Plan,
    row_dot: Plan,
    velocity: Array,
    velocity_dot: Array,
    state: tuple,
    state_dot: tuple,
) -> tuple:
    """The state after a row, and its derivatives with a leading axis P."""

    def after(row, velocity, state):
        return update(row, velocity, *state, 0.0)  # 0: no noise is drawn

    def one_number(row_dot, velocity_dot, state_dot):
        _, dot = jax.jvp(after, (row, velocity, state), (row_dot, velocity_dot, state_dot))
        return dot

    # The flags of a row become numbers too, since jvp wants tangents of the same type.
    row = jax.tree.map(lambda column: jnp.asarray(column).astype(velocity.dtype), row)
    return after(row, velocity, state), jax.vmap(one_number)(row_dot, velocity_dot, state_dot)
