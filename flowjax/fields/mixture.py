"""Gaussian mixtures and single Gaussians: exact predictions, densities and divergences.

For a single Gaussian the flow of the ODE is known as well.

The marginal of x_t is the mixture of N(a mean_k, a^2 C_k + s^2 I), so with responsibilities g_k(x,
t) each prediction is the average sum_k g_k prediction_k of the components' own (see `base`).
Covariances are kept as eigenvectors and
eigenvalues: a^2 L + s^2 is a sum of positive numbers, so a mode of width 1e-3 keeps its relative
accuracy in float32, which a factorisation of a^2 C + s^2 I in float32 would lose.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.fields.base import (
    HIGHEST,
    Field,
    Path,
    build,
    check_state,
    gains,
    path_at,
    pytree,
    variance,
)
from flowjax.schedules import Schedule
from flowjax.types import Array, Scalar


@pytree("schedule")
class GaussianMixture(Field):
    """The path from a Gaussian mixture to noise.

    Args:
      weights: (K,), nonnegative, sum 1.
      means: (K, D).
      covariances: (K, D, D), symmetric, positive semidefinite; decomposed once, on the host, in
        float64.
      schedule: the path.
    """

    weights: np.ndarray  # (K,)
    means: np.ndarray  # (K, D)
    vectors: np.ndarray  # (K, D, D), eigenvectors in columns
    values: np.ndarray  # (K, D)
    schedule: Schedule

    def __init__(self, weights: Array, means: Array, covariances: Array, schedule: Schedule):
        vectors, values = _decompose(covariances)
        self.__dict__.update(_checked(weights, means, vectors, values), schedule=schedule)

    @classmethod
    def from_eigen(
        cls, weights: Array, means: Array, vectors: Array, values: Array, schedule: Schedule
    ) -> "GaussianMixture":
        """The mixture with covariances U diag(L) U^T.

        Args:
          weights, means: as of the class.
          vectors: (K, D, D), U, with eigenvectors in columns.
          values: (K, D), L, the eigenvalues.
          schedule: the path.
        """
        return build(cls, **_checked(weights, means, vectors, values), schedule=schedule)

    @property
    def covariances(self) -> Array:
        """U diag(L) U^T: (K, D, D)."""
        return (self.vectors * self.values[:, None, :]) @ self.vectors.swapaxes(1, 2)

    def subset(self, components: Any) -> "GaussianMixture":
        """The renormalised mixture of some components: a class-conditional field for guidance.

        Args:
          components: indices, a slice or a boolean mask (K,).
        """
        weights = np.atleast_1d(np.asarray(self.weights)[components])
        if weights.sum() <= 0:
            raise ValueError(
                f"fields.GaussianMixture.subset: components {components} of {len(self.weights)} "
                f"have weight {weights.sum()}; wanted at least one component of positive weight."
            )
        pick = np.atleast_1d(np.arange(len(self.weights))[components])
        chosen = {
            name: np.asarray(getattr(self, name))[pick] for name in ("means", "vectors", "values")
        }
        rest = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return build(type(self), **(rest | chosen | {"weights": weights / weights.sum()}))

    def responsibilities(self, x: Array, t: Scalar) -> jax.Array:
        """Probability that x_t = x came from each component: (B, K), rows sum to 1."""
        return jax.nn.softmax(self._log_joint(x, t)[0], axis=1)

    def log_density(self, x: Array, t: Scalar) -> jax.Array:
        """log p_t(x): (B,)."""
        return jax.nn.logsumexp(self._log_joint(x, t)[0], axis=1)

    def nearest(self, x: Array) -> jax.Array:
        """Index of the component that a data point x most likely came from: (B,)."""
        return jnp.argmax(self._log_joint(x, 0.0)[0], axis=1)

    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres of the modes (K, D), and the mean squared distance of their data to them: (K,).

        Both are numpy arrays.
        """
        return np.asarray(self.means), np.asarray(self.values).sum(1)

    def divergence(self, x: Array, t: Scalar) -> jax.Array:
        """Divergence of the velocity, in closed form: (B,).

            sum_k g_k trace(A_k) + sum_k g_k (score_k - score) . (velocity_k - velocity),

        A_k the Jacobian of component k's own velocity; the second sum is how the responsibilities
        turn, since grad g_k = g_k (score_k - score).
        """
        log_joint, path, residual = self._log_joint(x, t)
        weight = jax.nn.softmax(log_joint, axis=1)  # (B, K)
        values = self._array("values", residual)[None]
        # The trace of A_k is the sum of its gains along the eigenvectors.
        trace = self._gains("velocity", path, values)[1].sum(2)
        velocity = self._components("velocity", path, residual)  # (B, K, D)
        score = self._components("score", path, residual)
        # Differences to the averages over components: velocity_k - velocity, score_k - score.
        velocity = velocity - _average(weight, velocity)[:, None]
        score = score - _average(weight, score)[:, None]
        return (weight * (trace + (velocity * score).sum(2))).sum(1)

    def draw(self, key: jax.Array, n: int) -> jax.Array:
        """`n` exact samples of the data: (n, D)."""
        pick_key, normal_key = jax.random.split(key)
        pick = jax.random.categorical(pick_key, jnp.log(jnp.asarray(self.weights)), shape=(n,))
        normal = jax.random.normal(normal_key, (n, self.means.shape[1]))
        along_axes = self._deviations(pick, normal) * normal  # in eigenvector coordinates
        return self._array("means", normal)[pick] + self._turned(pick, along_axes)

    def _deviations(self, pick: jax.Array, like: jax.Array):
        """Standard deviations (n, D) of the components `pick` (n,) along their eigenvectors."""
        return jnp.sqrt(self._array("values", like))[pick]

    def _turned(self, pick: jax.Array, coordinates: jax.Array):
        """Vectors (n, D) with these coordinates in the eigenvectors of components `pick` (n,)."""
        # One product for each component, then a choice: no (n, D, D) array of gathered
        # eigenvectors.
        turned = jnp.einsum(
            "kij,nj->kni", self._array("vectors", coordinates), coordinates, precision=HIGHEST
        )
        return turned[pick, jnp.arange(len(pick))]

    def _variance(self, path: Path, values: Array):
        """Variance of x_t within a component, along its eigenvectors."""
        return variance(path, values)

    def _gains(self, kind: str, path: Path, values: Array):
        """(shift, gain) of a component's prediction; see `base.gains`."""
        return gains(kind, path, values)

    def _array(self, name: str, like: jax.Array):
        return jnp.asarray(getattr(self, name), like.dtype)

    def _log_joint(self, x: Array, t: Scalar):
        """log(weight density) of each component (B, K), the path, and the residual (B, K, D).

        The residual is x - a mean in eigenvector coordinates.
        """
        x = check_state(type(self).__name__, x, t, self.means.shape[1:])
        path = path_at(self.schedule, t, x.dtype, 3)
        # (B, K, D): the offset from each mean, then its coordinates along the eigenvectors.
        offset = x[:, None, :] - path.alpha * self._array("means", x)[None]
        residual = jnp.einsum("kij,bki->bkj", self._array("vectors", x), offset, precision=HIGHEST)
        spread = self._variance(path, self._array("values", x)[None])
        # log N(x; a mean, V), a sum over independent eigenvector coordinates
        log_density = -0.5 * (jnp.log(2 * np.pi * spread) + residual**2 / spread).sum(2)
        return jnp.log(self._array("weights", x))[None] + log_density, path, residual

    def _components(self, kind: str, path: Path, residual: jax.Array):
        """The prediction of each component on its own: (B, K, D)."""
        shift, gain = self._gains(kind, path, self._array("values", residual)[None])
        turned = jnp.einsum(
            "kij,bkj->bki", self._array("vectors", residual), gain * residual, precision=HIGHEST
        )
        return shift * self._array("means", residual)[None] + turned

    def _predict(self, kind: str, x: Array, t: Scalar):
        log_joint, path, residual = self._log_joint(x, t)
        return _average(jax.nn.softmax(log_joint, axis=1), self._components(kind, path, residual))


