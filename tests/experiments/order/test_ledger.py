"""The ledger's arithmetic, and that the defects are what they say they are."""

import itertools
import math

import numpy as np
import pytest

from configs.order import get_config
from experiments.order import cost, defects, grid_choice, ledger
from flowjax import Linear, grids, plans


def worth(game, count):
    """The worths of all subsets, in the order that `shapley` reads them, of a function of a set of players."""
    return np.array([game({i for i in range(count) if s >> i & 1}) for s in range(1 << count)])


def by_orders(game, count):
    """Shapley values by their definition: the mean gain over all orders of joining."""
    gains = np.zeros(count)
    for order in itertools.permutations(range(count)):
        for place, player in enumerate(order):
            gains[player] += game(set(order[: place + 1])) - game(set(order[:place]))
    return gains / math.factorial(count)


def test_each_player_of_an_additive_game_gets_what_it_brings():
    brings = np.array([1.0, -2.0, 0.5, 0.0])
    values = ledger.shapley(worth(lambda s: 7 + sum(brings[list(s)]), 4))
    np.testing.assert_allclose(values, brings, atol=1e-12)


def test_partners_share_what_neither_has_alone():
    # 6 only when players 0 and 1 are both there; player 2 brings 1 alone and takes 3 away where 0 is
    def game(players):
        return 6 * ({0, 1} <= players) + 1 * (2 in players) - 3 * ({0, 2} <= players)

    np.testing.assert_allclose(ledger.shapley(worth(game, 3)), [3 - 1.5, 3, 1 - 1.5], atol=1e-12)


def test_shares_are_the_mean_gain_over_all_orders():
    table = np.random.default_rng(0).normal(size=32)

    def game(players):
        return table[sum(1 << i for i in players)]

    np.testing.assert_allclose(ledger.shapley(table), by_orders(game, 5), atol=1e-12)


def test_shares_sum_to_the_whole_gain_in_every_column():
    table = np.random.default_rng(1).normal(size=(128, 3, 2))
    np.testing.assert_allclose(ledger.shapley(table).sum(0), table[-1] - table[0], atol=1e-12)


def test_worths_that_are_no_power_of_two_are_refused():
    with pytest.raises(ValueError, match="one for each subset"):
        ledger.shapley(np.zeros(6))


def made_row(gains, seeds=3, **key):
    """A row whose log error is a sum of what each factor mends, the same for all seeds."""
    logs = worth(lambda s: -2 * sum(gains[i] for i in s), len(gains))
    lower = [{"order": n, "shipped": [0.5] * seeds, "mended": [0.5] * seeds} for n in (1, 2)]
    return {
        "field": "ring",
        "shift": 1.0,
        "nfe": 10,
        "log_squares": [[x] * seeds for x in logs],
        "lower": lower,
        **key,
    }


def test_the_ledger_finds_what_the_rows_were_made_of():
    first, second = (np.arange(len(ledger.FACTORS)) * s for s in (0.1, 0.3))
    book = ledger.ledger([made_row(first), made_row(second, nfe=20)])
    np.testing.assert_allclose([b["gain"] for b in book], (first + second) / 2, atol=1e-12)
    np.testing.assert_allclose(sum(b["share"] for b in book), 1)
    np.testing.assert_allclose([b["low"] for b in book], [b["high"] for b in book], atol=1e-12)


def test_the_numbers_of_a_cell_are_those_of_its_errors():
    (line,) = ledger.by_cell([made_row(np.full(len(ledger.FACTORS), 0.1))])
    np.testing.assert_allclose(line["3M shipped"] / line["3M mended"], np.exp(0.7), rtol=1e-12)
    np.testing.assert_allclose(line["3 / 2, shipped"], np.exp(-0.25), rtol=1e-12)
    assert (line["3 / 2, shipped: verdict"], line["2 / 1, mended: verdict"]) == ("better", "tie")


