"""DEIS integrates a polynomial in its variable exactly, also beside the pole of rho."""

import numpy as np
import pytest
from scipy import integrate

from flowjax import plans
from tests.plans.problems import (
    GRID,
    PLACES,
    SCHEDULES,
    both_paths,
    coordinates,
    polynomial,
    worst_step,
)

DEIS_GRIDS = {  # rho = sigma/alpha has its pole just beyond the second and third
    "interior": GRID,
    "near noise": np.array([0.9999, 0.9998, 0.999, 0.8, 0.6, 0.4, 0.2, 0.1, 0.01]),
    "inversion to noise": np.array([0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9999]),
}


def rho_rate(path, t):
    """The derivative of rho = sigma/alpha in t."""
    if path == "linear":
        return 1 / (1 - t) ** 2
    return np.pi / 2 / np.cos(np.pi * t / 2) ** 2


@both_paths
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("variable", ["t", "rho"])
@pytest.mark.parametrize("grid", DEIS_GRIDS)
def test_deis_integrates_a_polynomial_in_its_variable_exactly(path, order, variable, grid):
    schedule, p = SCHEDULES[path], polynomial(order)

    def exact_step(x, t0, t1):
        def integrand(t):
            return p(PLACES[variable](schedule, t)) * rho_rate(path, t)

        # x1 = alpha1/alpha0 x0 + alpha1 int noise drho
        alpha0, alpha1 = coordinates(path, t0)[0], coordinates(path, t1)[0]
        integral = integrate.quad(integrand, t0, t1, epsabs=0, epsrel=1e-12, limit=500)[0]
        return alpha1 / alpha0 * x + alpha1 * integral

    plan = plans.deis(schedule, DEIS_GRIDS[grid], order, variable=variable)
    worst = worst_step(
        plan, order, exact_step, order - 1, path=path, prediction="noise", place=variable
    )
    # cos(pi t/2) keeps 12 digits at t = 0.9999, and four nodes in rho are extrapolated there by a
    # factor of a thousand.
    assert worst < (1e-12 if grid == "interior" else 1e-9)
