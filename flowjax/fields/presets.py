"""Named fields for tests and experiments, from two points to the emoji.

Their numbers are the same on every machine.
"""

import numpy as np

from flowjax import data
from flowjax.fields.dataset import DataSet
from flowjax.fields.mixture import Gaussian, GaussianMixture
from flowjax.schedules import Schedule
from flowjax.types import Array


def _round_modes(means: Array, std: float, schedule: Schedule):
    """Equal modes of one standard deviation at `means` (K, D)."""
    modes, dim = means.shape
    vectors = np.broadcast_to(np.eye(dim), (modes, dim, dim))
    return GaussianMixture.from_eigen(
        np.full(modes, 1 / modes), means, vectors, np.full(means.shape, std**2), schedule
    )


def ring(
    schedule: Schedule, *, modes: int = 8, radius: float = 2.0, std: float = 0.15
) -> GaussianMixture:
    """`modes` equal round modes on a circle in the plane.

    Paths decide late and sharply between neighbouring modes.
    """
    angle = 2 * np.pi * np.arange(modes) / modes
    return _round_modes(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), std, schedule)


def two_points(schedule: Schedule, *, distance: float, std: float, dim: int = 1) -> GaussianMixture:
    """Two equal round modes `distance` apart on the first axis.

    Paths have one decision to make, at log-SNR near -log(distance/2).
    """
    means = np.zeros((2, dim))
    means[:, 0] = [-distance / 2, distance / 2]
    return _round_modes(means, std, schedule)


def random_mixture(
    seed: int,
    schedule: Schedule,
    *,
    dim: int,
    modes: int = 8,
    spread: float = 1.0,
    std: float = 0.2,
    anisotropy: float = 10.0,
) -> GaussianMixture:
    """A mixture with random means, orientations, widths and weights.

    Args:
      seed: of a numpy Generator.
      schedule: the path.
      dim, modes: D and K.
      spread: standard deviation of the means along each axis.
      std: geometric mean of the modes' standard deviations; they are log-uniform over a factor
        `anisotropy` about it.
      anisotropy: greatest ratio of two standard deviations, at least 1.
    """
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.5, 1.5, modes)
    means = spread * rng.standard_normal((modes, dim))
    vectors, _ = np.linalg.qr(rng.standard_normal((modes, dim, dim)))
    deviations = std * anisotropy ** rng.uniform(-0.5, 0.5, (modes, dim))
    return GaussianMixture.from_eigen(
        weights / weights.sum(), means, vectors, deviations**2, schedule
    )


def power_law(schedule: Schedule, *, dim: int, exponent: float) -> Gaussian:
    """A centred Gaussian whose i-th variance is i^-exponent, i = 1..dim.

    Like images it has structure at every scale.
    """
    values = np.arange(1, dim + 1, dtype=np.float64) ** -exponent
    return Gaussian.from_eigen(np.zeros(dim), np.eye(dim), values, schedule)


def digits(schedule: Schedule, *, bandwidth: float, chunk: int | None = None) -> DataSet:
    """The 1797 handwritten digits of scikit-learn, (8, 8, 1) in [-1, 1], with labels 0-9.

    It needs scikit-learn.
    """
    held = data.load("digits")
    return DataSet(held.images.astype(np.float64), bandwidth, schedule, chunk, held.labels)


def emoji(schedule: Schedule, *, bandwidth: float, chunk: int | None = None) -> DataSet:
    """1906 Noto emoji on white, (32, 32, 3) in [-1, 1], with labels 0-8 (see assets/NOTICE).

    The labels are the groups of Unicode.
    """
    held = data.load("emoji")
    return DataSet(held.images / 127.5 - 1, bandwidth, schedule, chunk, held.labels)
