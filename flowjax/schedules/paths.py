"""Paths with a formula: the linear path of flow matching, and two variance-preserving paths."""

from dataclasses import dataclass

import numpy as np

from flowjax.schedules.base import Schedule, array_module, as_time, exp, log
from flowjax.types import Array, Times


@dataclass(frozen=True)
class Linear(Schedule):
    """The straight path of flow matching and rectified flow: alpha = 1 - t, sigma = t.

    See arXiv:2210.02747 and arXiv:2209.03003. Its log-SNR is log((1-t)/t), so the inverse is
    sigmoid(-log_snr). Some published code has exp(-log_snr) instead, which is sigma/alpha and not
    the time.
    """

    def alpha(self, t: Times) -> Array:
        """1 - t."""
        return 1 - as_time(t)

    def sigma(self, t: Times) -> Array:
        """The weight of the noise is t itself."""
        # Times 1, so that the result is a new value and never the caller's array
        return as_time(t) * 1

    def log_snr(self, t: Times) -> Array:
        """log((1-t)/t): +inf at t = 0, -inf at t = 1."""
        t = as_time(t)
        return log(1 - t) - log(t)

    def time_of_log_snr(self, log_snr: Times) -> Array:
        """1/(1 + exp(log_snr)): 0 at +inf, 1 at -inf."""
        return 1 / (1 + exp(as_time(log_snr)))

    def alpha_dot(self, t: Times) -> Array:
        """alpha' = -1."""
        t = as_time(t)
        return -array_module(t).ones_like(t)

    def sigma_sigma_dot(self, t: Times) -> Array:
        """The product is t, since sigma' = 1."""
        return as_time(t) * 1

    def rates(self, t: Times) -> tuple[Array, Array, Array]:
        """(alpha'/W, sigma'/W, 1/W) = (-1, 1, 1)."""
        t = as_time(t)
        one = array_module(t).ones_like(t)
        return -one, one, one


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1; a subclass gives `log_alpha` and its derivative.

    W = -alpha'/sigma, so that every rate is finite.
    """

    def alpha(self, t: Times) -> Array:
        """exp(log_alpha(t))."""
        return array_module(as_time(t)).exp(self.log_alpha(t))

    def sigma(self, t: Times) -> Array:
        """sqrt(1 - alpha(t)^2), without cancellation near alpha = 1."""
        # 1 - alpha^2 = -expm1(2 log alpha)
        xp = array_module(as_time(t))
        return xp.sqrt(-xp.expm1(2 * self.log_alpha(t)))

    def log_snr(self, t: Times) -> Array:
        """log(alpha/sigma)."""
        return self.log_alpha(t) - log(self.sigma(t))

    def alpha_dot(self, t: Times) -> Array:
        """The derivative of alpha."""
        return self.alpha(t) * self.log_alpha_dot(t)

    def sigma_sigma_dot(self, t: Times) -> Array:
        """The product sigma sigma' = -alpha alpha'."""
        return -self.alpha(t) * self.alpha_dot(t)

    def rates(self, t: Times) -> tuple[Array, Array, Array]:
        """(alpha'/W, sigma'/W, 1/W) = (-sigma, alpha, -sigma/alpha')."""
        sigma = self.sigma(t)
        return -sigma, self.alpha(t), -sigma / self.alpha_dot(t)

    def _log_alpha_of_log_snr(self, log_snr):
        # log(alpha) = -log(1 + exp(-2 log_snr))/2, which alpha^2 + sigma^2 = 1 implies
        log_snr = as_time(log_snr)
        xp = array_module(log_snr)
        return -0.5 * xp.logaddexp(xp.zeros_like(log_snr), -2 * log_snr)


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """alpha = cos(pi t/2), sigma = sin(pi t/2), exactly 0 and 1 at the ends (also in float32)."""

    def alpha(self, t: Times) -> Array:
        """sin(pi/2 (1-t)), which is cos(pi t/2) without the -4e-8 that float32 gives at t = 1."""
        # cos(pi/2) is 6e-17 in float64, and sin(0) is 0.
        t = as_time(t)
        return array_module(t).sin(np.pi / 2 * (1 - t))

    def sigma(self, t: Times) -> Array:
        """sin(pi t/2)."""
        t = as_time(t)
        return array_module(t).sin(np.pi / 2 * t)

    def log_alpha(self, t: Times) -> Array:
        """log cos(pi t/2)."""
        return log(self.alpha(t))

    def time_of_log_snr(self, log_snr: Times) -> Array:
        """2/pi arctan(exp(-log_snr))."""
        log_snr = as_time(log_snr)
        return array_module(log_snr).arctan(exp(-log_snr)) * (2 / np.pi)

    def alpha_dot(self, t: Times) -> Array:
        """alpha' = -pi/2 sigma."""
        return -np.pi / 2 * self.sigma(t)

    def rates(self, t: Times) -> tuple[Array, Array, Array]:
        """(alpha'/W, sigma'/W, 1/W) = (-sigma, alpha, 2/pi), since W = pi/2 everywhere."""
        t = as_time(t)
        inverse = array_module(t).full_like(t, 2 / np.pi)
        return -self.sigma(t), self.alpha(t), inverse


@dataclass(frozen=True)
class VPLinear(VariancePreserving):
    """The VP SDE with beta(t) = b0 + t (b1 - b0) (Song et al. 2021, arXiv:2011.13456).

    log alpha = -t^2 (b1 - b0)/4 - t b0/2.
    """

    beta_0: float = 0.1
    beta_1: float = 20.0

    def log_alpha(self, t: Times) -> Array:
        """-t^2 (beta_1 - beta_0)/4 - t beta_0/2."""
        t = as_time(t)
        return -(t**2) * (self.beta_1 - self.beta_0) / 4 - t * self.beta_0 / 2

    def log_alpha_dot(self, t: Times) -> Array:
        """-beta(t)/2."""
        return -(as_time(t) * (self.beta_1 - self.beta_0) + self.beta_0) / 2

    def time_of_log_snr(self, log_snr: Times) -> Array:
        """The positive root of the quadratic for t, in the form that does not cancel at small t."""
        # (b1 - b0)/2 t^2 + b0 t = -2 log alpha
        minus_2_log_alpha = -2 * self._log_alpha_of_log_snr(log_snr)
        xp = array_module(minus_2_log_alpha)
        q = 2 * (self.beta_1 - self.beta_0) * minus_2_log_alpha
        return 2 * minus_2_log_alpha / (xp.sqrt(self.beta_0**2 + q) + self.beta_0)
