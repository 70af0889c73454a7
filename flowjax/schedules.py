"""Noise schedules: alpha(t), sigma(t), log-SNR and its inverse, and the linear map between predictions.

A schedule fixes the path `x_t = alpha(t) data + sigma(t) noise` with t = 1 noise and t = 0 data. `log_snr` is
log(alpha/sigma), the lambda of the DPM-Solver papers (half of the usual log signal-to-noise ratio).

Every method takes a Python number, a numpy array or a jax.numpy array (also traced) and answers in the same kind. All
are finite or correctly infinite at exactly t = 0 and t = 1, in float32 too: no caller needs an epsilon.

What a network predicts is linear in the state and the velocity, `m = p x + q velocity`; `prediction_weights` gives
(p, q). With W = alpha sigma' - alpha' sigma (prime is d/dt):

    data  = (sigma' x - sigma velocity) / W         noise = (-alpha' x + alpha velocity) / W

On the linear path W = 1, so data = x - t velocity: never formed through the noise, which would divide by 1 - t.
"""

import functools
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

PREDICTIONS = ("velocity", "data", "noise", "score", "v")


def array_module(*values):
    """jax.numpy when any value is a JAX array (traced or not), else numpy."""
    return jnp if any(isinstance(v, jax.Array) for v in values) else np


def _time(t):
    """`t` as an array that keeps a floating dtype; integers and Python numbers become float64 (numpy)."""
    if isinstance(t, jax.Array):
        return t
    t = np.asarray(t)
    return t if np.issubdtype(t.dtype, np.floating) else t.astype(np.float64)


def _log(x):
    """log with log(0) = -inf and no warning."""
    if isinstance(x, jax.Array):
        return jnp.log(x)
    with np.errstate(divide="ignore"):
        return np.log(x)


def _exp(x):
    """exp that overflows to inf without a warning."""
    if isinstance(x, jax.Array):
        return jnp.exp(x)
    with np.errstate(over="ignore"):
        return np.exp(x)


def _expand(coefficient, x):
    """Per-sample coefficients (B,) shaped to multiply a batch (B, *D); scalars stay scalars."""
    return (
        coefficient.reshape(coefficient.shape + (1,) * (x.ndim - 1))
        if np.ndim(coefficient) == 1
        else coefficient
    )


class Schedule:
    """What all schedules share; a subclass gives alpha, sigma, log_snr, time_of_log_snr and the three rates.

    The rates are the combinations of derivatives that stay finite where sigma or alpha is zero:
    `alpha_dot` = alpha', `sigma_sigma_dot` = sigma sigma', and `rates` = (alpha'/W, sigma'/W, 1/W).
    """

    def add_noise(self, data, noise, t):
        """State at time `t`: alpha(t) data + sigma(t) noise.

        Args:
          data, noise: (B, *D).
          t: scalar or (B,).

        Returns:
          (B, *D).
        """
        t = _time(t)
        return _expand(self.alpha(t), data) * data + _expand(self.sigma(t), noise) * noise

    def prediction_weights(self, kind, t):
        """Weights (p, q) with which `p x + q velocity` is the prediction of this `kind` at time `t`.

        Args:
          kind: "velocity", "data", "noise", "score" (= -noise/sigma) or "v" (= alpha noise - sigma data, the
            v-prediction of Salimans & Ho 2022, arXiv:2202.00512, on variance-preserving paths).
          t: times, any shape.

        Returns:
          Two arrays shaped like `t`. "score" is infinite where sigma = 0.
        """
        t = _time(t)
        xp = array_module(t)
        if kind == "velocity":
            return xp.zeros_like(t), xp.ones_like(t)
        alpha, sigma = self.alpha(t), self.sigma(t)
        alpha_rate, sigma_rate, rate = self.rates(t)
        if kind == "data":
            return sigma_rate, -sigma * rate
        if kind == "noise":
            return -alpha_rate, alpha * rate
        if kind == "score":
            return alpha_rate / sigma, -alpha * rate / sigma
        if kind == "v":
            return -alpha * alpha_rate - sigma * sigma_rate, (alpha**2 + sigma**2) * rate
        raise ValueError(
            f"schedules.prediction_weights: kind={kind!r} is not known; the kinds are {', '.join(PREDICTIONS)}."
        )


