"""The words of the page follow its rows by the written rule."""

import numpy as np
import pytest
from scipy import stats

from experiments.networks import comparisons, page
from experiments.networks.catalogue import NETWORKS
from experiments.networks.comparisons import DIFFERENCE, ONE_SEED, RATIO, Comparison
from experiments.networks.numbers import quantities
from experiments.networks.topics import CLOCK, FAST, ORDER, SIZE, SMOOTH, TOPICS
from flowjax.records import Records
from tests.experiments.networks.rows import all_rows, growth_row, order_row, staleness_row

FIRST = CLOCK.comparisons[0]  # AB3 has half an order more with 1 - t


def of_orders(fast, smooth, width=0.0):
    """Quantities of networks with these orders, seed by seed."""
    pairs = [*zip(FAST, fast, strict=False), *zip(SMOOTH, smooth, strict=False)]
    return quantities([order_row(name, order, width=width) for name, order in pairs])


@pytest.mark.parametrize(
    "smooth, word",
    [
        ((2.0, 2.1, 2.05), "holds"),
        ((1.1, 1.2, 1.15), "fails"),
        ((1.2, 2.4, 1.6), "undecided"),
    ],
)
def test_several_seeds_are_judged_by_the_interval_of_their_mean(smooth, word):
    found = comparisons.result(FIRST, of_orders((1.0, 1.0, 1.0), smooth))
    assert (found.verdict, found.here, found.seeds) == (word, word, 3)
    assert f"**{word}**" in comparisons.sentence(FIRST, found)


def test_the_interval_over_seeds_is_that_of_the_t_test():
    changes = [0.7, 1.4, 1.1]
    wanted = stats.ttest_1samp(changes, 0).confidence_interval(0.95)
    value, low, high = comparisons.over_seeds(DIFFERENCE, changes)
    np.testing.assert_allclose([value, low, high], [np.mean(changes), *wanted])
    # Ratios: the same in logarithms.
    ratios = comparisons.over_seeds(RATIO, np.exp(changes))
    np.testing.assert_allclose(np.log(ratios), [value, low, high])


def test_seeds_are_compared_in_pairs():
    # Each pair differs by 1 exactly, however far the seeds lie apart.
    found = comparisons.result(FIRST, of_orders((0.0, 1.0, 2.0), (1.0, 2.0, 3.0)))
    np.testing.assert_allclose([found.value, found.low, found.high], 1.0)


@pytest.mark.parametrize(
    "smooth, width, here", [(2.0, 0.1, "holds"), (1.2, 0.1, "fails"), (1.6, 0.1, "undecided")]
)
def test_one_seed_is_undecided_beyond_its_network_whatever_its_interval(smooth, width, here):
    found = comparisons.result(FIRST, of_orders((1.0,), (smooth,), width))
    assert (found.verdict, found.here, found.seeds) == (ONE_SEED, here, 1)
    # The interval contains the differences of all pairs of numbers.
    np.testing.assert_allclose(
        [found.low, found.high],
        [smooth - 1.0 - 2 * width, smooth - 1.0 + 2 * width],
        atol=1e-12,
    )
    assert f"{here} here" in comparisons.sentence(FIRST, found)


def test_networks_without_rows_are_left_out():
    assert comparisons.result(FIRST, of_orders((1.0, 1.0), ())) is None
    # A seed that stands alone has no pair.
    assert comparisons.result(FIRST, of_orders((1.0, 1.0, 1.0), (2.0, 2.1))).seeds == 2


def test_a_section_names_the_expectations_that_have_no_rows():
    names = ("fast-seed0", "smooth-seed0")
    found = quantities([row for name in names for row in all_rows(name)])
    caveat = page.section(CLOCK, found, "command").caveat
    assert "Not compared, for want of rows: With 100 t AB3 has half an order more" in caveat
    assert "With 1 - t the error of AB3 falls faster" not in caveat


def test_a_ratio_to_zero_or_to_infinity_is_undecided():
    ratio = Comparison("", ORDER, FAST[:1], SMOOTH[:1], RATIO, "below", 1)
    for above, below in ((0.0, 0.0), (np.inf, np.inf)):
        assert comparisons.result(ratio, of_orders((above,), (below,))).here == "undecided"
    assert np.isnan(comparisons.over_seeds(RATIO, [1.0, 0.0])).all()


@pytest.mark.parametrize(
    "values, word",
    [((3, 2, 1), "falls"), ((1, 2, 3), "rises"), ((1, 3, 2), "neither falls nor rises")],
)
def test_a_trend_is_one_where_every_step_goes_its_way(values, word):
    assert comparisons.trend(values) == word


def test_sizes_are_told_as_trends():
    names = SIZE.trends["width"].values()
    rows = [staleness_row(name, held) for name, held in zip(names, (0.3, 0.2, 0.1), strict=True)]
    rows += [growth_row(name, push) for name, push in zip(names, (2.0, 3.0, np.inf), strict=True)]
    told = page.trends(SIZE, quantities(rows))
    assert "“held, 8 devices” falls: 0.30, 0.20, 0.10" in told[0] and "one seed each" in told[0]
    assert told[1].startswith("With width 48, 96, 192 ") and "rises: 2.0, 3.0, inf" in told[1]
    # Two networks are no trend, and three of five depths are one of these three.
    assert len(page.trends(SIZE, quantities(rows[:2]))) == 0
    some = [SIZE.trends["depth"][depth] for depth in (2, 4, 6)]
    rows = [growth_row(name, push) for name, push in zip(some, (9.0, 5.0, 2.0), strict=True)]
    (told,) = page.trends(SIZE, quantities(rows))
    assert told.startswith("With depth 2, 4, 6 ") and "falls: 9.0, 5.0, 2.0" in told


def test_every_comparison_names_networks_that_there_are():
    for topic in TOPICS:
        of_sizes = [networks.values() for networks in topic.trends.values()]
        names = set(topic.networks).union(*of_sizes)
        for comparison in topic.comparisons:
            assert {*comparison.of, *comparison.base} <= names
        assert names <= set(NETWORKS)


def test_the_page_of_all_networks_has_every_section_and_its_words(tmp_path):
    records = Records(tmp_path, {})
    for name in NETWORKS:
        for row in all_rows(name, order=3.0 if name.startswith("smooth") else 1.0):
            if name.endswith("sana") and row["question"] == "growth":
                continue
            records.add({"question": row.pop("question"), "network": row.pop("network")}, **row)
    (path,) = page.make_report(tmp_path)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for topic in TOPICS:
        assert topic.question in text
        assert len(page.judged(topic, quantities(records.rows))) == len(topic.comparisons)
    found = page.lead(records.rows)
    assert len(found) == len(TOPICS)
    assert (
        "by at least half an order: **holds** (difference of order of AB3 2.0 [2.0, 2.0]"
        in found[0]
    )


def test_a_page_without_a_pair_of_networks_says_so(tmp_path):
    records = Records(tmp_path, {})
    records.add({"question": "quality", "network": "fast-seed0"}, accuracy=1.0, low=1.0, high=1.0)
    (path,) = page.make_report(tmp_path)
    with open(path, encoding="utf-8") as file:
        assert "No two networks were compared yet." in file.read()
