"""Distances between distributions, without pairs; each sees some defects and is blind to others."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from flowjax.types import Array

BLOCK = 1024  # rows of a pairwise matrix that are held at once


def sliced_wasserstein(x: Array, y: Array, *, directions: int, seed: int) -> float:
    """Root mean square, over random directions, of the exact W2 distance of the projections.

    It sees every difference of distributions, in the units of the data. In F dimensions a defect
    along one axis is diluted by sqrt(F). The floor falls only as 1/sqrt(N), because chance decides
    how many samples each mode gets, and it can hide too little spread in each mode (see
    docs/findings.md). To see that, compare with exact endpoints of the same noise, for which the
    fractions of samples in the modes agree.

    Args:
      x, y: (N, *D) and (M, *D); sizes may differ.
      directions: how many.
      seed: of the directions; use one seed for all methods that are compared.

    Raises:
      ValueError: shapes that do not fit.
    """
    x, y = _rows("sliced_wasserstein", x, y)

    # Unit vectors of uniform direction.
    unit = np.random.default_rng(seed).standard_normal((x.shape[1], directions))
    unit /= np.linalg.norm(unit, axis=0)

    # W2^2 in one dimension is int (quantile_x - quantile_y)^2 over the levels 0 to 1. Both quantile
    # functions are constant between consecutive levels of the merged grid.
    levels = np.union1d(np.linspace(0, 1, len(x) + 1), np.linspace(0, 1, len(y) + 1))
    middle, width = (levels[:-1] + levels[1:]) / 2, np.diff(levels)
    quantiles = []
    for samples in (x, y):
        projections = np.sort(samples @ unit, axis=0)  # (N, directions)
        quantiles.append(projections[(middle * len(samples)).astype(int)])
    squares = (quantiles[0] - quantiles[1]) ** 2  # (levels, directions)
    return float(np.sqrt(width @ squares.mean(1)))


def energy(x: Array, y: Array) -> float:
    """Squared energy distance, 2 E|x - y| - E|x - x'| - E|y - y'|.

    The estimate is unbiased, so it may be slightly negative, and it is zero in the mean when both
    are draws of one distribution. It sees every difference of distributions, but mostly of location
    and large scale: a wrong spread inside modes that are far apart changes it little.

    Args:
      x, y: (N, *D) and (M, *D), two or more samples each.

    Raises:
      ValueError: shapes that do not fit.
    """
    return _squared_discrepancy("energy", lambda a, b: -cdist(a, b), x, y)


def mmd(x: Array, y: Array, bandwidth: float) -> float:
    """Squared maximum mean discrepancy with a Gaussian kernel, unbiased (Gretton et al. 2012).

        kernel(x, y) = exp(-|x - y|^2 / 2 bandwidth^2)

    It sees differences at the scale of the bandwidth. With a bandwidth like the width of the modes
    it sees the spread within modes; with that of all the data (their median distance, the usual
    choice) it hardly does. It is zero in the mean when both are draws of one distribution.

    Args:
      x, y: (N, *D) and (M, *D), two or more samples each.
      bandwidth: in the units of the data.

    Raises:
      ValueError: a bandwidth that is not positive, or shapes that do not fit.
    """
    if not bandwidth > 0:
        raise ValueError(
            f"distances.mmd: bandwidth {bandwidth}; wanted a length > 0 in the units of the data."
        )

    def kernel(a, b):
        return np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2))

    return _squared_discrepancy("mmd", kernel, x, y)


def kid(features_x: Array, features_y: Array) -> float:
    """Kernel inception distance: an unbiased squared MMD (arXiv:1801.01401, section 4).

        kernel(x, y) = (x.y/F + 1)^3

    It sees the first three moments of the features. So it sees less than `energy` on raw samples,
    and only what the features preserve. It is unbiased at every N, where the Frechet distance is
    not. It is computed on all rows; the paper's code averages over subsets.

    Args:
      features_x, features_y: (N, F) and (M, F), two or more rows each.

    Raises:
      ValueError: shapes that do not fit.
    """

    def kernel(a, b):
        affine = a @ b.T / a.shape[1] + 1
        return affine * affine * affine  # numpy's power is far slower

    return _squared_discrepancy("kid", kernel, features_x, features_y)


def _squared_discrepancy(name, kernel, x, y):
    """Unbiased E k(x, x') + E k(y, y') - 2 E k(x, y): pairs of a row with itself are left out."""
    x, y = _rows(name, x, y, least=2)

    def among(a):
        blocks = _kernel_blocks(kernel, a, a)
        total = sum(block.sum() - block.trace(offset=first) for first, block in blocks)
        return total / (len(a) * (len(a) - 1))

    total = sum(block.sum() for _, block in _kernel_blocks(kernel, x, y))
    between = total / (len(x) * len(y))
    return float(among(x) + among(y) - 2 * between)


def _kernel_blocks(kernel: Callable, a: np.ndarray, b: np.ndarray) -> Iterator[tuple]:
    """The matrix kernel(a_i, b_j) in blocks of rows: (the first row, the block)."""
    return ((i, kernel(a[i : i + BLOCK], b)) for i in range(0, len(a), BLOCK))


def frechet(features_x: Array, features_y: Array) -> float:
    """Frechet distance between Gaussians that are fitted to the features: a squared W2.

    It is the "FID" form, on features of any kind. It sees means and covariances and nothing else,
    so it can miss too little spread inside modes, because the positions of the modes make the
    covariance (see docs/findings.md). It is biased upwards as 1/N: compare at equal N, beside
    `floor`.

    Args:
      features_x, features_y: (N, F) and (M, F), two or more rows each; fewer than F are allowed.

    Raises:
      ValueError: shapes that do not fit.
    """
    x, y = _rows("frechet", features_x, features_y, least=2)
    return gaussian_w2(*_moments(x), *_moments(y)) ** 2


def _moments(features):
    """(mean (F,), covariance (F, F)) of the rows."""
    return features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))


def gaussian_w2(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> float:
    """Exact Wasserstein-2 distance between two Gaussians.

        W2^2 = |mean1 - mean2|^2 + trace(cov1 + cov2 - 2 (cov1^1/2 cov2 cov1^1/2)^1/2)

    The last trace is the sum of the singular values of cov1^1/2 cov2^1/2. Singular values lose half
    as many digits as roots of eigenvalues, and stay real for singular matrices. W2 is accurate to
    about 1e-8 of the standard deviations.

    Args:
      mean1, mean2: (F,).
      cov1, cov2: (F, F), symmetric and positive semidefinite.

    Raises:
      ValueError: shapes that do not fit.
    """
    mean1, mean2 = np.asarray(mean1, np.float64), np.asarray(mean2, np.float64)
    cov1, cov2 = np.asarray(cov1, np.float64), np.asarray(cov2, np.float64)
    size = mean1.shape + mean1.shape
    if mean1.ndim != 1 or mean2.shape != mean1.shape or cov1.shape != size or cov2.shape != size:
        raise ValueError(
            f"distances.gaussian_w2: shapes are {mean1.shape}, {cov1.shape}, {mean2.shape}, "
            f"{cov2.shape}; wanted (F,), (F, F), (F,), (F, F)."
        )
    overlap = np.linalg.svd(_root(cov1) @ _root(cov2), compute_uv=False).sum()
    squared = ((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * overlap
    return float(np.sqrt(max(squared, 0.0)))


def _root(matrix):
    """Symmetric square root of a symmetric positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    positive = np.maximum(values, 0)  # eigenvalues below 0 are rounding
    return (vectors * np.sqrt(positive)) @ vectors.T


