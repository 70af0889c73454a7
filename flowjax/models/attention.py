"""Softmax attention: by a fused kernel where there is one, in pieces where its scores are large.

    softmax(q k' / sqrt(d)) v

On an NVIDIA GPU in half precision cuDNN's fused kernel computes it and stores no scores. Everywhere
else the scores (B, heads, L, L) are formed: at once where they are few, and otherwise for some
queries at a time, so that the memory grows with L and not with its square. Each query has its own
softmax, so both give the same numbers within rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.extend.backend
import jax.numpy as jnp

from flowjax.types import PyTree

# Scores that may be in memory at a time: 64 MiB in float32.
MOST_SCORES = 2**24
# cuDNN's fused attention takes heads of at most this width, a multiple of 8.
WIDEST_HEAD = 128


def softmax_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, layer: Any = None, carry: PyTree = None
) -> tuple[jax.Array, PyTree]:
    """Attention, softmax(q k' / sqrt(d)) v, with the softmax in float32 at least.

    Args:
      q, k, v: (B, L, heads, d). The queries may be fewer than the keys.
      layer: not used.
      carry: returned as it is.

    Returns:
      (out (B, L, heads, d) in the dtype of v, carry).
    """
    if has_fused_kernel(q, k, v):
        return fused_attention(q, k, v, layer, carry)
    return by_queries(lambda some: _plain(some, k, v), q, k.shape[1]), carry


def fused_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, layer: Any = None, carry: PyTree = None
) -> tuple[jax.Array, PyTree]:
    """`softmax_attention` by cuDNN's fused kernel, which only an NVIDIA GPU can run.

    `softmax_attention` chooses it by the backend of the process. A program that is compiled for a
    GPU elsewhere names it.

    Args:
      q, k, v, layer, carry: as for `softmax_attention`.

    Raises:
      ValueError: the kernel does not take arrays of these dtypes and shapes.
    """
    if not fits_fused_kernel(q, k, v):
        raise ValueError(
            f"attention.fused_attention: q is {q.dtype}{q.shape}, k {k.dtype}, v {v.dtype}; wanted "
            f"one half precision, and heads of a multiple of 8 numbers, at most {WIDEST_HEAD}."
        )
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn"), carry


def has_fused_kernel(q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
    """Whether the backend has a fused kernel for arrays of these dtypes and shapes."""
    # A CPU has half precision too, and no such kernel; nor have other accelerators.
    return fits_fused_kernel(q, k, v) and jax.default_backend() == "gpu" and _is_cuda()


def fits_fused_kernel(q: jax.Array, k: jax.Array, v: jax.Array) -> bool:
    """Whether cuDNN's fused kernel takes arrays of these dtypes and shapes."""
    half = all(x.dtype in (jnp.bfloat16, jnp.float16) for x in (q, k, v))
    width = q.shape[-1]
    return half and q.dtype == k.dtype == v.dtype and width % 8 == 0 and width <= WIDEST_HEAD


def _is_cuda() -> bool:
    return "cuda" in jax.extend.backend.get_backend().platform_version.lower()


def by_queries(
    attend: Callable[[jax.Array], PyTree], q: jax.Array, keys: int, most: int = MOST_SCORES
) -> PyTree:
    """`attend(q)`, for some of the queries at a time where the scores of all are too many.

    Args:
      attend: (B, l, heads, d) -> arrays (B, l, ...), each query by itself.
      q: (B, L, heads, d).
      keys: how many keys each query has.
      most: scores that may be in memory at a time.

    Returns:
      What `attend(q)` returns, within rounding.
    """
    batch, length, heads = q.shape[:3]
    chunk = max(1, most // (batch * heads * keys))
    if chunk >= length:
        return attend(q)
    pieces = -(-length // chunk)
    # Pieces of nearly one size, so that little is padded.
    chunk = -(-length // pieces)
    padded = jnp.pad(q, ((0, 0), (0, pieces * chunk - length), (0, 0), (0, 0)))
    split = padded.reshape(batch, pieces, chunk, *q.shape[2:]).swapaxes(0, 1)
    # The gradient computes the scores of a piece again instead of storing them.
    found = jax.lax.map(jax.checkpoint(attend), split)  # (pieces, B, chunk, ...)

    def joined(x: jax.Array) -> jax.Array:
        x = x.swapaxes(0, 1)  # (B, pieces, chunk, ...)
        return x.reshape(batch, pieces * chunk, *x.shape[3:])[:, :length]

    return jax.tree.map(joined, found)


def _plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """All scores at once: (B, l, heads, d) in the dtype of v."""
    exact = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=exact)
    scores = scores * q.shape[-1] ** -0.5  # (B, heads, queries, keys)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, v, preferred_element_type=exact)
    return out.astype(v.dtype)
