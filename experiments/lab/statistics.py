"""The statistics that questions share: norms, summaries with intervals, paired ratios, ROC areas.

An error is |x - exact| of one sample, divided by the root mean square norm of the exact endpoints.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from flowjax import distances

# Resamples of each bootstrap interval; the kept rows were made with this number.
RESAMPLES = 400


def row_norms(x: np.ndarray) -> np.ndarray:
    """L2 norm of each sample: (B,) from (B, *D)."""
    return np.linalg.norm(x.reshape(x.shape[0], -1), axis=1)


def scale_of(x: np.ndarray) -> float:
    """Root mean square norm of the samples (B, *D)."""
    return float(np.sqrt(np.mean(row_norms(x) ** 2)))


def geometric_mean(values: Iterable[float]) -> float:
    """exp of the mean logarithm of positive numbers."""
    return float(np.exp(np.mean(np.log(list(values)))))


def summary(errors: np.ndarray, seed: np.ndarray) -> dict:
    """RMS with its 95 % interval, median and 95th percentile of errors.

    Args:
      errors: (B,).
      seed: (B,) the seed of each sample; the bootstrap draws seeds first, then starts within them.

    Returns:
      {rms, rms_low, rms_high, median, tail}.
    """
    # The seeds of the bootstrap are fixed, so the same errors give the same interval.
    low, high = distances.bootstrap(errors, distances.rms, seed=0, groups=seed, resamples=RESAMPLES)
    return {
        "rms": float(distances.rms(errors)),
        "rms_low": low,
        "rms_high": high,
        "median": float(np.median(errors)),
        "tail": float(np.quantile(errors, 0.95)),
    }


def paired(
    errors_a: np.ndarray, errors_b: np.ndarray, seed: np.ndarray, tie: float = 0.02
) -> dict[str, float | str]:
    """Compare solver a with solver b on shared noise, by RMS error and by median error.

    A verdict is "better" or "worse" when the whole 95 % interval of the ratio lies beyond a factor
    1 + `tie`. Every other case is a "tie": the data do not tell the two solvers apart.

    Args:
      errors_a, errors_b: (B,), row i from the same noise.
      seed: (B,) the seed of each sample.
      tie: the relative difference that counts as none.

    Returns:
      {rms_ratio, rms_low, rms_high, rms_verdict} and the same with "median". A ratio is the error
      of a over that of b.
    """
    result = {}
    # RMS shows the tail, the median the typical sample; they can disagree.
    for name, statistic in (("rms", distances.rms), ("median", np.median)):
        found = distances.paired_ratio(
            errors_a, errors_b, statistic, seed=0, groups=seed, band=tie, resamples=RESAMPLES
        )
        result |= {
            f"{name}_ratio": found.ratio,
            f"{name}_low": found.low,
            f"{name}_high": found.high,
            # "undecided" becomes a tie here: more samples could still decide it.
            f"{name}_verdict": {"win": "better", "loss": "worse"}.get(found.verdict, "tie"),
        }
    return result


def verdict(pair: dict, statistic: str = "rms", tie: float = 0.02) -> str:
    """What the interval of a row of `paired` says of solver a.

    The rows call both "tie" and "undecided" a tie, so the word is read from the interval.

    Args:
      pair: what `paired` returned, with the names of the solvers or without.
      statistic: "rms" or "median".
      tie: the relative difference that counts as none.

    Returns:
      "better" or "worse" where the whole interval lies beyond the band, "tie" where it lies
      within, and "undecided" otherwise: more starts could decide it.
    """
    low, high = pair[f"{statistic}_low"], pair[f"{statistic}_high"]
    least, most = 1 / (1 + tie), 1 + tie
    if high < least:
        return "better"
    if low > most:
        return "worse"
    return "tie" if least <= low and high <= most else "undecided"


def mean_ratio(
    ratios: Sequence[float], groups: Sequence, resamples: int = 2000
) -> tuple[float, float, float]:
    """(geometric mean, low, high) of ratios over cells, where whole groups are drawn.

    The cells of one field have the same starts, so a field is drawn with all its cells.

    Args:
      ratios: (n,) positive numbers.
      groups: (n,) labels.
      resamples: of the bootstrap.
    """
    logs = np.log(np.asarray(ratios, np.float64))
    # As texts, since a label may be a tuple.
    names, group = np.unique([str(label) for label in groups], return_inverse=True)
    sums = np.bincount(group, weights=logs)
    sizes = np.bincount(group)
    drawn = np.random.default_rng(0).integers(len(names), size=(resamples, len(names)))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def area(scores: Sequence[float], truths: Sequence[bool]) -> float:
    """Area under the ROC curve: the chance that a true row scores above a false one.

    Equal scores count half; NaN where all truths are equal.
    """
    scores, truths = np.asarray(scores, np.float64), np.asarray(truths, bool)
    if truths.all() or not truths.any():
        return np.nan
    above = np.sign(scores[truths][:, None] - scores[~truths][None])
    return float(np.mean(above + 1) / 2)


def auc(
    scores: Sequence[float],
    truths: Sequence[bool],
    groups: Sequence | None = None,
    strata: Sequence | None = None,
    resamples: int = 1000,
) -> tuple[float, float, float]:
    """Area under the ROC curve with its 95 % interval.

    The area is the chance that a row with a true outcome scores above a row with a false one.

    Args:
      scores, truths: (n,) numbers and booleans; equal scores count half.
      groups: (n,) labels; the bootstrap draws whole groups, because the cells of one field have the
        same noise. None: each row is a group.
      strata: (n,) labels; only pairs within a stratum are compared. None: all pairs.
      resamples: of the bootstrap.

    Returns:
      (area, low, high), NaN where there is no pair of a true and a false row.

    Raises:
      ValueError: a score is NaN.
    """
    scores, truths = np.asarray(scores, np.float64), np.asarray(truths, bool)
    if np.isnan(scores).any():
        raise ValueError(
            "statistics.auc: a score is NaN, which ranks nowhere; leave those rows out."
        )
    strata = np.zeros(len(scores)) if strata is None else np.asarray(strata)
    labels = np.arange(len(scores)) if groups is None else np.asarray(groups)
    names, group = np.unique(labels, return_inverse=True)

    # One entry for each pair (true row, false row).
    true, false = np.flatnonzero(truths), np.flatnonzero(~truths)
    comparable = (strata[true][:, None] == strata[false][None]).astype(float)
    above = comparable * (np.sign(scores[true][:, None] - scores[false][None]) + 1) / 2

    # Sums over pairs of groups, (G, G), so that a resample is a product with its counts.
    in_group = np.eye(len(names))
    of_true, of_false = in_group[group[true]], in_group[group[false]]
    won = of_true.T @ above @ of_false
    pairs = of_true.T @ comparable @ of_false
    if pairs.sum() == 0:
        return np.nan, np.nan, np.nan

    rng = np.random.default_rng(0)
    equal = np.full(len(names), 1 / len(names))
    counts = rng.multinomial(len(names), equal, size=resamples).astype(float)  # (R, G)
    drawn_won, drawn_pairs = (
        np.einsum("rf,fg,rg->r", counts, matrix, counts, optimize=True) for matrix in (won, pairs)
    )
    defined = drawn_pairs > 0
    low, high = np.quantile(drawn_won[defined] / drawn_pairs[defined], [0.025, 0.975])
    return float(won.sum() / pairs.sum()), float(low), float(high)
