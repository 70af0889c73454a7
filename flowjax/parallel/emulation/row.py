"""One row of an emulated run: forecast, decide, evaluate, meter, store.

The evaluation is a function of the caller, of a network (`parallel.emulation.network`) or of an
exact field (`parallel.emulation.field`). Its values are what the parts exchange: keys and values of
all layers, or inner products. They are pytrees of (K, B, L, ...).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.parallel.emulation.exchange import Exchange
from flowjax.parallel.stale.forecast import predict
from flowjax.parallel.stale.meter import MeterReadings, empty_readings
from flowjax.parallel.stale.precision import rounded
from flowjax.plans.table import Plan
from flowjax.sampling import Solution, sample
from flowjax.types import PyTree


class EmulationStats(NamedTuple):
    """Counts of `flowjax.sample`, and the readings of the meter.

    Attributes:
      nfe, accepted, rejected: (B,) int32.
      synced, staleness, layers, worst: as in `parallel.stale.meter.MeterReadings`.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    synced: jax.Array
    staleness: jax.Array
    layers: jax.Array
    worst: jax.Array


class EmulationCarry(NamedTuple):
    """The state between rows.

    Attributes:
      row: (), the number of the next row.
      histories: a pytree of (S, M, K, B, L, ...), the values of the last M rows of each substep,
        newest first.
      readings: the `MeterReadings` of the rows so far.
    """

    row: jax.Array
    histories: PyTree
    readings: MeterReadings


# (copy, synced) -> (velocity, values): copy and values are pytrees of (K, B, L, ...)
EvaluateRow = Callable[[PyTree, jax.Array], tuple[jax.Array, PyTree]]


def sample_with_exchange(
    model: Callable[..., tuple[jax.Array, EmulationCarry]],
    noise: jax.Array,
    plan: Plan,
    exchange: Exchange,
    like: PyTree,
    key: jax.Array | None,
) -> Solution:
    """`flowjax.sample` of a model whose carry is an `EmulationCarry`.

    Args:
      model: (x, t, carry) -> (velocity, carry).
      noise, plan, key: as in `flowjax.sample`.
      exchange: the `Exchange`.
      like: the values of one row, a pytree of (K, B, L, ...); only shapes and dtypes count.

    Returns:
      `Solution` with `EmulationStats`, whose carry is None.
    """
    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    substeps = len(exchange.rows.first_of_substep)
    memory = exchange.rows.forecast.weights.shape[1]
    layers = len(jax.tree.leaves(like)[0])

    def empty(leaf: jax.Array) -> jax.Array:
        return jnp.zeros((substeps, memory, *leaf.shape), leaf.dtype)

    readings = empty_readings(plan.rows, layers, dtype)
    carry = EmulationCarry(jnp.zeros((), int), jax.tree.map(empty, like), readings)
    found = sample(model, noise, plan, key=key, carry=carry)
    return found._replace(stats=EmulationStats(*found.stats, *found.carry.readings), carry=None)


def run_row(
    exchange: Exchange, carry: EmulationCarry, evaluate: EvaluateRow
) -> tuple[jax.Array, EmulationCarry]:
    """One row: forecast the copy, decide whether the row is synchronous, evaluate, meter, store.

    Args:
      exchange: the `Exchange`.
      carry: the `EmulationCarry`.
      evaluate: (copy, synced) -> (velocity, the values of this row); copy and values are pytrees of
        (K, B, L, ...).

    Returns:
      (velocity, `EmulationCarry`).
    """
    # A row reads and extends the history of its substep alone.
    exchange = jax.tree.map(jnp.asarray, exchange)
    row = carry.row
    substep = exchange.rows.substep[row]
    past = jax.tree.map(lambda leaf: leaf[substep], carry.histories)  # (M, K, B, L, ...)

    # Forecast the copy, and decide by the meter of the step before.
    pool = functools.partial(_pool, exchange)
    expected = predict(exchange.rows.forecast, row, past, pool)
    copy = _copy(exchange, expected)
    synced = _is_synchronous(exchange.rows, row, carry.readings)
    velocity, values = evaluate(copy, synced)

    # Meter the copy, used or not, and store what arrived at the other parts.
    readings = _metered(exchange, carry.readings, row, synced, values, copy)
    arrived = _arrived(exchange, values, expected, synced)
    is_sent = synced | exchange.rows.sent[row]
    history = jax.tree.map(lambda old, new: _pushed(old, new, is_sent), past, arrived)
    histories = jax.tree.map(lambda all, one: all.at[substep].set(one), carry.histories, history)
    return velocity, EmulationCarry(row + 1, histories, readings)


