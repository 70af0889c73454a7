"""How far samples are from the exact solution, and how far their distribution is from the data's.

Two kinds of numbers, never one without the other's question. Errors to the exact solution compare the same noise sample
by sample (`endpoint_errors`, `paired_ratio`): they rank solvers with few samples, and punish a sample that went to the
wrong mode although the distribution is right. Distances between distributions do not know the pairing; each sees some
defects and is blind to others, as its docstring says, and each has a value above zero for two draws of the data itself,
which `floor` measures. All in numpy, float64, on the host; sample axes are flattened to F numbers.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

BLOCK = 1024  # rows of a pairwise matrix held at once


class EndpointErrors(NamedTuple):
    """Errors of samples against the exact solution from the same noise."""

    errors: np.ndarray  # (B,) L2 norm of each difference
    median: float
    rms: float
    misrouted: float  # fraction whose nearest mode differs; nan when `nearest` was not given


class Ratio(NamedTuple):
    """A ratio of two methods' errors, its bootstrap interval, and "win", "tie", "loss" or "undecided"."""

    ratio: float
    low: float
    high: float
    verdict: str


class Floor(NamedTuple):
    """A distance between independent draws of one distribution."""

    mean: float
    sd: float
    values: np.ndarray  # (len(seeds),)


def endpoint_errors(x, exact, nearest=None):
    """Errors of samples against the exact endpoints of the same noise.

    Report all three numbers: the rms is ruled by the few samples that went to another mode, the median does not see
    them, and `misrouted` counts them.

    Args:
      x, exact: (B, *D), row i of both from the same noise.
      nearest: function from samples to the indices (B,) of their modes, such as `field.nearest`; or the pair of index
        arrays (of x, of exact); or None.
    """
    x, exact = np.asarray(x, np.float64), np.asarray(exact, np.float64)
    if x.shape != exact.shape or x.ndim < 2:
        raise ValueError(
            f"distances.endpoint_errors: shapes are {x.shape} and {exact.shape}; wanted one shape (B, *D), paired by "
            "noise. Unpaired samples are compared by sliced_wasserstein or energy."
        )
    errors = np.sqrt(((x - exact) ** 2).reshape(len(x), -1).sum(1))
    if nearest is None:
        misrouted = np.nan
    else:
        own, true = (nearest(x), nearest(exact)) if callable(nearest) else nearest
        misrouted = np.mean(np.asarray(own) != np.asarray(true))
    return EndpointErrors(errors, float(np.median(errors)), float(rms(errors)), float(misrouted))


def rms(values, axis=None):
    """Root of the mean square, with numpy's `axis`."""
    return np.sqrt(np.mean(np.square(values), axis=axis))