@dataclass(frozen=True)
class Linear(Schedule):
    """The straight path of flow matching and rectified flow: alpha = 1 - t, sigma = t (arXiv:2210.02747, 2209.03003).

    Its log-SNR is log((1-t)/t), so the inverse is sigmoid(-log_snr); exp(-log_snr), found in some published code, is
    sigma/alpha, not the time.
    """

    def alpha(self, t):
        """1 - t."""
        return 1 - _time(t)

    def sigma(self, t):
        """The noise weight is t itself."""
        return _time(t) * 1

    def log_snr(self, t):
        """log((1-t)/t): +inf at t = 0, -inf at t = 1."""
        t = _time(t)
        return _log(1 - t) - _log(t)

    def time_of_log_snr(self, log_snr):
        """1/(1 + exp(log_snr)): 0 at +inf, 1 at -inf."""
        return 1 / (1 + _exp(_time(log_snr)))

    def alpha_dot(self, t):
        """-1."""
        t = _time(t)
        return -array_module(t).ones_like(t)

    def sigma_sigma_dot(self, t):
        """The product is t, since sigma' = 1."""
        return _time(t) * 1

    def rates(self, t):
        """(alpha'/W, sigma'/W, 1/W) = (-1, 1, 1)."""
        t = _time(t)
        one = array_module(t).ones_like(t)
        return -one, one, one


class VariancePreserving(Schedule):
    """alpha^2 + sigma^2 = 1, given `log_alpha` and its derivative; W = -alpha'/sigma, so every rate is finite."""

    def alpha(self, t):
        """exp(log_alpha(t))."""
        return array_module(_time(t)).exp(self.log_alpha(t))

    def sigma(self, t):
        """sqrt(1 - alpha(t)^2), without cancellation near alpha = 1."""
        xp = array_module(_time(t))
        return xp.sqrt(-xp.expm1(2 * self.log_alpha(t)))

    def log_snr(self, t):
        """log(alpha/sigma)."""
        return self.log_alpha(t) - _log(self.sigma(t))

    def alpha_dot(self, t):
        """d alpha / dt."""
        return self.alpha(t) * self.log_alpha_dot(t)

    def sigma_sigma_dot(self, t):
        """The product sigma sigma' = -alpha alpha'."""
        return -self.alpha(t) * self.alpha_dot(t)

    def rates(self, t):
        """(alpha'/W, sigma'/W, 1/W) = (-sigma, alpha, -sigma/alpha')."""
        sigma = self.sigma(t)
        return -sigma, self.alpha(t), -sigma / self.alpha_dot(t)

    def _log_alpha_of_log_snr(self, log_snr):
        log_snr = _time(log_snr)
        xp = array_module(log_snr)
        return -0.5 * xp.logaddexp(xp.zeros_like(log_snr), -2 * log_snr)


@dataclass(frozen=True)
class Cosine(VariancePreserving):
    """alpha = cos(pi t/2), sigma = sin(pi t/2), in a form that is exactly 0 and 1 at the ends (also in float32)."""

    def alpha(self, t):
        """sin(pi/2 (1-t)): cos(pi t/2) without the -4e-8 that float32 gives at t = 1."""
        t = _time(t)
        return array_module(t).sin(np.pi / 2 * (1 - t))

    def sigma(self, t):
        """sin(pi t/2)."""
        t = _time(t)
        return array_module(t).sin(np.pi / 2 * t)

    def log_alpha(self, t):
        """log cos(pi t/2)."""
        return _log(self.alpha(t))

    def time_of_log_snr(self, log_snr):
        """2/pi arctan(exp(-log_snr))."""
        log_snr = _time(log_snr)
        return array_module(log_snr).arctan(_exp(-log_snr)) * (2 / np.pi)

    def alpha_dot(self, t):
        """-pi/2 sigma."""
        return -np.pi / 2 * self.sigma(t)

    def rates(self, t):
        """(-sigma, alpha, 2/pi): W = pi/2 everywhere."""
        t = _time(t)
        return -self.sigma(t), self.alpha(t), array_module(t).full_like(t, 2 / np.pi)


