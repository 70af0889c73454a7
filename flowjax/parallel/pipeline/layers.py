"""What one stage of a pipeline computes: its layers, on one patch or on the whole image.

The layers attend to the keys and values that the stage keeps of all tokens, see
`parallel.pipeline.stage`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.models import dit
from flowjax.parallel.attention import Attention, corrected
from flowjax.parallel.pipeline.setup import PipelineSetup
from flowjax.parallel.stale import forecast
from flowjax.parallel.stale.rows import RowSchedule
from flowjax.plans.table import Plan
from flowjax.types import PyTree


class Stage(NamedTuple):
    """What a device knows from the start to the end of a run.

    Attributes:
      setup: `PipelineSetup`.
      params: the network's, with this stage's layers only.
      label: (B,) of the samples.
      network_label: (b,) the labels that the network receives: twice as many as samples where this
        device computes both branches of guidance.
      positions: (L, E).
      plan: in the dtype of the state.
      rows: the `RowSchedule`.
      draws: (N, B, L, P) the noise of every row, or None.
      here: (), this stage's number.
    """

    setup: PipelineSetup
    params: PyTree
    label: jax.Array
    network_label: jax.Array
    positions: jax.Array
    plan: Plan
    rows: RowSchedule
    draws: jax.Array | None
    here: jax.Array


class State(NamedTuple):
    """What a device has between ticks; x, base and history are right on stage 0 alone.

    Attributes:
      x, base: (B, L, P), of `flowjax.sample`.
      history: four of (B, L, P), of `flowjax.sample`.
      buffer: (S, K/n, R, 2, b, L, heads, d) the keys and values of the last R rows of each substep,
        newest first, as each token's patch passed.
      sums: (N, 2, K/n, b) of |KV - copy|^2 and |KV|^2.
      inbox: (b, L/M, E) the hidden states that have arrived.
      outbox: (b, L/M, E) those that are sent in the next tick, where a hop takes a tick of its own.
    """

    x: jax.Array
    base: jax.Array
    history: tuple[jax.Array, ...]
    buffer: jax.Array
    sums: jax.Array
    inbox: jax.Array
    outbox: jax.Array


class Work(NamedTuple):
    """A piece of work of one stage: the tokens first .. first + size - 1 in one row, or nothing.

    Attributes:
      first: () int, the first token.
      size: the number of tokens.
      row: () int.
      busy: () bool; False: there is nothing to do.
    """

    first: jax.Array
    size: int
    row: jax.Array
    busy: jax.Array


def run_layers(
    stage: Stage,
    state: State,
    work: Work,
    message: jax.Array,
) -> tuple[jax.Array, State]:
    """Run this stage's layers: (hidden states, state after it).

    The layers read the buffer and return the new keys and values. These are written once, after the
    layers: a write in each layer would make XLA copy the whole buffer in each layer.

    Args:
      message: (b, size, E) the hidden states from the stage before; stage 0 does not use them.
      stage, state, work: see there.
    """
    layers, rows_used, _, batch, _, *head = state.buffer.shape[1:]
    zeros = stage.setup.zeros
    nothing = (
        zeros((layers, 2, batch, work.size, *head), state.buffer.dtype),
        zeros((2, layers, batch), state.sums.dtype),
    )

    def work_on(message):
        tokens, condition = _embedded_state(stage, state, work)
        # Stage 0 embeds the state; the others go on with what the stage before sent.
        tokens = jnp.where(stage.here == 0, tokens, message)
        attention = _attention(stage, state.buffer, work)
        network = dit.network(stage.setup.card.config)
        return network.part("layers", stage.params, tokens, condition, attention, nothing)

    def rest(message):
        return message, nothing

    hidden, (own, squares) = jax.lax.cond(work.busy, work_on, rest, message)

    # Write the new keys and values as the newest of these tokens.
    substep = stage.rows.substep[work.row]
    place = [jnp.asarray(i, jnp.int32) for i in (substep, 0, 0, 0, 0, work.first, 0, 0)]
    past = jax.lax.dynamic_slice(state.buffer, place, (1, layers, rows_used, *own.shape[1:]))
    newest = jnp.concatenate([own[None, :, None], past[:, :, :-1]], axis=2)  # R rows again
    after = jnp.where(work.busy, newest, past)
    buffer = jax.lax.dynamic_update_slice(state.buffer, after, place)
    sums = state.sums.at[work.row].set(state.sums[work.row] + squares)
    return hidden, state._replace(buffer=buffer, sums=sums)


def embedded(
    stage: Stage,
    patches: jax.Array,
    t: jax.Array,
    label: jax.Array,
    first: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(tokens (b, l, E), condition (b, E)) of patches (b, l, P) of the state.

    Args:
      stage: the `Stage`.
      patches: of the tokens from `first` on.
      t: () the time.
      label: (b,).
      first: () int.
    """
    card = stage.setup.card
    # The clock is the number that the network receives for the time.
    clock = jnp.broadcast_to(card.clock_at(t), label.shape)
    positions = jax.lax.dynamic_slice_in_dim(stage.positions, first, patches.shape[1])
    return dit.network(card.config).part("embed", stage.params, patches, clock, label, positions)