def test_thousandths_keep_whole_ones_and_cut_or_round_the_rest():
    times = np.array([1.0, 0.7, 0.98242, 0.1 + 0.2, 0.0])
    np.testing.assert_allclose(
        ledger.thousandths(times), [1.0, 0.7, 0.982, 0.3, 0.0], rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(
        ledger.thousandths(np.array([0.9996]), "nearest"), [1.0], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("mended", [set(), set(ledger.FACTORS), {"grid"}, {"first jump", "start"}])
def test_every_combination_stops_where_the_last_jump_starts(mended):
    plan = ledger.inner_plan(Linear(), 3.0, 10, 3, mended)
    times = grids.uniform(10, shift=3.0)
    assert plan.t[0] == times[1 if "first jump" in mended else 0]
    assert plan.t_next[-1] == times[-2]
    assert plan.rows == 9 - ("first jump" in mended) + ("start" in mended) <= 10


def test_nothing_mended_is_the_published_solver_with_lowered_orders_and_cut_labels():
    plan = ledger.inner_plan(Linear(), 3.0, 10, 3, set())
    whole = plans.dpm_solver_pp(
        Linear(), grids.uniform(10, shift=3.0), 3, third_order="published", final="sana"
    )
    np.testing.assert_allclose(plan.b, whole.b[:-1], rtol=1e-12)
    assert 0 < np.max(plan.t - plan.label_time) < 1e-3


def test_the_unchecked_singlestep_is_the_public_one_when_its_inverse_is_right():
    times = grids.log_snr(Linear(), 6, start=0.9, end=0.1)
    ours = plans.dpm_solver_pp(Linear(), times, 2, method="singlestep")
    theirs = defects.second_singlestep(Linear(), times)
    for column in ("t", "a", "b", "c", "d", "t_next"):
        np.testing.assert_allclose(
            getattr(theirs, column), getattr(ours, column), rtol=0, atol=1e-12
        )
    assert np.max(defects.second_singlestep(defects.WrongInverse(), times[times < 0.5]).t) < 1


def test_the_least_sigma_of_the_twice_shifted_grid_is_the_known_one():
    for shift, least in ((3.0, 0.0089), (6.0, 0.035)):
        times = defects.twice_shifted(20, shift)
        assert len(times) == 21 and times[0] == 1 and times[-1] == 0
        np.testing.assert_allclose(times[-2], least, rtol=0.02)


def test_every_grid_of_the_comparison_runs_from_noise_to_data():
    for name, make in grid_choice.GRIDS.items():
        for steps in grid_choice.NFE:
            times = grids.check(make(steps), name, decreasing=True)
            assert (len(times), times[0], times[-1]) == (steps + 1, 1.0, 0.0), name


def test_spread_compares_within_cells_only():
    matrix = [
        {"field": field, "nfe": 10, "grid": grid, "solver": solver, "rms": scale * g * s}
        for field, scale in (("ring", 1.0), ("digits", 100.0))
        for grid, g in (("uniform", 1.0), ("beta", 5.0))
        for solver, s in (("Euler", 1.0), ("AB2", 0.5))
    ]
    found = grid_choice.spreads(matrix)
    np.testing.assert_allclose(found["grid"], [[3.0, 5.0]] * 4)
    np.testing.assert_allclose(found["solver"], [[1.5, 2.0]] * 4)


@pytest.mark.parametrize("module", [ledger, grid_choice, defects, cost])
@pytest.mark.parametrize("variant", ["", "quick"])
def test_cells_are_distinct_and_carry_their_question(module, variant):
    keys = [tuple(sorted(key.items())) for key in module.cells(get_config(variant))]
    assert len(set(keys)) == len(keys) > 0
    assert all(dict(key)["question"] == module.QUESTION for key in keys)


def test_a_defect_is_worse_only_where_every_field_says_so():
    def made(defect, **verdicts):
        return [
            {"defect": defect, "whose": "x", "field": f, "solver": "3M", "nfe": 20, "before": 2.0, "after": 1.0, "verdict": v}
            for f, v in verdicts.items()
        ]  # fmt: skip

    rows = made("sure", ring="worse", digits="worse") + made("mixed", ring="worse", digits="tie")
    rows += [
        {
            "defect": "kept out",
            "whose": "x",
            "field": "ring",
            "solver": "y",
            "nfe": 20,
            "after": 1.0,
            "refused": "no",
        }
    ]
    table = {t["defect"]: t for t in defects.by_case(rows)}
    assert [t["effect"] for t in table.values()] == ["worse", "depends on the field", "refused"]
    assert table["mixed"]["worse"] == 1
    np.testing.assert_allclose(table["mixed"]["ratio"], 2)
