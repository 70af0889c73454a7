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
import numpy as np

from flowjax.parallel.attention import attend, corrected
from flowjax.parallel.mesh import CFG, DATA
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.exchange import EXCHANGE, HOLD, SYNC, at, put
from flowjax.parallel.stale.forecast import Forecast, correction_of, forecast


class Options(NamedTuple):
    """How attention is stale; the fields are arguments of `parallel.sample`, and `way` is one of parallel.stale.exchange."""

    warmup: int = 1
    policy: Any = None
    refresh: int | None = 1
    gather: str | None = None
    forecast: int | str = 0
    correction: float | None = None
    comm_dtype: str | None = None
    residual: bool = False
    share: str = "device"
    patches: int | None = None

    @property
    def way(self):
        """The name of the way in parallel.stale.exchange: "late", "early" or "residual"."""
        return (
            "residual"
            if self.residual
            else self.gather or ("late" if self.refresh == 1 else "early")
        )


class Rows(NamedTuple):
    """What each row of a plan does. A pytree of arrays: N rows, S the most rows of a step.

    Attributes:
      policy: (N,) the staleness metered in row decides[i] above which row i is synchronous.
      decides: (N,) int, the last row of the step before; -1 where there is none, and so no staleness can be borne.
      sent: (N,) bool, whether the row exchanges if it is stale.
      stage: (N,) int, which of its step's rows it is.
      begins: (S,) int, the first row of each stage.
      after: (N,) int, the next row of the same stage; the row itself where there is none.
      forecast: a `forecast.Forecast`.
      correction: None, or () the share of `attention.corrected`.
    """

    policy: np.ndarray
    decides: np.ndarray
    sent: np.ndarray
    stage: np.ndarray
    begins: np.ndarray
    after: np.ndarray
    forecast: Forecast
    correction: np.ndarray | None


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


def rows(plan, options):
    """`Rows` of a plan with known numbers.

    A plan with several rows a step (Heun, singlestep) keeps the values of each stage apart: the second row of a step sees
    those of the second row of an earlier step, so all stale values are whole steps old. All rows of a step follow its
    threshold, but a row whose stage no earlier step had is synchronous.

    Args:
      plan: a `Plan`.
      options: `Options`. With refresh = r those steps exchange whose number counted from the last synchronous one is a
        multiple of r, so that values are 1 to r steps old; None: never again.
    """
    policy = (
        policies.warm_up(plan.steps, options.warmup)
        if options.policy is None
        else np.asarray(options.policy, float)
    )
    index, step = np.arange(plan.rows), np.cumsum(plan.ends_step) - plan.ends_step
    stage = np.where(plan.counted, index - np.searchsorted(step, step), 0)
    begins = np.array([np.argmax(stage == s) for s in range(stage.max() + 1)])
    after = [next((j for j in index[i + 1 :] if stage[j] == stage[i]), i) for i in index]
    later = step - np.flatnonzero(policy < 0).max()
    return Rows(
        np.where(np.isin(index, begins), policies.ALWAYS, policy[np.minimum(step, plan.steps - 1)]),
        (np.searchsorted(step, step) - 1).astype(np.int32),
        later % options.refresh == 0 if options.refresh else np.zeros(plan.rows, bool),
        stage.astype(np.int32),
        begins.astype(np.int32),
        np.array(after, np.int32),
        forecast(plan, stage, options.forecast),
        correction_of(options.forecast, options.correction),
    )


def kinds_of(refresh):
    """The kinds of row that occur with this `refresh`, in the order of their numbers."""
    return {1: (SYNC, EXCHANGE), None: (SYNC, HOLD)}.get(refresh, (SYNC, EXCHANGE, HOLD))


def start(rows, buffers, depth, dtype):
    """`Carry` before the first row.

    Args:
      rows: `Rows`.
      buffers: those of one stage, of which only shapes and dtypes count.
      depth: K.
      dtype: of the meter.
    """
    count, stages = len(rows.stage), len(rows.begins)
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
      rows: `Rows`.
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
        row, stage, before = carry.row, rows.stage[carry.row], rows.decides[carry.row]
        metered = jnp.where(before < 0, jnp.inf, jnp.sqrt(carry.said.worst[before]))
        synced = metered > rows.policy[row]
        kind = jnp.where(synced, SYNC, jnp.where(rows.sent[row], EXCHANGE, HOLD))
        index = jnp.minimum(kind, len(kinds) - 1)  # the place of the row's kind in `kinds`
        buffers = jax.tree.map(lambda b: at(b, stage), carry.buffers)
        velocity, buffers, sums = jax.lax.switch(
            index, [branch(kind) for kind in kinds], row, x, t, label, buffers
        )
        kept = jax.tree.map(lambda all, one: put(all, one, stage), carry.buffers, buffers)
        said = _metered(carry.said, row, synced, row == rows.begins[stage], line, sums)
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
