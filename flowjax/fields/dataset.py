"""The exact field of a finite data set: the velocity of a network that fits its data perfectly.

The data are K points, each smoothed by an isotropic Gaussian of standard deviation b, so x_t is a
mixture of K round Gaussians of variance V = a^2 b^2 + s^2. All predictions need one average over
the data, with softmax weights:

    g_k ~ exp(-|x - a y_k|^2 / 2V),   mean = sum_k g_k y_k,
    prediction = shift mean + gain (x - a mean)

with (shift, gain) of `base.gains` at the eigenvalue b^2.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.fields.base import HIGHEST, Field, check_state, gains, path_at, pytree, variance
from flowjax.schedules import Schedule
from flowjax.types import Array, Scalar


class Posterior(NamedTuple):
    """Softmax statistics over the data seen so far.

    Sums are scaled by exp(-peak) and not yet divided by `total`.
    """

    peak: jax.Array  # (B,) largest logit
    index: jax.Array | None  # (B,) its datum, where that is asked for
    total: jax.Array  # (B,) sum of weights
    mean: jax.Array  # (B, F) weighted sum of centred data
    square: jax.Array  # (B,) weighted sum of their squared norms


@pytree("schedule", "chunk")
class DataSet(Field):
    """The path from a finite data set, smoothed by `bandwidth`, to noise.

    With bandwidth 0 the field is singular as t -> 0. At exactly t = 0 it answers: data is the
    nearest datum y (ties are averaged), noise and score are 0, velocity is alpha'(0) y.

    float32: the data are centred and |x|^2 is left out of the logits, since it is the same for all
    of them; what is left is an absolute error of about 1e-7 |y|^2 / V in a logit (y centred), which
    matters only between data so close that |y_i - y_j|^2 is comparable to V. On the emoji at
    bandwidth 0.02, velocities agree with float64 to 2e-6 of their norm at every t (64 samples at
    each of 11 times).

    Args:
      samples: (K, *D).
      bandwidth: standard deviation b >= 0.
      schedule: the path.
      chunk: the data are read `chunk` at a time, which bounds the weights held at once to (B,
        chunk). None reads all.
      labels: (K,) integers, for `subset`.
    """

    offsets: np.ndarray  # (K, F) data minus centre, flattened
    centre: np.ndarray  # (*D)
    squares: np.ndarray  # (K,) squared norms of the offsets
    bandwidth: np.ndarray  # ()
    labels: np.ndarray | None  # (K,)
    schedule: Schedule
    chunk: int | None

    def __init__(
        self,
        samples: Array,
        bandwidth: float,
        schedule: Schedule,
        chunk: int | None = None,
        labels: Array | None = None,
    ):
        samples = np.asarray(samples, np.float64)
        labels = None if labels is None else np.asarray(labels)
        _check(samples, bandwidth, chunk, labels)
        centre = samples.mean(0)
        offsets = (samples - centre).reshape(len(samples), -1)
        self.__dict__.update(
            offsets=offsets,
            centre=centre,
            squares=(offsets**2).sum(1),
            bandwidth=np.asarray(bandwidth, np.float64),
            labels=labels,
            schedule=schedule,
            chunk=chunk,
        )

    @property
    def samples(self) -> Array:
        """The data, to rounding: (K, *D)."""
        return self.offsets.reshape((-1,) + self.centre.shape) + self.centre[None]

    def subset(self, label: int) -> "DataSet":
        """The data set of one label: the class-conditional field that guidance needs."""
        if self.labels is None or not np.any(np.asarray(self.labels) == label):
            known = "no labels were given"
            if self.labels is not None:
                known = f"the labels are {np.unique(self.labels).tolist()}"
            raise ValueError(f"fields.DataSet.subset: no datum has label {label!r}; {known}.")
        has_label = np.asarray(self.labels) == label
        chunk = None if self.chunk is None else min(self.chunk, int(has_label.sum()))
        samples, labels = np.asarray(self.samples)[has_label], self.labels[has_label]
        return DataSet(samples, self.bandwidth, self.schedule, chunk, labels)

    def draw(self, key: jax.Array, n: int) -> jax.Array:
        """`n` exact samples of the smoothed data: (n, *D)."""
        pick_key, normal_key = jax.random.split(key)
        pick = jax.random.randint(pick_key, (n,), 0, len(self.offsets))
        normal = jax.random.normal(normal_key, (n,) + self.centre.shape)
        data = (
            jnp.asarray(self.offsets)[pick].reshape(normal.shape) + jnp.asarray(self.centre)[None]
        )
        return data.astype(normal.dtype) + jnp.asarray(self.bandwidth, normal.dtype) * normal

    def nearest(self, x: Array) -> jax.Array:
        """Index of the nearest datum: (B,)."""
        return self._posterior(x, 0.0, with_index=True)[1].index

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """The data (K, *D), and the mean squared distance of smoothed data to them, F b^2: (K,).

        Both are numpy arrays.
        """
        count, size = self.offsets.shape
        return np.asarray(self.samples), np.full(count, size * float(self.bandwidth) ** 2)

    def log_density(self, x: Array, t: Scalar) -> jax.Array:
        """log p_t(x): (B,)."""
        x, posterior, path = self._posterior(x, t)
        spread = variance(path, self._values(x))[:, 0]
        # The logits leave out -|x|^2/2V, which is the same for all data.
        log_sum = posterior.peak + jnp.log(posterior.total) - (x**2).sum(1) / (2 * spread)
        return (
            log_sum - math.log(len(self.offsets)) - 0.5 * x.shape[1] * jnp.log(2 * np.pi * spread)
        )

    def divergence(self, x: Array, t: Scalar) -> jax.Array:
        """Divergence of the velocity, in closed form: (B,).

            F gain + a (alpha' - a gain) / V  sum_k g_k |y_k - mean|^2,   F numbers in a sample.

        The posterior variance is a difference of squares, so float32 errs by about 1e-7 |y|^2 of
        it.
        """
        x, posterior, path = self._posterior(x, t)
        _, gain = gains("velocity", path, self._values(x))
        spread = variance(path, self._values(x))
        mean_square = posterior.square / posterior.total
        mean = posterior.mean / posterior.total[:, None]
        # E|y|^2 - |E y|^2, which rounding may make negative
        posterior_variance = jnp.maximum(mean_square - (mean**2).sum(1), 0)
        # alpha' - a gain without its cancellation: both terms of the numerator have the same sign.
        pull = (path.alpha_dot * path.sigma**2 - path.alpha * path.sigma_sigma_dot) / spread
        return x.shape[1] * gain[:, 0] + (path.alpha * pull / spread)[:, 0] * posterior_variance

    def _values(self, x: Array):
        """The one eigenvalue b^2, shaped (1, 1)."""
        return jnp.asarray(self.bandwidth, x.dtype).reshape(1, 1) ** 2

    def _posterior(self, x: Array, t: Scalar, with_index: bool = False):
        """Centred state x - a centre (B, F), softmax statistics, and the path (1 or B, 1).

        An online softmax (running peak) over chunks. The logit a (x.y - a |y|^2 / 2) / V is -|x - a
        y|^2 / 2V without the part that all data share. The last chunk is moved back to end with the
        data; what was seen is masked.

        The index of the largest logit is found only `with_index`. Inside a `lax.while_loop` an
        index that nobody uses would still be searched for: XLA takes the maximum from the same
        slow loop before it removes what is not used, and an evaluation took 1.9 times as long.
        """
        x = check_state("DataSet", x, t, self.centre.shape).reshape(-1, self.offsets.shape[1])
        path = path_at(self.schedule, t, x.dtype, 2)
        x = x - path.alpha * jnp.asarray(self.centre, x.dtype).reshape(1, -1)
        spread = variance(path, self._values(x))
        count, size = len(self.offsets), self.chunk or len(self.offsets)
        offsets, squares = jnp.asarray(self.offsets), jnp.asarray(self.squares)

        def step(seen, first):
            start = jnp.minimum(first, count - size)
            y = jax.lax.dynamic_slice_in_dim(offsets, start, size).astype(x.dtype)
            square = jax.lax.dynamic_slice_in_dim(squares, start, size).astype(x.dtype)[None]
            products = jnp.matmul(x, y.T, precision=HIGHEST)  # (B, chunk)
            logits = path.alpha * (products - 0.5 * path.alpha * square) / spread
            is_new = start + jnp.arange(size) >= first
            logits = jnp.where(is_new[None], logits, -jnp.inf)
            # Results do not depend on the peak, so it needs no derivative. The derivative of a
            # maximum would be 0/0 where a compiler recomputes the logits in another order of
            # summation and none of them equals the peak.
            peak = jax.lax.stop_gradient(jnp.maximum(seen.peak, logits.max(1)))
            weight = jnp.exp(logits - peak[:, None])
            # The sums so far were scaled by the old peak.
            decay = jnp.exp(seen.peak - peak)
            index = seen.index
            if with_index:
                index = jnp.where(logits.max(1) > seen.peak, start + logits.argmax(1), index)
            return Posterior(
                peak=peak,
                index=index,
                total=seen.total * decay + weight.sum(1),
                mean=seen.mean * decay[:, None] + jnp.matmul(weight, y, precision=HIGHEST),
                square=seen.square * decay + (weight * square).sum(1),
            ), None

        zero = jnp.zeros_like(x[:, 0])
        index = jnp.zeros(len(x), int) if with_index else None
        start = Posterior(zero - jnp.inf, index, zero, jnp.zeros_like(x), zero)
        posterior, _ = jax.lax.scan(step, start, jnp.arange(0, count, size))
        return x, posterior, path

    def _predict(self, kind: str, x: Array, t: Scalar):
        centred, posterior, path = self._posterior(x, t)
        # prediction = shift mean + gain (x - a mean), with the mean of the data in its own place
        mean = posterior.mean / posterior.total[:, None]
        shift, gain = gains(kind, path, self._values(centred))
        centre = jnp.asarray(self.centre, centred.dtype).reshape(1, -1)
        prediction = shift * (mean + centre) + gain * (centred - path.alpha * mean)
        return prediction.reshape(jnp.shape(x))


def _check(samples: Array, bandwidth: float, chunk: int | None, labels: Array | None):
    if samples.ndim < 2 or 0 in samples.shape:
        raise ValueError(
            f"fields.DataSet: samples have shape {samples.shape}; wanted (K, *D), K >= 1 data of "
            "one or more axes: numbers on a line are samples[:, None]."
        )
    if not (np.ndim(bandwidth) == 0 and bandwidth >= 0):
        raise ValueError(
            f"fields.DataSet: bandwidth={bandwidth}; wanted one standard deviation, at least 0."
        )
    if chunk is not None and not (
        isinstance(chunk, (int, np.integer)) and 1 <= chunk <= len(samples)
    ):
        raise ValueError(
            f"fields.DataSet: chunk={chunk}; wanted None or an integer from 1 to "
            f"K = {len(samples)}."
        )
    if labels is not None and labels.shape != (len(samples),):
        raise ValueError(
            f"fields.DataSet: labels have shape {labels.shape}; wanted ({len(samples)},), one for "
            "each datum."
        )
