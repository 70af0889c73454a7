"""The number formats in which keys and values travel.

    bfloat16   16 bits, of which 8 are the significand
    int8, int4 q = round(x / scale), scale = max |x| / (2^(bits-1) - 1) over the numbers of one head
               of one token; the integers q and a float32 scale travel

Without the option residual, the message is the forecast itself. With it, the message is the error
of the forecast, KV - forecast. The sender and the receiver know the same forecast, and both keep
its sum with the message as it arrived. So the next message contains what this one lost. This is
error feedback, as in CompactFusion (arXiv:2507.17511). All forecasts are then made from such sums,
so every device keeps those of all devices. Synchronous steps, whose messages are not rounded, start
anew.

`rounded` gives what arrives, in one expression, for any number of bits. `encoded` and `decoded`
make and read the message itself:

    bfloat16   (..., d) uint16, the bits of the numbers: as integers, so that no compiler carries
               them as float32
    int8       (..., d + 4) int8: q, then the four bytes of the scale, so that one collective brings
               both
    int4       (..., ceil(d/2) + 4) int8: two q to a byte, then the scale
"""

import jax
import jax.numpy as jnp

from flowjax.types import Scalar

BITS = {None: 0, "bfloat16": 16, "int8": 8, "int4": 4}  # 0: the format of the keys themselves


def bits_of(name: str, comm_dtype: str | None) -> int:
    """The bits of a number in a message; 0 for the format of the keys themselves.

    Raises:
      ValueError: an unknown format, in the name of the function `name`.
    """
    if comm_dtype not in BITS:
        raise ValueError(f"{name}: comm_dtype={comm_dtype!r}; wanted one of {tuple(BITS)}.")
    return BITS[comm_dtype]


def scale_of(x: jax.Array, bits: Scalar) -> jax.Array:
    """The distance of neighbouring values: max |x| / (2^(bits-1) - 1) over the last axis.

    The last axis is kept. The scale is float32, which is how it travels, and 1 where all x are 0.
    It is not finite where an x is not, and so such an x does not arrive as a number.
    """
    # The scale is rounded to float32 once, and the sender uses the rounded scale, as others do.
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    scale = (largest / (2.0 ** (bits - 1) - 1)).astype(jnp.float32)
    return jnp.where(scale == 0, 1, scale)


def rounded(x: jax.Array, bits: Scalar) -> jax.Array:
    """The numbers `x` (..., d) as they arrive in a message of `bits` a number.

    Args:
      x: floating, in float32 at least.
      bits: 0 for no rounding, 16 for bfloat16, 2 to 15 for integers; it may be traced.
    """
    # Every format is computed and one is chosen, since the bits may be traced. The clip keeps the
    # integers' formula finite where another format is chosen.
    scale = scale_of(x, jnp.clip(bits, 2, 15)).astype(x.dtype)
    integers = jnp.round(x / scale) * scale
    brain = x.astype(jnp.bfloat16).astype(x.dtype)
    short = jnp.where(bits == 16, brain, integers)
    return jnp.where(bits == 0, x, short)


def encoded(values: jax.Array, comm_dtype: str | None) -> jax.Array:
    """The message for `values` (..., d), in the layout of the module's table."""
    if comm_dtype is None:
        return values
    if comm_dtype == "bfloat16":
        return jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    scale = scale_of(wide, BITS[comm_dtype])
    integers = jnp.round(wide / scale.astype(wide.dtype)).astype(jnp.int8)
    if comm_dtype == "int4":
        # Two integers in a byte: the first half of the numbers in the low bits.
        low, high = _halves(integers)
        integers = (low & 15) | (high << 4)
    scale_bytes = jax.lax.bitcast_convert_type(scale[..., 0], jnp.int8)  # (..., 4)
    return jnp.concatenate([integers, scale_bytes], axis=-1)


def decoded(message: jax.Array, comm_dtype: str | None, like: jax.Array) -> jax.Array:
    """The numbers (..., d) in a message of `encoded`, with the d and the dtype of `like`."""
    if comm_dtype is None:
        return message
    if comm_dtype == "bfloat16":
        return jax.lax.bitcast_convert_type(message, jnp.bfloat16).astype(like.dtype)
    wide = jnp.promote_types(like.dtype, jnp.float32)
    size = like.shape[-1]
    integers = message[..., :-4]
    scale = jax.lax.bitcast_convert_type(message[..., -4:], jnp.float32)
    if comm_dtype == "int4":
        low = (integers << 4) >> 4  # a shift to the right keeps the sign
        high = integers >> 4
        integers = jnp.concatenate([low, high], axis=-1)[..., :size]
    return (integers.astype(wide) * scale[..., None].astype(wide)).astype(like.dtype)


def bytes_of(size: int, comm_dtype: str | None, itemsize: int) -> int:
    """The bytes of the message of one head of one token: `size` numbers of `itemsize` bytes."""
    lengths = {
        None: size * itemsize,
        "bfloat16": 2 * size,
        "int8": size + 4,
        "int4": -(-size // 2) + 4,
    }
    return lengths[comm_dtype]


def _halves(integers):
    """The two halves of the last axis, the second with a 0 at its end if d is odd."""
    size = integers.shape[-1]
    half = -(-size // 2)
    padding = [(0, 0)] * (integers.ndim - 1) + [(0, 2 * half - size)]
    padded = jnp.pad(integers, padding)
    return padded[..., :half], padded[..., half:]
