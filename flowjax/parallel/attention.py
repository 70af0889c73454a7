"""Exact attention over devices: what one device would compute, with the tokens of an image on n of them.

Each function returns an `attention` as models.dit describes, (q, k, v, layer, carry) -> (out, carry), for use inside
`jax.shard_map`: q, k, v and out are this device's tokens, (B, L/n, heads, d); the carry passes untouched. Tokens that do
not divide by n are padded at the end to n ceil(L/n); no query sees a padded key.

    gather         one all-gather a layer, of keys and values
    ulysses        two all-to-alls a layer: tokens against heads, and back
    ring           n - 1 collective-permutes a layer, of keys and values
    ulysses_ring   ulysses inside groups of u, ring over the n/u groups

gather and ulysses leave the order of every sum as it is, so they differ from one device only where a matrix product of
fewer rows adds up otherwise (on a CPU in float64: no bit on 2 devices, 1e-15 on 8); the ring adds up block by block.
"""

import jax
import jax.numpy as jnp

from flowjax.models.dit import softmax_attention
from flowjax.parallel.mesh import RING, SEQ, token_axes

TOKENS = 2  # the axis of tokens in a stack of keys and values (2, B, L/n, heads, d)


def exact(attention, mesh, tokens):
    """The attention named `attention` over the token axes of `mesh`, for images of `tokens` tokens."""
    axes = token_axes(mesh)
    if attention == "gather":
        return gather(axes, tokens)
    if attention == "ulysses":
        return ulysses(axes, lambda q, k, v: softmax_attention(q, k[:, :tokens], v[:, :tokens])[0])
    if attention == "ring":
        return lambda q, k, v, layer=None, carry=None: (ring(axes, tokens, q, k, v), carry)
    return ulysses(SEQ, lambda q, k, v: ring(RING, tokens, q, k, v))


def gathered(own, axes):
    """This device's keys and values (2, B, L/n, heads, d) joined with everyone's, by one all-gather: (2, B, L, heads, d)."""
    return jax.lax.all_gather(own, axes, axis=TOKENS, tiled=True)


def attend(q, everyone, tokens):
    """Attention to the first `tokens` of the keys and values (2, B, L, heads, d), which are those that are no padding."""
    keys, values = everyone[:, :, :tokens]
    return softmax_attention(q, keys, values)[0]


def corrected(q, everyone, own, missed, fresh, share, valid=None):
    """Attention to `everyone`, with a share of what one's own values missed for those whose own are not known yet.

    What others were told of one's own values, and by how much it missed, a device knows in the row itself. Much of that is
    common to all tokens, as what the time alone changes; so it adds, to the stale part of a query's output,

        share (sum over stale j of w_j) (sum over own j of w_j missed_j) / (sum over own j of w_j),

    its own missed values as that query attends to them: no byte, no memory. Where the keys are as told and all values missed
    the same, share = 1 is exact. (DistriFusion, arXiv:2402.19481, corrects GroupNorm's stale mean by the change of its own
    part; this is that step for attention.)

    Args:
      q: (B, l, heads, d).
      everyone: keys and values (2, B, L, heads, d), one's own among them.
      own: (B, l', heads, d) one's own keys.
      missed: (B, l', heads, d) one's own values, less what others were told of them.
      fresh: (L,) bool, whose keys and values are of this row.
      share: scalar in [0, 1].
      valid: (l',) bool, which of one's own tokens are no padding. None: all.

    Returns:
      (B, l, heads, d).
    """
    wide = jnp.promote_types(q.dtype, jnp.float32)

    def weights_of(keys, among=None):
        scores = (
            jnp.einsum("bqhd,bkhd->bhqk", q, keys, preferred_element_type=wide)
            * q.shape[-1] ** -0.5
        )
        return jax.nn.softmax(scores, axis=-1, where=among)

    def mean_of(weights, values):
        return jnp.einsum(
            "bhqk,bkhd->bqhd", weights.astype(values.dtype), values, preferred_element_type=wide
        )

    keys, values = everyone
    weights = weights_of(keys)
    stale = jnp.sum(weights, axis=-1, where=~fresh)
    lost = mean_of(weights_of(own, valid), missed)
    return (mean_of(weights, values) + share * _like_out(stale) * lost).astype(values.dtype)


