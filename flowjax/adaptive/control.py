"""How long the next step is, when a step is good enough, and when the leap to the end is.

With E the error of a step in units of the tolerance and p the order of its pair, E ~ (step)^p, so a step of
.9 E^(-1/p) times the length would just pass.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive.pairs import Pair, sides
from flowjax.schedules import Schedule

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
LONGEST = (
    2.0  # step in log-SNR: a longer one could pass over a decision between modes without seeing it
)
STRICT = 5.0  # the leap away from an infinite log-SNR keeps its order-1 result, so its error counts this often
FAILURES = 10  # steps of a sample whose result is not finite; each makes the next a fifth as long
PEERS = {"first": 0.05, "safety": 0.9, "near": 1e-5}


class Tolerance(NamedTuple):
    """Error allowed in one step, elementwise: max(atol, rtol |x|). Numbers, or scalar arrays, of which one may be 0.

    Attributes:
      atol: in units of the data.
      rtol: relative to the larger of the states before and after the step.
    """

    atol: Any
    rtol: Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """What decides about every lane alike.

    Attributes:
      pair, schedule, tolerance: method, path, error allowed.
      start, end: times.
      leaps_out, leaps_in: log-SNR is infinite at the start, at the end, and the pair's steps are measured in it.
      peers: the controller of the public codes.
      share: errors (B,) -> the errors that decide: the same (per sample) or their maximum (lockstep).
      whole: means (B,) over the numbers that are here -> over all numbers of each sample: the same, or the mean over devices
        that hold equal parts of it.
      max_evaluations: for each lane.
    """

    pair: Pair
    schedule: Schedule
    tolerance: Tolerance
    start: float
    end: float
    leaps_out: bool
    leaps_in: bool
    peers: bool
    share: Callable
    whole: Callable
    max_evaluations: int

    @property
    def sign(self):
        """Direction of the steps in the variable of the pair."""
        return 1.0 if (self.start > self.end) == self.pair.in_log_snr else -1.0

    def place(self, t):
        """`t` in the variable of the steps."""
        return self.pair.place(self.schedule, t)

    def norm(self, x):
        """Root of the mean square over each sample: (B,)."""
        return jnp.sqrt(self.whole(jnp.mean(jnp.square(x), axis=tuple(range(1, x.ndim)))))

    def delta(self, before, after):
        """Elementwise error allowed: max(atol, rtol max(|before|, |after|)), never 0.

        The maximum and not the sum, as in the DPM-Solver papers, so that published tolerances keep their meaning.
        """
        atol, rtol = (jnp.asarray(value, before.dtype) for value in self.tolerance)
        scale = jnp.maximum(jnp.abs(before), jnp.abs(after))
        return jnp.maximum(jnp.maximum(atol, rtol * scale), jnp.finfo(before.dtype).tiny)

    def first(self, dtype):
        """Size of the first step in log-SNR, or half of it in t: tolerance^(1/order), since predictions change over ~1.

        The leap out has sqrt(tolerance), for data of unit size. Both are guesses that the error estimate judges.
        """
        if self.peers:
            return jnp.asarray(PEERS["first"], dtype), None
        tolerance = jnp.minimum(sum(jnp.asarray(value, dtype) for value in self.tolerance), 1.0)
        step = tolerance ** (1 / self.pair.order) / 2
        return step, jnp.sqrt(tolerance)


def expand(values, like):
    """(B,) values shaped to act on (B, *D)."""
    return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def choose(mask, new, old):
    """`new` in the lanes of `mask` (B,), `old` elsewhere, over pytrees with leading axis B."""
    return jax.tree.map(lambda a, b: jnp.where(expand(mask, a), a, b), new, old)


def finite(x):
    """Whether each sample is finite: (B,)."""
    return jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))


def arrives(rule, t):
    """Whether `t` is the end; to the peers it is when within 1e-5 of it."""
    return jnp.abs(t - rule.end) <= PEERS["near"] if rule.peers else t == rule.end


def resize(rule, h, error, leaping):
    """Size of the next step: h .9 E^(-1/order), in the default controller within a fifth and five times h."""
    if rule.peers:
        return (
            PEERS["safety"]
            * h
            * (error ** (-1 / rule.pair.order)).astype(jnp.float32).astype(h.dtype)
        )
    exponent = jnp.where(leaping, 1 / 2, 1 / rule.pair.order).astype(h.dtype)
    h = h * jnp.clip(SAFETY * error**-exponent, SHRINK, GROW)
    return jnp.minimum(h, LONGEST) if rule.pair.in_log_snr else h


def leap_in(rule, x, t, nearest):
    """The order-1 step from (x, t) to an end where log-SNR is infinite, and the bound of its error: (B, *D), (B,).

    At the end the state is the data prediction itself (the noise prediction, when inverting). What is not known yet of it
    is hardly larger than the noise that is left, so the error is bounded by the length of the leap, max(|leap|, sigma) for
    noise of unit size, in units of the tolerance. No estimate from earlier predictions enters: they rest on plateaus,
    before anything is decided and between two scales, where such an estimate is blind; where it is not, it never was
    the larger of the two in our measurements. Where sigma/alpha has come down to the rounding error of 1, the leap is
    taken anyway.
    """
    grows, falls = sides(rule.schedule, rule.start > rule.end)
    ends = jnp.asarray(rule.end, t.dtype)
    decay = falls(ends) / falls(t)
    end = expand(decay, x) * x + expand(grows(ends) - grows(t) * decay, x) * nearest
    length = jnp.maximum(jnp.abs(end - x), expand(falls(t), x))
    bound = rule.norm(length / rule.delta(x, end))
    return end, jnp.where(rule.sign * rule.place(t) > 0.99 * far(t.dtype), 0.0, bound)


def far(dtype):
    """The log-SNR, of either sign, where alpha/sigma or its inverse is the rounding error of 1."""
    return -float(np.log(jnp.finfo(dtype).eps))
