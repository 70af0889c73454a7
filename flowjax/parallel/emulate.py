"""Exact and stale attention over n devices, on one device and in any precision: what the programs on a mesh compute.

Written from the description of displaced patches (DistriFusion, Li et al. 2024, arXiv:2402.19481) for a transformer, not
from the mesh code, so a difference between the two is a bug and a difference between stale and exact is staleness. The
tokens of an image are split over devices. In row i of a plan, layer l, with keys and values KV_i of layer l,

    a token attends to   KV_i       of the tokens on its own device, and of all tokens where the row is synchronous,
                         the copy   of the tokens on the others: KV as computed, stale context and all, in the last row
                                    after which the devices sent them,

so its weights are softmax over one mixed row of scores. A plan with several rows a step has one copy for each stage:
the second row of a step sees that of the second row of an earlier step, never of another stage. No program here knows
n, the warm-up or the policy: they are data (`Exchange`), and one compiled program serves them all.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import guidance as guiding
from flowjax.errors import check_choice
from flowjax.sample import sample

ATTENTIONS = ("gather", "stale")


class Exchange(NamedTuple):
    """What the devices tell each other, row by row. A pytree of arrays.

    Attributes:
      shards: (L,) int, the device of each token.
      synced: (rows,) bool, every token sees this row's keys and values of all tokens.
      sent: (rows,) bool, this row's keys and values become the copy that later rows see.
      stage: (rows, S) bool, one True a row: which of the S copies it reads and renews. (One-hot, so that a traced program
        knows S from the shape.)
    """

    shards: np.ndarray
    synced: np.ndarray
    sent: np.ndarray
    stage: np.ndarray


class Stats(NamedTuple):
    """Counts of `flowjax.sample`, and what the exchange was.

    Attributes:
      nfe, accepted, rejected: (B,) int32.
      synced: (rows,) bool.
      staleness: (rows,) relative: sum |KV - copy|^2 / sum |KV|^2 over layers, samples and tokens; 0 where nobody used the
        copy (synchronous rows, one device).
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    synced: jax.Array
    staleness: jax.Array


class Carry(NamedTuple):
    """State between rows: the row's number, the S copies (leading axis S), the staleness of the rows so far."""

    row: jax.Array
    copies: Any
    staleness: jax.Array


def contiguous(tokens, devices):
    """Device of each token, (tokens,): runs of ceil(tokens/devices), so the last run may be shorter, or empty."""
    if not 1 <= devices <= tokens:
        raise ValueError(
            f"parallel.emulate: {devices} devices for {tokens} tokens; wanted from 1 to as many devices as tokens."
        )
    return np.arange(tokens) // -(-tokens // devices)


def exchange(plan, tokens, devices, *, warmup=1, refresh=1):
    """`Exchange` of a warm-up and a period.

    Args:
      plan: a `Plan` whose numbers are known (not traced).
      tokens: L.
      devices: n.
      warmup: the number of synchronous steps at the start, at least 1. A row whose stage no earlier step had is
        synchronous as well, since there is no copy that it could see (the first block of a singlestep solver).
      refresh: the devices send after step `warmup` (counted from 1), and then after each `refresh`-th step: copies are 1
        to `refresh` steps old. None: never again after the warm-up.
    """
    if not 1 <= warmup <= plan.steps:
        raise ValueError(f"parallel.emulate: warmup={warmup} of {plan.steps} steps; wanted from 1 to {plan.steps}.")
    if refresh is not None and refresh < 1:
        raise ValueError(f"parallel.emulate: refresh={refresh}; wanted a number of steps from 1 on, or None: never.")
    rows, ends = np.arange(plan.rows), np.asarray(plan.ends_step)
    step = np.cumsum(ends) - ends
    stage = np.where(plan.counted, rows - np.searchsorted(step, step), 0)
    first_of_stage = np.isin(rows, np.unique(stage, return_index=True)[1])
    synced = (step < warmup) | first_of_stage
    sent = synced if refresh is None else synced | ((step - (warmup - 1)) % refresh == 0)
    return Exchange(contiguous(tokens, devices), synced, sent, stage[:, None] == np.arange(stage.max() + 1)[None])


def emulate(
    model, noise, label, plan, *, devices, guidance=1.0, attention="gather", warmup=1, refresh=1, key=None
):  # fmt: skip
    """Sample on one device as `devices` of them would.

    Like `flowjax.sample` it is not jitted: jit what is called again (`emulate_with` takes everything as arguments).

    Args:
      model: a `flowjax.models.Model`.
      noise: (B, H, W, C) the state to start from; float64 is computed in float64.
      label: (B,) integers, or None for the null label (then without guidance).
      plan: any `Plan`.
      devices: n. Tokens lie on them as `contiguous` says.
      guidance: scale of classifier-free guidance; 1 is none. Both branches are stale in the same way.
      attention: "gather", exact; or "stale".
      warmup, refresh: of the stale mode, see `exchange`.
      key: for plans that draw noise, as in `flowjax.sample`; the result of an exact mode does not depend on n.

    Returns:
      `flowjax.Solution` whose stats are `Stats`, and whose carry is None.
    """
    check_choice("parallel.emulate", "attention", attention, ATTENTIONS)
    warmup = plan.steps if attention == "gather" else warmup
    told = exchange(plan, tokens_of(model, noise), devices, warmup=warmup, refresh=refresh)
    return emulate_with(model, noise, label, plan, told, guidance=guidance, key=key)


