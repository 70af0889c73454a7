"""The question on curvature: its scores on small runs, and that its section repeats its rows."""

import dataclasses

import jax
import numpy as np
import pytest

import flowjax
from configs.order import get_config
from experiments.order import curvature
from experiments.order.curvature import numbers
from flowjax import Linear, fields, grids, plans

TINY = dataclasses.replace(
    get_config("quick"),
    seeds=2,
    samples=4,
    fields=("ring",),
    stds=(0.15,),
    couplings=(0.0, 0.5),
    shifts=(1.0,),
    dial_nfe=(6, 8),
    reference_steps=40,
)


def test_watched_run_gives_endpoint_and_the_data_predictions_of_its_evaluations():
    field = fields.ring(Linear())
    noise = np.asarray(jax.random.normal(jax.random.key(0), (5, 2)))
    made = [plans.dpm_solver_pp(Linear(), grids.uniform(n), 2) for n in (4, 9)]
    ends, seen = numbers.run_watched(field, noise, made, [True, True], 9)
    for plan, end, data in zip(made, ends, seen, strict=True):
        solution = flowjax.sample(field.velocity, noise, plan, save_path=True)
        np.testing.assert_allclose(end, solution.x, atol=1e-12)
        for x, t, found in zip(solution.path[:-1], plan.t, data, strict=True):
            np.testing.assert_allclose(found, field.data(x, t), atol=1e-12)


@pytest.fixture(scope="module")
def rows():
    # Without the cosine path there is one type of field, and so one compilation.
    todo = [key for key in curvature.cells(TINY) if key["path"] != "cosine"]
    found = [{**key, **values} for key, values in curvature.measure(TINY, todo)]
    keys = [{name: row[name] for name in todo[0]} for row in found]
    assert sorted(map(str, todo)) == sorted(map(str, keys))
    return found


def test_every_cell_has_every_score_but_torsion_in_the_plane(rows):
    for row in rows:
        scores = row["scores"]
        assert set(scores) == set(numbers.SCORES)
        undefined = {name for name, value in scores.items() if not np.isfinite(value)}
        assert undefined == {"torsion"}


def test_coupling_straightens_the_measured_paths(rows):
    by_coupling = {row["coupling"]: row["scores"]["straightness"] for row in rows}
    assert by_coupling[0.5] < by_coupling[0.0]


def test_section_is_drawn_from_rows(rows):
    made = curvature.section(rows, "a command")
    assert made.table and made.figures and "**" in made.answer and made.expected
    assert "nan" not in made.answer


def test_section_says_when_a_score_ranks_the_wrong_cells_first(rows):
    # Order 3 loses in every second cell. There rho_3 is higher, and the acceleration lower.
    turned = []
    for i, row in enumerate(rows * 3):
        lost = i % 2
        verdict = "worse" if lost else "better"
        scores = {"acceleration": 1.0 - lost + 0.001 * i, "rho_3": 1.0 + lost}
        verdicts = {"rms_verdict": verdict, "median_verdict": verdict}
        turned.append(
            {
                **row,
                "std": i,
                "pairs": [pair | verdicts for pair in row["pairs"]],
                "scores": row["scores"] | scores,
            }
        )
    answer = curvature.section(turned, "").answer
    assert "acceleration of the exact path **ranks these cells last**" in answer
    assert "rho_3, free of cost, **ranks these cells first**" in answer
