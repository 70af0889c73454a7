"""Exact and stale attention over n devices, on one device and in any precision: what the programs on a mesh compute.

Written from the description of displaced patches (DistriFusion, Li et al. 2024, arXiv:2402.19481) and of PipeFusion
(arXiv:2405.14430) for a transformer, not from the mesh code, so a difference between the two is a bug and a difference
between stale and exact is staleness. The tokens of an image are split into n parts. In row i of a plan, layer l, with keys
and values KV_i of layer l,

    a token attends to   KV_i       of its own part, of all parts where the row is synchronous, and under PipeFusion, where
                                    parts follow each other through the layers, of all parts before its own,
                         the copy   of the others: what they sent before, forecast to this row from KV as they were
                                    computed, stale context and all, in the last rows that were sent,

so its weights are softmax over one mixed row of scores. A plan with several rows a step has one history for each stage:
the second row of a step sees those of the second rows of earlier steps, never of another stage. No program here knows
n, the warm-up, the policy, the order of the forecast's polynomial or the bits of a message: they are data (`Exchange`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import guidance as guiding
from flowjax.errors import check_choice
from flowjax.parallel.stale import forecast as forecasting
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.precision import bits_of, rounded
from flowjax.sampling import sample

ATTENTIONS = ("gather", "stale", "pipefusion")


class Exchange(NamedTuple):
    """What the parts tell each other, row by row. A pytree of arrays.

    Attributes:
      shards: (L,) int, the part of each token.
      fresh: (n, n) bool, n at least the number of parts: whether part i sees this row's keys and values of part j even in a
        stale row.
      policy: (rows,) the staleness metered in row decides[i] above which row i is synchronous (see parallel.stale.policies).
      decides: (rows,) int, the last row of the step before; -1 where there is none, and so no staleness can be borne.
      sent: (rows,) bool, this row's keys and values enter the history that later rows see; synchronous ones always do.
      stage: (rows, S) bool, one True a row: which of the S histories it reads and extends. (One-hot, so that a traced program
        knows S from the shape.)
      forecast: a `forecast.Forecast`.
      share: (n or L, L) bool: tokens marked in one line share fitted gains, each is in one.
      bits: () of a number on the way (see parallel.stale.precision); 0: as it is.
      residual: () bool, what is sent is what the forecast missed.
      correction: None, or () the share of what one's own values missed that is added to the others' (see `mixed_attention`).
    """

    shards: np.ndarray
    fresh: np.ndarray
    policy: np.ndarray
    decides: np.ndarray
    sent: np.ndarray
    stage: np.ndarray
    forecast: forecasting.Forecast
    share: np.ndarray
    bits: np.ndarray
    residual: np.ndarray
    correction: np.ndarray | None


class Stats(NamedTuple):
    """Counts of `flowjax.sample`, and what the exchange was. Staleness is |KV - copy|^2 / |KV|^2.

    Attributes:
      nfe, accepted, rejected: (B,) int32.
      synced: (rows,) bool.
      staleness: (rows,) over layers, samples and tokens; 0 where nobody used the copy (synchronous rows, one device).
      layers: (rows, K) of each layer, over samples and tokens, used or not; 0 where there was no copy.
      worst: (rows,) the largest of a sample, over layers and tokens, used or not; infinite where there was no copy.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    synced: jax.Array
    staleness: jax.Array
    layers: jax.Array
    worst: jax.Array


class Carry(NamedTuple):
    """State between rows: the row's number, the S histories (leading axes S, M), (synced, staleness, layers, worst) so far."""

    row: jax.Array
    history: Any
    said: tuple


def contiguous(tokens, devices):
    """Device of each token, (tokens,): runs of ceil(tokens/devices), so the last run may be shorter, or empty."""
    if not 1 <= devices <= tokens:
        raise ValueError(
            f"parallel.emulate: {devices} devices for {tokens} tokens; wanted from 1 to as many devices as tokens."
        )
    return np.arange(tokens) // -(-tokens // devices)


