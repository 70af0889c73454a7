"""The ways to bring one's keys and values to those who will use them later: what is told, when, and what is kept for it.

The sender extrapolates his own history of M rows (parallel.stale.forecast; M = 1 holds the newest) and sends the forecast, in as
few bits as asked for, by one all-gather of a message (parallel.stale.precision). Equal in what is seen, different in cost:

    late      A device keeps its own history of every layer, (K, M, 2, B, L/n, heads, d), and layer l gathers the forecasts of
              layer l + 1 while it computes: that gather depends on nothing that the layer computes. Index (l + 1) mod K makes
              the last layer gather slot 0, which this row has refreshed and the next row needs: K gathers a row, none wasted.
    early     A device keeps what everyone told, (K, 2, B, L, heads, d), and M - 1 rows of its own, and layer l gathers the
              forecasts for the row after, made with what it has just computed. Rows of kind HOLD need this: what was told
              must outlast its sender's memory.
    residual  What is sent is what the forecast missed. Everyone forecasts everyone's, so keeps everyone's history as it
              arrived, (K, M, 2, B, L, heads, d), and layer l gathers, as in early, what it has just computed.

In a synchronous row each layer gathers the keys and values themselves, whole. Where what is told for the next row differs
from those (a forecast, or fewer bits), early gathers that too, in each layer, and late once, after the last layer.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax.parallel.attention import TOKENS, gathered
from flowjax.parallel.stale.forecast import predict
from flowjax.parallel.stale.precision import decoded, encoded
from flowjax.parallel.stale.rows import EXCHANGE, HOLD, SYNC, RowSchedule


class Line(NamedTuple):
    """What all ways have in common.

    Attributes:
      axes: the mesh axes that share an image's tokens.
      tokens, local: L without padding, and the number of them on one device, L/n rounded up.
      rows: the `RowSchedule` of the run.
      comm_dtype: how numbers travel, see parallel.stale.precision.
      gains_per: "device" or "token": who shares fitted gains.
    """

    axes: tuple
    tokens: int
    local: int
    rows: RowSchedule
    comm_dtype: str | None
    gains_per: str

    @property
    def memory(self):
        """M, of how many rows a forecast is made."""
        return self.rows.forecast.weights.shape[1]

    @property
    def plain(self):
        """Whether what is told for the next row is this row's keys and values, as they are."""
        return self.memory == 1 and self.comm_dtype is None

    def valid(self, count):
        """(count,) bool: which are no padding, of everyone's tokens, or of one's own where count is `local`."""
        first = jax.lax.axis_index(self.axes) * self.local if count == self.local else 0
        return first + jnp.arange(count) < self.tokens

    def mine(self, count):
        """(count,) bool: which of the first tokens are this device's."""
        return jnp.arange(count) // self.local == jax.lax.axis_index(self.axes)

    def forecast(self, past, row):
        """What keys and values will be in `row`: (M, 2, B, T, heads, d) newest first -> (2, B, T, heads, d)."""
        if len(past) == 1:
            return past[0]
        return jnp.concatenate(
            predict(self.rows.forecast, row, (past[:, 0, None], past[:, 1, None]), self._pool)
        )

    def arrived(self, values):
        """What `values` are when they have been sent."""
        return decoded(encoded(values, self.comm_dtype), self.comm_dtype, values)

    def tell(self, values):
        """Everyone's `values`, as they arrive, by one all-gather: (2, B, L/n, heads, d) -> (2, B, L, heads, d)."""
        return decoded(
            gathered(encoded(values, self.comm_dtype), self.axes), self.comm_dtype, values
        )

    def own(self, everyone):
        """This device's part of everyone's: along the axis of tokens, the third from last."""
        first = jax.lax.axis_index(self.axes) * self.local
        return jax.lax.dynamic_slice_in_dim(everyone, first, self.local, everyone.ndim - 3)

    def with_own(self, everyone, own):
        """Everyone's keys and values with this device's part replaced by `own`."""
        first = jax.lax.axis_index(self.axes) * self.local
        return jax.lax.dynamic_update_slice_in_dim(everyone, own, first, TOKENS)

    def _pool(self, sums):
        """Sums (1, B, T) of each token added up over those who share gains: no collective."""
        if self.gains_per == "token":
            return sums
        shards = jnp.where(self.valid(sums.shape[-1]), sums, 0).reshape(
            *sums.shape[:-1], -1, self.local
        )
        return jnp.broadcast_to(shards.sum(-1, keepdims=True), shards.shape).reshape(sums.shape)


class Way(NamedTuple):
    """A way to tell. The buffers are those of one stage.

    Attributes:
      start: (shape (B, L/n, heads, d) of keys, dtype) -> shapes of the buffers. They begin as zeros that are never seen: a
        stage's first row is synchronous.
      told: {kind: (own (2, B, L/n, heads, d), layer, row, buffers) -> (seen, told, buffers)}: what is attended to, (2, B, L,
        heads, d); what the others had been told of own, or would have been; and what is kept now.
      settled: (row, buffers) -> buffers, after the last layer of a synchronous row.
    """

    start: Any
    told: dict
    settled: Any


