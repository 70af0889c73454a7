"""Guidance by the gradient of a classifier."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax.errors import check_number
from flowjax.guidance.shared import Model, call, checked, like, ratio
from flowjax.schedules import Schedule
from flowjax.types import Scalar


def classifier(
    model: Model,
    log_prob: Callable[[jax.Array, jax.Array], jax.Array],
    scale: Scalar,
    schedule: Schedule,
) -> Model:
    """Classifier guidance (arXiv:2105.05233), on every schedule.

        guided noise = noise - w sigma grad log p(c | x, t)
        guided velocity = velocity - w (sigma sigma' - alpha'/alpha sigma^2) grad log p(c | x, t)

    The second form is finite at t = 0. Where alpha = 0 the state does not depend on c, so the
    gradient is 0 and the term is its limit, w sigma^2 d/dt grad; `log_prob` must be smooth in t
    there. Near alpha = 0 an error of the gradient is divided by alpha: with a learned classifier
    that is unsure there, begin the grid below that time.

    Args:
      model: the unconditional model.
      log_prob: (x, t) -> (B,), log p(c | x, t) up to a constant. Sample i's depends on x[i] alone.
        It is differentiated.
      scale: w, a number (also traced) or (B,). At 1, exact functions give the exact conditional
        velocity (Bayes).
      schedule: the path of the model.

    Raises:
      ValueError: from the model, for shapes that do not fit.
    """
    check_number("guidance.classifier", "scale", scale)
    # Does the path reach pure noise, where alpha = 0?
    reaches_noise = float(schedule.alpha(1.0)) == 0

    def guided(x, t, carry=None):
        x, t = checked("classifier", x, t, scale)
        velocity, carry_after = call(model, x, t, carry=carry)

        def gradient(t):
            return _gradient(log_prob, x, t)

        # (sigma sigma' - alpha'/alpha sigma^2) grad
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        rate = schedule.sigma_sigma_dot(t) - ratio(schedule.alpha_dot(t), alpha) * sigma**2
        term = like(rate, x) * gradient(t)
        if reaches_noise:
            # Its limit where alpha = 0, which needs a second derivative.
            def slope_in_time():
                return jax.jvp(gradient, (t,), (jnp.ones_like(t),))[1]

            slope = jax.lax.cond(jnp.any(alpha == 0), slope_in_time, lambda: jnp.zeros_like(x))
            limit = -like(sigma**2, x) * slope
            term = jnp.where(like(alpha, x) == 0, limit, term)
        velocity = velocity - like(scale, x) * term
        return velocity if carry is None else (velocity, carry_after)

    return guided


def _gradient(log_prob, x, t):
    """The gradient of log_prob in x: (B, *D)."""
    values, backward = jax.vjp(lambda x: log_prob(x, t), x)
    if values.shape != x.shape[:1]:
        raise ValueError(
            f"guidance.classifier: log_prob gave shape {values.shape}; wanted {x.shape[:1]}."
        )
    # Sample i's value depends on x[i] alone, so the gradient of the sum is that of each.
    return backward(jnp.ones_like(values))[0]
