"""Plans that integrate the velocity in t: Euler, Heun, Runge-Kutta 4 and Adams-Bashforth.

They know nothing of alpha and sigma, have no singular point at t = 0 or t = 1, and need no special last step.
"""

import numpy as np

from flowjax import grids
from flowjax.errors import check_choice, check_order
from flowjax.plans.moments import interpolation_weights
from flowjax.plans.table import DEPTH, Builder


def euler(grid):
    """Euler's method: one evaluation a step, order 1. On the linear path it equals DDIM and DPM-Solver++ of order 1."""
    grid = grids.check(grid, "plans.euler")
    rows = Builder("plans.euler")
    for t0, t1 in zip(grid[:-1], grid[1:], strict=True):
        rows.row(t0, t1, b={len(rows): t1 - t0})
    return rows.build()


def heun(grid, *, schedule=None):
    """Heun's method (explicit trapezoid): two evaluations a step, order 2.

    A step that ends at t = 0 is an Euler step, as in EDM (arXiv:2206.00364, algorithm 1): networks are not trained there.

    Args:
      grid: (N+1,) strictly monotone times.
      schedule: None integrates the velocity in t. A schedule integrates the noise prediction in rho = sigma/alpha, with
        x/alpha as the state: d(x/alpha)/drho = noise, which is EDM's equation on any path; alpha may not be 0.
    """
    grid = grids.check(grid, "plans.heun")
    if schedule is not None and np.any(schedule.alpha(grid) == 0):
        raise ValueError(
            "plans.heun: alpha = 0 on the grid, where rho is infinite; start below t = 1, or leave schedule=None."
        )
    rows = Builder("plans.heun", schedule)
    for t0, t1 in zip(grid[:-1], grid[1:], strict=True):
        if schedule is None:
            _heun_step(rows, t0, t1)
        else:
            decay = schedule.alpha(t1) / schedule.alpha(t0)
            _heun_step(
                rows, t0, t1, "noise", decay, schedule.sigma(t1) - decay * schedule.sigma(t0)
            )
    return rows.build()


def _heun_step(rows, t0, t1, kind="velocity", decay=1.0, weight=None):
    first, weight = len(rows), t1 - t0 if weight is None else weight
    if t1 == 0:
        rows.row(t0, t1, kind=kind, a=decay, b={first: weight})
        return
    rows.row(t0, t1, kind=kind, c=decay, d={first: weight}, ends_step=False)
    rows.row(t1, t1, kind=kind, a=decay, b={first: weight / 2, first + 1: weight / 2})


def rk4(grid):
    """The classical Runge-Kutta method: four evaluations a step, order 4. Evaluates at the end of each step, t = 0 too."""
    grid = grids.check(grid, "plans.rk4")
    rows = Builder("plans.rk4")
    for t0, t1 in zip(grid[:-1], grid[1:], strict=True):
        i, h, middle = len(rows), t1 - t0, (t0 + t1) / 2
        rows.row(t0, middle, d={i: h / 2}, ends_step=False)
        rows.row(middle, middle, d={i + 1: h / 2}, ends_step=False)
        rows.row(middle, t1, d={i + 2: h}, ends_step=False)
        rows.row(t1, t1, b={i: h / 6, i + 1: h / 3, i + 2: h / 3, i + 3: h / 6})
    return rows.build()


def adams_bashforth(grid, order, *, start="cold"):
    """Adams-Bashforth on the velocity: one evaluation a step, weights exact for the grid's unequal steps.

    Args:
      grid: (N+1,) strictly monotone times.
      order: 1 to 4.
      start: "cold" takes the first steps with orders 1, 2, ... (global order 2 whatever `order` is); "heun" takes the
        first step with Heun's method, one evaluation more, so that order 3 is reached (order 4 then measures 3: its
        other starting steps are of order 2 and 3).
    """
    grid = grids.check(grid, "plans.adams_bashforth")
    check_choice("plans.adams_bashforth", "start", start, ("cold", "heun"))
    check_order("plans.adams_bashforth", order, 4, len(grid) - 1)
    rows, nodes = Builder("plans.adams_bashforth"), []
    for i, (t0, t1) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        nodes.append((t0, len(rows)))
        if i == 0 and start == "heun" and order > 1:
            _heun_step(rows, t0, t1)
            continue
        # A Heun start has one row more, which pushes the oldest node of order 4 out of the history.
        used = [(t, row) for t, row in nodes[::-1][:order] if len(rows) - row < DEPTH]
        h = t1 - t0
        taus = np.array([(t - t0) / h for t, _ in used])
        weights = interpolation_weights(taus, 1 / np.arange(1, len(used) + 1))
        rows.row(t0, t1, b={row: h * w for (_, row), w in zip(used, weights, strict=True)})
    return rows.build()
