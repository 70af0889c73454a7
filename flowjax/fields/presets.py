"""Named fields for tests and experiments, from two points to the emoji; the same numbers on every machine."""

import numpy as np

from flowjax import data
from flowjax.fields.dataset import DataSet
from flowjax.fields.mixture import Gaussian, GaussianMixture


def _round_modes(means, std, schedule):
    """Equal modes of one standard deviation at `means` (K, D)."""
    modes, dim = means.shape
    vectors = np.broadcast_to(np.eye(dim), (modes, dim, dim))
    return GaussianMixture.from_eigen(
        np.full(modes, 1 / modes), means, vectors, np.full(means.shape, std**2), schedule
    )


def ring(schedule, *, modes=8, radius=2.0, std=0.15):
    """`modes` equal round modes on a circle in the plane: late, sharp decisions between neighbours."""
    angle = 2 * np.pi * np.arange(modes) / modes
    return _round_modes(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1), std, schedule)


def two_points(schedule, *, distance, std, dim=1):
    """Two equal round modes `distance` apart on the first axis: one decision, at log-SNR near -log(distance/2)."""
    means = np.zeros((2, dim))
    means[:, 0] = [-distance / 2, distance / 2]
    return _round_modes(means, std, schedule)


def random_mixture(seed, schedule, *, dim, modes=8, spread=1.0, std=0.2, anisotropy=10.0):
    """A mixture with random means, orientations, widths and weights.

    Args:
      seed: of a numpy Generator.
      schedule: the path.
      dim, modes: D and K.
      spread: standard deviation of the means along each axis.
      std: geometric mean of the modes' standard deviations; they are log-uniform over a factor `anisotropy` about it.
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


def power_law(schedule, *, dim, exponent):
    """A centred Gaussian whose i-th variance is i^-exponent, i = 1..dim: structure at every scale, as in images."""
    values = np.arange(1, dim + 1, dtype=np.float64) ** -exponent
    return Gaussian.from_eigen(np.zeros(dim), np.eye(dim), values, schedule)


def digits(schedule, *, bandwidth, chunk=None):
    """The 1797 handwritten digits of scikit-learn, (8, 8, 1) in [-1, 1], with labels 0-9; needs scikit-learn."""
    held = data.load("digits")
    return DataSet(held.images.astype(np.float64), bandwidth, schedule, chunk, held.labels)


def emoji(schedule, *, bandwidth, chunk=None):
    """1906 Noto emoji on white, (32, 32, 3) in [-1, 1], with the labels 0-8 of their groups (see assets/NOTICE)."""
    held = data.load("emoji")
    return DataSet(held.images / 127.5 - 1, bandwidth, schedule, chunk, held.labels)