def exchange(
    plan, tokens, devices, *, attention="stale", warmup=1, policy=None, refresh=1, forecast=0, correction=None,
    comm_dtype=None, residual=False, gains_per="device", slots=None,
):  # fmt: skip
    """`Exchange` of a run.

    Args:
      plan: a `Plan` whose numbers are known (not traced).
      tokens: L.
      devices: n; of "pipefusion" M, the number of patches that follow each other.
      attention: "stale" (displaced patches), "pipefusion", or "gather", which is exact.
      warmup: the number of synchronous steps at the start, at least 1. A row whose stage no earlier step had is
        synchronous as well, since there is no copy that it could see (the first block of a singlestep solver).
      policy: (steps,) from `parallel.stale.policies`, in the place of warmup. All rows of a step follow it alike.
      refresh: the devices send after step `warmup` (counted from 1), and then after each `refresh`-th step: copies are 1
        to `refresh` steps old. None: never again after the warm-up.
      forecast: 0 holds the newest copy, 1 and 2 extrapolate, "tuned" fits gains (see parallel.stale.forecast).
      correction: what of one's own missed values is added to the others', from 0 to 1. None: `forecast.CORRECTION` of "tuned",
        else 0.
      comm_dtype: None, "bfloat16", "int8" or "int4" (see parallel.stale.precision); or a number of bits.
      residual: send what the forecast missed.
      gains_per: of "tuned": who shares a gain: the tokens of a "device", or each "token" has its own. Samples never share.
      slots: size of the tables, at least n; exchanges of one size share a compiled program. By default n.
    """
    check_choice("parallel.emulate", "attention", attention, ATTENTIONS)
    check_choice("parallel.emulate", "gains_per", gains_per, ("device", "token"))
    if not 1 <= warmup <= plan.steps:
        raise ValueError(
            f"parallel.emulate: warmup={warmup} of {plan.steps} steps; wanted from 1 to {plan.steps}."
        )
    if refresh is not None and refresh < 1:
        raise ValueError(
            f"parallel.emulate: refresh={refresh}; wanted a number of steps from 1 on, or None: never."
        )
    if refresh != 1 and (forecast != 0 or residual or policy is not None):
        raise ValueError(
            f"parallel.emulate: refresh={refresh} with a policy, forecast or residual; these want what was sent in every "
            "step: take refresh=1."
        )
    warmup = plan.steps if attention == "gather" else warmup
    policy = policies.warm_up(plan.steps, warmup) if policy is None else policy
    policy = policies.check("parallel.emulate", policy, plan.steps)
    rows, ends = np.arange(plan.rows), np.asarray(plan.ends_step)
    step = np.cumsum(ends) - ends
    stage = np.where(plan.counted, rows - np.searchsorted(step, step), 0)
    first_of_stage = np.isin(rows, np.unique(stage, return_index=True)[1])
    threshold = np.where(first_of_stage, policies.ALWAYS, policy[np.minimum(step, plan.steps - 1)])
    sent = np.ones(plan.rows, bool)
    if refresh != 1:
        sent = threshold < 0
        sent |= (step - (warmup - 1)) % refresh == 0 if refresh else False
    before = np.searchsorted(step, step) - 1  # the last row of the step before
    shards = contiguous(tokens, devices)
    everyone = np.arange(slots or devices)
    return Exchange(
        shards,
        everyone[:, None] >= everyone
        if attention == "pipefusion"
        else everyone[:, None] == everyone,
        threshold,
        before,
        sent,
        stage[:, None] == np.arange(stage.max() + 1)[None],
        forecasting.forecast(plan, stage, forecast),
        np.eye(tokens, dtype=bool) if gains_per == "token" else shards == everyone[:, None],
        np.float64(
            comm_dtype if isinstance(comm_dtype, int) else bits_of("parallel.emulate", comm_dtype)
        ),
        np.bool_(residual),
        forecasting.correction_of(forecast, correction),
    )


def emulate(
    model, noise, label, plan, *, devices, guidance=1.0, attention="gather", key=None, **options
):
    """Sample on one device as `devices` of them would.

    Like `flowjax.sample` it is not jitted: jit what is called again (`emulate_with` takes everything as arguments).

    Args:
      model: a `flowjax.models.Model`.
      noise: (B, H, W, C) the state to start from; float64 is computed in float64.
      label: (B,) integers, or None for the null label (then without guidance).
      plan: any `Plan`.
      devices: n. Tokens lie on them as `contiguous` says. Of "pipefusion" the number of patches; that of stages changes nothing.
      guidance: scale of classifier-free guidance; 1 is none. Both branches are stale in the same way.
      attention: "gather", exact; "stale"; or "pipefusion".
      key: for plans that draw noise, as in `flowjax.sample`; the result of an exact mode does not depend on n.
      **options: warmup, policy, refresh, forecast, comm_dtype, residual and gains_per, see `exchange`.

    Returns:
      `flowjax.Solution` whose stats are `Stats`, and whose carry is None.
    """
    told = exchange(plan, tokens_of(model, noise), devices, attention=attention, **options)
    return emulate_with(model, noise, label, plan, told, guidance=guidance, key=key)


