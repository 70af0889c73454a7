"""Exact attention over n devices that share an image's tokens, and the parts of stale attention.

The functions of `EXACT` return an `attention` as models.dit describes it,
(q, k, v, layer, carry) -> (out, carry), for use inside `jax.shard_map`: q, k, v and out are those
of this device's tokens, (B, L/n, heads, d), and the carry passes unchanged. Where L is no multiple
of n, the tokens are padded at the end to n ceil(L/n); no query sees a padded key.

    gather         one all-gather a layer, of keys and values
    ulysses        two all-to-alls a layer: tokens against heads, and back
    ring           n - 1 collective-permutes a layer, of keys and values
    ulysses_ring   ulysses inside groups of u devices, ring over the n/u groups

gather and ulysses keep the order of every sum. They differ from one device only where a matrix
product of fewer rows adds up in another order (see docs/findings.md). The ring adds up block by
block.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flowjax.errors import check_choice
from flowjax.models.attention import by_queries, softmax_attention
from flowjax.parallel.mesh import RING, SEQ, token_axes
from flowjax.types import PyTree, Scalar

TOKENS = 2  # the axis of tokens in a stack of keys and values (2, B, L/n, heads, d)

Axes: TypeAlias = str | tuple[str, ...]  # one mesh axis or several, outermost first
Attention: TypeAlias = Callable[..., tuple[jax.Array, PyTree]]  # as models.dit describes it


def exact(attention: str, mesh: Mesh, tokens: int) -> Attention:
    """The exact attention of this name over the token axes of a mesh, for images of L tokens."""
    check_choice("parallel.attention.exact", "attention", attention, tuple(EXACT))
    return EXACT[attention](mesh, tokens)


def gathered(own: jax.Array, axes: Axes) -> jax.Array:
    """Join the keys and values of all devices by one all-gather.

    Args:
      own: (2, B, L/n, heads, d), this device's.
      axes: the mesh axes that share the tokens.

    Returns:
      (2, B, L, heads, d), L with padding.
    """
    return jax.lax.all_gather(own, axes, axis=TOKENS, tiled=True)


def attend(q: jax.Array, everyone: jax.Array, tokens: int) -> jax.Array:
    """Attention to the keys and values (2, B, L, heads, d) of all devices, without their padding.

    Only the first `tokens` of them are keys and values of tokens; the others are padding.
    """
    keys, values = everyone[:, :, :tokens]
    return softmax_attention(q, keys, values)[0]


def corrected(
    q: jax.Array,
    everyone: jax.Array,
    own: jax.Array,
    missed: jax.Array,
    fresh: jax.Array,
    fraction: Scalar,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Attention with stale copies, corrected by what the copies of this device's own values missed.

    In the row itself a device knows its own values and the copy of them that other devices see, so
    it knows the miss of that copy. Much of a miss is common to all tokens, for example what the
    time alone changes. So the device adds, to the stale part of a query's output,

        fraction (sum_{stale j} w_j) (sum_{own j} w_j missed_j) / (sum_{own j} w_j),

    where w_j is the weight of token j: the mean of its own misses, weighted as the query attends to
    them. That needs no communication
    and no memory. If the copies of the keys are right and all values have one common miss, then
    fraction = 1 is exact. (DistriFusion, arXiv:2402.19481, corrects the stale mean of GroupNorm by
    the change of its own part; this is the same step for attention.)

    Args:
      q: (B, l, heads, d).
      everyone: keys and values (2, B, L, heads, d), this device's own among them.
      own: (B, l', heads, d) this device's own keys.
      missed: (B, l', heads, d) this device's own values, less the copy of them.
      fresh: (L,) bool, which keys and values are of this row.
      fraction: scalar in [0, 1].
      valid: (l',) bool, which own tokens are not padding. None: all.

    Returns:
      (B, l, heads, d).
    """
    keys, values = everyone  # (B, L, heads, d) each

    def corrected(q: jax.Array) -> jax.Array:
        weights = _weights(q, keys)
        stale = jnp.sum(weights, axis=-1, where=~fresh)  # (B, heads, l), the weight of stale keys
        own_miss = _mean(_weights(q, own, valid), missed, q.dtype)
        out = _mean(weights, values, q.dtype)
        return (out + fraction * _like_out(stale) * own_miss).astype(values.dtype)

    return by_queries(corrected, q, keys.shape[1])


def _weights(q, keys, among=None):
    """(B, heads, l, L) the softmax of the scores, in float32 at least, of the keys `among` (L,)."""
    return jax.nn.softmax(_scores(q, keys), axis=-1, where=among)


