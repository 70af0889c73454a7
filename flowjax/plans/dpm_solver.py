"""DPM-Solver and DPM-Solver++: polynomials of the prediction in log-SNR.

A multistep method evaluates once a step and reuses earlier evaluations. A singlestep method makes
every step a block of evaluations, and reuses none of another step.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from flowjax import grids, schedules
from flowjax.errors import check_choice, check_order
from flowjax.plans.builder import Builder
from flowjax.plans.exponential import (
    DEFAULT_FRACTIONS,
    THIRD_ORDERS,
    VARIANTS,
    add_first_order_step,
    places,
    step_terms,
    step_weights,
)
from flowjax.plans.final import settle_orders
from flowjax.plans.table import Plan
from flowjax.schedules import Schedule


def dpm_solver_pp(
    schedule: Schedule,
    grid: np.ndarray,
    order: int,
    *,
    method: str = "multistep",
    third_order: str = "exact",
    variant: str = "midpoint",
    prediction: str = "data",
    final: str | Sequence[int] = "auto",
    start: str = "cold",
) -> Plan:
    """DPM-Solver++ (prediction="data") or DPM-Solver (prediction="noise").

    See arXiv:2211.01095 and arXiv:2206.00927.

    Args:
      schedule: the path.
      grid: (N+1,) strictly monotone times, increasing to invert data to noise.
      order: 1, 2 or 3. Order 1 is DDIM, and Euler on the linear path.
      method: "multistep" evaluates once a step and reuses earlier evaluations; "singlestep" makes
        every step a block of `order` evaluations (at fractions 1/2, or 1/3 and 2/3, of the step in
        log-SNR); a step that touches an infinite log-SNR is one evaluation.
      third_order: of the multistep method. "exact" integrates the parabola; "published" is what all
        public codes do: half the weight on the second difference, hence order 2, and more damped at
        few steps.
      variant: of every order-2 update, and of the last update of singlestep order 3: "midpoint" or
        "taylor".
      prediction: "data" or "noise".
      final: order at the end of the grid. "auto" is order 1 only on a step that begins or ends
        where log-SNR is infinite; "sana", "diffusers", "upstream", "none" and tuples: see
        `final.order_caps`.
      start: of the multistep method. "cold" takes the first steps with orders 1, 2, ...: global
        order 2 at most. "singlestep" takes the first finite step with singlestep order 2 (one more
        evaluation), so that order 3 is reached.

    Returns:
      A Plan. NFE is N for cold multistep methods, N + 1 with start="singlestep", up to N order for
      singlestep.

    Raises:
      ValueError: an option that is not known, or that the method does not have; an order out of
        range, or more than there are steps; an order that is undefined at an end of the grid.
    """
    name = "plans.dpm_solver_pp"
    schedules.check(schedule, name)
    grid = grids.check(grid, name)
    check_choice(name, "method", method, ("multistep", "singlestep"))
    check_choice(name, "third_order", third_order, THIRD_ORDERS)
    check_choice(name, "variant", variant, VARIANTS)
    check_choice(name, "prediction", prediction, ("data", "noise"))
    check_choice(name, "start", start, ("cold", "singlestep"))
    if method == "multistep":
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
            warm=start == "singlestep",
        )
    # Singlestep: a block of evaluations for each step
    if third_order != "exact" or start != "cold":
        raise ValueError(
            f"{name}: third_order={third_order!r} and start={start!r} with method='singlestep'; "
            "these are options of the multistep method: leave them, or take method='multistep'."
        )
    check_order(name, order, 3)
    log_snrs, orders = settle_orders(name, schedule, grid, final, order, multistep=False)
    blocks = [
        (t0, *_substeps(schedule, *ends, order), t1)
        for (t0, t1), ends, order in zip(
            itertools.pairwise(grid), itertools.pairwise(log_snrs), orders, strict=True
        )
    ]
    return singlestep(schedule, blocks, variant=variant, prediction=prediction)


def multistep(
    name: str,
    schedule: Schedule,
    grid: np.ndarray,
    order: int,
    *,
    variant: str,
    third_order: str,
    prediction: str,
    final: str | Sequence[int],
    warm: bool = False,
    stochastic: bool = False,
) -> Plan:
    """The multistep plan of `dpm_solver_pp`, and of `dpm_solver_sde` if `stochastic`.

    Args:
      name: the public function that errors speak for, which has checked the arguments.
      schedule: as in `dpm_solver_pp`, and so are grid, order, variant, third_order, prediction and
        final.
      grid: (N+1,) times.
      order: 1, 2 or 3.
      variant: of order 2.
      third_order: of order 3.
      prediction: "data" or "noise".
      final: the final rule.
      warm: take the first finite step with singlestep order 2.
      stochastic: the SDE form.
    """
    log_snrs, orders = settle_orders(name, schedule, grid, final, order)
    rows = Builder(name, schedule)
    nodes = []  # (log-SNR, row) of the evaluations that may be reused, newest first
    for i, (t0, t1) in enumerate(itertools.pairwise(grid)):
        start, end = log_snrs[i], log_snrs[i + 1]
        # An evaluation at infinite log-SNR has no place in the polynomial.
        if not np.isfinite(start):
            add_first_order_step(rows, t0, t1, prediction, stochastic)
            continue
        nodes.insert(0, (start, len(rows)))
        # The first finite step of a warm start has no earlier evaluations, so it makes its own.
        if warm and len(nodes) == 1 and orders[i] > 1:
            times = (t0, *_substeps(schedule, start, end, 2), t1)
            _add_block(rows, schedule, times, variant=variant, prediction=prediction)
        elif not np.isfinite(end):
            add_first_order_step(rows, t0, t1, prediction, stochastic)
        else:
            # The polynomial through the last evaluations, as many as the order
            used = nodes[: orders[i]]
            decay, gain, argument, noise = step_terms(schedule, t0, t1, prediction, stochastic)
            taus = places([log_snr for log_snr, _ in used], start, end)
            weights = step_weights(argument, taus, variant=variant, third_order=third_order)
            b = {row: gain * weight for (_, row), weight in zip(used, weights, strict=True)}
            rows.row(t0, t1, kind=prediction, a=decay, b=b, s=noise)
        del nodes[2:]  # order 3 uses this evaluation and the two before
    return rows.build(check=False)


def _substeps(schedule, start, end, order):
    """Times of the evaluations inside a step from log-SNR `start` to `end`."""
    fractions = np.array(DEFAULT_FRACTIONS[order])
    if order == 1:
        return fractions
    return schedule.time_of_log_snr(start + fractions * (end - start))


def singlestep(
    schedule: Schedule,
    blocks: Sequence[Sequence[float]],
    *,
    variant: str = "midpoint",
    prediction: str = "data",
    substep_variant: str = "taylor",
) -> Plan:
    """DPM-Solver(++) with its evaluations exactly at the times that `blocks` gives.

    `dpm_solver_pp` with method="singlestep" is one such plan, and so are those of the public codes.

    Args:
      schedule: the path.
      blocks: one tuple of times a step, (t0, substeps..., t1), with no, one or two substeps: orders
        1, 2, 3. Each block begins where the one before ends. Order 3 needs the second substep at
        2/3 of the step in log-SNR if variant="midpoint"; elsewhere it is of order 2.
      variant: of the last update of a block, "midpoint" (for order 3: only the second substep
        counts) or "taylor".
      prediction: "data" or "noise".
      substep_variant: of the second substep of order 3, "taylor" (the papers) or "midpoint"
        (diffusers).

    Raises:
      ValueError: an option that is not known; a block that is too long, that does not begin where
        the one before ends, or whose order is undefined at an infinite log-SNR.
    """
    name = "plans.singlestep"
    schedules.check(schedule, name)
    check_choice(name, "variant", variant, VARIANTS)
    check_choice(name, "prediction", prediction, ("data", "noise"))
    check_choice(name, "substep_variant", substep_variant, VARIANTS)
    rows = Builder(name, schedule)
    end = None
    for block in blocks:
        _check_block(name, schedule, block, end)
        end = block[-1]
        _add_block(
            rows,
            schedule,
            block,
            variant=variant,
            prediction=prediction,
            substep_variant=substep_variant,
        )
    return rows.build(check=False)


def _check_block(name, schedule, block, end):
    """Check one block of `singlestep`, where the one before ends at `end` (None for the first)."""
    grids.check(block, name)
    if len(block) > 4:
        raise ValueError(
            f"{name}: a block of {len(block)} times; wanted (t0, at most two substeps, t1)."
        )
    infinite = [t for t in block if not np.isfinite(schedule.log_snr(t))]
    if infinite and len(block) > 2:
        raise ValueError(
            f"{name}: a block of order {len(block) - 1} touches t = {infinite[0]:g}, where log-SNR "
            "is infinite; give that block no substeps: (t0, t1)."
        )
    if end is not None and block[0] != end:
        raise ValueError(
            f"{name}: a block begins at t = {block[0]:g} but the one before ends at t = {end:g}."
        )


def _add_block(rows, schedule, times, *, variant, prediction, substep_variant="taylor"):
    """Append the rows of one block to `rows`; the arguments are those of `singlestep`."""
    first = len(rows)
    t0, t1 = times[0], times[-1]
    log_snrs = schedule.log_snr(np.array(times))
    if len(times) == 2 and not np.all(np.isfinite(log_snrs)):
        add_first_order_step(rows, t0, t1, prediction)
        return
    for k in range(1, len(times)):
        # From the start of the step to its k-th time, with k evaluations made
        is_last = k == len(times) - 1
        decay, gain, argument, _ = step_terms(schedule, t0, times[k], prediction)
        used, rule = _combined(k, is_last, variant, substep_variant)
        taus = places(log_snrs[used], log_snrs[0], log_snrs[k])
        weights = gain * step_weights(argument, taus, variant=rule)
        weights = {first + j: weight for j, weight in zip(used, weights, strict=True)}
        # Every update of a block starts from the base, which only the last one moves.
        if is_last:
            rows.row(times[k - 1], t1, kind=prediction, a=decay, b=weights)
        else:
            rows.row(times[k - 1], times[k], kind=prediction, c=decay, d=weights, ends_step=False)


def _combined(k, is_last, variant, substep_variant):
    """Which evaluations of a block reach its k-th time, and the variant of their weights."""
    # The last update of order 3 has all three evaluations; its "midpoint" leaves out the second.
    if is_last and k == 3:
        used = [0, 2] if variant == "midpoint" else [0, 1, 2]
        return used, "taylor"
    # The newest evaluation and the one at the start of the step
    used = [0, k - 1] if k > 1 else [0]
    return used, variant if is_last else substep_variant