def emulate_with(model, noise, label, plan, told, *, guidance=1.0, key=None):
    """`emulate` with any parts and any policy; all of it may be traced.

    Args:
      told: an `Exchange`. Row 0 must be synchronous, and so the first row of each stage: histories begin as zeros.
      model, noise, label, plan, guidance, key: as in `emulate`.
    """
    tokens = tokens_of(model, noise)
    if told.shards.shape != (tokens,) or told.policy.shape != (plan.rows,):
        raise ValueError(
            f"parallel.emulate: shards {told.shards.shape} and policy {told.policy.shape} for {tokens} tokens and "
            f"{plan.rows} rows; wanted one part a token, one threshold a row."
        )
    guided = not (isinstance(guidance, int | float) and guidance == 1)
    if guided and label is None:
        raise ValueError(
            "parallel.emulate: guidance needs label; None is the null label itself. Give (B,) integers."
        )
    noise = jnp.asarray(noise)
    dtype = jnp.promote_types(noise.dtype, jnp.float32)

    def network(x, t, label, carry):
        def evaluate(copy, synced):
            shards = jnp.asarray(told.shards)
            fresh = synced | jnp.asarray(told.fresh)[shards[:, None], shards[None]]
            own = None if told.correction is None else (shards[:, None] == shards[None])[None, None]
            attend = mixed_attention(copy, fresh[None, None], own, told.correction)
            return model.apply(
                model.params,
                x,
                t,
                label,
                attention=attend,
                carry=jax.tree.map(jnp.zeros_like, copy),
            )

        return exchanged(told, carry, evaluate)

    run, batch = lambda x, t, carry: network(x, t, label, carry), len(noise)
    if guided:
        label = jnp.broadcast_to(jnp.asarray(label), (batch,))
        null = jnp.full_like(label, model.card.null_label)
        run, batch = guiding.classifier_free(network, label, null, guidance), 2 * batch
    config = model.card.config
    shape = (config.depth, batch, tokens, config.heads, config.width // config.heads)
    return solve(run, noise, plan, told, (jnp.zeros(shape, config.dtype or dtype),) * 2, key)


def tokens_of(model, noise):
    """L, the number of tokens of an image of the noise's shape."""
    return jax.eval_shape(
        model.card.patchify, jax.ShapeDtypeStruct(np.shape(noise), np.float32)
    ).shape[1]


def solve(model, noise, plan, told, like, key):
    """`flowjax.sample` of a model whose carry is a `Carry`, with `Stats`.

    Args:
      like: a row's values, a pytree of (K, B, L, ...); only shapes and dtypes count.
    """
    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    stages, depth = told.stage.shape[1], told.forecast.weights.shape[1]
    history = jax.tree.map(lambda leaf: jnp.zeros((stages, depth, *leaf.shape), leaf.dtype), like)
    layers = len(jax.tree.leaves(like)[0])
    said = (
        jnp.zeros(plan.rows, bool),
        *(jnp.zeros(shape, dtype) for shape in (plan.rows, (plan.rows, layers), plan.rows)),
    )
    solution = sample(model, noise, plan, key=key, carry=Carry(jnp.zeros((), int), history, said))
    stats = Stats(*solution.stats, *solution.carry.said)
    return solution._replace(stats=stats, carry=None)


def exchanged(told, carry, evaluate):
    """One row: forecast the copy that it sees, decide whether it is synchronous, meter it, and keep what it computed.

    Args:
      told: the `Exchange`.
      carry: the `Carry`.
      evaluate: (copy, synced) -> (velocity, this row's values); copy and values are pytrees of (K, B, L, ...).

    Returns:
      (velocity, `Carry`).
    """
    row, histories, (synced, staleness, layers, worst) = carry
    told = jax.tree.map(jnp.asarray, told)
    stage = jnp.argmax(told.stage[row])
    begins = ~jnp.any(
        told.stage[:, stage] & (jnp.arange(len(told.stage)) < row)
    )  # no row of this stage was before
    past = jax.tree.map(lambda leaf: leaf[stage], histories)

    def pool(sums):
        share = told.share.astype(sums.dtype)
        total = jnp.einsum("kbl,nl->kbn", sums, share)
        return jnp.einsum("kbn,nl->kbl", total, share)  # each token is in one line

    def less(x):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return rounded(wide, told.bits).astype(x.dtype)

    expected = forecasting.predict(told.forecast, row, past, pool)
    copy = jax.tree.map(lambda x: jnp.where(told.residual, x, less(x)), expected)
    before = told.decides[row]
    metered = jnp.where(before < 0, jnp.inf, jnp.sqrt(worst[before]))
    now = metered > told.policy[row]
    velocity, new = evaluate(copy, now)

    wide = staleness.dtype
    square = lambda x: sum(
        jnp.sum(jnp.square(leaf.astype(wide)), axis=tuple(range(2, leaf.ndim)))
        for leaf in jax.tree.leaves(x)
    )
    gap, size = square(jax.tree.map(jnp.subtract, new, copy)), square(new)  # (K, B)
    used = ~now & ~jnp.all(told.fresh | ~_occupied(told))
    said = (
        synced.at[row].set(now),
        staleness.at[row].set(jnp.where(used, gap.sum() / size.sum(), 0)),
        layers.at[row].set(jnp.where(begins, 0, gap.sum(1) / size.sum(1))),
        worst.at[row].set(jnp.where(begins, jnp.inf, jnp.max(gap.sum(0) / size.sum(0)))),
    )
    arrived = jax.tree.map(
        lambda new, p: jnp.where(now | ~told.residual, new, p + less(new - p)), new, expected
    )
    later = jax.tree.map(lambda h, a: jnp.concatenate([a[None], h[:-1]]), past, arrived)
    kept = jax.tree.map(lambda new, old: jnp.where(now | told.sent[row], new, old), later, past)
    histories = jax.tree.map(lambda all, own: all.at[stage].set(own), histories, kept)
    return velocity, Carry(row + 1, histories, said)


def _occupied(told):
    """(n, n) bool: parts i and j both have tokens."""
    parts = jnp.any(told.shards[:, None] == jnp.arange(len(told.fresh))[None], axis=0)
    return parts[:, None] & parts[None]


def mixed_attention(copy, fresh, own=None, correction=None):
    """Attention as `flowjax.models.dit` takes it; its carry collects the (keys, values) of all layers.

    Args:
      copy: (keys, values) of all layers as others know them, (K, B, L, heads, d) each.
      fresh: (1, 1, L, L) bool, the query sees this row's key.
      own: None, or (1, 1, L, L) bool, the key is of the query's own part, which knows what its copies missed.
      correction: with `own`, (): the share of it that is added where a query sees copies: the mean of (value - copy) over its
        own part, weighted as it attends to that part, times its weights of copies.
    """

    def attend(q, k, v, layer, carry):
        exact = jnp.promote_types(q.dtype, jnp.float32)
        old_k, old_v = copy[0][layer], copy[1][layer]

        def scores(keys):
            return (
                jnp.einsum("bqhd,bkhd->bhqk", q, keys, preferred_element_type=exact)
                * q.shape[-1] ** -0.5
            )

        weights = jax.nn.softmax(jnp.where(fresh, scores(k), scores(old_k)), axis=-1)

        def part(seen, values):
            seen = jnp.where(seen, weights, 0).astype(v.dtype)
            return jnp.einsum("bhqk,bkhd->bqhd", seen, values, preferred_element_type=exact)

        out = part(fresh, v) + part(~fresh, old_v)
        if own is not None:
            inside = jax.nn.softmax(jnp.where(own, scores(k), -jnp.inf), axis=-1)
            copied = jnp.moveaxis(jnp.where(fresh, 0, weights).sum(-1), 1, 2)[..., None]
            missed = jnp.einsum(
                "bhqk,bkhd->bqhd", inside.astype(v.dtype), v - old_v, preferred_element_type=exact
            )
            out += correction * copied * missed
        out = out.astype(v.dtype)
        return out, (carry[0].at[layer].set(k), carry[1].at[layer].set(v))

    return attend
