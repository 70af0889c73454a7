"""Plans that draw noise in their steps: DDIM with eta > 0, and the SDE forms of DPM-Solver."""

import itertools
from collections.abc import Sequence

import numpy as np

from flowjax import grids, schedules
from flowjax.errors import check_choice, check_order
from flowjax.plans.builder import Builder
from flowjax.plans.dpm_solver import multistep
from flowjax.plans.exponential import (
    SDE_THIRD_ORDERS,
    THIRD_ORDERS,
    VARIANTS,
    add_first_order_step,
)
from flowjax.plans.table import Plan
from flowjax.schedules import Schedule


def dpm_solver_sde(
    schedule: Schedule,
    grid: np.ndarray,
    order: int,
    *,
    third_order: str = "exact",
    variant: str = "midpoint",
    prediction: str = "data",
    final: str | Sequence[int] = "auto",
) -> Plan:
    """SDE-DPM-Solver++ (prediction="data") or SDE-DPM-Solver ("noise"), multistep, orders 1 to 3.

    See arXiv:2211.01095, appendix B.1. It samples the reverse SDE instead of the ODE, with fresh
    noise at every step, so `flowjax.sample` needs a key. The orders are those of the deterministic
    part. With few steps order 2 in the noise form overshoots by large factors on VP paths (about 90
    from data of unit size at 6 steps): prefer data there.

    Args:
      schedule: the path.
      grid: (N+1,) strictly decreasing times.
      order: 1, 2 or 3.
      third_order: as in `dpm_solver_pp`, or "diffusers" (what its "sde-dpmsolver++" of order 3
        does, data prediction only), whose deterministic part has order 1.
      variant: as in `dpm_solver_pp`.
      prediction: "data" or "noise".
      final: as in `dpm_solver_pp`.

    Raises:
      ValueError: as `dpm_solver_pp`; a grid that increases.
    """
    name = "plans.dpm_solver_sde"
    schedules.check(schedule, name)
    grid = grids.check(grid, name, decreasing=True)
    check_choice(name, "prediction", prediction, ("data", "noise"))
    # Public codes have the rule of diffusers for the data prediction only.
    third_orders = SDE_THIRD_ORDERS if prediction == "data" else THIRD_ORDERS
    check_choice(name, "third_order", third_order, third_orders)
    check_choice(name, "variant", variant, VARIANTS)
    check_order(name, order, 3, len(grid) - 1)
    return multistep(
        name,
        schedule,
        grid,
        order,
        variant=variant,
        third_order=third_order,
        prediction=prediction,
        final=final,
        stochastic=True,
    )


def ddim(schedule: Schedule, grid: np.ndarray, eta: float = 0.0) -> Plan:
    """DDIM (arXiv:2010.02502, eq. 12).

    The noise weight is eta sigma1 sqrt(1 - exp(-2h)), which is the paper's eq. 16 on
    variance-preserving paths.

    Args:
      schedule: the path.
      grid: (N+1,) strictly monotone times, increasing to invert data to noise (eta = 0 only).
      eta: 0 is deterministic, 1 is ancestral (DDPM) sampling.

    Raises:
      ValueError: eta outside [0, 1]; a grid that increases with eta > 0.
    """
    name = "plans.ddim"
    schedules.check(schedule, name)
    if not isinstance(eta, int | float | np.number) or not 0 <= eta <= 1:
        raise ValueError(
            f"{name}: eta={eta!r}; wanted a number from 0 (deterministic) to 1 (ancestral)."
        )
    grid = grids.check(grid, name, decreasing=eta > 0)
    rows = Builder(name, schedule)
    for t0, t1 in itertools.pairwise(grid):
        alpha0, alpha1 = schedule.alpha(t0), schedule.alpha(t1)
        sigma0, sigma1 = schedule.sigma(t0), schedule.sigma(t1)
        # Without noise, and from data, which has no noise to replace
        if eta == 0 or sigma0 == 0:
            add_first_order_step(rows, t0, t1)
            continue
        ratio = alpha0 * sigma1 / (sigma0 * alpha1)  # exp(-h)
        noise = eta * sigma1 * np.sqrt(1 - ratio**2)
        # sqrt(sigma1^2 - noise^2)/sigma0
        decay = sigma1 / sigma0 * np.sqrt(1 - eta**2 + (eta * ratio) ** 2)
        # Exact for constant data: decay alpha0 + weight = alpha1
        weight = alpha1 - alpha0 * decay
        rows.row(t0, t1, kind="data", a=decay, b={len(rows): weight}, s=noise)
    return rows.build(check=False)
