"""Errors to the exact solution from the same noise, sample by sample, and their intervals."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flowjax.types import Array

# A statistic of an array along a keyword `axis`, such as np.median.
Statistic = Callable[..., np.ndarray]


class EndpointErrors(NamedTuple):
    """Errors of samples against the exact solution from the same noise.

    Attributes:
      errors: (B,) norms of the differences.
      median, rms: of the errors.
      misrouted: fraction of samples whose nearest mode differs; NaN when `nearest` was not given.
    """

    errors: np.ndarray
    median: float
    rms: float
    misrouted: float


class Ratio(NamedTuple):
    """A ratio of two methods' errors, with a bootstrap interval and a verdict.

    Attributes:
      ratio: of the statistic of the errors.
      low, high: the interval.
      verdict: "win", "tie", "loss" or "undecided".
    """

    ratio: float
    low: float
    high: float
    verdict: str


def endpoint_errors(
    x: Array,
    exact: Array,
    nearest: Callable[[np.ndarray], Array] | tuple[Array, Array] | None = None,
) -> EndpointErrors:
    """Errors of samples against the exact endpoints of the same noise.

    Report all three numbers: the rms depends mostly on the few samples that went to another mode,
    the median does not see them, and `misrouted` counts them.

    Args:
      x, exact: (B, *D), with row i of both from the same noise.
      nearest: function from samples to the indices (B,) of their modes, such as `field.nearest`; or
        the pair of index arrays (of x, of exact); or None.

    Raises:
      ValueError: shapes that differ.
    """
    x, exact = np.asarray(x, np.float64), np.asarray(exact, np.float64)
    if x.shape != exact.shape or x.ndim < 2:
        raise ValueError(
            f"distances.endpoint_errors: shapes are {x.shape} and {exact.shape}; wanted one shape "
            "(B, *D), paired by noise. Unpaired samples are compared by sliced_wasserstein or "
            "energy."
        )
    squares = ((x - exact) ** 2).reshape(len(x), -1)  # (B, F)
    errors = np.sqrt(squares.sum(1))
    misrouted = np.nan
    if nearest is not None:
        # Indices of modes, found here or given.
        own, true = (nearest(x), nearest(exact)) if callable(nearest) else nearest
        misrouted = np.mean(np.asarray(own) != np.asarray(true))
    return EndpointErrors(errors, float(np.median(errors)), float(rms(errors)), float(misrouted))


def rms(values: Array, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """Root of the mean square, with numpy's `axis`."""
    return np.sqrt(np.mean(np.square(values), axis=axis))


def bootstrap(
    values: Array,
    statistic: Statistic,
    *,
    seed: int,
    groups: Array | None = None,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of independent rows.

    The interval describes the scatter over these rows only, not over fields. With `groups` it
    describes the scatter over groups, and over the rows within each.

    Args:
      values: (N,) or (N, ...), rows that are resampled together.
      statistic: function of an array and a keyword `axis`, such as np.median or `rms`; the rows lie
        on that axis.
      seed: of the resampling; the same seed and N resample the same rows.
      groups: (N,) labels, for example the seed from which the noise of a row came, with as many
        rows for each label. Groups are drawn first, then rows within them.
      resamples: how many.
      level: coverage.

    Returns:
      (low, high).

    Raises:
      ValueError: fewer than two rows, a level outside (0, 1), or groups of different sizes.
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2 or not 0 < level < 1:
        raise ValueError(
            f"distances.bootstrap: {len(values)} row(s) at level {level}; wanted two or more and a "
            "level in (0, 1)."
        )
    rows = _resampled_rows(np.random.default_rng(seed), len(values), groups, resamples)
    found = statistic(values[rows], axis=1)  # (resamples, ...)
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_rows(rng, count, groups, resamples):
    """Row numbers (resamples, count) of a bootstrap; of groups first, where there are groups."""
    if groups is None:
        return rng.integers(0, count, (resamples, count))
    names, sizes = np.unique(groups, return_counts=True)
    if len(groups) != count or len(set(sizes)) > 1:
        raise ValueError(
            f"distances.bootstrap: {len(groups)} group labels for {count} rows, in groups of "
            f"{sorted(set(sizes))}; wanted one label a row and groups of one size."
        )
    members = np.stack([np.flatnonzero(np.asarray(groups) == name) for name in names])  # (G, N/G)
    which = rng.integers(0, len(names), (resamples, len(names), 1))
    within = rng.integers(0, sizes[0], (resamples, len(names), sizes[0]))
    return members[which, within].reshape(resamples, count)


def paired_ratio(
    errors: Array,
    baseline: Array,
    statistic: Statistic = np.median,
    *,
    seed: int,
    groups: Array | None = None,
    band: float = 0.02,
    resamples: int = 1000,
    level: float = 0.95,
) -> Ratio:
    """Ratio of a statistic of two methods' errors on the same noise, with a bootstrap interval.

    Both methods are resampled by the same rows, so a difficulty that a sample has for both cancels.
    The verdict is "win" when the interval lies below 1/(1 + band), "loss" when it lies above 1 +
    band, "tie" when it lies between the two, and otherwise "undecided". An undecided ratio needs
    more samples.

    Args:
      errors, baseline: (B,) of `endpoint_errors`, with row i from the same noise.
      statistic, seed, groups, resamples, level: as in `bootstrap`.
      band: relative difference that counts as none.

    Raises:
      ValueError: shapes that differ, or a baseline without error.
    """
    errors = np.asarray(errors, np.float64)
    baseline = np.asarray(baseline, np.float64)
    if errors.shape != baseline.shape or errors.ndim != 1:
        raise ValueError(
            f"distances.paired_ratio: errors have shape {errors.shape} and baseline "
            f"{baseline.shape}; wanted one shape (B,), paired by noise."
        )

    def ratio(pairs, axis):
        top = statistic(pairs[..., 0], axis=axis)
        bottom = statistic(pairs[..., 1], axis=axis)
        if np.any((bottom == 0) & (top > 0)):
            raise ValueError(
                "distances.paired_ratio: the baseline has no error (in a resample at least), so "
                "the ratio is infinite; compare the errors themselves, or swap the methods."
            )
        # Two exact methods tie.
        return np.where(bottom > 0, top / np.where(bottom > 0, bottom, 1), 1.0)

    pairs = np.stack([errors, baseline], axis=1)  # (B, 2)
    low, high = bootstrap(pairs, ratio, seed=seed, groups=groups, resamples=resamples, level=level)
    return Ratio(float(ratio(pairs, axis=0)), low, high, _verdict(low, high, band))


def _verdict(low, high, band):
    """The verdict on a ratio whose interval is (low, high)."""
    below, above = 1 / (1 + band), 1 + band
    if high < below:
        return "win"
    if low > above:
        return "loss"
    if below <= low and high <= above:
        return "tie"
    return "undecided"