@dataclass(frozen=True)
class VPLinear(VariancePreserving):
    """The VP SDE with linear beta(t) (Song et al. 2021, arXiv:2011.13456): log alpha = -t^2 (b1-b0)/4 - t b0/2."""

    beta_0: float = 0.1
    beta_1: float = 20.0

    def log_alpha(self, t):
        """-t^2 (beta_1 - beta_0)/4 - t beta_0/2."""
        t = _time(t)
        return -(t**2) * (self.beta_1 - self.beta_0) / 4 - t * self.beta_0 / 2

    def log_alpha_dot(self, t):
        """-beta(t)/2."""
        return -(_time(t) * (self.beta_1 - self.beta_0) + self.beta_0) / 2

    def time_of_log_snr(self, log_snr):
        """The positive root of the quadratic, in the form that does not cancel at small t."""
        minus_2_log_alpha = -2 * self._log_alpha_of_log_snr(log_snr)
        xp = array_module(minus_2_log_alpha)
        q = 2 * (self.beta_1 - self.beta_0) * minus_2_log_alpha
        return 2 * minus_2_log_alpha / (xp.sqrt(self.beta_0**2 + q) + self.beta_0)


@dataclass(frozen=True, eq=False)
class VPDiscrete(VariancePreserving):
    """The schedule of a network trained on N discrete VP steps, continued to all times as DPM-Solver does.

    Node n = 1..N lies at t = n/N with log alpha = 1/2 sum log(1 - beta). Between nodes log alpha is linear in t; outside
    it follows the outermost segment (DPM-Solver, arXiv:2206.00927, appendix D.4, and its public code). Exactly t = 0 is
    alpha = 1, sigma = 0; where the first segment would pass alpha = 1 just above t = 0 it is held there.

    Args:
      betas: (N,) in (0, 1), N >= 2.
      log_snr_min: trailing nodes with a lower log-SNR are dropped, and the remaining ones fill (0, 1] again, as in the
        public code (-5.1), so that the cosine schedule keeps away from alpha = 0. None keeps every node.
    """

    betas: np.ndarray = field(repr=False)
    log_snr_min: float | None = -5.1
    _nodes: np.ndarray = field(init=False, repr=False)

    def __post_init__(self):
        """Check the betas and form log alpha at the nodes, in float64."""
        betas = np.asarray(self.betas, np.float64)
        if betas.ndim != 1 or len(betas) < 2 or not np.all((betas > 0) & (betas < 1)):
            span = f"range [{betas.min():.3g}, {betas.max():.3g}]" if betas.size else "no values"
            raise ValueError(
                f"schedules.VPDiscrete: betas has shape {betas.shape} and {span}; "
                "wanted a vector of two or more numbers strictly between 0 and 1, noise growing with the index."
            )
        log_alpha = 0.5 * np.cumsum(np.log1p(-betas))
        if self.log_snr_min is not None:
            log_alpha = log_alpha[
                log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha)) >= self.log_snr_min
            ]
        if len(log_alpha) < 2:
            raise ValueError(
                f"schedules.VPDiscrete: only {len(log_alpha)} node(s) have log-SNR >= log_snr_min={self.log_snr_min}; "
                "two are needed: lower log_snr_min or give smaller betas."
            )
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "_nodes", log_alpha)

    @classmethod
    def linear(cls, steps=1000, beta_start=1e-4, beta_end=2e-2, **options):
        """Betas uniform from `beta_start` to `beta_end` (DDPM, arXiv:2006.11239)."""
        return cls(np.linspace(beta_start, beta_end, steps), **options)

    @classmethod
    def scaled_linear(cls, steps=1000, beta_start=0.00085, beta_end=0.012, **options):
        """Square roots of the betas uniform (latent diffusion, arXiv:2112.10752)."""
        return cls(np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2, **options)

    @classmethod
    def cosine(cls, steps=1000, offset=0.008, max_beta=0.999, **options):
        """Squared-cosine alpha-bar (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17), betas capped at `max_beta`."""
        bar = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
        return cls(np.minimum(1 - bar[1:] / bar[:-1], max_beta), **options)

    @property
    def steps(self):
        """Number of nodes that remain after the clip, N."""
        return len(self._nodes)

    def _segment(self, t):
        xp = array_module(t)
        nodes, rises = (xp.asarray(a, t.dtype) for a in (self._nodes, np.diff(self._nodes)))
        place = t * self.steps
        # In float32 n/N times N may fall just below n: that is still node n, since the next segment has another slope.
        slack = xp.minimum(place * (4 * float(xp.finfo(t.dtype).eps)), 1e-3).astype(t.dtype)
        left = xp.clip(xp.floor(place + slack).astype(int) - 1, 0, self.steps - 2)
        return nodes[left], rises[left], place - (left + 1).astype(t.dtype)

    def log_alpha(self, t):
        """Piecewise linear between the nodes, at most 0, and exactly 0 at t = 0."""
        t = _time(t)
        xp = array_module(t)
        start, rise, fraction = self._segment(t)
        return xp.where(t <= 0, xp.zeros_like(t), xp.minimum(start + fraction * rise, 0.0))

    def log_alpha_dot(self, t):
        """Slope of the segment that holds t (of the right one at a node)."""
        return self._segment(_time(t))[1] * self.steps

    def time_of_log_snr(self, log_snr):
        """Inverse of the piecewise-linear log alpha; t = 0 at +inf."""
        log_alpha = self._log_alpha_of_log_snr(log_snr)
        xp = array_module(log_alpha)
        nodes = xp.asarray(self._nodes, log_alpha.dtype)
        right = xp.clip(xp.searchsorted(-nodes, -log_alpha), 1, self.steps - 1)
        start, rise = nodes[right - 1], nodes[right] - nodes[right - 1]
        t = (right.astype(log_alpha.dtype) + (log_alpha - start) / rise) / self.steps
        return xp.where(log_alpha == 0, xp.zeros_like(t), t)


