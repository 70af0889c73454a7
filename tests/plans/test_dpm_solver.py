"""DPM-Solver(++) against the papers' loops, and against problems that it solves exactly."""

import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.schedules import Linear
from tests.plans import loops
from tests.plans.problems import (
    EXACT,
    GRID,
    SCHEDULES,
    both_paths,
    both_predictions,
    both_variants,
    path_of,
    worst_log_snr_step,
)


@both_paths
@both_predictions
@both_variants
@pytest.mark.parametrize(
    ("order", "third_order"), [(1, "exact"), (2, "exact"), (3, "exact"), (3, "published")]
)
def test_multistep_is_the_loop_of_the_papers(path, prediction, variant, order, third_order):
    plan = plans.dpm_solver_pp(
        SCHEDULES[path],
        GRID,
        order,
        variant=variant,
        prediction=prediction,
        third_order=third_order,
    )
    expected = loops.multistep(path, prediction, GRID, order, variant, third_order)
    np.testing.assert_allclose(path_of(plan), expected, **EXACT)


@both_paths
@both_predictions
@both_variants
@pytest.mark.parametrize("order", [1, 2, 3])
def test_singlestep_is_the_loop_of_the_papers(path, prediction, variant, order):
    plan = plans.dpm_solver_pp(
        SCHEDULES[path], GRID, order, method="singlestep", variant=variant, prediction=prediction
    )
    expected = loops.singlestep(path, prediction, GRID, order, variant)
    np.testing.assert_allclose(path_of(plan), expected, **EXACT)


def taylor(order, **options):
    """A function (schedule, prediction) -> plan on GRID, of the variant that integrates exactly."""

    def make(schedule, prediction):
        return plans.dpm_solver_pp(
            schedule, GRID, order, variant="taylor", prediction=prediction, **options
        )

    return make


def unip(schedule, prediction):
    return plans.unipc(schedule, GRID, 3, corrector=False, prediction=prediction)


INTEGRATES = {  # plan, order, first step of that order
    "2M taylor": (taylor(2), 2, 1),
    "2M taylor, warm": (taylor(2, start="singlestep"), 2, 0),
    "3M exact": (taylor(3), 3, 2),
    "2S taylor": (taylor(2, method="singlestep"), 2, 0),
    "3S taylor": (taylor(3, method="singlestep"), 3, 0),
    "UniP 3": (unip, 3, 2),
}


@both_paths
@both_predictions
@pytest.mark.parametrize("name", INTEGRATES)
def test_polynomial_in_log_snr_of_the_order_is_integrated_exactly(path, prediction, name):
    make, order, first = INTEGRATES[name]
    plan = make(SCHEDULES[path], prediction)
    assert worst_log_snr_step(plan, path, prediction, order, first) < 1e-12
    # One power more is not.
    assert worst_log_snr_step(plan, path, prediction, order + 1, first) > 1e-4


def test_published_third_order_does_not_integrate_a_parabola():
    plan = plans.dpm_solver_pp(Linear(), GRID, 3, third_order="published")
    # Three terms are a parabola, and two a line.
    assert worst_log_snr_step(plan, "linear", "data", 3, 2) > 1e-4
    assert worst_log_snr_step(plan, "linear", "data", 2, 2) < 1e-12


def test_a_step_that_touches_an_infinite_end_is_one_evaluation():
    # The first step begins at t = 1, and the last one ends at t = 0.
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(5), 3, method="singlestep")
    assert plan.nfe == 1 + 3 * 3 + 1
    assert plan.steps == 5
