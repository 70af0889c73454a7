"""The defects are what they say they are; grids are compared within cells; cells are distinct."""

import numpy as np
import pytest

from configs.order import get_config
from experiments.order import cost, defects, grid_choice, ledger
from experiments.order.defects import cases
from experiments.order.defects.numbers import by_case
from flowjax import Linear, grids, plans


@pytest.mark.parametrize("module", [ledger, grid_choice, defects, cost])
@pytest.mark.parametrize("variant", ["", "quick"])
def test_cells_are_distinct_and_carry_their_question(module, variant):
    keys = [tuple(sorted(key.items())) for key in module.cells(get_config(variant))]
    assert len(set(keys)) == len(keys) > 0
    assert all(dict(key)["question"] == module.QUESTION for key in keys)


# ---- defects


def test_the_unchecked_singlestep_is_the_public_one_when_its_inverse_is_right():
    times = grids.log_snr(Linear(), 6, start=0.9, end=0.1)
    ours = plans.dpm_solver_pp(Linear(), times, 2, method="singlestep")
    theirs = cases.second_singlestep(Linear(), times)
    for column in ("t", "a", "b", "c", "d", "t_next"):
        found, wanted = getattr(theirs, column), getattr(ours, column)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)
    # From t = 1/2 on, the wrong inverse returns times inside [0, 1].
    wrong = cases.second_singlestep(cases.WrongInverse(), times[times < 0.5])
    assert np.max(wrong.t) < 1


def test_the_least_sigma_of_the_twice_shifted_grid_is_the_known_one():
    for shift, least in ((3.0, 0.0089), (6.0, 0.035)):
        times = cases.twice_shifted(20, shift)
        assert len(times) == 21 and times[0] == 1 and times[-1] == 0
        np.testing.assert_allclose(times[-2], least, rtol=0.02)


def test_a_defect_is_worse_only_where_every_field_says_so():
    common = {"whose": "x", "solver": "3M", "nfe": 20, "after": 1.0}

    def made(defect, **verdicts):
        return [
            {**common, "defect": defect, "field": field, "before": 2.0, "verdict": verdict}
            for field, verdict in verdicts.items()
        ]

    rows = made("sure", ring="worse", digits="worse") + made("mixed", ring="worse", digits="tie")
    rows.append({**common, "defect": "kept out", "field": "ring", "refused": "no"})
    table = {line["defect"]: line for line in by_case(rows)}
    effects = [line["effect"] for line in table.values()]
    assert effects == ["worse", "depends on the field", "refused"]
    assert table["mixed"]["worse"] == 1
    np.testing.assert_allclose(table["mixed"]["ratio"], 2)


# ---- grids


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
