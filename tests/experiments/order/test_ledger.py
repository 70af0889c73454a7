"""The ledger's arithmetic, and plans with some causes mended."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from configs.order import get_config
from experiments.order.ledger import numbers as ledger
from flowjax import Linear, grids, plans

COUNT = len(ledger.FACTORS)


# ---- Shapley values


def worth(game, count):
    """The worths of all subsets of a function of a set of players, in the order of `shapley`."""
    subsets = ({i for i in range(count) if s >> i & 1} for s in range(1 << count))
    return np.array([game(players) for players in subsets])


def by_orders(game, count):
    """Shapley values by their definition: the mean gain over all orders of joining."""
    gains = np.zeros(count)
    for order in itertools.permutations(range(count)):
        for place, player in enumerate(order):
            gains[player] += game(set(order[: place + 1])) - game(set(order[:place]))
    return gains / math.factorial(count)


def test_each_player_of_an_additive_game_gets_what_it_brings():
    brings = np.array([1.0, -2.0, 0.5, 0.0])
    values = ledger.shapley(worth(lambda players: 7 + sum(brings[list(players)]), 4))
    np.testing.assert_allclose(values, brings, atol=1e-12)


def test_partners_share_what_neither_has_alone():
    # 6 only when players 0 and 1 are both there; player 2 brings 1 and takes 3 away where 0 is.
    def game(players):
        return 6 * ({0, 1} <= players) + 1 * (2 in players) - 3 * ({0, 2} <= players)

    np.testing.assert_allclose(ledger.shapley(worth(game, 3)), [3 - 1.5, 3, 1 - 1.5], atol=1e-12)


def test_values_are_the_mean_gain_over_all_orders():
    table = np.random.default_rng(0).normal(size=32)

    def game(players):
        return table[sum(1 << i for i in players)]

    np.testing.assert_allclose(ledger.shapley(table), by_orders(game, 5), atol=1e-12)


def test_values_sum_to_the_gain_of_all_in_every_column():
    table = np.random.default_rng(1).normal(size=(128, 3, 2))
    np.testing.assert_allclose(ledger.shapley(table).sum(0), table[-1] - table[0], atol=1e-12)


def test_worths_that_are_no_power_of_two_are_refused():
    with pytest.raises(ValueError, match="one for each subset"):
        ledger.shapley(np.zeros(6))


# ---- rows


def made_row(gains, seeds=3, **key):
    """A row whose log error is a sum of what each factor mends, the same for all seeds."""
    logs = worth(lambda mended: -2 * sum(gains[i] for i in mended), len(gains))
    row = {
        "field": "ring",
        "shift": 1.0,
        "nfe": 10,
        "log_squares": [[x] * seeds for x in logs],
        "lower": [{"order": n, "shipped": [0.5] * seeds, "mended": [0.5] * seeds} for n in (1, 2)],
    }
    return row | key


def test_the_ledger_finds_what_the_rows_were_made_of():
    first, second = (np.arange(COUNT) * s for s in (0.1, 0.3))
    bars = ledger.ledger([made_row(first), made_row(second, nfe=20)])
    np.testing.assert_allclose([b["gain"] for b in bars], (first + second) / 2, atol=1e-12)
    np.testing.assert_allclose(sum(b["fraction"] for b in bars), 1)
    np.testing.assert_allclose([b["low"] for b in bars], [b["high"] for b in bars], atol=1e-12)


def test_the_numbers_of_a_cell_are_those_of_its_errors():
    (line,) = ledger.by_cell([made_row(np.full(COUNT, 0.1))])
    np.testing.assert_allclose(line["3M shipped"] / line["3M mended"], np.exp(0.7), rtol=1e-12)
    np.testing.assert_allclose(line["3 / 2, shipped"], np.exp(-0.25), rtol=1e-12)
    assert line["3 / 2, shipped: verdict"] == "better"
    assert line["2 / 1, mended: verdict"] == "tie"


def test_evaluations_that_leave_nothing_to_mend_are_refused():
    config = dataclasses.replace(get_config("quick"), nfe=(3, 4))
    with pytest.raises(ValueError, match=r"nfe: \(3, 4\); the ledger wants .* 5 or more"):
        ledger.check(config)


# ---- plans


def test_thousandths_keep_whole_ones_and_cut_or_round_the_rest():
    times = np.array([1.0, 0.7, 0.98242, 0.1 + 0.2, 0.0])
    cut = ledger.thousandths(times)
    np.testing.assert_allclose(cut, [1.0, 0.7, 0.982, 0.3, 0.0], rtol=0, atol=1e-12)
    rounded = ledger.thousandths(np.array([0.9996]), "nearest")
    np.testing.assert_allclose(rounded, [1.0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("mended", [set(), set(ledger.FACTORS), {"grid"}, {"first jump", "start"}])
def test_every_combination_stops_where_the_last_jump_starts(mended):
    plan = ledger.inner_plan(Linear(), grids.uniform(10, shift=3.0), 3, mended)
    times = grids.uniform(10, shift=3.0)
    assert plan.t[0] == times[1 if "first jump" in mended else 0]
    assert plan.t_next[-1] == times[-2]
    assert plan.rows == 9 - ("first jump" in mended) + ("start" in mended) <= 10


def test_nothing_mended_is_the_published_solver_with_lowered_orders_and_cut_labels():
    plan = ledger.inner_plan(Linear(), grids.uniform(10, shift=3.0), 3, set())
    grid = grids.uniform(10, shift=3.0)
    complete = plans.dpm_solver_pp(Linear(), grid, 3, third_order="published", final="sana")
    np.testing.assert_allclose(plan.b, complete.b[:-1], rtol=1e-12)
    assert 0 < np.max(plan.t - plan.label_time) < 1e-3
