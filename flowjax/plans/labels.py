"""Plans whose network receives other times than those of the state, and the path of corrections."""

from collections.abc import Sequence

import numpy as np

from flowjax import schedules
from flowjax.errors import check_choice
from flowjax.plans import table
from flowjax.plans.table import Plan
from flowjax.schedules import PREDICTIONS, Schedule


def with_path(plan: Plan, schedule: Schedule) -> Plan:
    """The same solver, with the data prediction that a `data_hook` corrects on `schedule`'s path.

    Plans of the velocity (Euler, Heun, Runge-Kutta, Adams-Bashforth) know no path and take the
    linear one; the others know theirs. Call this before `with_labels`.
    """
    schedules.check(schedule, "plans.with_path")
    data_x, data_v = schedule.prediction_weights("data", plan.t)
    return plan._replace(data_x=data_x, data_v=data_v)


def with_labels(
    plan: Plan,
    labels: Sequence[float] | np.ndarray,
    *,
    network: str = "velocity",
    schedule: Schedule | None = None,
) -> Plan:
    """The same solver, but the network receives the times `labels` in place of the state's times.

    Public codes truncate or round the label of a step; this reproduces them, and measures what it
    costs.

    Args:
      plan: any plan.
      labels: (rows,) times in [0, 1].
      network: what the network predicts. The output of a "velocity" network is used as it is. Any
        other kind was turned into a velocity at the label's time when it was wrapped, and p and q
        undo exactly that.
      schedule: needed when `network` is not "velocity".

    Raises:
      ValueError: not one label a row; a label outside [0, 1]; an unknown kind of network, or one
        whose schedule is missing, or whose prediction does not determine the velocity somewhere.
    """
    name = "plans.with_labels"
    labels = np.asarray(labels, np.float64)
    if labels.shape != plan.t.shape:
        raise ValueError(
            f"{name}: {labels.shape} labels for {plan.rows} rows; give one label a row."
        )
    inside = (labels >= 0) & (labels <= 1)
    if not np.all(inside):
        raise ValueError(
            f"{name}: the label {labels[~inside][0]:g} is not a time in [0, 1]; divide the "
            "network's own labels by their scale."
        )
    check_choice(name, "network", network, PREDICTIONS)
    if network == "velocity":
        return plan._replace(label_time=labels)
    if schedule is None:
        raise ValueError(
            f"{name}: a network of kind {network!r} needs its schedule; pass schedule=."
        )
    schedules.check(schedule, name)
    # The wrapper solved p_label x + q_label v = prediction for v. The velocity at the true time is
    #
    #     (prediction - p_true x)/q_true = (p_label - p_true)/q_true x + q_label/q_true v.
    # A row that uses no velocity, such as one that pads, stays as it is.
    uses = np.asarray(plan.q) != 0
    p_true, q_true = schedule.prediction_weights(network, plan.t)
    p_label, q_label = schedule.prediction_weights(network, labels)
    with np.errstate(divide="ignore", invalid="ignore"):  # refused below with a sentence
        offset = np.where(uses, (p_label - p_true) / q_true, 0.0)
        factor = np.where(uses, q_label / q_true, 1.0)
        changed = plan._replace(
            label_time=labels,
            p=plan.p + plan.q * offset,
            q=plan.q * factor,
            data_x=plan.data_x + plan.data_v * offset,
            data_v=plan.data_v * factor,
        )
    table.check_finite(changed, name)
    return changed


def snap_labels(labels: np.ndarray, scale: float) -> np.ndarray:
    """Labels as times, those within 1e-3 of a whole number set to it.

    Args:
      labels: any shape, in units of discrete steps.
      scale: number of discrete steps in [0, 1].

    Returns:
      Times in [0, 1], shaped like `labels`.
    """
    near = np.round(labels)
    return np.where(np.abs(labels - near) < 1e-3, near, labels) / scale
