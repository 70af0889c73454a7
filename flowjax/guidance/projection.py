"""The change that guidance makes to a prediction: linear, projected (APG), and rescaled."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_number
from flowjax.guidance.shared import holds, is_nan, like, ratio, total
from flowjax.schedules import Schedule
from flowjax.types import PyTree, Scalar


class GuidanceCarry(NamedTuple):
    """The carry of a model that is guided with a `Projection`.

    Attributes:
      difference: (B, *D) the running difference of the two data predictions.
      networks: the carry of the networks, or None.
    """

    difference: jax.Array
    networks: PyTree = None


@dataclass(frozen=True)
class Projection:
    """Adaptive projected guidance, APG (arXiv:2410.02416, algorithm 1).

    It weakens the part of guidance that saturates. On data predictions, with d = conditional -
    unconditional:

        d <- d + momentum d_before
        e = d min(1, threshold/|d|)
        along = <e, conditional>/|conditional|^2 conditional
        guided = conditional + (w - 1) (e - along + eta along)

    A momentum of 0, no threshold and eta = 1 give classifier-free guidance. The paper takes eta = 0
    and a momentum of -0.5 or -0.75. With momentum the sampler needs
    `carry=projection.start(noise)`: d_before is stored there, before it is shortened to the
    threshold, and does not change where a sample is not guided. The norm is over all axes of a
    sample (some codes offer the two image axes alone).

    Args:
      schedule: gives the data prediction. Where that does not depend on the velocity (t = 0) there
        is no guidance.
      momentum: the factor of d_before.
      threshold: the largest norm of d, in units of the data, or None for no limit.
      eta: the factor of the part along the conditional prediction.
    """

    schedule: Schedule
    momentum: Scalar = 0.0
    threshold: Scalar | None = None
    eta: Scalar = 1.0

    def __post_init__(self):
        name = "guidance.Projection"
        check_number(name, "momentum", self.momentum)
        check_number(name, "eta", self.eta)
        if self.threshold is None:
            return
        if holds(np.less_equal, self.threshold, 0) or is_nan(self.threshold):
            raise ValueError(
                f"{name}: threshold={self.threshold!r}; wanted a number above 0, or None for no "
                "limit."
            )

    def start(self, noise: jax.Array, networks: PyTree = None) -> GuidanceCarry:
        """The carry to begin with.

        Args:
          noise: (B, *D) states like those that are sampled.
          networks: the carry of the networks, if they have one.
        """
        dtype = jnp.promote_types(noise.dtype, jnp.float32)
        return GuidanceCarry(jnp.zeros(noise.shape, dtype), networks)


def linear(strong: jax.Array, weak: jax.Array, weight: jax.Array, rescale: Scalar) -> jax.Array:
    """strong + (w - 1) (strong - weak), rescaled."""
    change = like(weight - 1, strong) * (strong - weak)
    return strong + _rescaled(change, strong, rescale)


def projected(
    projection: Projection,
    velocity: jax.Array,
    other: jax.Array,
    x: jax.Array,
    t: jax.Array,
    weight: jax.Array,
    running: jax.Array | None,
    rescale: Scalar,
) -> tuple[jax.Array, jax.Array | None]:
    """(velocity, running difference) by the formulas of `Projection`.

    Args:
      projection: a `Projection`.
      velocity, other: (B, *D) the conditional and the unconditional velocity.
      x, t: the state (B, *D), and its time, a scalar or (B,).
      weight: w, a scalar or (B,).
      running: (B, *D) the running difference, or None.
      rescale: as in `combine`.
    """
    p, q = (like(part, x) for part in projection.schedule.prediction_weights("data", t))
    data = p * x + q * velocity
    difference = q * (velocity - other)

    # d <- d + momentum d_before; stored where a sample is guided.
    if running is not None:
        difference = difference + like(projection.momentum, x) * running
        running = jnp.where(like(weight, x) == 1, running, difference).astype(running.dtype)

    # e = d min(1, threshold/|d|)
    if projection.threshold is not None:
        excess = total((difference / like(projection.threshold, x)) ** 2)
        difference = difference / jnp.sqrt(jnp.maximum(excess, 1))

    # (w - 1) (e - along + eta along), back in the velocity
    along = ratio(total(difference * data), total(data**2)) * data
    change = like(weight - 1, x) * (difference - along + like(projection.eta, x) * along)
    return velocity + ratio(_rescaled(change, data, rescale), q), running


def _rescaled(change, prediction, rescale):
    """The change, guided - prediction, after rescaling (arXiv:2305.08891, eq. 15 and 16).

    With phi the fraction `rescale`:

        guided <- phi guided std(prediction)/std(guided) + (1 - phi) guided
    """
    if holds(np.equal, rescale, 0):
        return change
    guided = prediction + change
    axes = tuple(range(1, guided.ndim))
    factor = ratio(jnp.std(prediction, axes, keepdims=True), jnp.std(guided, axes, keepdims=True))
    return change + like(rescale, change) * (factor - 1) * guided
