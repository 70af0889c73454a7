"""The methods of exchange: how keys and values reach the devices that use them in later rows.

The sender makes a forecast from its own last R rows (`parallel.stale.forecast`; R = 1 holds the
newest) and sends it by one all-gather of a message (`parallel.stale.precision`). The methods give
the same copies and differ in cost:

    gather ahead   ("late") A device keeps its own last R rows of every layer,
                   (K, R, 2, B, L/n, heads, d). While layer l computes, it gathers the forecasts of
                   layer l + 1. That gather depends on nothing that layer l computes. The next layer
                   is (l + 1) mod K: the last layer gathers those of layer 0, which this row has
                   already renewed and which the next row needs. So there are K gathers a row, and
                   none is in vain.
    gather now     ("early") A device keeps the copies of all devices, (K, 2, B, L, heads, d), and
                   R - 1 rows of its own. Layer l gathers the forecasts for the next row, made with
                   what it has just computed. Rows of the kind HOLD need this method, because a copy
                   must outlive the rows from which it was made.
    residual       The message is the error of the forecast. Every device forecasts the keys and
                   values of all devices, so it keeps the last R rows of all as they arrived,
                   (K, R, 2, B, L, heads, d). Layer l gathers what it has just computed, as in
                   "early".

In a synchronous row each layer gathers the keys and values themselves, unrounded. Where the copies
for the next row differ from those (a forecast, or a message of fewer bits), "early" gathers these
copies too, in each layer, and "late" gathers them once, after the last layer.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.parallel.attention import gathered
from flowjax.parallel.stale.rows import EXCHANGE, HOLD, SYNC
from flowjax.parallel.stale.shard import TokenShard
from flowjax.types import PyTree


class Exchanged(NamedTuple):
    """What one layer of one row has after its exchange.

    Attributes:
      seen: (2, B, L, heads, d) the keys and values to which this device attends.
      copy: (2, B, L/n, heads, d) the copy of this device's own that other devices use in this row;
        in a synchronous row, the one that they would use.
      buffers: the buffers after this layer.
    """

    seen: jax.Array
    copy: jax.Array
    buffers: PyTree


class ExchangeMethod(NamedTuple):
    """A method of exchange. Its buffers are those of one substep.

    Attributes:
      buffers: (shard, shape, dtype) -> the shapes of the buffers, from the shape (B, L/n, heads, d)
        of keys. They begin as zeros that are never seen, since the first row of a substep is
        synchronous.
      layer: {kind of row: (shard, own, layer, row, buffers) -> `Exchanged`}, with this device's own
        keys and values (2, B, L/n, heads, d).
      finish: (shard, row, buffers) -> buffers, called after the last layer of a synchronous row.
    """

    buffers: Callable[..., PyTree]
    layer: Mapping[int, Callable[..., Exchanged]]
    finish: Callable[..., PyTree]


# Gather ahead, "late"


class AheadBuffers(NamedTuple):
    """Buffers of "late".

    Attributes:
      own: (K, R, 2, B, L/n, heads, d), this device's last rows, newest first.
      ahead: (2, B, L, heads, d), the copies of all devices for the next layer.
    """

    own: jax.Array
    ahead: jax.Array


def gather_ahead_buffers(
    shard: TokenShard, shape: tuple[int, ...], dtype: jnp.dtype
) -> AheadBuffers:
    """The shapes of the buffers of "late"."""
    own = jax.ShapeDtypeStruct((shard.layers, shard.rows_used, 2, *shape), dtype)
    return AheadBuffers(own, jax.ShapeDtypeStruct(_shape_of_all(shape, shard), dtype))


def gather_ahead_in_synchronous_row(
    shard: TokenShard,
    own: jax.Array,
    layer: jax.Array,
    row: jax.Array,
    buffers: AheadBuffers,
) -> Exchanged:
    """Gather this layer's keys and values."""
    past = at(buffers.own, layer)  # (R, 2, B, L/n, heads, d)
    # What the other devices would have received, for the meter alone.
    copy = shard.as_received(shard.forecast(past, row))
    everyone = gathered(own, shard.axes)
    ahead = buffers.ahead
    if shard.sends_unchanged:
        # Layer 0 has just gathered what the next row begins with.
        ahead = jnp.where(layer == 0, everyone, ahead)
    history = put(buffers.own, _with_newest(own, past), layer)
    return Exchanged(everyone, copy, AheadBuffers(history, ahead))


