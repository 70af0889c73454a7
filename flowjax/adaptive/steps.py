"""The next step of each lane: where it ends, its table, and the places to which the table leads."""

import jax
import jax.numpy as jnp

from flowjax.adaptive.control import Rule, choose, expand
from flowjax.adaptive.jumps import jump_from_start, largest_log_snr
from flowjax.adaptive.pairs import Steps


def propose(rule: Rule, t: jax.Array, h: jax.Array) -> tuple[jax.Array, jax.Array, Steps]:
    """The step from `t` whose size should be `h`, both (B,).

    A step that would pass the end of the span, or almost reach it, ends there exactly.

    Returns:
      (its size (B,), its end (B,), its coefficients).
    """
    # Limit the size to what is left. To an infinite log-SNR, only as much is left as x can resolve.
    here = rule.coordinate(t)
    last = rule.coordinate(jnp.full_like(t, rule.end))
    furthest = largest_log_snr(t.dtype) if rule.jumps_at_end else rule.sign * last
    left = jnp.maximum(furthest - rule.sign * here, 0.0)
    jumping = t == rule.start if rule.jumps_at_start else False
    h = jnp.where(jumping, h, jnp.minimum(h, left))

    # The end of the step, in the coordinate of the pair and in time.
    target = jnp.where(jumping, rule.sign * jnp.log(h), here + rule.sign * h)
    stops = rule.sign * (last - target) <= 1e-6 * h
    not_past = jnp.minimum if rule.end > rule.start else jnp.maximum
    t_target = not_past(rule.pair.time(rule.schedule, target), rule.end)
    t_next = jnp.where(stops, rule.end, t_target)

    # Its coefficients, in the dtype of the time.
    steps = rule.pair.steps(rule.schedule, t, t_next)
    if rule.jumps_at_start:
        decreasing = rule.start > rule.end
        jump = jump_from_start(rule.schedule, rule.pair.stages, decreasing, t, t_next)
        steps = choose(jumping, jump, steps)
    return h, t_next, Steps(*(table.astype(t.dtype) for table in steps))


def combine(
    decay: jax.Array, weights: jax.Array, x: jax.Array, history: tuple[jax.Array, ...]
) -> jax.Array:
    """decay x + sum_j weights_j m_j in each lane; an m_j of weight 0 may also be NaN.

    Args:
      decay: (B,).
      weights: (B, S).
      x: (B, *D).
      history: S arrays (B, *D), the m_j.
    """
    total = expand(decay, x) * x
    for j, m in enumerate(history):
        weight = expand(weights[:, j], x)
        total = total + jnp.where(weight == 0, 0.0, weight * m)
    return total


def place_of_row(
    steps: Steps, row: jax.Array, x: jax.Array, history: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    """The place to which `row` (B,) of each lane's step leads: (state (B, *D), time (B,))."""

    def of_row(table):
        return jnp.take_along_axis(table, expand(row, table), axis=1)[:, 0]

    state = combine(of_row(steps.decay), of_row(steps.weights), x, history)
    return state, of_row(steps.times)
