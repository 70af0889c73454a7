"""The common parts of exact fields: path coefficients, one Gaussian, checks, pytrees.

One Gaussian component N(mean, C) seen through `x_t = a data + s noise` (a = alpha(t), s = sigma(t),
prime d/dt) has

    velocity = a' mean + (a a' C + s s' I) V (x - a mean)        data  = mean + a C V (x - a mean)
    noise    =           s V (x - a mean)                        score =      - V (x - a mean)

with V = (a^2 C + s^2 I)^-1. In eigenvector coordinates of C all four are `shift mean + gain (x - a
mean)`, elementwise; `gains` gives (shift, gain). Nothing divides by t or by a, so t = 0 and t = 1
are ordinary points.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.schedules import Schedule
from flowjax.types import Array, Scalar

# Accelerators round float32 products to about 10 bits otherwise.
HIGHEST = jax.lax.Precision.HIGHEST


class Path(NamedTuple):
    """Schedule coefficients at the times of a batch, shaped to multiply arrays of `ndim` axes."""

    alpha: jax.Array
    sigma: jax.Array
    alpha_dot: jax.Array
    sigma_sigma_dot: jax.Array


def path_at(schedule: Schedule, t: Scalar, dtype: Any, ndim: int) -> Path:
    """Path coefficients at `t`, a scalar or (B,): each (1 or B, 1, ..., 1).

    They are computed in the precision of `t` and then cast to `dtype`.
    """
    if isinstance(t, jax.Array):
        t = t.astype(jnp.promote_types(t.dtype, jnp.float32))
    values = (
        schedule.alpha(t),
        schedule.sigma(t),
        schedule.alpha_dot(t),
        schedule.sigma_sigma_dot(t),
    )
    return Path(*(jnp.asarray(value, dtype).reshape((-1,) + (1,) * (ndim - 1)) for value in values))


def variance(path: Path, values: Array) -> jax.Array:
    """a^2 C + s^2 along each eigenvector, bounded below so that its inverse is finite.

    The floor (1e-19 in float32) acts only where a zero eigenvalue meets sigma = 0, that is for data
    without width at t = 0; there the softmax over components picks the nearest.
    """
    total = path.alpha**2 * values + path.sigma**2
    return jnp.maximum(total, float(jnp.finfo(total.dtype).tiny) ** 0.5)


def gains(kind: str, path: Path, values: Array) -> tuple[Any, jax.Array]:
    """(shift, gain) of a component.

    In eigenvector coordinates its prediction is `shift mean + gain (x - a mean)`.

    Args:
      kind: "velocity", "data", "noise" or "score".
      path: coefficients that broadcast against `values`.
      values: eigenvalues of the component's covariance.

    Returns:
      shift, shaped like the path's coefficients or a number, and gain, broadcast. Where a zero
      eigenvalue meets sigma = 0 the gain is taken as 0: the noise is unknown there, and 0 is its
      mean.
    """
    # The table of the module docstring, without the common factor V.
    shift, numerator = {
        "velocity": (path.alpha_dot, path.alpha * path.alpha_dot * values + path.sigma_sigma_dot),
        "data": (1, path.alpha * values),
        "noise": (0, path.sigma),
        "score": (0, -1),
    }[kind]
    exists = path.alpha**2 * values + path.sigma**2 > 0
    return shift, jnp.where(exists, numerator / variance(path, values), 0)


def check_state(name: str, x: Array, t: Scalar, shape: tuple[int, ...]) -> jax.Array:
    """Check the shapes of `x` and `t`, and return `x` (B, *shape) in float32 or wider."""
    x = jnp.asarray(x)
    if x.ndim != len(shape) + 1 or x.shape[1:] != tuple(shape):
        wanted = "(B, " + ", ".join(map(str, shape)) + ")"
        raise ValueError(
            f"fields.{name}: x has shape {x.shape}; wanted {wanted}, batch first: a single state "
            "is x[None]."
        )
    if np.ndim(t) > 1 or (np.ndim(t) == 1 and np.shape(t)[0] not in (1, x.shape[0])):
        raise ValueError(
            f"fields.{name}: t has shape {np.shape(t)} for a batch of {x.shape[0]}; wanted a "
            f"scalar or ({x.shape[0]},), one time for each sample."
        )
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def build(cls, **values: Array) -> Any:
    """An instance with these fields and no validation: for pytrees, whose leaves may be tracers."""
    instance = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


def pytree(*static) -> Callable:
    """Class decorator: a frozen dataclass that is a pytree.

    The fields named in `static` are part of the structure; all others are leaves.
    """

    def register(cls):
        cls = dataclasses.dataclass(frozen=True, init=False, eq=False)(cls)
        leaves = [field.name for field in dataclasses.fields(cls) if field.name not in static]

        def flatten(self):
            children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in leaves]
            return children, tuple(getattr(self, name) for name in static)

        def unflatten(aux, children):
            return build(cls, **dict(zip(leaves, children)), **dict(zip(static, aux)))

        jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
        return cls

    return register


class Field:
    """A probability path whose velocity is known exactly; subclasses define `_predict` and `draw`.

    In every method x is (B, *D) and t is a scalar or (B,); t = 0 and t = 1 are allowed. States in
    float32 or narrower give results in float32, and float64 gives float64. A field is a pytree.
    Pass it to a jitted function as an argument, `jax.jit(lambda field, x, t: field.velocity(x,
    t))`, so that its arrays are not constants of the compiled program.
    """

    def velocity(self, x: Array, t: Scalar) -> jax.Array:
        """The velocity of the probability-flow ODE, (B, *D).

        It is E[alpha' data + sigma' noise | x_t = x].
        """
        return self._predict("velocity", x, t)

    def data(self, x: Array, t: Scalar) -> jax.Array:
        """E[data | x_t = x]: (B, *D)."""
        return self._predict("data", x, t)

    def noise(self, x: Array, t: Scalar) -> jax.Array:
        """E[noise | x_t = x]: (B, *D)."""
        return self._predict("noise", x, t)

    def score(self, x: Array, t: Scalar) -> jax.Array:
        """Gradient of log p_t at x, which is -noise/sigma where sigma > 0: (B, *D)."""
        return self._predict("score", x, t)

    def draw_at(self, key: jax.Array, n: int, t: Scalar) -> jax.Array:
        """`n` exact samples of x_t: (n, *D)."""
        data_key, noise_key = jax.random.split(key)
        data = self.draw(data_key, n)
        return self.schedule.add_noise(
            data, jax.random.normal(noise_key, data.shape), jnp.asarray(t, data.dtype)
        )

    def with_schedule(self, schedule: Schedule) -> "Field":
        """The same data on another path."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return build(type(self), **(values | {"schedule": schedule}))
