"""Stale attention (displaced patches, DistriFusion, arXiv:2402.19481), as a model of a sampler.

In a *synchronous* row every device attends to this row's keys and values of all tokens. In a
*stale* row it attends to its own keys and values of this row, and to copies of those of other
devices, which were sent earlier, so that nothing waits for their transfer. A copy consists of keys
and values that were really computed, themselves with stale context, or of a forecast from them
(`parallel.stale.forecast`), in the number format of `parallel.stale.precision`. The methods of
`parallel.stale.exchange` send them. A device may correct the stale part of its output by the miss
of the copies of its own values (`attention.corrected`).

Whether a row is synchronous is decided on the devices, during the run: every row meters its copies
(`parallel.stale.meter`), and a row is synchronous if the reading of the step before exceeds the
row's threshold (`parallel.stale.policies`). Thresholds are numbers, so one program runs every
policy.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax.parallel.attention import Attention, attend, corrected
from flowjax.parallel.stale.exchange import ExchangeMethod, at, put
from flowjax.parallel.stale.meter import MeterReadings, empty_readings, record, squares
from flowjax.parallel.stale.rows import EXCHANGE, HOLD, SYNC, RowSchedule
from flowjax.parallel.stale.shard import TokenShard
from flowjax.types import PyTree


class StaleCarry(NamedTuple):
    """The state between rows.

    Attributes:
      row: () int, the number of the next row.
      buffers: the buffers of the method, with a leading axis (S,) of substeps.
      meter: the readings of the rows before.
    """

    row: jax.Array
    buffers: PyTree
    meter: MeterReadings


class StaleModel(NamedTuple):
    """A network whose attention is stale, on one device.

    Attributes:
      network: (x, t, label, attention, carry) -> (velocity, carry), of this device's tokens.
      shard: a `TokenShard`, with the schedule of rows.
      method: an `ExchangeMethod`.
      kinds: the kinds of row that occur, from `kinds_of`.
      no_sums: zeros (2, K, B), marked as different on every device.
      attention: (model, kind of row, row) -> what the network takes for its attention in such a
        row; its carry is (buffers of one substep, sums of squares (2, K, B)).
    """

    network: Callable[..., tuple[jax.Array, PyTree]]
    shard: TokenShard
    method: ExchangeMethod
    kinds: tuple[int, ...]
    no_sums: jax.Array
    attention: Callable[..., Any]


def start(
    schedule: RowSchedule,
    buffers: PyTree,
    layers: int,
    dtype: jnp.dtype,
) -> StaleCarry:
    """The `StaleCarry` before the first row.

    Args:
      schedule: the `RowSchedule`.
      buffers: the shapes of the buffers of one substep.
      layers: K.
      dtype: of the meter.
    """
    # Each substep of a step has its own buffers: its copies come from the same substep.
    substeps = len(schedule.first_of_substep)
    zeros = jax.tree.map(lambda b: jnp.zeros((substeps, *b.shape), b.dtype), buffers)
    meter = empty_readings(len(schedule.substep), layers, dtype)
    return StaleCarry(jnp.zeros((), jnp.int32), zeros, meter)


def evaluate(
    model: StaleModel,
    x: jax.Array,
    t: jax.Array,
    label: jax.Array,
    carry: StaleCarry,
) -> tuple[jax.Array, StaleCarry]:
    """Evaluate the network in the next row, by the attention of the row's kind.

    The choice is one `lax.switch` a row, around the whole network. So each branch has its own scan
    over layers, in which the collectives of that kind of row are free to move. The index of the
    branch comes from an all-reduce, so it is the same on every device; if it were not, collectives
    in different branches would wait for each other for ever.
    """
    schedule = model.shard.schedule
    row = carry.row
    substep = schedule.substep[row]

    # Decide the kind of the row.
    decided_by = schedule.decided_by[row]
    staleness = jnp.where(decided_by < 0, jnp.inf, carry.meter.worst[decided_by])
    synced = staleness > schedule.policy[row]
    kind = jnp.where(synced, SYNC, jnp.where(schedule.sent[row], EXCHANGE, HOLD))
    branch = jnp.minimum(kind, len(model.kinds) - 1)  # the place of the kind in model.kinds

    # Run the network.
    branches = [functools.partial(_row_of_kind, model, each) for each in model.kinds]
    buffers = jax.tree.map(lambda b: at(b, substep), carry.buffers)
    velocity, buffers, sums = jax.lax.switch(branch, branches, row, x, t, label, buffers)

    # Keep the buffers, and meter the row.
    buffers = jax.tree.map(lambda b, new: put(b, new, substep), carry.buffers, buffers)
    is_first = row == schedule.first_of_substep[substep]
    meter = record(carry.meter, model.shard, row, synced, is_first, sums)
    return velocity, StaleCarry(row + 1, buffers, meter)


def _row_of_kind(model, kind, row, x, t, label, buffers):
    """(velocity, buffers, sums of squares (2, K, B)) of a row of this kind."""
    attention = model.attention(model, kind, row)
    velocity, (buffers, sums) = model.network(x, t, label, attention, (buffers, model.no_sums))
    if kind == SYNC:
        buffers = model.method.finish(model.shard, row, buffers)
    return velocity, buffers, sums


def stale_attention(model: StaleModel, kind: int, row: jax.Array) -> Attention:
    """Attention as models.dit describes it, in a row of this kind.

    Its carry is the buffers of one substep, and the sums of squares (2, K, B).
    """
    shard = model.shard
    exchange = model.method.layer[kind]
    # In a synchronous row nothing is stale, and so nothing is corrected.
    fractions = shard.schedule.correction
    correction = None if kind == SYNC or fractions is None else fractions[row]

    def attention(q, k, v, layer, carry):
        buffers, sums = carry
        own = jnp.stack([k, v])  # (2, B, L/n, heads, d)
        seen, copy, buffers = exchange(shard, own, layer, row, buffers)
        sums = sums.at[:, layer].set(squares(shard, own, copy, sums.dtype))
        if correction is None:
            return attend(q, seen, shard.tokens), (buffers, sums)
        out = corrected(
            q,
            seen[:, :, : shard.tokens],
            own=k,
            missed=v - copy[1],
            fresh=shard.is_own(shard.tokens),
            fraction=correction,
            valid=shard.valid(shard.local),
        )
        return out, (buffers, sums)

    return attention