def gather_ahead_in_stale_row(
    shard: TokenShard,
    own: jax.Array,
    layer: jax.Array,
    row: jax.Array,
    buffers: AheadBuffers,
) -> Exchanged:
    """Gather the copies of the next layer; the gather waits for nothing in this layer."""
    next_layer = (layer + 1) % shard.layers
    next_row = shard.schedule.next_of_substep[row]
    # The layer after the last one is layer 0 of the next row.
    row_of_use = jnp.where(layer + 1 < shard.layers, row, next_row)
    message = shard.forecast(at(buffers.own, next_layer), row_of_use)
    # The buffer must be read before it is written. If the compiler fused the two, the gather would
    # wait for this layer's keys and values, and hide less of the layer's work (docs/findings.md).
    before, message = jax.lax.optimization_barrier((buffers.own, message))
    after = put(before, _with_newest(own, at(before, layer)), layer)
    if shard.layers == 1:
        # The only layer is its own next layer, and the next row needs what this row computed.
        message = shard.forecast(at(after, next_layer), row_of_use)
    ahead = shard.gather_message(message)
    # buffers.ahead was gathered by the layer before this one.
    seen = shard.with_own_part(buffers.ahead, own)
    copy = shard.own_part(buffers.ahead)
    return Exchanged(seen, copy, AheadBuffers(after, ahead))


def gather_ahead_finish(shard: TokenShard, row: jax.Array, buffers: AheadBuffers) -> AheadBuffers:
    """Gather the copies of layer 0 for the next row, where they are not what layer 0 gathered."""
    if shard.sends_unchanged:
        return buffers
    message = shard.forecast(buffers.own[0], shard.schedule.next_of_substep[row])
    return buffers._replace(ahead=shard.gather_message(message))


# Gather now, "early"


class CopyBuffers(NamedTuple):
    """Buffers of "early".

    Attributes:
      own: (K, R - 1, 2, B, L/n, heads, d), this device's last rows, newest first.
      copies: (K, 2, B, L, heads, d), the copies of all devices.
    """

    own: jax.Array
    copies: jax.Array


def gather_now_buffers(shard: TokenShard, shape: tuple[int, ...], dtype: jnp.dtype) -> CopyBuffers:
    """The shapes of the buffers of "early"."""
    own = jax.ShapeDtypeStruct((shard.layers, shard.rows_used - 1, 2, *shape), dtype)
    copies = jax.ShapeDtypeStruct((shard.layers, *_shape_of_all(shape, shard)), dtype)
    return CopyBuffers(own, copies)


def gather_now_in_synchronous_row(
    shard: TokenShard,
    own: jax.Array,
    layer: jax.Array,
    row: jax.Array,
    buffers: CopyBuffers,
) -> Exchanged:
    """Gather this layer's keys and values, and the copies for the next row if they differ."""
    copy = shard.own_part(at(buffers.copies, layer))
    everyone = gathered(own, shard.axes)
    past = _with_own_row(own, at(buffers.own, layer))
    copies = everyone
    if not shard.sends_unchanged:
        # The next row sees a forecast or rounded numbers, which take a gather of their own.
        copies = shard.gather_message(shard.forecast(past, shard.schedule.next_of_substep[row]))
    return Exchanged(everyone, copy, _with_layer(buffers, layer, past, copies))


def gather_now_in_stale_row(
    shard: TokenShard,
    own: jax.Array,
    layer: jax.Array,
    row: jax.Array,
    buffers: CopyBuffers,
) -> Exchanged:
    """Gather the copies of this layer for the next row; the gather waits for what it computes."""
    held = hold(shard, own, layer, row, buffers)
    past = _with_own_row(own, at(buffers.own, layer))
    copies = shard.gather_message(shard.forecast(past, shard.schedule.next_of_substep[row]))
    return held._replace(buffers=_with_layer(buffers, layer, past, copies))


