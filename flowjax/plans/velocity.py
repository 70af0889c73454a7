"""Plans that integrate the velocity in t: Euler, Heun, Runge-Kutta 4 and Adams-Bashforth.

They do not use alpha and sigma, have no singular point at t = 0 or t = 1, and need no special last
step.
"""

import itertools

import numpy as np

from flowjax import grids
from flowjax.errors import check_choice, check_order
from flowjax.plans.builder import Builder
from flowjax.plans.moments import interpolation_weights
from flowjax.plans.table import DEPTH, Plan
from flowjax.schedules import Schedule


def euler(grid: np.ndarray) -> Plan:
    """Euler's method: one evaluation a step, order 1.

    On the linear path it equals DDIM and DPM-Solver++ of order 1.

    Args:
      grid: (N+1,) strictly monotone times.
    """
    grid = grids.check(grid, "plans.euler")
    rows = Builder("plans.euler")
    for t0, t1 in itertools.pairwise(grid):
        rows.row(t0, t1, b={len(rows): t1 - t0})
    return rows.build(check=False)


def heun(grid: np.ndarray, *, schedule: Schedule | None = None) -> Plan:
    """Heun's method (explicit trapezoid): two evaluations a step, order 2.

    A step that ends at t = 0 is an Euler step, as in EDM (arXiv:2206.00364, algorithm 1): networks
    are not trained there.

    Args:
      grid: (N+1,) strictly monotone times.
      schedule: None integrates the velocity in t. A schedule integrates the noise prediction in
        rho = sigma/alpha, with x/alpha as the state: d(x/alpha)/drho = noise, which is EDM's
        equation on any path; alpha may not be 0.

    Raises:
      ValueError: a grid on which rho is infinite.
    """
    grid = grids.check(grid, "plans.heun")
    rows = Builder("plans.heun", schedule)
    if schedule is None:
        for t0, t1 in itertools.pairwise(grid):
            _heun_step(rows, t0, t1, "velocity", 1.0, t1 - t0)
        return rows.build(check=False)
    if np.any(schedule.alpha(grid) == 0):
        raise ValueError(
            "plans.heun: alpha = 0 on the grid, where rho is infinite; start below t = 1, or leave "
            "schedule=None."
        )
    for t0, t1 in itertools.pairwise(grid):
        # x1/alpha1 = x0/alpha0 + (rho1 - rho0) noise, times alpha1
        decay = schedule.alpha(t1) / schedule.alpha(t0)
        weight = schedule.sigma(t1) - decay * schedule.sigma(t0)
        _heun_step(rows, t0, t1, "noise", decay, weight)
    return rows.build(check=False)


def _heun_step(rows, t0, t1, kind, decay, weight):
    """One step of Heun's method: x1 = decay x0 + weight (m_0 + m_1)/2, with m_1 at Euler's x1."""
    first = len(rows)
    if t1 == 0:
        rows.row(t0, t1, kind=kind, a=decay, b={first: weight})
        return
    # Euler's step, to evaluate at its end
    rows.row(t0, t1, kind=kind, c=decay, d={first: weight}, ends_step=False)
    # The mean of both evaluations, from the start of the step
    rows.row(t1, t1, kind=kind, a=decay, b={first: weight / 2, first + 1: weight / 2})


def rk4(grid: np.ndarray) -> Plan:
    """The classical Runge-Kutta method: four evaluations a step, order 4.

    It evaluates at the end of each step, at t = 0 too.

    Args:
      grid: (N+1,) strictly monotone times.
    """
    grid = grids.check(grid, "plans.rk4")
    rows = Builder("plans.rk4")
    for t0, t1 in itertools.pairwise(grid):
        i = len(rows)
        h = t1 - t0
        middle = (t0 + t1) / 2
        # k2 at x + h/2 k1, k3 at x + h/2 k2, k4 at x + h k3
        rows.row(t0, middle, d={i: h / 2}, ends_step=False)
        rows.row(middle, middle, d={i + 1: h / 2}, ends_step=False)
        rows.row(middle, t1, d={i + 2: h}, ends_step=False)
        # x + h (k1 + 2 k2 + 2 k3 + k4)/6
        rows.row(t1, t1, b={i: h / 6, i + 1: h / 3, i + 2: h / 3, i + 3: h / 6})
    return rows.build(check=False)


def adams_bashforth(grid: np.ndarray, order: int, *, start: str = "cold") -> Plan:
    """Adams-Bashforth on the velocity: one evaluation a step, exact weights for unequal steps.

    Args:
      grid: (N+1,) strictly monotone times.
      order: 1 to 4.
      start: "cold" takes the first steps with orders 1, 2, ... (global order 2 whatever `order`
        is); "heun" takes the first step with Heun's method, one evaluation more, so that order 3 is
        reached (order 4 then measures 3: its other starting steps are of order 2 and 3).

    Raises:
      ValueError: an order out of range, or more than there are steps; an unknown start.
    """
    name = "plans.adams_bashforth"
    grid = grids.check(grid, name)
    check_choice(name, "start", start, ("cold", "heun"))
    check_order(name, order, 4, len(grid) - 1)
    rows = Builder(name)
    nodes = []  # (time, row) of the evaluations at the start of each step, oldest first
    for i, (t0, t1) in enumerate(itertools.pairwise(grid)):
        nodes.append((t0, len(rows)))
        h = t1 - t0
        if i == 0 and start == "heun" and order > 1:
            _heun_step(rows, t0, t1, "velocity", 1.0, h)
            continue
        # A Heun start has one row more, which pushes the oldest node of order 4 out of the history.
        used = [(t, row) for t, row in nodes[::-1][:order] if len(rows) - row < DEPTH]
        taus = np.array([(t - t0) / h for t, _ in used])
        # int_0^1 tau^k dtau = 1/(k + 1)
        moments = 1 / np.arange(1, len(used) + 1)
        weights = interpolation_weights(taus, moments)
        rows.row(t0, t1, b={row: h * w for (_, row), w in zip(used, weights, strict=True)})
    return rows.build(check=False)