def bootstrap(values, statistic, *, seed, groups=None, resamples=1000, level=0.95):
    """Percentile bootstrap interval of a statistic of independent rows.

    It knows the scatter over these rows only (with `groups`: over groups, then over the rows within), not over fields.

    Args:
      values: (N,) or (N, ...), rows resampled together.
      statistic: function of an array and a keyword `axis`, such as np.median or `rms`; the rows lie on that axis.
      seed, resamples: of the resampling; the same seed and N resample the same rows.
      groups: (N,) labels, as of the seed that a row's noise came from, each equally often: groups are drawn first.
      level: coverage.

    Returns:
      (low, high).
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not 0 < level < 1:
        raise ValueError(
            f"distances.bootstrap: {len(values)} row(s) at level {level}; wanted two or more and a level in (0, 1)."
        )
    rows = _resampled_rows(np.random.default_rng(seed), len(values), groups, resamples)
    low, high = np.quantile(statistic(values[rows], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_rows(rng, count, groups, resamples):
    """Row numbers (resamples, count) of a bootstrap, of whole groups first where there are groups."""
    if groups is None:
        return rng.integers(0, count, (resamples, count))
    names, sizes = np.unique(groups, return_counts=True)
    if len(groups) != count or len(set(sizes)) > 1:
        raise ValueError(
            f"distances.bootstrap: {len(groups)} group labels for {count} rows, in groups of {sorted(set(sizes))}; wanted one "
            "label a row and groups of one size."
        )
    members = np.stack([np.flatnonzero(np.asarray(groups) == name) for name in names])  # (G, N/G)
    which = rng.integers(0, len(names), (resamples, len(names), 1))
    within = rng.integers(0, sizes[0], (resamples, len(names), sizes[0]))
    return members[which, within].reshape(resamples, count)


def paired_ratio(
    errors,
    baseline,
    statistic=np.median,
    *,
    seed,
    groups=None,
    band=0.02,
    resamples=1000,
    level=0.95,
):
    """Ratio of a statistic of two methods' errors on the same noise, with a bootstrap interval over the samples.

    Both methods are resampled by the same rows, so what makes a sample hard for both cancels. The verdict is "win" when
    the interval lies below 1/(1 + band), "loss" above 1 + band, "tie" inside the band, otherwise "undecided": then more
    samples are needed, not a finer reading.

    Args:
      errors, baseline: (B,) of `endpoint_errors`, row i from the same noise.
      statistic, seed, groups, resamples, level: as in `bootstrap`.
      band: relative difference that counts as none.
    """
    errors, baseline = np.asarray(errors, np.float64), np.asarray(baseline, np.float64)
    if errors.shape != baseline.shape or errors.ndim != 1:
        raise ValueError(
            f"distances.paired_ratio: errors have shape {errors.shape} and baseline {baseline.shape}; wanted one shape "
            "(B,), paired by noise."
        )

    def ratio(pairs, axis):
        top, bottom = statistic(pairs[..., 0], axis=axis), statistic(pairs[..., 1], axis=axis)
        if np.any((bottom == 0) & (top > 0)):
            raise ValueError(
                "distances.paired_ratio: the baseline has no error (in a resample at least), so the ratio is infinite; "
                "compare the errors themselves, or swap the methods."
            )
        return np.where(
            bottom > 0, top / np.where(bottom > 0, bottom, 1), 1.0
        )  # two exact methods tie

    pairs = np.stack([errors, baseline], axis=1)
    low, high = bootstrap(pairs, ratio, seed=seed, groups=groups, resamples=resamples, level=level)
    below, above = 1 / (1 + band), 1 + band
    claims = {
        "win": high < below,
        "loss": low > above,
        "tie": below <= low and high <= above,
        "undecided": True,
    }
    verdict = next(name for name, holds in claims.items() if holds)
    return Ratio(float(ratio(pairs, axis=0)), low, high, verdict)


def sliced_wasserstein(x, y, *, directions, seed):
    """Root mean square, over random directions, of the exact W2 distance of the projections.

    Sees every difference of distributions, in the units of the data; in F dimensions a defect along one axis is diluted
    by sqrt(F). The floor falls only as 1/sqrt(N), since chance decides how many samples each mode gets: between 2000
    independent samples of the ring it is 0.10, and 30 % too little spread in each mode (0.037) hides below. Compare with
    exact endpoints of the same noise, where the modes' shares agree, to see it.

    Args:
      x, y: (N, *D) and (M, *D); sizes may differ.
      directions: how many.
      seed: of the directions; use one seed for all methods compared.
    """
    x, y = _rows("sliced_wasserstein", x, y)
    unit = np.random.default_rng(seed).standard_normal((x.shape[1], directions))
    unit /= np.linalg.norm(unit, axis=0)
    # Both quantile functions are constant between consecutive levels of the merged grid.
    levels = np.union1d(np.linspace(0, 1, len(x) + 1), np.linspace(0, 1, len(y) + 1))
    middle, width = (levels[:-1] + levels[1:]) / 2, np.diff(levels)
    quantiles = [np.sort(z @ unit, axis=0)[(middle * len(z)).astype(int)] for z in (x, y)]
    return float(np.sqrt(width @ ((quantiles[0] - quantiles[1]) ** 2).mean(1)))


def energy(x, y):
    """Squared energy distance, 2 E|x - y| - E|x - x'| - E|y - y'|, unbiased (may be slightly negative).

    Sees every difference of distributions, but mostly of location and large scale: a wrong spread inside modes that are
    far apart moves it little. Zero in the mean when both are draws of one distribution.
    """
    return _squared_discrepancy("energy", lambda a, b: -cdist(a, b), x, y)


def mmd(x, y, bandwidth):
    """Squared maximum mean discrepancy with the kernel exp(-|x - y|^2 / 2 bandwidth^2), unbiased (Gretton et al. 2012).

    Sees differences at the scale of the bandwidth: with that of the modes' width it sees within-mode spread, with that
    of the whole data (their median distance, the usual choice) hardly. Zero in the mean under the null.
    """
    if not bandwidth > 0:
        raise ValueError(
            f"distances.mmd: bandwidth {bandwidth}; wanted a length > 0 in the units of the data."
        )
    return _squared_discrepancy(
        "mmd", lambda a, b: np.exp(-cdist(a, b, "sqeuclidean") / (2 * bandwidth**2)), x, y
    )


def kid(features_x, features_y):
    """Kernel inception distance: unbiased squared MMD with the kernel (x.y/F + 1)^3 (arXiv:1801.01401, section 4).

    Sees the first three moments of the features, so less than `energy` on raw samples, and only what the features keep.
    Unbiased at every N, where the Frechet distance is not. Computed on all rows; the paper's code averages subsets.
    """

    def kernel(a, b):
        affine = a @ b.T / a.shape[1] + 1
        return affine * affine * affine  # numpy's power is far slower

    return _squared_discrepancy("kid", kernel, features_x, features_y)


def frechet(features_x, features_y):
    """Frechet distance between Gaussians fitted to the features: squared W2, the "FID" form on features of any kind.

    Sees means and covariances and nothing else: on the ring, samples with 30 % too little spread in each mode stay below
    its floor, because the modes' positions make the covariance. Biased upwards as 1/N: compare at equal N, beside `floor`.
    Two or more rows each, (N, F) and (M, F); fewer than F are allowed.
    """
    moments = []
    for features in _rows("frechet", features_x, features_y, least=2):
        moments += [features.mean(0), np.atleast_2d(np.cov(features, rowvar=False))]
    return gaussian_w2(*moments) ** 2


def gaussian_w2(mean1, cov1, mean2, cov2):
    """Exact Wasserstein-2 distance between two Gaussians.

        W2^2 = |mean1 - mean2|^2 + trace(cov1 + cov2 - 2 (cov1^1/2 cov2 cov1^1/2)^1/2)

    The last trace is the sum of the singular values of cov1^1/2 cov2^1/2: singular values lose half as many digits as
    roots of eigenvalues, and stay real for singular matrices. W2 is accurate to about 1e-8 of the standard deviations.
    Means are (F,), covariances (F, F), symmetric and positive semidefinite.
    """
    mean1, cov1, mean2, cov2 = (
        np.asarray(array, np.float64) for array in (mean1, cov1, mean2, cov2)
    )
    size = mean1.shape + mean1.shape
    if mean1.ndim != 1 or mean2.shape != mean1.shape or cov1.shape != size or cov2.shape != size:
        raise ValueError(
            f"distances.gaussian_w2: shapes are {mean1.shape}, {cov1.shape}, {mean2.shape}, {cov2.shape}; wanted (F,), "
            "(F, F), (F,), (F, F)."
        )
    overlap = np.linalg.svd(_root(cov1) @ _root(cov2), compute_uv=False).sum()
    squared = ((mean1 - mean2) ** 2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * overlap
    return float(np.sqrt(max(squared, 0.0)))


def within_mode_spread(x, field):
    """Rms distance of samples to the centre of their own mode, over its true value: 1 is right, below 1 is too narrow.

    Sees what a solver's last jump does to detail and nothing else: neither weights of modes nor their places. Biased low
    where modes overlap, since a sample is counted to the likeliest one.

    Args:
      x: (B, *D), at t = 0.
      field: a `GaussianMixture`, or a `DataSet` with bandwidth > 0.
    """
    centres, squares = field.modes()
    mode = np.asarray(field.nearest(x))
    if not np.all(squares[mode] > 0):
        raise ValueError(
            "distances.within_mode_spread: a mode of the field has no width, so the ratio is infinite; give the field a "
            "bandwidth above 0, or use endpoint_errors."
        )
    found = ((np.asarray(x, np.float64) - centres[mode]) ** 2).sum()
    return float(np.sqrt(found / squares[mode].sum()))


def floor(distance, draw, sizes, *, seeds):
    """What a distance answers for two independent draws of the data itself: no sampler can be told from perfect below.

    Args:
      distance: function of (x, y), for example `lambda x, y: sliced_wasserstein(x, y, directions=128, seed=0)`.
      draw: function (seed, n) -> (n, *D) samples of the data, all different rows when they come from a pool:
        `lambda seed, n: field.draw(jax.random.key(seed), n)`, or
        `lambda seed, n: np.random.default_rng(seed).permutation(pool)[:n]`.
      sizes: (n, m), the sizes that the samplers are compared at.
      seeds: one draw of n + m samples, then split, for each; two or more.
    """
    if len(sizes) != 2 or len(seeds) < 2:
        raise ValueError(
            f"distances.floor: sizes {sizes} and {len(seeds)} seed(s); wanted a pair (n, m) and at least two seeds."
        )
    values = []
    for seed in seeds:
        both = np.asarray(draw(seed, sum(sizes)))
        if len(both) != sum(sizes):
            raise ValueError(
                f"distances.floor: draw gave {len(both)} samples where n + m = {sum(sizes)} were asked for; lower the "
                "sizes or enlarge the pool."
            )
        values.append(distance(both[: sizes[0]], both[sizes[0] :]))
    return Floor(float(np.mean(values)), float(np.std(values, ddof=1)), np.asarray(values))


def _rows(name, x, y, least=1):
    """Both as (N, F) and (M, F) in float64, after checks."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(x.ndim, y.ndim) < 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < least:
        raise ValueError(
            f"distances.{name}: shapes are {x.shape} and {y.shape}; wanted (N, *D) and (M, *D) with N, M >= {least} and "
            "the same trailing axes."
        )
    return x.reshape(len(x), -1), y.reshape(len(y), -1)


def _root(matrix):
    """Symmetric square root of a symmetric positive semidefinite matrix; eigenvalues below 0 by rounding count as 0."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _squared_discrepancy(name, kernel, x, y):
    """Unbiased E k(x, x') + E k(y, y') - 2 E k(x, y): pairs of a row with itself are left out."""
    x, y = _rows(name, x, y, least=2)

    def blocks(a, b):
        return ((i, kernel(a[i : i + BLOCK], b)) for i in range(0, len(a), BLOCK))

    def among(a):
        return sum(k.sum() - k.trace(offset=i) for i, k in blocks(a, a)) / (len(a) * (len(a) - 1))

    between = sum(k.sum() for _, k in blocks(x, y)) / (len(x) * len(y))
    return float(among(x) + among(y) - 2 * between)