@functools.cache
def of_betas(kind, steps, first, last, trained=None):
    """The `VPDiscrete` that a diffusers configuration names, with all its nodes: one object for the same arguments.

    Args:
      kind: its beta_schedule, "linear", "scaled_linear" or "squaredcos_cap_v2" (which takes no ends).
      steps, first, last: number of betas, the first and the last.
      trained: tuple of the betas themselves, in place of all else; or None.
    """
    if trained is not None:
        return VPDiscrete(np.array(trained), log_snr_min=None)
    if kind == "squaredcos_cap_v2":
        return VPDiscrete.cosine(steps, log_snr_min=None)
    make = VPDiscrete.linear if kind == "linear" else VPDiscrete.scaled_linear
    return make(steps, first, last, log_snr_min=None)


def predict(schedule, kind, velocity, x, t):
    """Prediction of this `kind` from a velocity (B, *D) at state `x` (B, *D) and time `t` (scalar or (B,))."""
    p, q = schedule.prediction_weights(kind, t)
    return _expand(p, x) * x + _expand(q, x) * velocity


def to_velocity(schedule, kind, prediction, x, t):
    """Velocity from a prediction of this `kind`: the inverse of `predict`.

    Infinite where the prediction does not determine it: "data" at sigma = 0, "noise" at alpha = 0.
    """
    p, q = schedule.prediction_weights(kind, t)
    return (prediction - _expand(p, x) * x) / _expand(q, x)


def as_velocity(network, schedule, kind, label=None):
    """Wrap a network that predicts `kind` into the velocity that every sampler takes.

    Args:
      network: function (x, label) -> prediction (B, *D).
      schedule: the path that the network was trained on.
      kind: what it predicts, one of `PREDICTIONS`.
      label: function t -> what the network is told (for example `lambda t: 1000 * t`); None passes t itself. Labels are
        continuous: truncating them to integers costs accuracy from about 50 steps on.

    Returns:
      Function (x, t) -> velocity.
    """

    def velocity(x, t):
        return to_velocity(schedule, kind, network(x, t if label is None else label(t)), x, t)

    return velocity
