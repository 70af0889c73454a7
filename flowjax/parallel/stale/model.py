"""Stale attention (displaced patches, DistriFusion, arXiv:2402.19481): own keys and values fresh, the others' from before.

In a *synchronous* row every device attends to this row's keys and values of all tokens. In a *stale* row device j attends
to its own of this row and to what the others told it earlier, so that their transfer need not be waited for. What is told
are values really computed, themselves with stale context, or a forecast from them (parallel.stale.forecast), in as few bits as
parallel.stale.precision says; parallel.stale.exchange are the ways to bring it there. What a device sees its own told values miss it may add to
the others' (attention.corrected). There are three kinds of row:

    SYNC      everyone's keys and values are gathered and used at once
    EXCHANGE  stale; what a later layer or row will use is gathered meanwhile
    HOLD      stale; nothing is told

Which row is of which kind is decided on the devices while the run is on its way: every row meters how wrong what had been
told was, which costs one all-reduce a row of two numbers a layer and sample, and a row is synchronous where the meter of the
step before exceeds the row's threshold (parallel.stale.policies). So thresholds are numbers: every policy runs the same program.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax.parallel.attention import attend, corrected
from flowjax.parallel.mesh import CFG, DATA
from flowjax.parallel.stale.exchange import at, put
from flowjax.parallel.stale.rows import EXCHANGE, HOLD, SYNC


class Said(NamedTuple):
    """What a run says of itself. Staleness is |KV - told|^2 / |KV|^2, of what was told, or, in a synchronous row, would be.

    Attributes:
      synced: (N,) bool.
      staleness: (N,) over layers, samples and tokens; 0 where nobody used what was told (synchronous rows, one device).
      layers: (N, K) of each layer, over samples and tokens, used or not; 0 where nothing had been told.
      worst: (N,) the largest of a sample, over layers and tokens, used or not; infinite where nothing had been told.
    """

    synced: jax.Array
    staleness: jax.Array
    layers: jax.Array
    worst: jax.Array


class Carry(NamedTuple):
    """Between rows: the number of the next one, (), the buffers of each stage with a leading axis (S,), and what was said."""

    row: jax.Array
    buffers: Any
    said: Said


def start(rows, buffers, depth, dtype):
    """`Carry` before the first row.

    Args:
      rows: a `RowSchedule`.
      buffers: those of one stage, of which only shapes and dtypes count.
      depth: K.
      dtype: of the meter.
    """
    count, stages = len(rows.substep), len(rows.first_of_substep)
    said = Said(
        jnp.zeros(count, bool), *(jnp.zeros(s, dtype) for s in (count, (count, depth), count))
    )
    return Carry(
        jnp.zeros((), jnp.int32),
        jax.tree.map(lambda b: jnp.zeros((stages, *b.shape), b.dtype), buffers),
        said,
    )


def model(network, rows, way, kinds, line, sums):
    """A model with a `Carry` that takes each row by the attention of its kind.

    The choice is one `lax.switch` a row, around the whole network: each branch holds its own scan over layers, in which the
    collectives of that kind of row are free to move. The index comes from what an all-reduce gave, so it is the same on
    every device; were it not, collectives inside the branches would wait for each other for ever.

    Args:
      network: (x, t, label, attention, carry) -> (velocity, carry).
      rows: a `RowSchedule`.
      way: a `ways.Way`.
      kinds: those that occur, from `kinds_of`.
      line: a `ways.Line`.
      sums: zeros (2, K, B), varying over devices as what they will hold.

    Returns:
      (x, t, label, carry) -> (velocity, carry).
    """

    def branch(kind):
        def run(row, x, t, label, buffers):
            carry = buffers, sums
            correction = None if kind == SYNC else rows.correction
            attention = _attention(way.told[kind], line, row, correction)
            velocity, (buffers, found) = network(x, t, label, attention, carry)
            return velocity, way.settled(row, buffers) if kind == SYNC else buffers, found

        return run

    def switched(x, t, label, carry):
        row, stage, before = carry.row, rows.substep[carry.row], rows.decided_by[carry.row]
        metered = jnp.where(before < 0, jnp.inf, jnp.sqrt(carry.said.worst[before]))
        synced = metered > rows.policy[row]
        kind = jnp.where(synced, SYNC, jnp.where(rows.sent[row], EXCHANGE, HOLD))
        index = jnp.minimum(kind, len(kinds) - 1)  # the place of the row's kind in `kinds`
        buffers = jax.tree.map(lambda b: at(b, stage), carry.buffers)
        velocity, buffers, sums = jax.lax.switch(
            index, [branch(kind) for kind in kinds], row, x, t, label, buffers
        )
        kept = jax.tree.map(lambda all, one: put(all, one, stage), carry.buffers, buffers)
        said = _metered(carry.said, row, synced, row == rows.first_of_substep[stage], line, sums)
        return velocity, Carry(row + 1, kept, said)

    return switched


def _attention(told, line, row, correction):
    """Attention as models.dit describes; its carry is (buffers of one stage, (2, K, B) sums of squares of gap and values)."""

    def attention(q, k, v, layer, carry):
        buffers, sums = carry
        own = jnp.stack([k, v])
        seen, expected, buffers = told(own, layer, row, buffers)
        new = own.astype(sums.dtype)
        squares = [_squares(values, line) for values in (new - expected.astype(sums.dtype), new)]
        if correction is None:
            out = attend(q, seen, line.tokens)
        else:
            missed, valid = v - expected[1], line.valid(line.local)
            out = corrected(
                q, seen[:, :, : line.tokens], k, missed, line.mine(line.tokens), correction, valid
            )
        return out, (buffers, sums.at[:, layer].set(jnp.stack(squares)))

    return attention


def _squares(values, line):
    """(2, B, L/n, heads, d) -> (B,) sums of squares of the tokens that are no padding."""
    valid = line.valid(values.shape[2])[None, None, :, None, None]
    return jnp.sum(jnp.where(valid, jnp.square(values), 0), axis=(0, 2, 3, 4))


def _metered(said, row, synced, begins, line, sums):
    """`Said` with this row's. One all-reduce, of (2, K, samples of all devices): each puts its samples' sums in their place."""
    groups = DATA, CFG
    parts = jax.lax.axis_size(groups)
    placed = jnp.zeros((*sums.shape[:2], parts, sums.shape[2]), sums.dtype)
    placed = placed.at[:, :, jax.lax.axis_index(groups)].set(sums)
    gap, size = jax.lax.psum(placed, (*groups, *line.axes))  # (K, parts, B)
    used = ~synced & (line.local < line.tokens)
    return Said(
        said.synced.at[row].set(synced),
        said.staleness.at[row].set(jnp.where(used, gap.sum() / size.sum(), 0)),
        said.layers.at[row].set(jnp.where(begins, 0, gap.sum((1, 2)) / size.sum((1, 2)))),
        said.worst.at[row].set(jnp.where(begins, jnp.inf, jnp.max(gap.sum(0) / size.sum(0)))),
    )
