"""The questions on curvature and crossover: their statistics on known cases, and that they say what their rows say."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import order
from experiments.order import crossover, curvature, lab
from flowjax import Linear, fields, grids, plans

TINY = dataclasses.replace(
    order.get_config("quick"), seeds=2, samples=4, fields=("ring",), stds=(0.15,), couplings=(0.0, 0.5),
    shifts=(1.0,), dial_nfe=(6, 8), crossover_nfe=(4, 6, 8), reference_steps=40,
)  # fmt: skip


def test_auc_of_known_cases():
    assert curvature.auc([1, 2, 3, 4], [False, False, True, True])[0] == 1
    assert curvature.auc([4, 3, 2, 1], [False, False, True, True])[0] == 0
    assert curvature.auc([1, 1, 1, 1], [False, False, True, True])[0] == 0.5
    assert curvature.auc([1, 3, 2, 4], [False, False, True, True])[0] == 0.75
    assert np.isnan(curvature.auc([1, 2], [True, True])).all()


def test_auc_equals_the_trapezoids_of_the_roc_figure():
    rng = np.random.default_rng(0)
    truths = rng.random(60) < 0.4
    scores = np.round(rng.normal(truths, 1.0), 1)
    _, ax = curvature.report.canvas()
    rows = [{"s": s, "t": t, "n": "all"} for s, t in zip(scores, truths, strict=True)]
    drawn = curvature.report.roc(ax, rows, score="s", truth="t", by="n")[0]["auc"]
    np.testing.assert_allclose(curvature.auc(scores, truths)[0], drawn, rtol=1e-12)


def test_auc_within_strata_does_not_compare_across_them():
    scores, truths, strata = [1, 2, 11, 12], [True, False, True, False], [0, 0, 1, 1]
    assert curvature.auc(scores, truths, strata=strata)[0] == 0
    assert curvature.auc(scores, truths)[0] == 0.25


def test_auc_interval_covers_a_coin_and_widens_with_groups():
    rng = np.random.default_rng(1)
    truths, scores = np.repeat(rng.random(20) < 0.5, 10), np.repeat(rng.random(20), 10)
    _, low, high = curvature.auc(scores, truths)
    _, low_groups, high_groups = curvature.auc(scores, truths, np.repeat(np.arange(20), 10))
    assert low_groups < 0.5 < high_groups
    assert high_groups - low_groups > 2 * (high - low)


def test_auc_refuses_nan():
    with pytest.raises(ValueError, match="ranks nowhere"):
        curvature.auc([np.nan, 1], [True, False])


def test_crossover_is_found_between_the_numbers_tried():
    nfe = np.array([4, 8, 16, 32, 64])
    found, side = crossover.crossover(nfe, 1.02 * (20.0 / nfe))
    assert side == ""
    np.testing.assert_allclose(found, 20, rtol=1e-12)


def test_crossover_is_the_last_one_in_any_order_of_rows():
    found, side = crossover.crossover([32, 4, 8, 16], [0.5, 0.5, 2.0, 1.02])
    assert (round(found, 9), side) == (16, "")


@pytest.mark.parametrize(
    "ratios, wanted",
    [
        ([0.9, 0.8, 1.01], (4, "below")),
        ([2.0, 1.5, 1.1], (16, "above")),
        ([0.5, 0.5, np.inf], (16, "above")),
        ([0.5, 0.5, np.nan], (16, "above")),
        ([0.5, np.inf, 0.5], (16, "")),
    ],
)
def test_crossover_outside_the_range_is_censored(ratios, wanted):
    assert crossover.crossover([4, 8, 16], ratios) == wanted


def synthetic(nfe=(4, 8, 16, 32, 64, 128, 256)):
    """Rows whose crossovers are the law's, times 2."""
    rows = []
    for std in (0.1, 0.2, 0.4):
        for shift in (1.0, 2.0):
            for n in nfe:
                second, third = (2 * crossover.law(std, shift, k) / n * 1.02 for k in (2, 3))
                errors = {"Euler": 1.0, "DPM++ 2M": second, "DPM++ 3M exact": second * third}
                errors["DPM++ 3M published"] = 2 * second  # never below order 2
                for end in crossover.ENDS:
                    key = {"std": std, "shift": shift, "end": end, "nfe": n}
                    rows.append({**key, "rms": errors, "median": errors})
    return rows


def test_fit_recovers_slope_and_factor_and_counts_what_is_censored():
    found = {
        f["pair"]: f for f in crossover.fits(crossover.observed(synthetic())) if f["end"] == "own"
    }
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
    height, slope, low, high = crossover.censored_line(x, np.clip(y, 1.5, 3.5), side)
    kept = side == ""
    assert np.polyfit(x[kept], y[kept], 1)[0] < 0.85  # what leaving the bounds out would give
    assert low < 1 < high and high - low < 0.6 and abs(slope - 1) < 0.15 and abs(height - 3) < 0.15


