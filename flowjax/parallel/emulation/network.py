"""Exact and stale attention over n devices, computed on one device and in any precision.

This is the oracle of the programs on a mesh. It is written from the descriptions of displaced
patches (DistriFusion, Li et al. 2024, arXiv:2402.19481) and of PipeFusion (arXiv:2405.14430) for a
transformer, and not from the mesh code. So a difference between the two is a bug, and a difference
between stale and exact is staleness.

The tokens of an image are split into n parts: those of the devices, or the patches of PipeFusion.
In row i of a plan and layer l, with keys and values KV_i of that layer, a token attends to

    KV_i        of its own part; of all parts where the row is synchronous; and under PipeFusion,
                where parts follow each other through the layers, of all parts before its own
    the copy    of the other parts: a forecast to this row from the keys and values of the last
                rows that were sent, which were themselves computed with copies

in one softmax over all of these scores. A plan with several rows a step has one history for each
substep: the second row of a step uses those of the second rows of earlier steps.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import guidance as guiding
from flowjax.models import networks
from flowjax.models.card import Model
from flowjax.models.condition import Condition
from flowjax.parallel import linear
from flowjax.parallel.emulation.exchange import NAME, Exchange, contiguous, exchange, exchange_of
from flowjax.parallel.emulation.linear import mixed_sums
from flowjax.parallel.emulation.row import run_row, sample_with_exchange
from flowjax.parallel.modes import mode_of
from flowjax.parallel.options import check, from_keywords
from flowjax.plans.table import Plan
from flowjax.sampling import Solution
from flowjax.types import Array, Scalar

__all__ = [
    "Exchange",
    "contiguous",
    "emulate",
    "emulate_with",
    "exchange",
    "mixed_attention",
    "tokens_of",
]


def emulate(
    model: Model,
    noise: Array,
    label: Array | Condition | None,
    plan: Plan,
    *,
    devices: int,
    key: jax.Array | None = None,
    **options: Any,
) -> Solution:
    """The result of `parallel.sample` on `devices` devices, computed on one.

    It takes the options of `parallel.sample`, refuses them in the same cases, and has `devices` in
    place of the mesh. Limits of a mesh, as heads that divide by n, do not apply. Like
    `flowjax.sample` it is not jitted: jit the function that is called again (`emulate_with` takes
    all numbers as arguments).

    Args:
      model: a `flowjax.models.Model`.
      noise: (B, H, W, C) the state to start from; float64 is computed in float64.
      label: (B,) integers, or None for the null label (then without guidance). A network that draws
        for a text takes a `Condition`.
      plan: a `Plan` with known numbers.
      devices: n. `contiguous` says which tokens lie on which device. With "pipefusion", the number
        of stages, which changes nothing; without `patches` it is the number of patches as well.
      key: for plans that draw noise, as in `flowjax.sample`. It does not depend on n.
      **options: the fields of `parallel.options.Options`, each by its name. All exact kinds of
        attention give the same numbers, and so do gather="late" and "early".

    Returns:
      `Solution` with `EmulationStats`, whose carry is None.

    Raises:
      ValueError: an option, a number of devices or shapes that do not fit.
    """
    given = from_keywords(NAME, options)
    check(NAME, given, plan)
    config = model.card.config
    mode_of(NAME, config, given.attention)  # refuses what the network does not have
    if networks.is_linear(config):
        linear.check_options(NAME, given)
    together = networks.tokens_together(config, np.shape(noise)[1:3])
    made = exchange_of(plan, tokens_of(model, noise), devices, given, together=together)
    return emulate_with(model, noise, label, plan, made, guidance=given.guidance, key=key)


def emulate_with(
    model: Model,
    noise: Array,
    label: Array | Condition | None,
    plan: Plan,
    exchange: Exchange,
    *,
    guidance: Scalar = 1.0,
    key: jax.Array | None = None,
) -> Solution:
    """`emulate` with any parts and any policy; all of it may be traced.

    Args:
      model, noise, label, plan, key: as in `emulate`.
      exchange: an `Exchange`. The first row of each substep must be synchronous, since the
        histories begin as zeros.
      guidance: the scale of classifier-free guidance; 1 is none. Each branch sees its own copies.

    Raises:
      ValueError: an exchange of other tokens or rows, or guidance without labels.
    """
    tokens = tokens_of(model, noise)
    if exchange.shards.shape != (tokens,) or exchange.rows.policy.shape != (plan.rows,):
        raise ValueError(
            f"{NAME}: shards {exchange.shards.shape} and policy {exchange.rows.policy.shape} for "
            f"{tokens} tokens and {plan.rows} rows; wanted one part a token, one threshold a row."
        )
    is_guided = not (isinstance(guidance, int | float) and guidance == 1)
    if is_guided and label is None:
        raise ValueError(
            f"{NAME}: guidance needs label; None is the null label itself. Give (B,) integers."
        )
    noise = jnp.asarray(noise)
    batch = len(noise)

    # The network with a carry, which guidance may call with labels of its own.
    def network(x, t, label, carry):
        def evaluate(copy, synced):
            return _evaluate(model, exchange, x, t, label, copy, synced, carry.row)

        return run_row(exchange, carry, evaluate)

    def unguided(x, t, carry):
        return network(x, t, label, carry)

    run = unguided
    if is_guided:
        if not networks.takes_text(model.card.config):
            label = jnp.broadcast_to(jnp.asarray(label), (batch,))
        run = guiding.classifier_free(network, *model.card.branches(label), guidance)
        batch = 2 * batch  # both branches in one batch
    # The histories hold what the parts exchange in all layers.
    if networks.is_linear(model.card.config):
        values = _empty_sums(model.card.config, batch, exchange, noise.dtype)
        exchange = exchange._replace(gain_groups=np.eye(len(exchange.fresh), dtype=bool))
    else:
        values = _empty_keys(model.card.config, batch, tokens, noise.dtype)
    return sample_with_exchange(run, noise, plan, exchange, values, key)


def _empty_keys(config, batch, tokens, dtype):
    """(keys, values) of all layers, in the dtype of the network."""
    dtype = config.dtype or jnp.promote_types(dtype, jnp.float32)
    shape = (config.depth, batch, tokens, config.heads, config.width // config.heads)
    keys = jnp.zeros(shape, dtype)
    return keys, keys


def _empty_sums(config, batch, exchange, dtype):
    """The sums of all layers and parts, (K, B, n, heads, d, d + 1)."""
    head = config.width // config.heads
    dtype = jnp.promote_types(config.dtype or dtype, jnp.float32)
    return jnp.zeros(
        (config.depth, batch, len(exchange.fresh), config.heads, head, head + 1), dtype
    )


def _evaluate(model, exchange, x, t, label, copy, synced, row):
    """(velocity, what the parts exchange in all layers) of the network in one row."""
    shards = jnp.asarray(exchange.shards)
    config, size = model.card.config, np.shape(x)[1:3]
    if networks.is_linear(config):
        mixing = mixed_sums(config, size, copy, shards, synced | jnp.asarray(exchange.fresh))
        carry = jnp.zeros_like(copy)
        return model.apply(model.params, x, t, label, attention=mixing, carry=carry)
    fresh = synced | jnp.asarray(exchange.fresh)[shards[:, None], shards[None]]  # (L, L)
    # Only the correction needs to know which keys are of the query's own part.
    own = correction = None
    if exchange.rows.correction is not None:
        own = (shards[:, None] == shards[None])[None, None]
        correction = jnp.asarray(exchange.rows.correction)[row]
    return model.apply(
        model.params,
        x,
        t,
        label,
        attention=mixed_attention(copy, fresh[None, None], own, correction),
        carry=jax.tree.map(jnp.zeros_like, copy),
    )


def tokens_of(model: Model, noise: Array) -> int:
    """L, the number of tokens of an image of the noise's shape."""
    image = jax.ShapeDtypeStruct(np.shape(noise), np.float32)
    return jax.eval_shape(model.card.patchify, image).shape[1]


