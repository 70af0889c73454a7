"""The stochastic plans against the papers' loops, and their mean against exact integrals."""

import numpy as np
import pytest

from flowjax import grids, plans
from tests.plans import loops
from tests.plans.problems import (
    ENDS,
    EXACT,
    GRID,
    SCHEDULES,
    START,
    both_paths,
    both_predictions,
    both_variants,
    coordinates,
    path_of,
    predictions,
    worst_log_snr_step,
)

NOISE = np.random.default_rng(1).normal(size=(8, *START.shape))


@both_paths
@both_predictions
@both_variants
@pytest.mark.parametrize("order", [1, 2])
def test_sde_is_the_loop_of_the_paper(path, prediction, variant, order):
    plan = plans.dpm_solver_sde(
        SCHEDULES[path], GRID, order, variant=variant, prediction=prediction
    )
    expected = loops.sde(path, prediction, GRID, order, variant, NOISE)
    # The noise form multiplies by alpha1/alpha0, 16 over this grid, and expm1(2h).
    np.testing.assert_allclose(path_of(plan, noise=NOISE), expected, rtol=1e-12, atol=2e-12)


@both_paths
@both_predictions
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sde_integrates_a_polynomial_in_log_snr_exactly(path, prediction, order):
    plan = plans.dpm_solver_sde(
        SCHEDULES[path], GRID, order, variant="taylor", prediction=prediction
    )
    assert worst_log_snr_step(plan, path, prediction, order, order - 1, speed=2) < 1e-12


@both_paths
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_equation_12_of_the_paper(path, eta):
    x, states = START, [START]
    for i, (t0, t1) in enumerate(zip(GRID[:-1], GRID[1:], strict=True)):
        alpha0, sigma0, _ = coordinates(path, t0)
        alpha1, sigma1, _ = coordinates(path, t1)
        # x1 = alpha1 data + sqrt(sigma1^2 - std^2) noise + std z
        data, noise = predictions(path, x, t0)
        # Eq. 16 with abar = alpha^2/(alpha^2 + sigma^2), on any path
        std = eta * sigma1 / sigma0 * np.sqrt(sigma0**2 - (alpha0 / alpha1 * sigma1) ** 2)
        x = alpha1 * data + np.sqrt(sigma1**2 - std**2) * noise + std * NOISE[i]
        states.append(x)
    plan = plans.ddim(SCHEDULES[path], GRID, eta)
    np.testing.assert_allclose(path_of(plan, noise=NOISE), states, **EXACT)


@both_paths
def test_ancestral_ddim_is_the_first_order_sde(path):
    ddim = plans.ddim(SCHEDULES[path], GRID, 1.0)
    sde = plans.dpm_solver_sde(SCHEDULES[path], GRID, 1)
    np.testing.assert_allclose(path_of(ddim, noise=NOISE), path_of(sde, noise=NOISE), **EXACT)


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("grid", [grids.uniform(7), [1.0, 0.6, 0.3, 1.5e-4, 1e-4, 0.0]])
def test_tables_of_stochastic_plans_are_finite_from_end_to_end(schedule, grid):
    for plan in (
        plans.ddim(schedule, grid, 1.0),
        plans.dpm_solver_sde(schedule, grid, 3),
        plans.dpm_solver_sde(schedule, grid, 3, prediction="noise"),
    ):
        assert all(np.all(np.isfinite(column)) for column in plan)
        # Noise is drawn at the start, and none on the step to t = 0.
        assert plan.s[0] > 0
        assert plan.s[-1] == 0