def _scores(q, keys):
    """(B, heads, l, L) the products of queries and keys over sqrt(d), in float32 at least."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    products = jnp.einsum("bqhd,bkhd->bhqk", q, keys, preferred_element_type=wide)
    return products * q.shape[-1] ** -0.5


def _mean(weights, values, dtype):
    """(B, l, heads, d) the sum of values times weights, in `dtype` and float32 at least."""
    wide = jnp.promote_types(dtype, jnp.float32)
    weights = weights.astype(values.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, values, preferred_element_type=wide)


# Exact attention


def gather(mesh: Mesh, tokens: int) -> Attention:
    """Gather the keys and values of all devices: one all-gather a layer."""
    axes = token_axes(mesh)

    def attention(q, k, v, layer=None, carry=None):
        everyone = gathered(jnp.stack([k, v]), axes)
        return attend(q, everyone, tokens), carry

    return attention


def ulysses(mesh: Mesh, tokens: int) -> Attention:
    """Exchange tokens for heads, attend, exchange back (DeepSpeed-Ulysses, arXiv:2309.14509)."""

    def attend_to_tokens(q, k, v):
        return softmax_attention(q, k[:, :tokens], v[:, :tokens])[0]

    return _exchange_heads(token_axes(mesh), attend_to_tokens)


def ring(mesh: Mesh, tokens: int) -> Attention:
    """Pass keys and values around the devices: see `ring_attention`."""
    axes = token_axes(mesh)

    def attention(q, k, v, layer=None, carry=None):
        return ring_attention(axes, tokens, q, k, v), carry

    return attention


def ulysses_ring(mesh: Mesh, tokens: int) -> Attention:
    """Exchange heads over the axis seq, and pass keys and values around the axis ring."""

    def attend_around_ring(q, k, v):
        return ring_attention(RING, tokens, q, k, v)

    return _exchange_heads(SEQ, attend_around_ring)


EXACT = {"gather": gather, "ulysses": ulysses, "ring": ring, "ulysses_ring": ulysses_ring}


def _exchange_heads(axes, inner):
    """The attention that exchanges tokens for heads, calls `inner`, and exchanges back.

    One all-to-all of the stacked q, k, v turns (L/n tokens, all heads) into (all tokens, heads/n).
    Another one, of the output, is its inverse. Heads are independent in attention, so nothing else
    is needed.

    Args:
      axes: the axis, or axes, over which heads are split.
      inner: (q, k, v) -> out on those heads, with the tokens in order.
    """

    def attention(q, k, v, layer=None, carry=None):
        qkv = jax.lax.all_to_all(
            jnp.stack([q, k, v]), axes, split_axis=3, concat_axis=TOKENS, tiled=True
        )
        out = inner(*qkv)  # from (B, L, heads/n, d) each to the same
        return jax.lax.all_to_all(out, axes, split_axis=1, concat_axis=2, tiled=True), carry

    return attention


def ring_attention(
    axes: Axes,
    tokens: int,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
) -> jax.Array:
    """Ring attention (arXiv:2310.01889): keys and values travel around; no device holds them all.

    There are n - 1 collective-permutes, each to the next device. Each one is issued before the
    block at hand is used, so that the hop may hide under the product. The softmax is online
    (arXiv:1805.02867): a running maximum m, sum s and unnormalised output, in float32 at least.

    Args:
      axes: the axis, or axes, around which blocks travel.
      tokens: L without padding; later keys have no weight.
      q: (B, l, heads, d).
      k, v: (B, l, heads, d); shard j of the axes holds keys j l and those after.

    Returns:
      out (B, l, heads, d).
    """
    n = jax.lax.axis_size(axes)
    here = jax.lax.axis_index(axes)
    length = k.shape[1]
    following = [(j, (j + 1) % n) for j in range(n)]
    block = jnp.stack([k, v])  # (2, B, l, heads, d)
    total = None  # the partial softmax of the blocks so far
    for hop in range(n):
        # Send the block on before it is used.
        ahead = jax.lax.ppermute(block, axes, following) if hop < n - 1 else None
        # The block at hand comes from the device `hop` places before this one.
        valid = None
        if tokens < n * length:
            valid = (here - hop) % n * length + jnp.arange(length) < tokens
        part = _partial_softmax(q, *block, valid)
        total = part if total is None else _merged(total, part)
        block = ahead
    _, weight, out = total
    return (out / _like_out(weight)).astype(v.dtype)


def _partial_softmax(q, k, v, valid):
    """Maximum and sum of exponentials (B, heads, l), and unnormalised output, of some keys."""

    def of_some(q):
        most, weight, out = _partial_softmax_at_once(q, k, v, valid)
        return most.swapaxes(1, 2), weight.swapaxes(1, 2), out  # (B, l, ...) each

    most, weight, out = by_queries(of_some, q, k.shape[1])
    return most.swapaxes(1, 2), weight.swapaxes(1, 2), out


def _partial_softmax_at_once(q, k, v, valid):
    """`_partial_softmax` with all scores in memory."""
    scores = _scores(q, k)
    if valid is not None:
        # Finite, so that a block of padding alone gives no NaN: _merged takes its weight away.
        least = jnp.finfo(scores.dtype).min / 2
        scores = jnp.where(valid[None, None, None], scores, least)
    most = scores.max(-1)
    weights = jnp.exp(scores - most[..., None])
    return most, weights.sum(-1), _mean(weights, v, q.dtype)


def _merged(first, second):
    """The partial softmax of two sets of keys together."""
    most = jnp.maximum(first[0], second[0])
    scale1 = jnp.exp(first[0] - most)
    scale2 = jnp.exp(second[0] - most)
    out = _like_out(scale1) * first[2] + _like_out(scale2) * second[2]
    return most, scale1 * first[1] + scale2 * second[1], out


def _like_out(weight):
    """(B, heads, L) -> (B, L, heads, 1)."""
    return weight.swapaxes(1, 2)[..., None]