def _pool(exchange, sums):
    """(K, B, L) -> (K, B, L): each token has the sum over the tokens of its gain group."""
    groups = exchange.gain_groups.astype(sums.dtype)
    total = jnp.einsum("kbl,nl->kbn", sums, groups)
    return jnp.einsum("kbn,nl->kbl", total, groups)


def _in_fewer_bits(exchange, values):
    """`values` as they arrive in messages of so many bits a number."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return rounded(wide, exchange.bits).astype(values.dtype)


def _copy(exchange, expected):
    """The copy that other parts see, from the forecast `expected`.

    With residuals every part makes the same forecast itself, so it sees it in full precision.
    """

    def seen(values):
        return jnp.where(exchange.residual, values, _in_fewer_bits(exchange, values))

    return jax.tree.map(seen, expected)


def _is_synchronous(rows, row, readings):
    """Whether the staleness that the step before metered exceeds the threshold of this row."""
    decided_by = rows.decided_by[row]
    # In the first step nothing was metered, so it is synchronous under every threshold.
    metered = jnp.where(decided_by < 0, jnp.inf, readings.worst[decided_by])
    return metered > rows.policy[row]


def _metered(exchange, readings, row, synced, values, copy):
    """The readings with those of this row."""
    dtype = readings.staleness.dtype
    gap = _squares(jax.tree.map(jnp.subtract, values, copy), dtype)  # (K, B)
    size = _squares(values, dtype)
    is_first = row == exchange.rows.first_of_substep[exchange.rows.substep[row]]  # no copy exists

    # Copies are used by any two occupied parts of which one does not see the other's values.
    occupied = jnp.any(exchange.shards[:, None] == jnp.arange(len(exchange.fresh))[None], axis=0)
    both_occupied = occupied[:, None] & occupied[None]
    is_used = ~synced & ~jnp.all(exchange.fresh | ~both_occupied)

    # A synchronous row meters the copy that it would have used.
    staleness = jnp.where(is_used, jnp.sqrt(gap.sum() / size.sum()), 0)
    layers = jnp.where(is_first, 0, jnp.sqrt(gap.sum(1) / size.sum(1)))
    worst = jnp.where(is_first, jnp.inf, jnp.sqrt(jnp.max(gap.sum(0) / size.sum(0))))
    return MeterReadings(
        synced=readings.synced.at[row].set(synced),
        staleness=readings.staleness.at[row].set(staleness),
        layers=readings.layers.at[row].set(layers),
        worst=readings.worst.at[row].set(worst),
    )


def _squares(tree, dtype):
    """Sums of squares of each layer and sample, (K, B), over the leaves of (K, B, ...)."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        axes = tuple(range(2, leaf.ndim))
        total += jnp.sum(jnp.square(leaf.astype(dtype)), axis=axes)
    return total


def _arrived(exchange, values, expected, synced):
    """The values that enter the history.

    A part knows its own values in full precision. With residuals it keeps what the other parts
    reconstruct, so that its next residual includes what this one lost. Synchronous rows send the
    values themselves.
    """
    is_exact = synced | ~exchange.residual

    # Error feedback: the next forecast starts from what the other parts have.
    def one(new, forecast):
        reconstructed = forecast + _in_fewer_bits(exchange, new - forecast)
        return jnp.where(is_exact, new, reconstructed)

    return jax.tree.map(one, values, expected)


def _pushed(history, newest, is_sent):
    """The history (M, ...) with `newest` in front and without its oldest, if the row was sent."""
    shifted = jnp.concatenate([newest[None], history[:-1]])
    return jnp.where(is_sent, shifted, history)
