"""DEIS: the noise prediction as a polynomial, under the integral in rho = sigma/alpha."""

import itertools
from collections.abc import Sequence

import numpy as np

from flowjax import grids, schedules
from flowjax.errors import check_choice, check_order
from flowjax.plans.builder import Builder
from flowjax.plans.exponential import add_first_order_step, places
from flowjax.plans.final import order_caps
from flowjax.plans.moments import interpolation_weights
from flowjax.plans.table import Plan
from flowjax.schedules import Schedule


def deis(
    schedule: Schedule,
    grid: np.ndarray,
    order: int,
    *,
    variable: str = "t",
    final: str | Sequence[int] = "none",
) -> Plan:
    """DEIS (arXiv:2204.13902, eq. 14): the noise prediction as a polynomial in the exact integral.

        x1 = alpha1/alpha0 x0 + alpha1 int_{rho0}^{rho1} noise drho,   rho = sigma/alpha

    A step from pure noise (alpha = 0) has order 1, and its evaluation is not reused: rho is
    infinite there. A step over which a discrete schedule holds rho = 0 has order 1 too.

    Args:
      schedule: the path.
      grid: (N+1,) strictly monotone times, increasing to invert data to noise.
      order: 1 to 4 (number of evaluations in the polynomial).
      variable: of the polynomial, "t" (tAB-DEIS, the paper's best) or "rho". In log-SNR it would be
        DPM-Solver.
      final: as in `dpm_solver_pp`. Nothing is singular at t = 0 here, so the default does not lower
        the order.

    Raises:
      ValueError: an option that is not known; an order out of range, or more than there are steps.
    """
    name = "plans.deis"
    schedules.check(schedule, name)
    grid = grids.check(grid, name)
    check_choice(name, "variable", variable, ("t", "rho"))
    check_order(name, order, 4, len(grid) - 1)
    final = "none" if final == "auto" else final
    caps = order_caps(name, final, len(grid) - 1, order, grid[-1] == 0)
    with np.errstate(divide="ignore"):  # alpha = 0 at pure noise
        rho = schedule.sigma(grid) / schedule.alpha(grid)
    place = grid if variable == "t" else rho
    rows = Builder(name, schedule)
    nodes = []  # (place, row) of the evaluations that may be reused, newest first
    for i, (t0, t1) in enumerate(itertools.pairwise(grid)):
        infinite = not np.isfinite(rho[i]) or not np.isfinite(rho[i + 1])
        if infinite or rho[i] == rho[i + 1]:
            add_first_order_step(rows, t0, t1)
            continue
        nodes = [(place[i], len(rows)), *nodes][: caps[i]]
        taus = places([y for y, _ in nodes], place[i], place[i + 1])
        alpha0, alpha1 = schedule.alpha(t0), schedule.alpha(t1)
        if variable == "t":
            moments = _moments_in_t(schedule, t0, t1, rho[i], rho[i + 1], len(nodes))
        else:
            # int tau^k drho = (rho1 - rho0)/(k + 1)
            moments = (rho[i + 1] - rho[i]) / np.arange(1, len(nodes) + 1)
        weights = alpha1 * interpolation_weights(taus, moments)
        b = {row: weight for (_, row), weight in zip(nodes, weights, strict=True)}
        rows.row(t0, t1, kind="noise", a=alpha1 / alpha0, b=b)
        nodes = nodes[:3]  # order 4 uses the next evaluation and these
    return rows.build(check=False)


def _moments_in_t(schedule, t0, t1, rho0, rho1, count):
    """int tau^k drho over the step, k < count, with tau = (t - t0)/(t1 - t0)."""
    # By parts, so that rho needs no derivative: rho1 - int rho k tau^(k-1) dtau for k > 0.
    #
    # tanh-sinh quadrature: rho has a pole at t = 1, or a root at t = 0, just beyond the first and
    # last steps.
    u = np.linspace(-3.2, 3.2, 129)
    tau = 1 / (1 + np.exp(-np.pi * np.sinh(u)))
    weights = np.pi * np.cosh(u) * tau * (1 - tau) * (u[1] - u[0])
    t = t0 + tau * (t1 - t0)
    rho = schedule.sigma(t) / schedule.alpha(t)
    powers = np.arange(1, count)
    inner = [np.sum(weights * rho * k * tau ** (k - 1)) for k in powers]
    return np.append(rho1 - rho0, rho1 - np.array(inner))
