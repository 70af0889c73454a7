"""The error of a step in units of the tolerance, and the size of the next step.

The error E of a step is a root mean square in units of the tolerance, and a step with E <= 1 is
accepted. With p the order of its pair, E is proportional to (step size)^p. So E^(-1/p) times the
size would give an error of exactly 1, and the next step has 0.9 of that size.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.adaptive.pairs import Pair
from flowjax.schedules import Schedule
from flowjax.types import PyTree, Scalar

SAFETY = 0.9  # the factor before E^(-1/p)
SHRINK = 0.2  # limits of the ratio of two successive step sizes
GROW = 5.0

# The longest step in log-SNR. A longer one could pass over a decision between modes unseen.
LONGEST = 2.0

# The error of the jump from the start counts so many times, because the jump keeps its result of
# order 1 and not the higher one.
JUMP_STRICTNESS = 5.0

# A sample is given up after so many steps without a finite result. After each of them the next
# step is a fifth as long.
FAILURES = 10

# The constants of the public DPM-Solver codes, for controller="peers".
PEERS_FIRST_STEP = 0.05
PEERS_SAFETY = 0.9
PEERS_NEAR_END = 1e-5


class Tolerance(NamedTuple):
    """Error allowed in one step, elementwise: max(atol, rtol |x|). One of the two may be 0.

    Attributes:
      atol: a number or a scalar array, in units of the data.
      rtol: the same, relative to the larger of the states before and after the step.
    """

    atol: Scalar
    rtol: Scalar


@dataclasses.dataclass(frozen=True)
class Rule:
    """What all lanes of a run have in common.

    Attributes:
      pair, schedule, tolerance: the method, the path, and the error that is allowed.
      start, end: times.
      jumps_at_start, jumps_at_end: log-SNR is infinite at the start, or at the end, and the pair
        steps in log-SNR.
      peers: use the controller of the public codes.
      combine_errors: function from errors (B,) to the errors that decide: the same (per sample), or
        their maximum (lockstep).
      mean_over_devices: function from means (B,) over the numbers that this device holds to means
        over all numbers of each sample. It is the identity where a device holds whole samples, and
        the mean over the devices that hold equal parts of each sample otherwise.
      max_evaluations: for each lane.
    """

    pair: Pair
    schedule: Schedule
    tolerance: Tolerance
    start: float
    end: float
    jumps_at_start: bool
    jumps_at_end: bool
    peers: bool
    combine_errors: Callable[[jax.Array], jax.Array]
    mean_over_devices: Callable[[jax.Array], jax.Array]
    max_evaluations: int

    @property
    def sign(self) -> float:
        """1 where the coordinate of the pair grows along the span, otherwise -1."""
        decreasing = self.start > self.end
        return 1.0 if decreasing == self.pair.in_log_snr else -1.0

    def coordinate(self, t: jax.Array) -> jax.Array:
        """The coordinate in which the steps are measured, at time `t`."""
        return self.pair.coordinate(self.schedule, t)

    def norm(self, x: jax.Array) -> jax.Array:
        """Root mean square of each sample: (B, *D) -> (B,)."""
        sample_axes = tuple(range(1, x.ndim))
        mean_square = jnp.mean(jnp.square(x), axis=sample_axes)
        return jnp.sqrt(self.mean_over_devices(mean_square))

    def delta(self, before: jax.Array, after: jax.Array) -> jax.Array:
        """Elementwise error allowed in a step: max(atol, rtol max(|before|, |after|)), never 0.

        It has the maximum and not the sum of the two terms, as in the DPM-Solver papers, so that
        published tolerances keep their meaning.
        """
        atol, rtol = (jnp.asarray(value, before.dtype) for value in self.tolerance)
        scale = jnp.maximum(jnp.abs(before), jnp.abs(after))
        allowed = jnp.maximum(atol, rtol * scale)
        return jnp.maximum(allowed, jnp.finfo(before.dtype).tiny)

    def first_step(self, dtype: jnp.dtype) -> jax.Array:
        """Size of the first step: (atol + rtol)^(1/order)/2 in the coordinate of the pair.

        It is a guess that predictions change over about 1 in that coordinate; the error estimate
        judges it.
        """
        if self.peers:
            return jnp.asarray(PEERS_FIRST_STEP, dtype)
        return self._capped_sum(dtype) ** (1 / self.pair.order) / 2

    def first_jump(self, dtype: jnp.dtype) -> jax.Array:
        """Size of the first jump from the start: sqrt(atol + rtol).

        The size of a jump is alpha/sigma of its end (sigma/alpha when inverting). The guess is made
        for data of unit size; the error estimate judges it.
        """
        return jnp.sqrt(self._capped_sum(dtype))

    def _capped_sum(self, dtype):
        """atol + rtol, at most 1."""
        return jnp.minimum(sum(jnp.asarray(value, dtype) for value in self.tolerance), 1.0)


def expand(values: jax.Array, like: jax.Array) -> jax.Array:
    """(B,) values with trailing axes of length 1, so that they act on `like` (B, *D)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def choose(mask: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`new` in the lanes of `mask` (B,), `old` in the others; pytrees with leading axis B."""
    return jax.tree.map(lambda a, b: jnp.where(expand(mask, a), a, b), new, old)


def finite(x: jax.Array) -> jax.Array:
    """Whether all numbers of each sample are finite: (B, *D) -> (B,)."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))


def arrives(rule: Rule, t: jax.Array) -> jax.Array:
    """Whether `t` is the end of the span; the public codes accept a distance of 1e-5."""
    if rule.peers:
        return jnp.abs(t - rule.end) <= PEERS_NEAR_END
    return t == rule.end


def resize(rule: Rule, h: jax.Array, error: jax.Array, jumping: jax.Array) -> jax.Array:
    """Size of the next step: h' = 0.9 E^(-1/p) h.

    The default controller keeps h' between h/5 and 5 h, and below 2 in log-SNR.

    Args:
      rule: of the run; its pair has the order p.
      h: (B,) size of the step that was judged.
      error: (B,) its error E.
      jumping: (B,) the step was the jump away from the start, whose error goes as the square of its
        size.
    """
    if rule.peers:
        # The public codes compute this factor in float32.
        factor = (error ** (-1 / rule.pair.order)).astype(jnp.float32).astype(h.dtype)
        return PEERS_SAFETY * h * factor
    exponent = jnp.where(jumping, 1 / 2, 1 / rule.pair.order).astype(h.dtype)
    h = h * jnp.clip(SAFETY * error**-exponent, SHRINK, GROW)
    return jnp.minimum(h, LONGEST) if rule.pair.in_log_snr else h
