"""Any path as a straight one: the states of a network divided by alpha + sigma, at new times.

On the path x_t = alpha data + sigma noise, the state y = x/(alpha + sigma) is

    y = (1 - s) data + s noise,    s = sigma/(alpha + sigma),

which is the path of flow matching up to the noise level s0 = s(t = 1). The time here is
tau = s/s0, which goes from 1 to 0 as every time in flowjax does. The velocity dy/dtau is
s0 (noise - data), and it is finite at both ends. On a variance-preserving path dx/dt is not: sigma
grows as the square root of t there.

A solver that integrates y in tau solves the same equation as one that integrates x in t; for
methods that are exact in the linear part, such as DPM-Solver++, it is the same solver.
`flowjax.plans.on_path` takes a plan from one path to the other.
"""

import functools
from dataclasses import dataclass

from flowjax.schedules.base import Schedule, array_module, as_time, expand, log
from flowjax.schedules.paths import Linear
from flowjax.types import Array, Times


@dataclass(frozen=True)
class Straight(Schedule):
    """The straight path with the data and the noise of another one: alpha = 1 - s0 t, sigma = s0 t.

    Attributes:
      source: the path that the network was trained on.
    """

    source: Schedule

    @functools.cached_property
    def most_noise(self) -> float:
        """s0 = sigma/(alpha + sigma) of the source at t = 1; 1 where its alpha is 0 there."""
        alpha, sigma = float(self.source.alpha(1.0)), float(self.source.sigma(1.0))
        return sigma / (alpha + sigma)

    def alpha(self, t: Times) -> Array:
        """1 - s0 t."""
        return 1 - self.most_noise * as_time(t)

    def sigma(self, t: Times) -> Array:
        """s0 t."""
        return self.most_noise * as_time(t)

    def log_snr(self, t: Times) -> Array:
        """log((1 - s0 t)/(s0 t)): +inf at t = 0."""
        return log(self.alpha(t)) - log(self.sigma(t))

    def time_of_log_snr(self, log_snr: Times) -> Array:
        """The time of the linear path over s0; 1 beyond the noisiest state of the source."""
        return _at_most_one(Linear().time_of_log_snr(log_snr) / self.most_noise)

    def alpha_dot(self, t: Times) -> Array:
        """alpha' = -s0."""
        return -self.most_noise * array_module(as_time(t)).ones_like(as_time(t))

    def sigma_sigma_dot(self, t: Times) -> Array:
        """The product is s0^2 t, since sigma' = s0."""
        return self.most_noise**2 * as_time(t)

    def rates(self, t: Times) -> tuple[Array, Array, Array]:
        """(alpha'/W, sigma'/W, 1/W) = (-1, 1, 1/s0), since W = s0."""
        t = as_time(t)
        one = array_module(t).ones_like(t)
        return -one, one, one / self.most_noise

    # ---- between this path and its source

    def source_time(self, t: Times) -> Array:
        """The time on the source's path with the same log-SNR."""
        return _at_most_one(self.source.time_of_log_snr(self.log_snr(t)))

    def time_of_source(self, t: Times) -> Array:
        """The time on this path with the log-SNR that the source has at `t`."""
        return self.time_of_log_snr(self.source.log_snr(t))

    def scale(self, source_time: Times) -> Array:
        """alpha + sigma of the source: what a state here is multiplied by to be one there."""
        return self.source.alpha(source_time) + self.source.sigma(source_time)

    def velocity_of(self, kind: str, prediction: Array, x: Array, source_time: Times) -> Array:
        """The velocity on this path that a prediction of the network implies.

        Args:
          kind: what the network predicts, one of `PREDICTIONS`.
          prediction: (B, *D).
          x: (B, *D), the state on the source's path.
          source_time: its time there, scalar or (B,).

        Returns:
          s0 (noise - data), (B, *D). Infinite where the prediction does not determine both: "noise"
          at alpha = 0, "data" at sigma = 0.
        """
        u, w = self._difference(kind, as_time(source_time))
        return self.most_noise * (expand(u, x) * x + expand(w, x) * prediction)

    def _difference(self, kind: str, t: Array) -> tuple[Array, Array]:
        """Weights (u, w): noise - data = u x + w prediction, with x at `t` on the source's path."""
        alpha, sigma = self.source.alpha(t), self.source.sigma(t)
        # x = alpha data + sigma noise is solved for what the prediction is not.
        if kind == "noise":
            return -1 / alpha, 1 + sigma / alpha
        if kind == "score":  # -noise/sigma
            return -1 / alpha, -sigma * (1 + sigma / alpha)
        if kind == "data":
            return 1 / sigma, -1 - alpha / sigma
        if kind == "v":  # alpha noise - sigma data
            square = alpha**2 + sigma**2
            return (sigma - alpha) / square, (alpha + sigma) / square
        data_x, data_v = self.source.prediction_weights("data", t)
        noise_x, noise_v = self.source.prediction_weights("noise", t)
        return noise_x - data_x, noise_v - data_v


def _at_most_one(t: Array) -> Array:
    """Times without the rounding that goes beyond t = 1."""
    return array_module(t).minimum(t, 1.0)


def straight(schedule: Schedule) -> Schedule:
    """The straight path of a network's own path: the linear path is its own."""
    return schedule if isinstance(schedule, Linear | Straight) else Straight(schedule)