def emulate_with(model, noise, label, plan, told, *, guidance=1.0, key=None):
    """`emulate` with any assignment of tokens and any set of synchronous rows; all of them may be traced.

    Args:
      told: an `Exchange`. Row 0 must be synchronous, and so the first row of each stage: copies begin as zeros.
      model, noise, label, plan, guidance, key: as in `emulate`.
    """
    tokens = tokens_of(model, noise)
    if told.shards.shape != (tokens,) or told.synced.shape != (plan.rows,):
        raise ValueError(
            f"parallel.emulate: shards {told.shards.shape} and flags {told.synced.shape} for {tokens} tokens and "
            f"{plan.rows} rows; wanted one device a token, one flag a row."
        )
    guided = not (isinstance(guidance, int | float) and guidance == 1)
    if guided and label is None:
        raise ValueError("parallel.emulate: guidance needs label; None is the null label itself. Give (B,) integers.")
    noise = jnp.asarray(noise)
    dtype = jnp.promote_types(noise.dtype, jnp.float32)

    def network(x, t, label, carry):
        def evaluate(copy, synced):
            attend = _attention(told.shards, synced)
            start = (copy, jnp.zeros((), dtype), jnp.zeros((), dtype))
            velocity, (new, gap, size) = model.apply(model.params, x, t, label, attention=attend, carry=start)
            return velocity, new, gap / size

        return exchanged(told, carry, evaluate)

    run, batch = lambda x, t, carry: network(x, t, label, carry), len(noise)
    if guided:
        label = jnp.broadcast_to(jnp.asarray(label), (batch,))
        null = jnp.full_like(label, model.card.null_label)
        run, batch = guiding.classifier_free(network, label, null, guidance), 2 * batch
    config = model.card.config
    shape = (told.stage.shape[1], config.depth, batch, tokens, config.heads, config.width // config.heads)
    copies = (jnp.zeros(shape, config.dtype or dtype),) * 2
    return solve(run, noise, plan, told, copies, key)


def tokens_of(model, noise):
    """L, the number of tokens of an image of the noise's shape."""
    return jax.eval_shape(model.card.patchify, jax.ShapeDtypeStruct(np.shape(noise), np.float32)).shape[1]


def solve(model, noise, plan, told, copies, key):
    """`flowjax.sample` of a model whose carry is a `Carry`, with `Stats`. `copies`: S of them, zeros."""
    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    carry = Carry(jnp.zeros((), int), copies, jnp.zeros(plan.rows, dtype))
    solution = sample(model, noise, plan, key=key, carry=carry)
    stats = Stats(*solution.stats, jnp.asarray(told.synced), solution.carry.staleness)
    return solution._replace(stats=stats, carry=None)


def exchanged(told, carry, evaluate):
    """One row: hand over the copy that it sees, and keep what it computed if the row sends.

    Args:
      told: the `Exchange`.
      carry: the `Carry`.
      evaluate: (copy, synced) -> (velocity, the new copy, relative staleness of the old one).

    Returns:
      (velocity, `Carry`).
    """
    row, copies, staleness = carry
    told = jax.tree.map(jnp.asarray, told)
    stage, synced = jnp.argmax(told.stage[row]), told.synced[row]
    seen = jax.tree.map(lambda copy: copy[stage], copies)
    velocity, new, gap = evaluate(seen, synced)
    kept = jax.tree.map(lambda new, old: jnp.where(told.sent[row], new, old), new, seen)
    copies = jax.tree.map(lambda copy, kept: copy.at[stage].set(kept), copies, kept)
    used = ~synced & jnp.any(told.shards != told.shards[0])
    return velocity, Carry(row + 1, copies, staleness.at[row].set(jnp.where(used, gap, 0)))


def _attention(shards, synced):
    """Attention as `flowjax.models.dit` takes it. Carry: ((keys, values) of all layers, sum |KV - copy|^2, sum |KV|^2)."""
    shards = jnp.asarray(shards)
    fresh = (synced | (shards[:, None] == shards[None]))[None, None]  # (1, 1, L, L): the query sees this row's key

    def attend(q, k, v, layer, carry):
        (keys, values), gap, size = carry
        exact = jnp.promote_types(q.dtype, jnp.float32)
        old_k, old_v = keys[layer], values[layer]

        def scores(keys):
            return jnp.einsum("bqhd,bkhd->bhqk", q, keys, preferred_element_type=exact) * q.shape[-1] ** -0.5

        weights = jax.nn.softmax(jnp.where(fresh, scores(k), scores(old_k)), axis=-1)

        def part(seen, values):
            seen = jnp.where(seen, weights, 0).astype(v.dtype)
            return jnp.einsum("bhqk,bkhd->bqhd", seen, values, preferred_element_type=exact)

        out = (part(fresh, v) + part(~fresh, old_v)).astype(v.dtype)
        gap = gap + _square(k - old_k, gap) + _square(v - old_v, gap)
        size = size + _square(k, gap) + _square(v, gap)
        return out, ((keys.at[layer].set(k), values.at[layer].set(v)), gap, size)

    return attend


def _square(x, like):
    return jnp.sum(jnp.square(x.astype(like.dtype)))