def gather(axes, tokens):
    """Keys and values of all devices by one all-gather a layer: every query needs every key."""

    def attention(q, k, v, layer=None, carry=None):
        return attend(q, gathered(jnp.stack([k, v]), axes), tokens), carry

    return attention


def ulysses(axes, inner):
    """Exchange tokens for heads, attend, and exchange back (DeepSpeed-Ulysses, arXiv:2309.14509).

    One all-to-all of the stacked q, k, v: (L/n tokens, all heads) becomes (all tokens, heads/n). One of the output, the
    inverse. Heads are independent in attention, so nothing else is needed.

    Args:
      axes: the axis, or axes, over which heads are split.
      inner: (q, k, v) -> out on those heads, tokens in order.
    """

    def attention(q, k, v, layer=None, carry=None):
        qkv = jax.lax.all_to_all(
            jnp.stack([q, k, v]), axes, split_axis=3, concat_axis=TOKENS, tiled=True
        )
        out = inner(*qkv)  # (B, L, heads/n, d)
        return jax.lax.all_to_all(out, axes, split_axis=1, concat_axis=2, tiled=True), carry

    return attention


def ring(axes, tokens, q, k, v):
    """Ring attention (arXiv:2310.01889): keys and values travel round the devices; no device holds them all.

    n - 1 collective-permutes, each to the next device, issued before the block in hand is used, so that the hop may hide
    under the product. Softmax is online (arXiv:1805.02867): running maximum m, sum s and unnormalised output, in float32 at
    least.

    Args:
      axes: the axis, or axes, round which blocks travel.
      tokens: L without padding; later keys get no weight.
      q, k, v: (B, l, heads, d); shard j of the axes holds keys j l and those after.

    Returns:
      out (B, l, heads, d).
    """
    n, here, length = jax.lax.axis_size(axes), jax.lax.axis_index(axes), k.shape[1]
    following = [(j, (j + 1) % n) for j in range(n)]
    block, total = jnp.stack([k, v]), None
    for hop in range(n):
        ahead = jax.lax.ppermute(block, axes, following) if hop < n - 1 else None
        valid = (
            (here - hop) % n * length + jnp.arange(length) < tokens if tokens < n * length else None
        )
        part = _partial_softmax(q, *block, valid)
        total = part if total is None else _merged(total, part)
        block = ahead
    _, weight, out = total
    return (out / _like_out(weight)).astype(v.dtype)


def _partial_softmax(q, k, v, valid):
    """(maximum (B, heads, Lq), sum of exponentials (B, heads, Lq), unnormalised output (B, Lq, heads, d)) of some keys."""
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=wide) * q.shape[-1] ** -0.5
    if valid is not None:
        # Finite, so that a block of nothing but padding gives no NaN: a real block takes its weight away in _merged.
        scores = jnp.where(valid[None, None, None], scores, jnp.finfo(wide).min / 2)
    most = scores.max(-1)
    weights = jnp.exp(scores - most[..., None])
    out = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v, preferred_element_type=wide)
    return most, weights.sum(-1), out


def _merged(first, second):
    """The partial softmax of two sets of keys together."""
    most = jnp.maximum(first[0], second[0])
    scale1, scale2 = jnp.exp(first[0] - most), jnp.exp(second[0] - most)
    out = _like_out(scale1) * first[2] + _like_out(scale2) * second[2]
    return most, scale1 * first[1] + scale2 * second[1], out


def _like_out(weight):
    """(B, heads, L) -> (B, L, heads, 1)."""
    return weight.swapaxes(1, 2)[..., None]
