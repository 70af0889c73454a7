"""From a velocity to the prediction of any kind, and back.

A prediction is m = p x + q velocity, with (p, q) from `Schedule.prediction_weights`.
"""

from collections.abc import Callable

from flowjax.schedules.base import Schedule, expand
from flowjax.types import Array, Times, Velocity


def predict(schedule: Schedule, kind: str, velocity: Array, x: Array, t: Times) -> Array:
    """The prediction of this kind that a velocity implies.

    Args:
      schedule: the path.
      kind: one of `PREDICTIONS`.
      velocity: (B, *D).
      x: (B, *D), the state.
      t: its time, scalar or (B,).

    Returns:
      (B, *D).
    """
    # m = p x + q velocity
    p, q = schedule.prediction_weights(kind, t)
    return expand(p, x) * x + expand(q, x) * velocity


def to_velocity(schedule: Schedule, kind: str, prediction: Array, x: Array, t: Times) -> Array:
    """The velocity that a prediction of this kind implies: the inverse of `predict`.

    The arguments are those of `predict`. The result is infinite where the prediction does not
    determine the velocity: "data" at sigma = 0, "noise" at alpha = 0.
    """
    # velocity = (m - p x) / q
    p, q = schedule.prediction_weights(kind, t)
    return (prediction - expand(p, x) * x) / expand(q, x)


def as_velocity(
    network: Callable[[Array, Times], Array],
    schedule: Schedule,
    kind: str,
    label: Callable[[Times], Times] | None = None,
) -> Velocity:
    """Wrap a network that predicts `kind` into the velocity that every sampler takes.

    Args:
      network: function (x, clock) -> prediction (B, *D).
      schedule: the path that the network was trained on.
      kind: what it predicts, one of `PREDICTIONS`.
      label: function from t to the clock that the network receives (for example `lambda t: 1000 *
        t`); None passes t itself. Clocks are continuous: truncating them to integers costs accuracy
        from about 50 steps on.

    Returns:
      Function (x, t) -> velocity.
    """

    def velocity(x: Array, t: Times) -> Array:
        clock = t if label is None else label(t)
        return to_velocity(schedule, kind, network(x, clock), x, t)

    return velocity