def mixed_attention(
    copy: tuple[jax.Array, jax.Array],
    fresh: jax.Array,
    own: jax.Array | None = None,
    correction: Scalar | None = None,
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, jax.Array]]]:
    """Attention of queries that see keys and values of this row, or copies of them.

    Args:
      copy: (keys, values) of all layers as other parts see them, (K, B, L, heads, d) each.
      fresh: (B or 1, 1, L, L) bool, whether the query sees the key of this row.
      own: None, or (1, 1, L, L) bool, whether the key belongs to the query's own part, which knows
        the miss of its copies.
      correction: with `own`, () or (K,) for each layer, the fraction of the part's own miss that is
        added to the stale part of the output. The miss is the mean of (value - copy) over the own
        part, weighted as the query attends to that part, times the query's weight of copies.

    Returns:
      Attention as `flowjax.models.dit` takes it; its carry collects the (keys, values) of all
      layers.
    """

    def attention(q, k, v, layer, carry):
        wide = jnp.promote_types(q.dtype, jnp.float32)
        copy_k, copy_v = copy[0][layer], copy[1][layer]

        def scores(keys):
            products = jnp.einsum("bqhd,bkhd->bhqk", q, keys, preferred_element_type=wide)
            return products * q.shape[-1] ** -0.5

        def mean(weights, values):
            weights = weights.astype(v.dtype)
            return jnp.einsum("bhqk,bkhd->bqhd", weights, values, preferred_element_type=wide)

        # One softmax over the scores of keys of this row and of copies.
        weights = jax.nn.softmax(jnp.where(fresh, scores(k), scores(copy_k)), axis=-1)
        out = mean(jnp.where(fresh, weights, 0), v) + mean(jnp.where(~fresh, weights, 0), copy_v)
        # The correction: fraction x weight of copies x mean miss of the own part.
        if own is not None:
            own_weights = jax.nn.softmax(jnp.where(own, scores(k), -jnp.inf), axis=-1)
            stale_weight = jnp.where(fresh, 0, weights).sum(-1)  # (B, heads, L)
            stale_weight = jnp.moveaxis(stale_weight, 1, 2)[..., None]  # (B, L, heads, 1)
            fraction = correction[layer] if jnp.ndim(correction) else correction
            out += fraction * stale_weight * mean(own_weights, v - copy_v)
        return out.astype(v.dtype), (carry[0].at[layer].set(k), carry[1].at[layer].set(v))

    return attention
