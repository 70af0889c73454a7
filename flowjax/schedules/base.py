"""What all schedules share: the state, the predictions as linear maps, arithmetic at both ends.

What a network predicts is linear in the state and the velocity, `m = p x + q velocity`;
`prediction_weights` gives (p, q). With W = alpha sigma' - alpha' sigma (prime is d/dt):

    data  = (sigma' x - sigma velocity) / W         noise = (-alpha' x + alpha velocity) / W

On the linear path W = 1, so data = x - t velocity. It is never formed from the noise, which would
divide by 1 - t.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.types import Array, Times

PREDICTIONS = ("velocity", "data", "noise", "score", "v")
METHODS = ("alpha", "sigma", "log_snr")  # what every solver needs of a schedule


def array_module(*values: Any) -> ModuleType:
    """jax.numpy when any value is a JAX array (traced or not), else numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def as_time(t: Times) -> Array:
    """`t` as an array that keeps a floating dtype; integers and Python numbers become float64."""
    if isinstance(t, jax.Array):
        return t
    t = np.asarray(t)
    return t if np.issubdtype(t.dtype, np.floating) else t.astype(np.float64)


def log(x: Array) -> Array:
    """The natural logarithm; zero gives -inf without a warning."""
    if isinstance(x, jax.Array):
        return jnp.log(x)
    with np.errstate(divide="ignore"):
        return np.log(x)


def exp(x: Array) -> Array:
    """The exponential, which overflows to inf without a warning."""
    if isinstance(x, jax.Array):
        return jnp.exp(x)
    with np.errstate(over="ignore"):
        return np.exp(x)


def expand(coefficient: Array, x: Array) -> Array:
    """Coefficients of B samples, (B,), as (B, 1, ...), to multiply `x`; scalars stay scalars."""
    # (B,) -> (B, 1, ..., 1)
    if np.ndim(coefficient) != 1:
        return coefficient
    trailing = (1,) * (x.ndim - 1)
    return coefficient.reshape(coefficient.shape + trailing)


class Schedule:
    """The methods that all schedules share.

    A subclass gives alpha, sigma, log_snr, time_of_log_snr and the rates. The rates are those
    combinations of derivatives that stay finite where sigma or alpha is zero: `alpha_dot` = alpha',
    `sigma_sigma_dot` = sigma sigma', and `rates` = (alpha'/W, sigma'/W, 1/W).
    """

    def add_noise(self, data: Array, noise: Array, t: Times) -> Array:
        """The state at time `t`: alpha(t) data + sigma(t) noise.

        Args:
          data: (B, *D).
          noise: (B, *D).
          t: scalar or (B,).

        Returns:
          (B, *D).
        """
        t = as_time(t)
        return expand(self.alpha(t), data) * data + expand(self.sigma(t), noise) * noise

    def prediction_weights(self, kind: str, t: Times) -> tuple[Array, Array]:
        """Weights (p, q): `p x + q velocity` is the prediction of this `kind` at time `t`.

        Args:
          kind: "velocity", "data", "noise", "score" (= -noise/sigma) or "v" (= alpha noise - sigma
            data, the v-prediction of Salimans & Ho 2022, arXiv:2202.00512, on variance-preserving
            paths).
          t: times, any shape.

        Returns:
          Two arrays shaped like `t`. "score" is infinite where sigma = 0.

        Raises:
          ValueError: an unknown kind.
        """
        check_choice("schedules.prediction_weights", "kind", kind, PREDICTIONS)
        t = as_time(t)
        xp = array_module(t)
        if kind == "velocity":
            return xp.zeros_like(t), xp.ones_like(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        # alpha'/W, sigma'/W, 1/W
        alpha_rate, sigma_rate, rate = self.rates(t)
        # The equations at the top of this file, and for "score" noise/-sigma.
        if kind == "data":
            return sigma_rate, -sigma * rate
        if kind == "noise":
            return -alpha_rate, alpha * rate
        if kind == "score":
            return alpha_rate / sigma, -alpha * rate / sigma
        # "v": alpha noise - sigma data
        return -alpha * alpha_rate - sigma * sigma_rate, (alpha**2 + sigma**2) * rate


def check(schedule: Any, name: str) -> None:
    """Check that `schedule` is a schedule: an object with the methods alpha, sigma and log_snr.

    Args:
      schedule: what the caller gave.
      name: the public function that the error speaks for.

    Raises:
      ValueError: it is something else, for example the grid, or the class in place of an object of
        it.
    """
    if isinstance(schedule, type):
        raise ValueError(
            f"{name}: the schedule is the class {schedule.__name__}; wanted an object of it, for "
            f"example {schedule.__name__}()."
        )
    if all(callable(getattr(schedule, method, None)) for method in METHODS):
        return
    if isinstance(schedule, np.ndarray | jax.Array | list | tuple):
        raise ValueError(
            f"{name}: the schedule is an array of shape {np.shape(schedule)}; wanted a schedule "
            "such as flowjax.Linear(). The schedule comes first and the grid of times second."
        )
    raise ValueError(
        f"{name}: the schedule is {schedule!r}; wanted a schedule such as flowjax.Linear()."
    )
