"""UniPC: a multistep predictor whose steps are corrected by the evaluation that follows them."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flowjax import grids, schedules
from flowjax.errors import check_choice, check_order
from flowjax.plans.builder import Builder
from flowjax.plans.exponential import first_order_row, places, step_terms, step_weights
from flowjax.plans.final import settle_orders
from flowjax.plans.table import DEPTH, Plan
from flowjax.schedules import Schedule

# The variant of `step_weights` that has the paper's function B(h).
RULES = {"bh1": "bh1", "bh2": "midpoint"}


class _Correction(NamedTuple):
    """A step that is to be redone with the evaluation at its end.

    Attributes:
      decay: weight of the base, which still lies where the step began.
      old: {row: weight} of the evaluations that the predictor used.
      newest: weight of the evaluation at the end of the step.
    """

    decay: float
    old: dict[int, float]
    newest: float


def unipc(
    schedule: Schedule,
    grid: np.ndarray,
    order: int,
    *,
    corrector: bool = True,
    variant: str = "bh2",
    prediction: str = "data",
    final: str | Sequence[int] = "auto",
) -> Plan:
    """UniPC (arXiv:2302.04867): predictor of order p, corrector of order p + 1 at no evaluation.

    The evaluation at the predicted state is used twice: to redo the step that led there with one
    more node, and to take the next one. The network never sees the corrected state.

    Args:
      schedule: the path.
      grid: (N+1,) strictly monotone times, increasing to invert data to noise.
      order: 1, 2 or 3, of the predictor.
      corrector: False leaves the predictor alone (UniP).
      variant: "bh2" or "bh1", the function B(h) of the paper; it matters only where the paper fixes
        a coefficient to 1/2 (predictor of order 2, corrector of order 1).
      prediction: "data" or "noise".
      final: as in `dpm_solver_pp`; "sana" is UniPC's own rule.

    Raises:
      ValueError: as `dpm_solver_pp`.
    """
    name = "plans.unipc"
    schedules.check(schedule, name)
    grid = grids.check(grid, name)
    check_choice(name, "variant", variant, tuple(RULES))
    check_choice(name, "prediction", prediction, ("data", "noise"))
    check_order(name, order, 3, len(grid) - 1)
    log_snrs, orders = settle_orders(name, schedule, grid, final, order)
    rows = Builder(name, schedule)
    nodes = []  # (log-SNR, row) of the evaluations that may be reused, newest first
    pending = None  # the step before, if it is to be corrected
    for i, (t0, t1) in enumerate(itertools.pairwise(grid)):
        row = len(rows)
        start, end = log_snrs[i], log_snrs[i + 1]
        # Correct the step that led here: base is still the corrected state where that step began.
        a, b = _corrected(pending, row)
        pending = None
        # Predict the next state.
        if np.isfinite(start) and np.isfinite(end):
            kind = prediction
            nodes.insert(0, (start, row))
            used = nodes[: orders[i]]
            terms = step_terms(schedule, t0, t1, prediction)
            decay, predictor, correction = _predicted(terms, used, start, end, RULES[variant])
            is_last = i + 1 == len(orders)
            if corrector and not is_last:
                pending = correction
        else:
            kind, decay, weight, _ = first_order_row(schedule, t0, t1, prediction)
            predictor = {row: weight}
        # The state to evaluate at is decay base + predictor.m, with the corrected base.
        if pending is not None:
            rows.row(t0, t1, kind=kind, a=a, b=b, c=decay, d=predictor)
        else:
            # The prediction is the accepted state: both updates in one, into the base.
            folded = {r: decay * b.get(r, 0.0) + predictor.get(r, 0.0) for r in {*b, *predictor}}
            rows.row(t0, t1, kind=kind, a=a * decay, b=folded)
        del nodes[DEPTH - 2 :]
    return rows.build(check=False)


def _corrected(pending, row):
    """Weights (a, b) with which `row` corrects the step before; none if nothing is pending."""
    if pending is None:
        return 1.0, {}
    return pending.decay, {**pending.old, row: pending.newest}


def _predicted(terms, used, start, end, rule):
    """(decay, weights of the predictor {row: weight}, correction) of a step between finite ends."""
    decay, gain, argument, _ = terms
    taus = places([log_snr for log_snr, _ in used], start, end)
    weights = gain * step_weights(argument, taus, variant=rule)
    predictor = {row: weight for (_, row), weight in zip(used, weights, strict=True)}
    # The corrector has one node more: the evaluation at the end of the step, tau = 1.
    *old, newest = gain * step_weights(argument, [*taus, 1.0], variant=rule)
    old = {row: weight for (_, row), weight in zip(used, old, strict=True)}
    return decay, predictor, _Correction(decay, old, newest)
