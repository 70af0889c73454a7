"""Plans of the velocity against textbook formulas and polynomials that they integrate exactly."""

import numpy as np
import pytest
from scipy import integrate

from flowjax import grids, plans
from tests.plans.problems import EXACT, GRID, START, path_of, polynomial, velocity, worst_step


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_bashforth_has_the_textbook_weights_on_equal_steps(order):
    # Of the newest evaluation first, over the step
    weights = {
        1: [1],
        2: [3 / 2, -1 / 2],
        3: [23 / 12, -16 / 12, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    last = plans.adams_bashforth(grids.uniform(10), order).b[-1] / -0.1
    np.testing.assert_allclose(last, np.pad(weights[order], (0, 4 - order)), rtol=0, atol=1e-12)


def heun_step(x, t, t1):
    # The mean of the slopes at the start and at Euler's end
    h = t1 - t
    k1 = velocity(x, t)
    return x + h / 2 * (k1 + velocity(x + h * k1, t1))


def rk4_step(x, t, t1):
    h = t1 - t
    k1 = velocity(x, t)
    k2 = velocity(x + h / 2 * k1, t + h / 2)
    k3 = velocity(x + h / 2 * k2, t + h / 2)
    k4 = velocity(x + h * k3, t1)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@pytest.mark.parametrize(
    ("plan", "step"),
    [(plans.heun(GRID), heun_step), (plans.rk4(GRID), rk4_step)],
    ids=["heun", "rk4"],
)
def test_runge_kutta_is_the_textbook_loop(plan, step):
    x, states = START, [START]
    for t, t1 in zip(GRID[:-1], GRID[1:], strict=True):
        x = step(x, t, t1)
        states.append(np.asarray(x))
    np.testing.assert_allclose(path_of(plan), states, **EXACT)


def test_heun_ends_at_zero_with_an_euler_step():
    plan = plans.heun([1.0, 0.5, 0.0])
    assert plan.nfe == 3
    assert np.all(plan.t > 0)


INTEGRATES = {  # plan, order, first step of that order
    "euler": (plans.euler(GRID), 1, 0),
    "heun": (plans.heun(GRID), 2, 0),
    "rk4": (plans.rk4(GRID), 4, 0),
    "ab2": (plans.adams_bashforth(GRID, 2), 2, 1),
    "ab3": (plans.adams_bashforth(GRID, 3), 3, 2),
    "ab4": (plans.adams_bashforth(GRID, 4), 4, 3),
    "ab4 heun": (plans.adams_bashforth(GRID, 4, start="heun"), 4, 4),
}


@pytest.mark.parametrize("name", INTEGRATES)
def test_polynomial_velocity_of_the_order_is_integrated_exactly(name):
    plan, order, first = INTEGRATES[name]
    p = polynomial(order)

    def exact_step(x, t0, t1):
        return x + integrate.quad(p, t0, t1, epsabs=1e-15)[0]

    assert worst_step(plan, order, exact_step, first) < 1e-13
