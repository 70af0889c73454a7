"""Areas under ROC curves, verdicts and mean ratios on cases that are known."""

import numpy as np
import pytest

from experiments import report
from experiments.lab import statistics
from experiments.lab.statistics import auc


@pytest.mark.parametrize(
    ("scores", "area"),
    [([1, 2, 3, 4], 1), ([4, 3, 2, 1], 0), ([1, 1, 1, 1], 0.5), ([1, 3, 2, 4], 0.75)],
)
def test_auc_of_known_cases(scores, area):
    assert auc(scores, [False, False, True, True])[0] == area


def test_auc_is_nan_without_a_false_row():
    assert np.isnan(auc([1, 2], [True, True])).all()


def test_auc_equals_the_trapezoids_of_the_roc_figure():
    rng = np.random.default_rng(0)
    truths = rng.random(60) < 0.4
    scores = np.round(rng.normal(truths, 1.0), 1)
    _, ax = report.canvas()
    rows = [{"s": s, "t": t, "n": "all"} for s, t in zip(scores, truths, strict=True)]
    drawn = report.roc(ax, rows, score="s", truth="t", by="n")[0]["auc"]
    np.testing.assert_allclose(auc(scores, truths)[0], drawn, rtol=1e-12)


def test_auc_within_strata_does_not_compare_across_them():
    scores = [1, 2, 11, 12]
    truths = [True, False, True, False]
    assert auc(scores, truths, strata=[0, 0, 1, 1])[0] == 0
    assert auc(scores, truths)[0] == 0.25


def test_auc_interval_covers_a_coin_and_widens_with_groups():
    rng = np.random.default_rng(1)
    # Twenty independent groups of ten equal rows: as rows they look like more evidence.
    truths = np.repeat(rng.random(20) < 0.5, 10)
    scores = np.repeat(rng.random(20), 10)
    _, low, high = auc(scores, truths)
    _, low_groups, high_groups = auc(scores, truths, np.repeat(np.arange(20), 10))
    assert low_groups < 0.5 < high_groups
    assert high_groups - low_groups > 2 * (high - low)


def test_auc_refuses_nan():
    with pytest.raises(ValueError, match="ranks nowhere"):
        auc([np.nan, 1], [True, False])


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.5, 0.9, "better"),
        (1.1, 1.5, "worse"),
        (0.99, 1.01, "tie"),
        (0.9, 1.1, "undecided"),
        (0.9, 0.99, "undecided"),
    ],
)
def test_a_tie_is_an_interval_within_the_band_and_a_wide_one_is_undecided(low, high, verdict):
    pair = {"rms_low": low, "rms_high": high}
    assert statistics.verdict(pair) == verdict


def test_a_mean_ratio_draws_whole_groups():
    # All spread is between groups, so more cells of a group narrow nothing.
    ratios, groups = [0.5, 2.0], [("a", 1), ("b", 1)]
    few = statistics.mean_ratio(ratios, groups)
    many = statistics.mean_ratio(ratios * 50, groups * 50)
    assert few == pytest.approx((1.0, 0.5, 2.0)) and many == pytest.approx(few)


def test_the_area_is_that_of_auc():
    scores, truths = [0.1, 0.4, 0.4, 0.9], [False, True, False, True]
    assert statistics.area(scores, truths) == statistics.auc(scores, truths)[0] == 3.5 / 4
    assert np.isnan(statistics.area(scores, [True] * 4))
