"""What keys and values become on the way: fewer bits.

    bfloat16   8 digits of the number
    int8, ...  q = round(x / scale), scale = max |x| / (2^(bits-1) - 1) over the numbers of one head of one token; q and a
               float32 scale travel

Plain, the message is the forecast itself. As a *residual* the message is what the forecast missed, KV - forecast, and both
sides, which know the same forecast, keep the sum of the two: what one message lost the next one sees, which is error
feedback (CompactFusion, arXiv:2408.17143 in its form; 1-bit Adam before it). Everything then rests on reconstructions, so
the receiver keeps everyone's, and synchronous steps, whose messages are whole, begin anew.
"""

import jax.numpy as jnp

BITS = {None: 0, "bfloat16": 16, "int8": 8, "int4": 4}  # 0: as they are


def bits_of(name, comm_dtype):
    """Bits of a number on the way; 0 is as it is."""
    if comm_dtype not in BITS:
        raise ValueError(f"{name}: comm_dtype={comm_dtype!r}; wanted one of {tuple(BITS)}.")
    return BITS[comm_dtype]


def scale_of(x, bits):
    """The step between neighbours, over the last axis, which is kept: max |x| / (2^(bits-1) - 1), 1 where all is 0."""
    most = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    return jnp.where(most > 0, most, 1) / (2.0 ** (bits - 1) - 1)


def rounded(x, bits):
    """`x` (..., d) as it arrives when sent with so many bits a number; `bits` may be traced.

    Args:
      x: floating, in float32 at least.
      bits: 0 for all of them, 16 for bfloat16, else of integers: 2 to 15.
    """
    scale = scale_of(x, jnp.clip(bits, 2, 15)).astype(x.dtype)
    short = jnp.where(bits == 16, x.astype(jnp.bfloat16).astype(x.dtype), jnp.round(x / scale) * scale)
    return jnp.where(bits == 0, x, short)
