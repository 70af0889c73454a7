"""What keys and values become on the way: fewer bits.

    bfloat16   8 digits of the number
    int8, ...  q = round(x / scale), scale = max |x| / (2^(bits-1) - 1) over the numbers of one head of one token; q and a
               float32 scale travel

Plain, the message is the forecast itself. As a *residual* the message is what the forecast missed, KV - forecast, and both
sides, which know the same forecast, keep the sum of the two: what one message lost the next one sees, which is error
feedback (as in CompactFusion, arXiv:2507.17511). Everything then rests on reconstructions, so
the receiver keeps everyone's, and synchronous steps, whose messages are whole, begin anew.

`rounded` is what arrives, in one expression, for any number of bits; `encoded` and `decoded` are the message itself:

    bfloat16   (..., d) uint16, the numbers' bits: as integers, so that no compiler carries them as float32
    int8       (..., d + 4) int8, q and the four bytes of the scale, so that one collective brings both
    int4       (..., d/2 rounded up + 4) int8, two q to a byte, then the scale
"""

import jax
import jax.numpy as jnp

BITS = {None: 0, "bfloat16": 16, "int8": 8, "int4": 4}  # 0: as they are


def bits_of(name, comm_dtype):
    """Bits of a number on the way; 0 is as it is."""
    if comm_dtype not in BITS:
        raise ValueError(f"{name}: comm_dtype={comm_dtype!r}; wanted one of {tuple(BITS)}.")
    return BITS[comm_dtype]


def scale_of(x, bits):
    """The step between neighbours, over the last axis, which is kept: max |x| / (2^(bits-1) - 1), 1 where all is 0.

    In float32, which is how it travels. What is not finite has a scale that is not, so it does not arrive as a number.
    """
    scale = (jnp.max(jnp.abs(x), axis=-1, keepdims=True) / (2.0 ** (bits - 1) - 1)).astype(
        jnp.float32
    )
    return jnp.where(scale == 0, 1, scale)


def rounded(x, bits):
    """`x` (..., d) as it arrives when sent with so many bits a number; `bits` may be traced.

    Args:
      x: floating, in float32 at least.
      bits: 0 for all of them, 16 for bfloat16, else of integers: 2 to 15.
    """
    scale = scale_of(x, jnp.clip(bits, 2, 15)).astype(x.dtype)
    short = jnp.where(
        bits == 16, x.astype(jnp.bfloat16).astype(x.dtype), jnp.round(x / scale) * scale
    )
    return jnp.where(bits == 0, x, short)


def encoded(values, comm_dtype):
    """The message that says `values` (..., d): themselves, or integers as in the module's table."""
    if comm_dtype is None:
        return values
    if comm_dtype == "bfloat16":
        return jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    scale = scale_of(wide, BITS[comm_dtype])
    whole = jnp.round(wide / scale.astype(wide.dtype)).astype(jnp.int8)
    if comm_dtype == "int4":
        low, high = _halves(whole)
        whole = (low & 15) | (high << 4)
    return jnp.concatenate([whole, jax.lax.bitcast_convert_type(scale[..., 0], jnp.int8)], axis=-1)


def decoded(message, comm_dtype, like):
    """The numbers (..., d) that a message of `encoded` says, with the d and the dtype of `like`."""
    if comm_dtype is None:
        return message
    if comm_dtype == "bfloat16":
        return jax.lax.bitcast_convert_type(message, jnp.bfloat16).astype(like.dtype)
    wide, size = jnp.promote_types(like.dtype, jnp.float32), like.shape[-1]
    whole, scale = message[..., :-4], jax.lax.bitcast_convert_type(message[..., -4:], jnp.float32)
    if comm_dtype == "int4":
        whole = jnp.concatenate([(whole << 4) >> 4, whole >> 4], axis=-1)[
            ..., :size
        ]  # shifts to the right keep the sign
    return (whole.astype(wide) * scale[..., None].astype(wide)).astype(like.dtype)


def bytes_of(size, comm_dtype, itemsize):
    """Bytes of the message of one head of one token, `size` numbers that have `itemsize` bytes each."""
    return {
        None: size * itemsize,
        "bfloat16": 2 * size,
        "int8": size + 4,
        "int4": -(-size // 2) + 4,
    }[comm_dtype]


def _halves(whole):
    """The first and the second half of the last axis, the latter with a 0 if d is odd."""
    half = -(-whole.shape[-1] // 2)
    padded = jnp.pad(whole, [(0, 0)] * (whole.ndim - 1) + [(0, 2 * half - whole.shape[-1])])
    return padded[..., :half], padded[..., half:]
