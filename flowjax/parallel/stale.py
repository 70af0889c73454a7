"""Stale attention (displaced patches, DistriFusion, arXiv:2402.19481): own keys and values fresh, the others' from before.

In a *synchronous* row every device attends to this row's keys and values of all tokens. In a *stale* row device j attends
to its own of this row and to the others' of an earlier one, so that their transfer need not be waited for. Values are those
really computed then, themselves with stale context. There are three kinds of row:

    SYNC      one all-gather a layer, used at once
    EXCHANGE  stale; one all-gather a layer, of what a later layer or row will use
    HOLD      stale; no collective

Two ways to keep the values, equal bit for bit where both apply:

    late   A device carries its own of every layer, (K, 2, B, L/n, heads, d), and layer l gathers the stale ones of layer
           l + 1 while it computes: that gather depends on nothing that the layer computes. Index (l + 1) mod K makes the last
           layer gather slot 0, which this row has refreshed and the next row needs: K gathers a row, none wasted.
    early  A device carries everyone's, (K, 2, B, L, heads, d), n times as much, and layer l gathers what it has just
           computed for the row after. Rows of kind HOLD need this: the others' values must outlast their owners'.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.parallel.attention import TOKENS, attend, gathered

SYNC, EXCHANGE, HOLD = 0, 1, 2


class Late(NamedTuple):
    """Buffers of the late way: `own` (K, 2, B, L/n, heads, d), and `ahead` (2, B, L, heads, d), everyone's of the next layer."""

    own: jax.Array
    ahead: jax.Array


class Rows(NamedTuple):
    """What each row of a plan does: its kind, (N,), and its stage, (N,), which of the step's rows it is."""

    kind: np.ndarray
    stage: np.ndarray


class Carry(NamedTuple):
    """Between rows: the number of the next one, (), and the buffers of each stage, with a leading axis of stages."""

    row: jax.Array
    buffers: Late | jax.Array


def rows(plan, warmup, refresh):
    """`Rows` of a plan with known numbers.

    A plan with several rows a step (Heun, singlestep) keeps the values of each stage apart: the second row of a step sees
    those of the second row of an earlier step, so all stale values are whole steps old.

    Args:
      plan: a `Plan`.
      warmup: w >= 1, the number of steps at the start that are synchronous. So is a row whose stage no earlier step had.
      refresh: r; of the steps after, those exchange whose number counted from the last synchronous one is a multiple of r,
        so that values are 1 to r steps old. None: never again.
    """
    index, step = np.arange(plan.rows), np.cumsum(plan.ends_step) - plan.ends_step
    stage = np.where(plan.counted, index - np.searchsorted(step, step), 0)
    new = index == np.array([np.argmax(stage == s) for s in stage])
    later = step - (warmup - 1)
    exchange = later % refresh == 0 if refresh else np.zeros(plan.rows, bool)
    kind = np.where((later <= 0) | new, SYNC, np.where(exchange, EXCHANGE, HOLD))
    return Rows(kind.astype(np.int32), stage.astype(np.int32))


def kinds_of(refresh):
    """The kinds of row that occur with this `refresh`, in the order of their numbers."""
    return {1: (SYNC, EXCHANGE), None: (SYNC, HOLD)}.get(refresh, (SYNC, EXCHANGE, HOLD))


def attentions(gather, axes, tokens, depth):
    """{kind: attention} for `gather` "late" or "early"; the attentions' carry is the buffers of one stage."""
    if gather == "late":
        return {SYNC: late_sync(axes, tokens), EXCHANGE: late_exchange(axes, tokens, depth)}
    return {
        SYNC: early_sync(axes, tokens),
        EXCHANGE: early_stale(axes, tokens, exchange=True),
        HOLD: early_stale(axes, tokens, exchange=False),
    }


