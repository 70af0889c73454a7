"""Corrections of the data prediction: dynamic thresholding, and any function as a model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_number
from flowjax.guidance.shared import Model, call, checked, holds, is_nan, like, ratio
from flowjax.schedules import Schedule
from flowjax.types import Scalar


def dynamic_threshold(
    quantile: Scalar = 0.995, *, least: Scalar = 1.0, most: Scalar | None = None
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Dynamic thresholding (Imagen, arXiv:2205.11487): a correction of the data prediction.

        s = quantile of |data| in a sample, raised to `least`, lowered to `most`
        data <- clip(data, -s, s)/s

    It keeps the data prediction in [-1, 1]. It is meant for pixels, not for latents. The quantile
    interpolates linearly.

    Args:
      quantile: 0 to 1. This and the other numbers may be traced.
      least, most: the limits of s; None is no upper limit.

    Returns:
      Function (data, t) -> data, for `flowjax.sample(data_hook=...)` or `correct_data`.

    Raises:
      ValueError: numbers outside their ranges.
    """
    name = "guidance.dynamic_threshold"
    check_number(name, "quantile", quantile, 0, 1)
    check_number(name, "least", least)
    most = np.inf if most is None else most
    if is_nan(most) or holds(np.less_equal, least, 0) or holds(np.greater, least, most):
        raise ValueError(f"{name}: least={least!r}, most={most!r}; wanted 0 < least <= most.")

    def hook(data, t):
        sizes = jnp.abs(data).reshape(len(data), -1)  # (B, F)
        s = jnp.quantile(sizes, quantile, axis=1)  # (B,)
        s = like(jnp.clip(s, least, most), data)
        return jnp.clip(data, -s, s) / s

    return hook


def correct_data(
    model: Model, schedule: Schedule, hook: Callable[[jax.Array, jax.Array], jax.Array]
) -> Model:
    """The model whose data prediction is `hook(data, t)`, as with `data_hook` in `flowjax.sample`.

        data = p x + q velocity
        velocity <- (hook(data, t) - p x)/q

    Any sampler takes it. Where the data prediction does not depend on the velocity (t = 0), the
    velocity does not change.

    Args:
      model: the model to correct.
      schedule: its path.
      hook: (data, t) -> data, where t is the time that the network receives.
    """

    def corrected(x, t, carry=None):
        x, t = checked("correct_data", x, t)
        velocity, carry_after = call(model, x, t, carry=carry)
        # To the data prediction, and back to the velocity.
        p, q = (like(weight, x) for weight in schedule.prediction_weights("data", t))
        data = hook(p * x + q * velocity, t)
        velocity = jnp.where(q == 0, velocity, ratio(data - p * x, q))
        return velocity if carry is None else (velocity, carry_after)

    return corrected