def hold(
    shard: TokenShard,
    own: jax.Array,
    layer: jax.Array,
    row: jax.Array,
    buffers: CopyBuffers,
) -> Exchanged:
    """Use the copies once more, and send nothing."""
    copies = at(buffers.copies, layer)
    return Exchanged(shard.with_own_part(copies, own), shard.own_part(copies), buffers)


def _with_own_row(own, past):
    """(R, ...) this device's last R rows, from the R - 1 in the buffer."""
    return jnp.concatenate([own[None], past])


def _with_layer(buffers, layer, past, copies):
    """The buffers after a layer, from its last R rows and the copies of all devices."""
    return CopyBuffers(put(buffers.own, past[:-1], layer), put(buffers.copies, copies, layer))


# Residual


def residual_buffers(
    shard: TokenShard, shape: tuple[int, ...], dtype: jnp.dtype
) -> jax.ShapeDtypeStruct:
    """The shape of the buffer of "residual": (K, R, 2, B, L, heads, d), newest first."""
    shape = (shard.layers, shard.rows_used, *_shape_of_all(shape, shard))
    return jax.ShapeDtypeStruct(shape, dtype)


def residual_in_synchronous_row(
    shard: TokenShard,
    own: jax.Array,
    layer: jax.Array,
    row: jax.Array,
    buffers: jax.Array,
) -> Exchanged:
    """Gather this layer's keys and values; the reconstruction starts anew from them."""
    past = at(buffers, layer)
    everyone = gathered(own, shard.axes)
    copy = shard.forecast(shard.own_part(past), row)
    return Exchanged(everyone, copy, put(buffers, _with_newest(everyone, past), layer))


def residual_in_stale_row(
    shard: TokenShard,
    own: jax.Array,
    layer: jax.Array,
    row: jax.Array,
    buffers: jax.Array,
) -> Exchanged:
    """Gather the errors of this layer's forecasts; the gather waits for what it computes."""
    past = at(buffers, layer)
    expected = shard.forecast(past, row)  # (2, B, L, heads, d), the same on every device
    copy = shard.own_part(expected)
    # Error feedback: what a message lost stays in the reconstruction, and the next one sees it.
    arrived = expected + shard.gather_message(own - copy)
    seen = shard.with_own_part(expected, own)
    return Exchanged(seen, copy, put(buffers, _with_newest(arrived, past), layer))


def finish_nothing(shard: TokenShard, row: jax.Array, buffers: PyTree) -> PyTree:
    """Leave the buffers as they are."""
    return buffers


METHODS = {
    "late": ExchangeMethod(
        gather_ahead_buffers,
        {SYNC: gather_ahead_in_synchronous_row, EXCHANGE: gather_ahead_in_stale_row},
        gather_ahead_finish,
    ),
    "early": ExchangeMethod(
        gather_now_buffers,
        {
            SYNC: gather_now_in_synchronous_row,
            EXCHANGE: gather_now_in_stale_row,
            HOLD: hold,
        },
        finish_nothing,
    ),
    "residual": ExchangeMethod(
        residual_buffers,
        {SYNC: residual_in_synchronous_row, EXCHANGE: residual_in_stale_row},
        finish_nothing,
    ),
}


def at(buffer: jax.Array, index: jax.Array) -> jax.Array:
    """Place `index` of the buffer."""
    return jax.lax.dynamic_index_in_dim(buffer, index, keepdims=False)


def put(buffer: jax.Array, values: jax.Array, index: jax.Array) -> jax.Array:
    """The buffer with `values` in place `index`."""
    return jax.lax.dynamic_update_index_in_dim(buffer, values, index, 0)


def _shape_of_all(shape, shard):
    """(2, B, L, heads, d), with padding, from the shape (B, L/n, heads, d) of one device's keys."""
    batch, local, *head = shape
    # L with padding, so that all devices gather arrays of one shape.
    return 2, batch, jax.lax.axis_size(shard.axes) * local, *head


def _with_newest(values, past):
    """The last R rows with `values` as the newest, and without the oldest."""
    return jnp.concatenate([values[None], past[:-1]])