def start(gather, stages, depth, shards, shape, dtype):
    """`Carry` before the first row. Its zeros are never read: a stage's first row is synchronous and fills its buffers.

    Args:
      gather: "late" or "early".
      stages, depth, shards: the most rows of a step, K and n.
      shape: (B, L/n, heads, d) of this device's keys.
      dtype: theirs.
    """
    batch, local, *head = shape
    everyone = (2, batch, shards * local, *head)
    if gather == "early":
        buffers = jnp.zeros((stages, depth, *everyone), dtype)
    else:
        buffers = Late(jnp.zeros((stages, depth, 2, *shape), dtype), jnp.zeros((stages, *everyone), dtype))
    return Carry(jnp.zeros((), jnp.int32), buffers)


def model(network, rows, attentions, kinds):
    """A model with a `Carry` that takes row i by the attention of its kind.

    The choice is one `lax.switch` a row, around the whole network: each branch holds its own scan over layers, in which the
    collectives of that kind of row are free to move, and which rows are synchronous is data, not program. The index is the
    same on every device; were it not, collectives inside the branches would wait for each other for ever.

    Args:
      network: (x, t, label, attention, buffers) -> (velocity, buffers).
      rows: `Rows`.
      attentions: {kind: attention}.
      kinds: those that occur, from `kinds_of`.

    Returns:
      (x, t, label, carry) -> (velocity, carry).
    """

    def branch(kind):
        return lambda x, t, label, buffers: network(x, t, label, attentions[kind], buffers)

    def switched(x, t, label, carry):
        index = jnp.minimum(rows.kind[carry.row], len(kinds) - 1)  # the place of the row's kind in `kinds`
        stage = rows.stage[carry.row]
        buffers = jax.tree.map(lambda b: jax.lax.dynamic_index_in_dim(b, stage, keepdims=False), carry.buffers)
        velocity, buffers = jax.lax.switch(index, [branch(kind) for kind in kinds], x, t, label, buffers)
        kept = jax.tree.map(lambda all, one: _kept(all, one, stage), carry.buffers, buffers)
        return velocity, Carry(carry.row + 1, kept)

    return switched


def late_sync(axes, tokens):
    """SYNC, late: attend to the gathered; keep one's own, and layer 0 of everyone's, which the next stale row begins with."""

    def attention(q, k, v, layer, carry):
        own = jnp.stack([k, v])
        everyone = gathered(own, axes)
        ahead = jnp.where(layer == 0, everyone, carry.ahead)
        return attend(q, everyone, tokens), Late(_kept(carry.own, own, layer), ahead)

    return attention


def late_exchange(axes, tokens, depth):
    """EXCHANGE, late: the all-gather of the next layer's stale values stands first and waits for nothing in this layer."""

    def attention(q, k, v, layer, carry):
        own = jnp.stack([k, v])
        kept = _kept(carry.own, own, layer)
        # A network of one layer is its own next layer, and the next row wants what this row computed.
        source = carry.own if depth > 1 else kept
        ahead = gathered(jax.lax.dynamic_index_in_dim(source, (layer + 1) % depth, keepdims=False), axes)
        return attend(q, _with_own(carry.ahead, own, axes), tokens), Late(kept, ahead)

    return attention


def early_sync(axes, tokens):
    """SYNC, early: attend to the gathered and keep it."""

    def attention(q, k, v, layer, carry):
        everyone = gathered(jnp.stack([k, v]), axes)
        return attend(q, everyone, tokens), _kept(carry, everyone, layer)

    return attention


def early_stale(axes, tokens, exchange):
    """EXCHANGE or HOLD, early: attend to what is kept, with one's own part fresh; then gather for the next row, or do not."""

    def attention(q, k, v, layer, carry):
        own = jnp.stack([k, v])
        before = jax.lax.dynamic_index_in_dim(carry, layer, keepdims=False)
        out = attend(q, _with_own(before, own, axes), tokens)
        return out, _kept(carry, gathered(own, axes), layer) if exchange else carry

    return attention


def _kept(buffer, values, index):
    """The buffer with `values` in place `index`."""
    return jax.lax.dynamic_update_index_in_dim(buffer, values, index, 0)


def _with_own(everyone, own, axes):
    """Everyone's keys and values with this device's part replaced by `own`."""
    first = jax.lax.axis_index(axes) * own.shape[TOKENS]
    return jax.lax.dynamic_update_slice_in_dim(everyone, own, first, TOKENS)