@pytree("schedule")
class Gaussian(GaussianMixture):
    """The path from one Gaussian to noise: a mixture of one, whose flow map is also known.

    Args:
      mean: (D,).
      covariance: (D, D), symmetric, positive semidefinite.
      schedule: the path.
    """

    def __init__(self, mean: Array, covariance: Array, schedule: Schedule):
        super().__init__([1.0], np.asarray(mean)[None], np.asarray(covariance)[None], schedule)

    @classmethod
    def from_eigen(
        cls, mean: Array, vectors: Array, values: Array, schedule: Schedule
    ) -> "Gaussian":
        """The Gaussian with covariance U diag(L) U^T.

        Args:
          mean: (D,).
          vectors: (D, D), U, with eigenvectors in columns.
          values: (D,), L, the eigenvalues.
          schedule: the path.
        """
        mean, vectors, values = (np.asarray(array)[None] for array in (mean, vectors, values))
        return build(cls, **_checked([1.0], mean, vectors, values), schedule=schedule)

    def flow(self, x: Array, t0: Scalar, t1: Scalar) -> jax.Array:
        """The state at `t1` of the ODE that passes through `x` at `t0`, in closed form: (B, D).

            x(t1) = a1 mean + U sqrt(a1^2 L + s1^2)/sqrt(a0^2 L + s0^2) U^T (x - a0 mean)

        Each eigenvector coordinate keeps its quantile. Either direction.

        Args:
          x: (B, D).
          t0, t1: scalars or (B,).
        """
        check_state("Gaussian.flow", x, t1, self.means.shape[1:])
        _, start, residual = self._log_joint(x, t0)
        end = path_at(self.schedule, t1, residual.dtype, 3)
        values = self._array("values", residual)[None]
        # Each coordinate keeps its quantile: it is scaled by the ratio of standard deviations.
        scaled = residual * jnp.sqrt(self._variance(end, values) / self._variance(start, values))
        turned = jnp.einsum(
            "kij,bkj->bki", self._array("vectors", residual), scaled, precision=HIGHEST
        )
        return (end.alpha * self._array("means", residual)[None] + turned)[:, 0]