def within_mode_spread(x: Array, field: Any) -> float:
    """Rms distance of samples to the centre of their own mode, relative to its true value.

    1 is right, and below 1 is too narrow. It sees what the last jump of a solver does to detail,
    and neither the weights of modes nor their places. It is biased low where modes overlap, because
    a sample is counted to the likeliest mode.

    Args:
      x: (B, *D), at t = 0.
      field: a `GaussianMixture`, or a `DataSet` with bandwidth > 0.

    Raises:
      ValueError: a mode without width.
    """
    # Squares are the mean squared distances to the centres.
    centres, squares = field.modes()
    mode = np.asarray(field.nearest(x))
    if not np.all(squares[mode] > 0):
        raise ValueError(
            "distances.within_mode_spread: a mode of the field has no width, so the ratio is "
            "infinite; give the field a bandwidth above 0, or use endpoint_errors."
        )
    found = ((np.asarray(x, np.float64) - centres[mode]) ** 2).sum()
    return float(np.sqrt(found / squares[mode].sum()))


# ---- the null hypothesis


class Floor(NamedTuple):
    """A distance between independent draws of one distribution.

    Attributes:
      mean, sd: of the values.
      values: (len(seeds),).
    """

    mean: float
    sd: float
    values: np.ndarray


def floor(
    distance: Callable[[Array, Array], float],
    draw: Callable[[int, int], Array],
    sizes: tuple[int, int],
    *,
    seeds: Sequence[int],
) -> Floor:
    """The distance between two independent draws of the data itself.

    Below it, a sampler cannot be distinguished from a perfect one.

    Args:
      distance: function of (x, y), for example
        `lambda x, y: sliced_wasserstein(x, y, directions=128, seed=0)`.
      draw: function (seed, n) -> (n, *D) samples of the data, for example
        `lambda seed, n: field.draw(jax.random.key(seed), n)`. From a pool it must draw different
        rows: `lambda seed, n: np.random.default_rng(seed).permutation(pool)[:n]`.
      sizes: (n, m), the sizes at which the samplers are compared.
      seeds: two or more; each gives one draw of n + m samples, which is then split.

    Raises:
      ValueError: too few seeds, or a pool that is too small.
    """
    if len(sizes) != 2 or len(seeds) < 2:
        raise ValueError(
            f"distances.floor: sizes {sizes} and {len(seeds)} seed(s); wanted a pair (n, m) and at "
            "least two seeds."
        )
    total = sum(sizes)
    values = []
    for seed in seeds:
        both = np.asarray(draw(seed, total))
        if len(both) != total:
            raise ValueError(
                f"distances.floor: draw gave {len(both)} samples where n + m = {total} were asked "
                "for; lower the sizes or enlarge the pool."
            )
        # One draw, split, so that its two parts have no common row.
        values.append(distance(both[: sizes[0]], both[sizes[0] :]))
    return Floor(float(np.mean(values)), float(np.std(values, ddof=1)), np.asarray(values))


def _rows(name, x, y, least=1):
    """Both as (N, F) and (M, F) in float64, after checks."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(x.ndim, y.ndim) < 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < least:
        raise ValueError(
            f"distances.{name}: shapes are {x.shape} and {y.shape}; wanted (N, *D) and (M, *D) "
            f"with N, M >= {least} and the same trailing axes."
        )
    return x.reshape(len(x), -1), y.reshape(len(y), -1)