class Late(NamedTuple):
    """Buffers of `late`: `own` (K, M, 2, B, L/n, heads, d), and `ahead` (2, B, L, heads, d), everyone's of the next layer."""

    own: jax.Array
    ahead: jax.Array


class Early(NamedTuple):
    """Buffers of `early`: `own` (K, M - 1, 2, B, L/n, heads, d), and `told` (K, 2, B, L, heads, d), everyone's."""

    own: jax.Array
    told: jax.Array


def late(line, depth):
    """`Way`: the all-gather of the next layer's forecasts stands first, and waits for nothing in this layer."""

    def begin(shape, dtype):
        own = jax.ShapeDtypeStruct((depth, line.memory, 2, *shape), dtype)
        return Late(own, jax.ShapeDtypeStruct(_everyones(shape, line), dtype))

    def sync(own, layer, row, kept):
        past = at(kept.own, layer)
        told = line.arrived(line.forecast(past, row))
        everyone = gathered(own, line.axes)
        ahead = jnp.where(layer == 0, everyone, kept.ahead) if line.plain else kept.ahead
        return everyone, told, Late(put(kept.own, _newest(own, past), layer), ahead)

    def settled(row, kept):
        if line.plain:
            return kept
        return kept._replace(
            ahead=line.tell(line.forecast(kept.own[0], line.rows.next_of_substep[row]))
        )

    def exchange(own, layer, row, kept):
        when = jnp.where(layer + 1 < depth, row, line.rows.next_of_substep[row])
        message = lambda history: line.forecast(at(history, (layer + 1) % depth), when)
        # Read before written, in this order: fused into one, the two would have the gather wait for this layer's keys and
        # values, and on a TPU hide 90 % of the layer's products behind it where all of them could (parallel.analysis.overlap).
        before, told = jax.lax.optimization_barrier((kept.own, message(kept.own)))
        later = put(before, _newest(own, at(before, layer)), layer)
        # A network of one layer is its own next layer, and the next row wants what this row computed.
        ahead = line.tell(told if depth > 1 else message(later))
        return line.with_own(kept.ahead, own), line.own(kept.ahead), Late(later, ahead)

    return Way(begin, {SYNC: sync, EXCHANGE: exchange}, settled)


def early(line, depth):
    """`Way`: the all-gather of this layer's forecasts for the row after waits for what the layer computes."""

    def begin(shape, dtype):
        own = jax.ShapeDtypeStruct((depth, line.memory - 1, 2, *shape), dtype)
        return Early(own, jax.ShapeDtypeStruct((depth, *_everyones(shape, line)), dtype))

    def keep(own, layer, row, kept, everyone=None):
        past = jnp.concatenate([own[None], at(kept.own, layer)])
        told = (
            line.tell(line.forecast(past, line.rows.next_of_substep[row]))
            if everyone is None
            else everyone
        )
        return Early(put(kept.own, past[:-1], layer), put(kept.told, told, layer))

    def sync(own, layer, row, kept):
        told = line.own(at(kept.told, layer))
        everyone = gathered(own, line.axes)
        return everyone, told, keep(own, layer, row, kept, everyone if line.plain else None)

    def hold(own, layer, row, kept):
        before = at(kept.told, layer)
        return line.with_own(before, own), line.own(before), kept

    def exchange(own, layer, row, kept):
        return *hold(own, layer, row, kept)[:2], keep(own, layer, row, kept)

    return Way(begin, {SYNC: sync, EXCHANGE: exchange, HOLD: hold}, lambda row, kept: kept)


def residual(line, depth):
    """`Way`: the all-gather is of what this layer's forecast missed, which waits for what the layer computes."""

    def begin(shape, dtype):
        return jax.ShapeDtypeStruct((depth, line.memory, *_everyones(shape, line)), dtype)

    def sync(own, layer, row, kept):
        past, everyone = at(kept, layer), gathered(own, line.axes)
        return (
            everyone,
            line.forecast(line.own(past), row),
            put(kept, _newest(everyone, past), layer),
        )

    def exchange(own, layer, row, kept):
        past = at(kept, layer)
        expected = line.forecast(past, row)
        mine = line.own(expected)
        arrived = expected + line.tell(own - mine)
        return line.with_own(expected, own), mine, put(kept, _newest(arrived, past), layer)

    return Way(begin, {SYNC: sync, EXCHANGE: exchange}, lambda row, kept: kept)


WAYS = {"late": late, "early": early, "residual": residual}


def _everyones(shape, line):
    """(2, B, L, heads, d), padding included, of one's own (B, L/n, heads, d)."""
    batch, local, *head = shape
    return 2, batch, jax.lax.axis_size(line.axes) * local, *head


def _newest(values, past):
    """The history with `values` as its newest, and without its oldest."""
    return jnp.concatenate([values[None], past[:-1]])


def at(buffer, index):
    """Place `index` of the buffer."""
    return jax.lax.dynamic_index_in_dim(buffer, index, keepdims=False)


def put(buffer, values, index):
    """The buffer with `values` in place `index`."""
    return jax.lax.dynamic_update_index_in_dim(buffer, values, index, 0)