def cut(values: jax.Array, first: jax.Array, size: int) -> jax.Array:
    """The tokens first .. first + size - 1 of (B, L, ...)."""
    return jax.lax.dynamic_slice_in_dim(values, first, size, 1)


def _embedded_state(stage, state, work):
    """(tokens (b, l, E), condition (b, E)) of this work's tokens of the state."""
    x = cut(state.x, work.first, work.size)  # (B, size, P)
    branches = len(stage.network_label) // len(x)  # of guidance, on this device
    x = jnp.concatenate([x] * branches)
    t = stage.plan.label_time[work.row]
    return embedded(stage, x, t, stage.network_label, work.first)


def _attention(stage, buffer, work) -> Attention:
    """Attention as models.dit describes it, of one patch or of the whole image.

    Its carry is the new keys and values (K/n, 2, b, l, heads, d), and the sums of squares
    (2, K/n, b).
    """
    substep = stage.rows.substep[work.row]
    rows_used = buffer.shape[2]
    tokens = buffer.shape[5]
    fractions = stage.rows.correction
    correction = None if fractions is None else fractions[work.row]

    def attention(q, k, v, layer, carry):
        own = jnp.stack([k, v])
        keys_and_values, sums = carry
        known = buffer[substep, layer]  # (R, 2, b, L, heads, d)

        # Meter the copy of this patch that the patches before it used.
        past = jax.lax.dynamic_slice_in_dim(known, work.first, work.size, 3)
        copy = _forecast(stage, past, work.row, tokens)
        squares = _squares(own.astype(sums.dtype), copy)

        # See this row's keys and values up to this patch, and copies of the later patches.
        seen = known[0]
        if rows_used > 1 and work.size < tokens:
            has_passed = jnp.arange(tokens) < work.first
            later = _forecast(stage, known, work.row, tokens)
            seen = jnp.where(has_passed[None, None, :, None, None], seen, later)
        seen = jax.lax.dynamic_update_slice_in_dim(seen, own, work.first, 2)  # (2, b, L, heads, d)

        carry = keys_and_values.at[layer].set(own), sums.at[:, layer].set(squares)
        if correction is None or work.size == tokens:
            return dit.softmax_attention(q, *seen)[0], carry
        # Correct the part of the later patches by what the copy of this patch missed.
        is_fresh = jnp.arange(tokens) < work.first + work.size
        out = corrected(q, seen, own=k, missed=v - copy[1], fresh=is_fresh, fraction=correction)
        return out, carry

    return attention


def _squares(new, copy):
    """(2, b) sums of squares of (2, b, l, heads, d): of new - copy and of new."""
    axes = (0, 2, 3, 4)
    gap = jnp.sum(jnp.square(new - copy), axis=axes)
    return jnp.stack([gap, jnp.sum(jnp.square(new), axis=axes)])


def _forecast(stage, past, row, tokens):
    """The forecast of keys and values: (R, 2, b, T, heads, d) -> (2, b, T, heads, d)."""
    if len(past) == 1:
        return past[0]
    # The tokens with a common gain are one run: a patch, or a single token.
    run = 1 if stage.setup.gains_per == "token" else tokens // stage.setup.patches

    def pool(sums):
        runs = sums.reshape(*sums.shape[:-1], -1, run)  # (1, b, runs, tokens of a run)
        total = runs.sum(-1, keepdims=True)
        return jnp.broadcast_to(total, runs.shape).reshape(sums.shape)

    # `predict` wants an axis of layers: here it has length 1.
    keys = past[:, 0, None]
    values = past[:, 1, None]
    return jnp.concatenate(forecast.predict(stage.rows.forecast, row, (keys, values), pool))
