"""What all kinds of guidance use: calls of models, checks of shapes, and numbers by sample."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.types import Array, PyTree, Scalar

# (x, t) -> velocity, or (x, t, carry) -> (velocity, carry).
Model = Callable[..., Any]


# ---- calls and checks


def call(model: Model, x: jax.Array, *rest: Any, carry: PyTree) -> tuple[jax.Array, PyTree]:
    """(velocity in the dtype of `x`, carry) of a model with or without a carry."""
    velocity, carry = (model(x, *rest), None) if carry is None else model(x, *rest, carry)
    return velocity.astype(x.dtype), carry


def checked(name: str, x: Array, t: Scalar, scale: Scalar = 1) -> tuple[jax.Array, jax.Array]:
    """`x` and `t` in float32 or wider, after checks of the shapes of `t` and `scale`."""
    # The shapes of t and w: a number, or one for each sample.
    x = jnp.asarray(x)
    for what, value in (("t", t), ("scale", scale)):
        if np.shape(value) not in ((), x.shape[:1]):
            raise ValueError(
                f"guidance.{name}: {what} has shape {np.shape(value)}; wanted () or {x.shape[:1]}."
            )
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # A Python number takes the dtype of the state, so that it does not raise float32 to float64.
    is_array = isinstance(t, jax.Array)
    dtype = jnp.promote_types(t.dtype, jnp.float32) if is_array else x.dtype
    return x, jnp.asarray(t, dtype)


def holds(compare: Callable[..., Any], value: Scalar, wanted: Scalar) -> bool:
    """Whether `compare(value, wanted)` holds for every entry; False where a value is traced."""
    if any(isinstance(v, jax.core.Tracer) for v in (value, wanted)):
        return False  # nothing is known of it
    return bool(np.all(compare(value, wanted)))


def is_nan(value: Scalar) -> bool:
    """Whether a value that is known is not a number."""
    return holds(np.not_equal, value, value)  # only NaN differs from itself


# ---- arrays


def total(values: jax.Array) -> jax.Array:
    """Sum over the axes of each sample: (B, *D) -> (B, 1, ...)."""
    return jnp.sum(values, axis=tuple(range(1, values.ndim)), keepdims=True)


def like(value: Scalar, x: jax.Array) -> jax.Array:
    """A number or (B,) in the dtype of `x`, shaped to multiply it."""
    value = jnp.asarray(value, x.dtype)
    return value.reshape(value.shape + (1,) * (x.ndim - 1)) if value.ndim else value


def ratio(top: jax.Array, bottom: jax.Array) -> jax.Array:
    """The quotient top/bottom, and 0 where bottom is 0."""
    # The inner `where` keeps the quotient finite, and so its derivative.
    return jnp.where(bottom == 0, 0.0, top / jnp.where(bottom == 0, 1.0, bottom))
