"""The question on crossovers: they are found or bounded, and a line through them counts bounds."""

import dataclasses

import numpy as np
import pytest

from configs.order import get_config
from experiments.lab import solvers
from experiments.lab.truth import make_cell
from experiments.order import crossover
from experiments.order.crossover import numbers
from flowjax import Linear, fields

TINY = dataclasses.replace(
    get_config("quick"),
    seeds=2,
    samples=4,
    stds=(0.15,),
    shifts=(1.0,),
    crossover_nfe=(4, 6, 8),
    reference_steps=40,
)


# ---- one crossover


def test_crossover_is_found_between_the_numbers_tried():
    nfe = np.array([4, 8, 16, 32, 64])
    found, side = numbers.crossover(nfe, 1.02 * (20.0 / nfe))
    assert side == ""
    np.testing.assert_allclose(found, 20, rtol=1e-12)


def test_crossover_is_the_last_one_in_any_order_of_rows():
    found, side = numbers.crossover([32, 4, 8, 16], [0.5, 0.5, 2.0, 1.02])
    assert (round(found, 9), side) == (16, "")


@pytest.mark.parametrize(
    ("ratios", "wanted"),
    [
        ([0.9, 0.8, 1.01], (4, "below")),
        ([2.0, 1.5, 1.1], (16, "above")),
        ([0.5, 0.5, np.inf], (16, "above")),
        ([0.5, 0.5, np.nan], (16, "above")),
        ([0.5, np.inf, 0.5], (16, "")),
    ],
)
def test_crossover_outside_the_range_is_censored(ratios, wanted):
    assert numbers.crossover([4, 8, 16], ratios) == wanted


def test_law_is_least_where_the_mode_is_as_wide_as_the_shift():
    assert numbers.law(1.0, 1.0, 2) == pytest.approx(16 / np.pi)
    assert numbers.law(0.001, 1.0, 3) == pytest.approx(6000 / np.pi, rel=0.01)


# ---- many crossovers


def synthetic(nfe=(4, 8, 16, 32, 64, 128, 256)):
    """Rows whose crossovers are the law's, times 2."""
    rows = []
    for std in (0.1, 0.2, 0.4):
        for shift in (1.0, 2.0):
            for n in nfe:
                second, third = (2 * numbers.law(std, shift, k) / n * 1.02 for k in (2, 3))
                errors = {"Euler": 1.0, "DPM++ 2M": second, "DPM++ 3M exact": second * third}
                errors["DPM++ 3M published"] = 2 * second  # never below order 2
                for end in numbers.ENDS:
                    key = {"std": std, "shift": shift, "end": end, "nfe": n}
                    rows.append({**key, "rms": errors, "median": errors})
    return rows


def test_fit_recovers_slope_and_factor_and_counts_what_is_censored():
    fits = numbers.fits(numbers.observed(synthetic()))
    found = {fit["pair"]: fit for fit in fits if fit["end"] == "own"}
    for pair in ("DPM++ 2M below Euler", "DPM++ 3M exact below DPM++ 2M"):
        np.testing.assert_allclose([found[pair]["slope"], found[pair]["factor"]], [1, 2], rtol=0.01)
        assert found[pair]["seen"] == 6
    never = found["DPM++ 3M published below DPM++ 2M"]
    assert (never["seen"], never["below"], never["above"], never["slope"]) == (0, 0, 6, None)


def test_line_through_bounds_is_not_flattened():
    rng = np.random.default_rng(2)
    x = np.linspace(0, 4, 40)
    y = 1 + x + 0.4 * rng.standard_normal(40)
    side = np.select([y > 3.5, y < 1.5], ["above", "below"], "")
    height, slope, low, high = numbers.censored_line(x, np.clip(y, 1.5, 3.5), side)
    inside = side == ""
    flattened = np.polyfit(x[inside], y[inside], 1)[0]  # what a fit without the bounds would give
    assert flattened < 0.85
    assert low < 1 < high and high - low < 0.6
    assert abs(slope - 1) < 0.15 and abs(height - 3) < 0.15


def test_laws_outside_the_range_are_not_judged():
    table = numbers.observed(synthetic(nfe=(4, 8, 16)))
    assert {r["judged"] for r in table if r["law"] > 16} == {False}
    beyond = sum(fit["beyond"] for fit in numbers.fits(table))
    assert beyond == sum(not r["judged"] for r in table)


def test_ranks_count_bounds():
    table = numbers.observed(synthetic())
    assert numbers.ranks(table) == (48, 0, 0)  # 6 cells, four ends, two statistics
    # With 4 to 8 evaluations every crossover lies above: nothing can be said.
    assert numbers.ranks(numbers.observed(synthetic(nfe=(4, 8)))) == (0, 0, 48)


# ---- a run


def test_solved_end_leaves_only_the_head_to_blame():
    cell = make_cell(fields.ring(Linear(), std=0.15), 1, 8, steps=200)
    key = {"std": 0.15, "shift": 1.0, "nfe": 160}
    made = {end: numbers.plan_of("DPM++ 2M", key | {"end": end}) for end in ("own", "solved")}
    assert made["own"].nfe == 160 and made["solved"].t_next[-1] == 0
    errors = {
        end: np.median(cell.errors(solvers.run_plans(cell.field, cell.noise, [plan])))
        for end, plan in made.items()
    }
    assert errors["solved"] < 0.5 * errors["own"]


@pytest.fixture(scope="module")
def rows():
    todo = crossover.cells(TINY)
    found = [{**key, **values} for key, values in crossover.measure(TINY, todo)]
    keys = [{name: row[name] for name in todo[0]} for row in found]
    assert sorted(map(str, todo)) == sorted(map(str, keys))
    return found


def test_section_is_drawn_from_rows(rows):
    made = crossover.section(rows, "a command")
    assert made.table and made.figures and "**" in made.answer and made.expected
    assert "nan" not in made.answer
