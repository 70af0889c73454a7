"""Jumps: the first-order steps between an end of infinite log-SNR and its neighbour.

Log-SNR is infinite at t = 0, and at t = 1 on paths that reach pure noise.
No step in log-SNR reaches such an end. In both directions the state is written with the two
functions of `sides`: one that grows along the span and one that falls. Towards data these are alpha
and sigma, towards noise sigma and alpha, and the prediction of the end is the data prediction or
the noise prediction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive.control import Rule, expand
from flowjax.adaptive.pairs import Steps, evaluation_weights
from flowjax.schedules import Schedule


def jump_from_start(
    schedule: Schedule, stages: int, decreasing: bool, t0: jax.Array, t1: jax.Array
) -> Steps:
    """The jump away from a start of infinite log-SNR.

    It is judged by the evaluation that the next step needs anyway.
    In r = alpha/sigma (from pure noise; sigma/alpha from data) the solution is a plain integral of
    the data (noise) prediction, and order 1 is Euler's rule for it:

        x1 = sigma1/sigma0 x0 + alpha1 m_0,     error = alpha1 (m_1 - m_0)/2,

    where the error is the distance to the trapezoidal rule. The second row of the table repeats the
    place of the first, so m_1 is also the m_0 of the next step.

    Args:
      schedule: the path.
      stages: S of the pair whose table this step shares, at least 2.
      decreasing: True from t = 1. False from t = 0, where alpha and sigma, and data and noise,
        change places.
      t0, t1: (B,) ends of the jump.
    """
    grows, falls = sides(schedule, decreasing)
    like = jnp.zeros_like(t1)

    # x1 = falls1/falls0 x0 + grows1 m_0, at every place of the table.
    decay = falls(t1) / falls(t0)
    weights = evaluation_weights(stages, {0: grows(t1)}, like)

    # grows1 (m_1 - m_0)/2
    error = evaluation_weights(stages, {0: -grows(t1) / 2, 1: grows(t1) / 2}, like)
    return Steps(
        times=jnp.stack([t1] * stages, axis=1),
        decay=jnp.stack([decay] * stages, axis=1),
        weights=jnp.stack([weights] * stages, axis=1),
        error=error,
    )


def jump_to_end(
    rule: Rule, x: jax.Array, t: jax.Array, end_prediction: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The jump from (x, t) to an end of infinite log-SNR, and a bound of its error.

    The state at the end is the data prediction itself (when inverting, the noise prediction). The
    part of it that is still unknown is hardly larger than the noise that is left. So the error is
    bounded by max(|jump|, sigma), for noise of unit size, in units of the tolerance. No estimate
    from earlier predictions enters, because such an estimate is blind on plateaus: before anything
    is decided, and between two scales (see docs/findings.md).

    Args:
      rule: the rule of all lanes, with `jumps_at_end`.
      x: (B, *D) states.
      t: (B,) times.
      end_prediction: (B, *D) the data prediction at (x, t), or the noise prediction when inverting.

    Returns:
      (state at the end (B, *D), bound of the error (B,)). The bound is 0 where sigma/alpha has come
      down to the rounding error of 1: there the jump is taken in any case.
    """
    grows, falls = sides(rule.schedule, rule.start > rule.end)
    t_end = jnp.asarray(rule.end, t.dtype)

    # Order 1: falls1/falls0 x + (grows1 - grows0 falls1/falls0) prediction.
    decay = falls(t_end) / falls(t)
    gain = grows(t_end) - grows(t) * decay
    end = expand(decay, x) * x + expand(gain, x) * end_prediction

    # The bound of its error, in units of the tolerance.
    length = jnp.maximum(jnp.abs(end - x), expand(falls(t), x))
    bound = rule.norm(length / rule.delta(x, end))
    at_rounding = rule.sign * rule.coordinate(t) > 0.99 * largest_log_snr(t.dtype)
    return end, jnp.where(at_rounding, 0.0, bound)


def largest_log_snr(dtype: np.dtype) -> float:
    """The log-SNR at which sigma/alpha is the rounding error of 1.

    At its negative alpha/sigma is the rounding error of 1.
    """
    return -float(np.log(jnp.finfo(dtype).eps))


def sides(schedule: Schedule, decreasing: bool) -> tuple[Callable, Callable]:
    """The functions of t that grow and that fall along the span.

    They are (alpha, sigma) towards data and (sigma, alpha) towards noise.
    """
    if decreasing:
        return schedule.alpha, schedule.sigma
    return schedule.sigma, schedule.alpha
