"""The path of a network that was trained on discrete steps, continued to all times."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from flowjax.errors import check_choice, check_whole
from flowjax.schedules.base import array_module, as_time
from flowjax.schedules.paths import VariancePreserving
from flowjax.types import Array, Times

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # the names in diffusers


@dataclass(frozen=True, eq=False)
class VPDiscrete(VariancePreserving):
    """The schedule of a network trained on N discrete VP steps, continued as DPM-Solver does.

    Node n = 1..N lies at t = n/N with log alpha = 1/2 sum log(1 - beta). Between nodes log alpha is
    linear in t; outside them it follows the outermost segment (DPM-Solver, arXiv:2206.00927,
    appendix D.4, and its public code). At exactly t = 0, alpha = 1 and sigma = 0; where the first
    segment would pass alpha = 1 just above t = 0, alpha is held at 1.

    Args:
      betas: (N,) in (0, 1), N >= 2.
      log_snr_min: trailing nodes with a lower log-SNR are dropped, and the remaining ones fill (0,
        1] again, as in the public code (-5.1), so that the cosine schedule stays away from alpha =
        0. None keeps every node.

    Raises:
      ValueError: betas of another shape or range; fewer than two nodes remain.
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
                f"schedules.VPDiscrete: betas has shape {betas.shape} and {span}; wanted a vector "
                "of two or more numbers strictly between 0 and 1, noise growing with the index."
            )
        # alpha^2 is the cumulative product of 1 - beta.
        log_alpha = 0.5 * np.cumsum(np.log1p(-betas))
        if self.log_snr_min is not None:
            # log-SNR = log alpha - log sigma, with sigma^2 = 1 - alpha^2
            log_snr = log_alpha - 0.5 * np.log(-np.expm1(2 * log_alpha))
            log_alpha = log_alpha[log_snr >= self.log_snr_min]
        if len(log_alpha) < 2:
            raise ValueError(
                f"schedules.VPDiscrete: only {len(log_alpha)} node(s) have log-SNR >= "
                f"log_snr_min={self.log_snr_min}; two are needed: lower log_snr_min or give "
                "smaller betas."
            )
        # The dataclass is frozen, so its fields are set by the method of its base.
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "_nodes", log_alpha)

    @classmethod
    def linear(
        cls,
        steps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 2e-2,
        **options: float | None,
    ) -> "VPDiscrete":
        """Betas uniform from `beta_start` to `beta_end` (DDPM, arXiv:2006.11239)."""
        return cls(np.linspace(beta_start, beta_end, steps), **options)

    @classmethod
    def scaled_linear(
        cls,
        steps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        **options: float | None,
    ) -> "VPDiscrete":
        """Square roots of the betas uniform (latent diffusion, arXiv:2112.10752)."""
        return cls(np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2, **options)

    @classmethod
    def cosine(
        cls,
        steps: int = 1000,
        offset: float = 0.008,
        max_beta: float = 0.999,
        **options: float | None,
    ) -> "VPDiscrete":
        """Squared-cosine alpha-bar, betas capped at `max_beta`.

        Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 17.
        """
        angle = (np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2
        alpha_bar = np.cos(angle) ** 2
        betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
        return cls(np.minimum(betas, max_beta), **options)

    @property
    def steps(self) -> int:
        """Number of nodes that remain after the clip, N."""
        return len(self._nodes)

    def _segment(self, t):
        """(log alpha at the left node, its rise to the right one, place of t between the two)."""
        xp = array_module(t)
        nodes = xp.asarray(self._nodes, t.dtype)
        rises = xp.asarray(np.diff(self._nodes), t.dtype)
        place = t * self.steps
        # In float32, n/N times N may fall just below n. That is still node n: the next segment has
        # another slope.
        slack = xp.minimum(place * (4 * float(xp.finfo(t.dtype).eps)), 1e-3).astype(t.dtype)
        left = xp.clip(xp.floor(place + slack).astype(int) - 1, 0, self.steps - 2)
        return nodes[left], rises[left], place - (left + 1).astype(t.dtype)

    def log_alpha(self, t: Times) -> Array:
        """Piecewise linear between the nodes, at most 0, and exactly 0 at t = 0."""
        t = as_time(t)
        xp = array_module(t)
        start, rise, fraction = self._segment(t)
        # The minimum holds alpha = 1 where the first segment would pass it.
        return xp.where(t <= 0, xp.zeros_like(t), xp.minimum(start + fraction * rise, 0.0))

    def log_alpha_dot(self, t: Times) -> Array:
        """Slope of the segment that holds t (of the right one at a node)."""
        _, rise, _ = self._segment(as_time(t))
        return rise * self.steps

    def time_of_log_snr(self, log_snr: Times) -> Array:
        """Inverse of the piecewise-linear log alpha; t = 0 at +inf."""
        log_alpha = self._log_alpha_of_log_snr(log_snr)
        xp = array_module(log_alpha)
        nodes = xp.asarray(self._nodes, log_alpha.dtype)
        # The nodes fall with their index, and searchsorted wants rising numbers.
        right = xp.clip(xp.searchsorted(-nodes, -log_alpha), 1, self.steps - 1)
        start, rise = nodes[right - 1], nodes[right] - nodes[right - 1]
        t = (right.astype(log_alpha.dtype) + (log_alpha - start) / rise) / self.steps
        return xp.where(log_alpha == 0, xp.zeros_like(t), t)


def of_betas(
    kind: str,
    steps: int,
    first: float,
    last: float,
    trained: Sequence[float] | None = None,
) -> VPDiscrete:
    """The `VPDiscrete` that a diffusers configuration names, with all its nodes.

    The same arguments give the same object.

    Args:
      kind: its beta_schedule, "linear", "scaled_linear" or "squaredcos_cap_v2" (which takes no
        ends).
      steps: number of betas.
      first: the first beta.
      last: the last beta.
      trained: the betas themselves, in place of all else; or None.

    Raises:
      ValueError: an unknown kind, or what is no number in its range. The sentence has the names
        that the configuration gives to the arguments.
    """
    name = "schedules.of_betas"
    if trained is not None:
        if not isinstance(trained, list | tuple | np.ndarray):
            raise ValueError(f"{name}: trained_betas={trained!r}; wanted a list of numbers.")
        _check_inside(name, "trained_betas", trained)
        return _trained(tuple(trained))
    check_choice(name, "kind", kind, BETA_SCHEDULES)
    check_whole(name, "num_train_timesteps", steps, 2)
    _check_inside(name, "beta_start", [first])
    _check_inside(name, "beta_end", [last])
    return _of_betas(kind, steps, first, last)


@functools.cache
def _trained(betas):
    return VPDiscrete(np.array(betas), log_snr_min=None)


@functools.cache
def _of_betas(kind, steps, first, last):
    if kind == "squaredcos_cap_v2":
        return VPDiscrete.cosine(steps, log_snr_min=None)
    make = VPDiscrete.linear if kind == "linear" else VPDiscrete.scaled_linear
    return make(steps, first, last, log_snr_min=None)


def _check_inside(name, option, betas):
    """Refuse a beta that is no number between 0 and 1; the values of a file may be anything."""
    for beta in betas:
        is_real = isinstance(beta, int | float | np.number) and not isinstance(beta, bool)
        if not is_real or not 0 < beta < 1:
            hint = ", not a string" if isinstance(beta, str) else ""
            raise ValueError(f"{name}: {option}={beta!r}; wanted a number between 0 and 1{hint}.")
