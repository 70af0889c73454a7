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

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.plans.table import DEPTH, Plan
from flowjax.sampling import update
from flowjax.tune.runner import Runner, rows_of
from flowjax.types import Array, PyTree


def normal_equations(
    runner: Runner,
    plan: Plan,
    tangents: list[Plan],
    noise: Array,
    target: np.ndarray,
    condition: PyTree = None,
    at_once: int | None = None,
) -> tuple[np.ndarray, np.ndarray, float]:
    """J J^T (P, P), J r (P,) and the sum of r^2, with r = endpoint - target and J its derivatives by the P numbers.

    Args:
      runner: the model.
      plan, tangents: the table and its derivatives by each number.
      noise: (B, *D) the starts.
      target: (B, *D) the converged endpoints.
      condition: a pytree with leading axis B, or None.
      at_once: how many evaluations of the network may be in memory at a time; B by default.
    """
    batch, count = len(noise), len(tangents)
    at_once = batch if at_once is None else at_once
    starts = max(1, min(batch, at_once // 8))
    chunk = max(1, at_once // starts)  # numbers whose tangents are pushed together
    matrix, vector, squares = np.zeros((count, count)), np.zeros(count), 0.0
    for first in range(0, batch, starts):
        part = slice(first, first + starts)
        of_part = jax.tree.map(lambda leaf, part=part: leaf[part], condition)
        end, columns = endpoint_tangents(runner, plan, tangents, noise[part], of_part, chunk)
        residual = (np.asarray(end, np.float64) - target[part]).ravel()
        columns = np.asarray(columns, np.float64).reshape(count, -1)
        matrix += columns @ columns.T
        vector += columns @ residual
        squares += float(residual @ residual)
    return matrix, vector, squares


def endpoint_tangents(
    runner: Runner,
    plan: Plan,
    tangents: list[Plan],
    noise: Array,
    condition: PyTree = None,
    chunk: int = 8,
) -> tuple[Array, Array]:
    """The endpoints (b, *D) and their derivatives (P, b, *D) by the numbers that `tangents` belong to."""
    x = jnp.asarray(noise) if runner.derivatives == "jvp" else np.asarray(noise)
    dtype, count = x.dtype, len(tangents)
    rows = rows_of(plan, dtype)
    row_dots = [
        Plan(*(np.stack(c) for c in zip(*r))) for r in zip(*(_rows(t, dtype) for t in tangents))
    ]
    base, history = x, (jnp.zeros_like(x),) * DEPTH
    x_dot = jnp.zeros((count, *x.shape), dtype)
    base_dot, history_dot = x_dot, (x_dot,) * DEPTH
    moved = np.zeros(count, bool)  # whether a number has changed an earlier row
    for row, row_dot in zip(rows, row_dots, strict=True):
        velocity = runner.velocity(x, row.label_time, condition)
        # The network's part, for the numbers whose state or label time moves.
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


def _rows(tangent: Plan, dtype: jnp.dtype) -> list[Plan]:
    """The rows of a derivative of a table, all columns in `dtype`."""
    columns = [np.asarray(column, dtype) for column in tangent]
    return [Plan(*(column[i] for column in columns)) for i in range(len(columns[0]))]


def _acts(row_dot: Plan) -> np.ndarray:
    """(P,) bool: whether a number changes anything in this row that reaches the state after it."""
    acts = np.zeros(len(row_dot.a), bool)
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
    """Derivatives of the velocity (P, b, *D): zero but for the numbers `here`, which are pushed `chunk` at a time."""
    velocity_dot = jnp.zeros_like(x_dot)
    for first in range(0, len(here), chunk):
        numbers = here[first : first + chunk]
        # The last chunk is filled up, so that every chunk has one shape and one compiled program.
        filled = np.resize(numbers, chunk)
        t_dot = np.asarray(row_dot.label_time)[filled]
        found = runner.push(x, row.label_time, condition, x_dot[filled], t_dot)
        velocity_dot = velocity_dot.at[numbers].set(found[: len(numbers)])
    return velocity_dot


@functools.partial(jax.jit)
def _advance(
    row: Plan, row_dot: Plan, velocity: Array, velocity_dot: Array, state: tuple, state_dot: tuple
) -> tuple:
    """The state after a row, and its derivatives by all numbers: (state, derivatives with a leading axis P)."""

    def after(row: Plan, velocity: Array, state: tuple) -> tuple:
        return update(row, velocity, *state, 0.0)

    row = jax.tree.map(lambda column: jnp.asarray(column).astype(velocity.dtype), row)

    def one(row_dot: Plan, velocity_dot: Array, state_dot: tuple) -> tuple:
        return jax.jvp(after, (row, velocity, state), (row_dot, velocity_dot, state_dot))[1]

    return after(row, velocity, state), jax.vmap(one)(row_dot, velocity_dot, state_dot)
