"""The meter: how stale a run is, row by row, layer by layer, and in its worst sample.

Staleness is |KV - copy| / |KV|: the keys and values of a row, and the copy of them that other
devices use in that row. In synchronous rows it is that of the copy that would have been used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.parallel.mesh import CFG, DATA
from flowjax.parallel.stale.shard import TokenShard
from flowjax.types import Array


class MeterReadings(NamedTuple):
    """The measured staleness of a run of N rows and K layers.

    Attributes:
      synced: (N,) bool, the rows that were synchronous.
      staleness: (N,) over layers, samples and tokens; 0 where no copy was used (synchronous rows,
        or one device).
      layers: (N, K) of each layer, over samples and tokens, whether copies were used or not; 0
        where there was no copy. None where attention is exact.
      worst: (N,) of the worst sample, over layers and tokens, whether copies were used or not;
        infinite where there was no copy. None where attention is exact.
    """

    synced: Array
    staleness: Array
    layers: Array | None
    worst: Array | None


def exact_readings(rows: int) -> MeterReadings:
    """The readings of a run whose attention is exact in every row."""
    return MeterReadings(np.ones(rows, bool), np.zeros(rows), None, None)


def empty_readings(rows: int, layers: int, dtype: jnp.dtype) -> MeterReadings:
    """The readings before the first row."""
    return MeterReadings(
        synced=jnp.zeros(rows, bool),
        staleness=jnp.zeros(rows, dtype),
        layers=jnp.zeros((rows, layers), dtype),
        worst=jnp.zeros(rows, dtype),
    )


def squares(
    shard: TokenShard,
    own: jax.Array,
    copy: jax.Array,
    dtype: jnp.dtype,
) -> jax.Array:
    """The sums of squares of this device's keys and values: (2, B), of own - copy and of own.

    Args:
      shard: a `TokenShard`; its padding is left out.
      own: (2, B, L/n, heads, d), this device's keys and values.
      copy: the copy of them that other devices use.
      dtype: of the meter.
    """
    # Keys may be in half precision; their difference is formed in the wider dtype.
    new = own.astype(dtype)
    gap = new - copy.astype(dtype)
    return jnp.stack([_sum_of_squares(shard, gap), _sum_of_squares(shard, new)])


def record(
    readings: MeterReadings,
    shard: TokenShard,
    row: jax.Array,
    synced: jax.Array,
    is_first: jax.Array,
    sums: jax.Array,
) -> MeterReadings:
    """The readings with those of one row.

    It needs one all-reduce, of (2, K, samples of all devices): each device puts the sums of its own
    samples in their place.

    Args:
      readings: those of the rows before.
      shard: a `TokenShard`.
      row: () int, the row.
      synced: () bool, whether it was synchronous.
      is_first: () bool, whether no copy existed in it.
      sums: (2, K, B) of `squares`, this device's.
    """
    groups = DATA, CFG  # the axes over which samples and branches of guidance differ
    # An all-reduce of sums in separate places is an all-gather of samples, and a sum over tokens.
    parts = jax.lax.axis_size(groups)
    placed = jnp.zeros((*sums.shape[:2], parts, sums.shape[2]), sums.dtype)
    placed = placed.at[:, :, jax.lax.axis_index(groups)].set(sums)
    gap, size = jax.lax.psum(placed, (*groups, *shard.axes))  # (K, parts, B) each
    # One device has all tokens and uses no copies.
    copies_used = ~synced & (shard.local < shard.tokens)
    of_all = jnp.sqrt(gap.sum() / size.sum())
    by_layer = jnp.sqrt(gap.sum((1, 2)) / size.sum((1, 2)))  # (K,)
    worst = jnp.sqrt(jnp.max(gap.sum(0) / size.sum(0)))  # (), over (parts, B)
    return MeterReadings(
        readings.synced.at[row].set(synced),
        readings.staleness.at[row].set(jnp.where(copies_used, of_all, 0)),
        readings.layers.at[row].set(jnp.where(is_first, 0, by_layer)),
        readings.worst.at[row].set(jnp.where(is_first, jnp.inf, worst)),
    )


def _sum_of_squares(shard, values):
    """(2, B, L/n, heads, d) -> (B,), of the tokens that are not padding."""
    valid = shard.valid(values.shape[2])[None, None, :, None, None]
    return jnp.sum(jnp.where(valid, jnp.square(values), 0), axis=(0, 2, 3, 4))
