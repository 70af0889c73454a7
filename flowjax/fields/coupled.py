"""Mixtures whose noise is correlated with their data: the effect of re-pairing, in closed form.

Rectified flow trains again on pairs that a first flow made (arXiv:2209.03003), multisample and
optimal-transport flow matching pair within a batch (arXiv:2302.00482, 2304.14772). Both make noise
predict data, and that straightens paths. Here the strength of the pairing is one number. Within a
mode of covariance C = U diag(L) U^T, with unit Gaussians e, z,

    noise = U e,   data = mean + U sqrt(L) (rho e + sqrt(1 - rho^2) z),

so that cov(data, noise) = rho C^1/2,

and the noise alone is N(0, I) whatever rho is. On the linear path (a = 1 - t, s = t) each
eigenvector coordinate of x_t = a data + s noise has, within the mode,

    variance       S = a^2 L + s^2 + 2 a s rho sqrt(L)
    velocity gain  (-a L + s + rho sqrt(L) (a - s)) / S        data gain  (a L + s rho sqrt(L)) / S
    noise gain     (s + a rho sqrt(L)) / S                     score gain -1 / S

With rho = 1 and one mode S = (a sqrt(L) + s)^2 and every path is straight at constant speed: the
optimal-transport map between two Gaussians. With several modes noise still has to choose among
them, and that bends paths at any rho.
"""

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.fields.base import Field, Path, build, pytree, variance
from flowjax.fields.mixture import GaussianMixture, _checked, _decompose
from flowjax.schedules import Linear, Schedule
from flowjax.types import Array, Scalar


@pytree("schedule")
class CoupledMixture(GaussianMixture):
    """The path from a Gaussian mixture to noise that is correlated with the data within each mode.

    x_t = alpha data + sigma noise and velocity = noise - data hold as ever, so plans convert
    predictions as ever; what does not hold is score = -noise/sigma, which needs noise that is
    independent of the data.

    Args:
      weights, means, covariances: as of `GaussianMixture`.
      schedule: `Linear()`; the gains above are those of the linear path.
      coupling: rho in [0, 1]; 0 is `GaussianMixture`.
    """

    coupling: np.ndarray  # ()

    def __init__(
        self, weights: Array, means: Array, covariances: Array, schedule: Schedule, coupling: float
    ):
        vectors, values = _decompose(covariances)
        made = self.from_eigen(weights, means, vectors, values, schedule, coupling)
        self.__dict__.update(made.__dict__)

    @classmethod
    def from_eigen(
        cls,
        weights: Array,
        means: Array,
        vectors: Array,
        values: Array,
        schedule: Schedule,
        coupling: float,
    ) -> "CoupledMixture":
        """The coupled mixture of covariances U diag(L) U^T, as `GaussianMixture.from_eigen`."""
        if not isinstance(schedule, Linear):
            raise ValueError(
                f"fields.CoupledMixture: the schedule is {type(schedule).__name__}; noise that is "
                "correlated with data is solved here on the linear path only: give Linear(), or "
                "take GaussianMixture."
            )
        if np.ndim(coupling) or not 0 <= coupling <= 1:
            raise ValueError(
                f"fields.CoupledMixture: coupling={coupling!r}; wanted one number from 0 to 1."
            )
        coupling = np.asarray(coupling, np.float64)
        return build(
            cls, **_checked(weights, means, vectors, values), schedule=schedule, coupling=coupling
        )

    def with_schedule(self, schedule: Schedule) -> "Field":
        """The same data and coupling; any path but the linear one is refused."""
        return self.from_eigen(
            self.weights, self.means, self.vectors, self.values, schedule, self.coupling
        )

    def draw_pair(self, key: jax.Array, n: int) -> tuple[jax.Array, jax.Array]:
        """`n` exact pairs (data, noise) of the coupling: (n, D) each."""
        pick_key, noise_key, own_key = jax.random.split(key, 3)
        pick = jax.random.categorical(pick_key, jnp.log(jnp.asarray(self.weights)), shape=(n,))
        shared, own = (jax.random.normal(k, (n, self.means.shape[1])) for k in (noise_key, own_key))
        # data = mean + U sqrt(L) (rho e + sqrt(1 - rho^2) z), noise = U e
        rho = self._array("coupling", own)
        along = self._deviations(pick, own) * (rho * shared + jnp.sqrt(1 - rho**2) * own)
        data = self._array("means", own)[pick] + self._turned(pick, along)
        return data, self._turned(pick, shared)

    def draw_at(self, key: jax.Array, n: int, t: Scalar) -> jax.Array:
        """`n` exact samples of x_t: (n, D)."""
        data, noise = self.draw_pair(key, n)
        return self.schedule.add_noise(data, noise, jnp.asarray(t, data.dtype))

    def _variance(self, path: Path, values: Array):
        # The cross term is at least 0, so the floor of `variance` holds for the sum.
        cross = 2 * path.alpha * path.sigma * self._root(values)
        return variance(path, values) + cross

    def _gains(self, kind: str, path: Path, values: Array):
        a, s, root = path.alpha, path.sigma, self._root(values)
        # The table of the module docstring, without the common factor 1/S.
        shift, numerator = {
            "velocity": (-1, s - a * values + root * (a - s)),
            "data": (1, a * values + s * root),
            "noise": (0, s + a * root),
            "score": (0, -1),
        }[kind]
        exists = a**2 * values + s**2 > 0
        return shift, jnp.where(exists, numerator / self._variance(path, values), 0)

    def _root(self, values: Array):
        """rho sqrt(L)."""
        return self._array("coupling", values) * jnp.sqrt(values)


def couple(mixture: GaussianMixture, coupling: float) -> CoupledMixture:
    """A GaussianMixture on the linear path with noise correlated with its data.

    Example: `couple(ring(Linear()), 0.5)`.

    Args:
      mixture: of any number of modes.
      coupling: rho in [0, 1].
    """
    return CoupledMixture.from_eigen(
        mixture.weights, mixture.means, mixture.vectors, mixture.values, mixture.schedule, coupling
    )