def test_laws_outside_the_range_are_not_judged():
    table = crossover.observed(synthetic(nfe=(4, 8, 16)))
    assert {r["judged"] for r in table if r["law"] > 16} == {False}
    assert sum(f["beyond"] for f in crossover.fits(table)) == sum(not r["judged"] for r in table)


def test_ranks_count_bounds():
    table = crossover.observed(synthetic())
    assert crossover.ranks(table) == (48, 0, 0)  # 6 cells, four ends, two statistics
    # With 4 to 8 evaluations every crossover lies above: nothing can be said.
    assert crossover.ranks(crossover.observed(synthetic(nfe=(4, 8)))) == (0, 0, 48)


def test_law_is_least_where_the_mode_is_as_wide_as_the_shift():
    assert crossover.law(1.0, 1.0, 2) == pytest.approx(16 / np.pi)
    assert crossover.law(0.001, 1.0, 3) == pytest.approx(6000 / np.pi, rel=0.01)


def test_solved_end_leaves_only_the_head_to_blame():
    cell = lab.make_cell(fields.ring(Linear(), std=0.15), 1, 8, steps=200)
    key = {"std": 0.15, "shift": 1.0, "nfe": 160}
    made = {end: crossover._plan("DPM++ 2M", key | {"end": end}) for end in ("own", "solved")}
    assert made["own"].nfe == 160 and made["solved"].t_next[-1] == 0
    errors = {
        end: np.median(cell.errors(lab.run_plans(cell.field, cell.noise, [plan])))
        for end, plan in made.items()
    }
    assert errors["solved"] < 0.5 * errors["own"]


def test_watched_run_gives_endpoint_and_the_data_predictions_of_its_evaluations():
    field = fields.ring(Linear())
    noise = np.asarray(jax.random.normal(jax.random.key(0), (5, 2)))
    made = [plans.dpm_solver_pp(Linear(), grids.uniform(n), 2) for n in (4, 9)]
    ends, seen = curvature._run_plans(field, noise, made, [True, True], 9)
    for plan, end, data in zip(made, ends, seen, strict=True):
        solution = curvature.flowjax.sample(field.velocity, noise, plan, save_path=True)
        np.testing.assert_allclose(end, solution.x, atol=1e-12)
        for x, t, found in zip(solution.path[:-1], plan.t, data, strict=True):
            np.testing.assert_allclose(found, field.data(x, t), atol=1e-12)


@pytest.fixture(scope="module")
def rows():
    found = {}
    for module in (curvature, crossover):
        todo = [
            key for key in module.cells(TINY) if key.get("path") != "cosine"
        ]  # one type of field: one compilation
        found[module] = [{**key, **values} for key, values in module.measure(TINY, todo)]
        assert sorted(map(str, todo)) == sorted(
            str({k: row[k] for k in todo[0]}) for row in found[module]
        )
    return found


def test_every_cell_has_every_score_but_torsion_in_the_plane(rows):
    for row in rows[curvature]:
        assert set(curvature.SCORES) == set(row["scores"])
        assert {name for name, value in row["scores"].items() if not np.isfinite(value)} == {
            "torsion"
        }


def test_coupling_straightens_the_measured_paths(rows):
    by_coupling = {r["coupling"]: r["scores"]["straightness"] for r in rows[curvature]}
    assert by_coupling[0.5] < by_coupling[0.0]


@pytest.mark.parametrize("module", [curvature, crossover])
def test_section_is_drawn_from_rows(rows, module):
    made = module.section(rows[module], "a command")
    assert made.table and made.figures and "**" in made.answer and made.expected
    assert "nan" not in made.answer


def test_section_says_when_a_score_points_the_wrong_way(rows):
    turned = []
    for i, row in enumerate(rows[curvature] * 3):
        row = {
            **row,
            "std": i,
            "pairs": [dict(p) for p in row["pairs"]],
            "scores": dict(row["scores"]),
        }
        lost = i % 2
        row["scores"] |= {"acceleration": 1.0 - lost + 0.001 * i, "rho_3": 1.0 + lost}
        for pair in row["pairs"]:
            pair["rms_verdict"] = pair["median_verdict"] = "worse" if lost else "better"
        turned.append(row)
    answer = curvature.section(turned, "").answer
    assert "acceleration of the exact path **points the wrong way**" in answer
    assert "The free rho_3 **tells it**" in answer