def _average(weight: jax.Array, components: Any):
    """sum_k weight (B, K) times components (B, K, D): (B, D)."""
    return jnp.einsum("bk,bkd->bd", weight, components, precision=HIGHEST)


def _decompose(covariances: Array):
    """Eigenvectors (K, D, D) and eigenvalues (K, D) of positive semidefinite matrices."""
    covariances = np.asarray(covariances, np.float64)
    if covariances.ndim != 3 or covariances.shape[1] != covariances.shape[2]:
        raise ValueError(
            f"fields.GaussianMixture: covariances have shape {covariances.shape}; wanted "
            "(K, D, D), one square matrix for each component. For standard deviations or diagonals "
            "use from_eigen."
        )
    asymmetry = np.abs(covariances - covariances.swapaxes(1, 2)).max()
    size = np.abs(covariances).max()
    if not asymmetry <= 1e-6 * size:
        raise ValueError(
            f"fields.GaussianMixture: covariances differ from their transposes by {asymmetry:.3g} "
            f"(largest entry {size:.3g}); wanted finite symmetric matrices: give (C + C.T)/2."
        )
    values, vectors = np.linalg.eigh((covariances + covariances.swapaxes(1, 2)) / 2)
    if values.min() < -1e-9 * size:
        raise ValueError(
            f"fields.GaussianMixture: covariances have an eigenvalue {values.min():.3g}; wanted "
            "positive semidefinite matrices (are they products A @ A.T?)."
        )
    return vectors, np.maximum(values, 0)


def _checked(weights: Array, means: Array, vectors: Array, values: Array):
    """Check shapes and ranges, and return the arrays of a mixture in float64.

    The weights are normalised to rounding.
    """
    weights, means, vectors, values = (
        np.asarray(array, np.float64) for array in (weights, means, vectors, values)
    )
    if means.ndim != 2 or 0 in means.shape:
        raise ValueError(
            f"fields.GaussianMixture: means have shape {means.shape}; wanted (K, D), one row for "
            "each component."
        )
    modes, dim = means.shape
    if (
        weights.shape != (modes,)
        or vectors.shape != (modes, dim, dim)
        or values.shape != (modes, dim)
    ):
        raise ValueError(
            f"fields.GaussianMixture: weights {weights.shape}, eigenvectors {vectors.shape} and "
            f"eigenvalues {values.shape} do not fit means {means.shape}; wanted (K,), "
            "(K, D, D) and (K, D)."
        )
    if not (np.all(weights >= 0) and abs(weights.sum() - 1) < 1e-6):
        raise ValueError(
            f"fields.GaussianMixture: weights sum to {weights.sum():.8g} and the least is "
            f"{weights.min():.3g}; wanted nonnegative numbers that sum to 1: divide by the sum."
        )
    if not np.all(values >= 0):
        raise ValueError(
            f"fields.GaussianMixture: the least eigenvalue is {values.min():.3g}; wanted variances "
            "of at least 0."
        )
    if not np.allclose(vectors.swapaxes(1, 2) @ vectors, np.eye(dim), atol=1e-6):
        raise ValueError(
            "fields.GaussianMixture: eigenvectors are not orthonormal; wanted unit vectors in "
            "columns."
        )
    return {
        "weights": weights / weights.sum(),
        "means": means,
        "vectors": vectors,
        "values": values,
    }
