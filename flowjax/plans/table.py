"""The table: what every fixed-step solver is, and the checks that it passes before anything compiles.

One row is one evaluation of the network. With x, base and the history m of the last four rows as state, row i does

    m_i   = p_i x + q_i velocity(x, label_time_i)
    base <- a_i base + sum_j b_ij m_{i-j} + s_i z_i            j = 0..3
    x    <- c_i base + sum_j d_ij m_{i-j}

`base` is the state that a step starts from, x the place of the next evaluation (a stage, or a predictor); the last x
is the result. Tables are float64 on the host; `flowjax.sample` scans over the rows.
"""

from typing import NamedTuple

import numpy as np

from flowjax.errors import check_choice
from flowjax.schedules import PREDICTIONS, Linear

DEPTH = 4  # evaluations kept; the same for every plan, so that all plans of one length share a compiled program


class Plan(NamedTuple):
    """A fixed-step solver as a table of N rows (one row is one evaluation of the network). A pytree.

    Attributes:
      t: (N,) time at which the state lies when the network is evaluated.
      label_time: (N,) the time that the network is told.
      p, q: (N,) history entry m = p x + q velocity.
      a, b, s: (N,), (N, 4), (N,) update of the base state: weights of the base, of the last four m, of fresh noise.
      c, d: (N,), (N, 4) the next place of evaluation: weights of the new base and of the last four m.
      ends_step: (N,) bool; the new x is an accepted state, at time `t_next`.
      t_next: (N,) where the new x lies.
      data_x, data_v: (N,) data prediction = data_x x + data_v velocity, for corrections of the data prediction.
      counted: (N,) bool; False on rows that only pad.
    """

    t: np.ndarray
    label_time: np.ndarray
    p: np.ndarray
    q: np.ndarray
    a: np.ndarray
    b: np.ndarray
    s: np.ndarray
    c: np.ndarray
    d: np.ndarray
    ends_step: np.ndarray
    t_next: np.ndarray
    data_x: np.ndarray
    data_v: np.ndarray
    counted: np.ndarray

    @property
    def rows(self):
        """Number of rows, padding included."""
        return self.t.shape[-1]

    @property
    def nfe(self):
        """Evaluations of the network that count: the rows without padding."""
        return int(np.sum(self.counted))

    @property
    def steps(self):
        """Accepted steps."""
        return int(np.sum(self.ends_step))

    @property
    def grid(self):
        """Times of the accepted states, (steps+1,)."""
        return np.append(self.t[0], self.t_next[self.ends_step])


class Builder:
    """Collects rows in the order of their evaluations; `build` checks them and returns the Plan."""

    def __init__(self, name, schedule=None):
        """`name` is the public function that errors speak for; `schedule` defaults to the linear path."""
        self.name, self.schedule, self._rows = name, schedule or Linear(), []

    def __len__(self):
        """Rows so far: the index of the next one."""
        return len(self._rows)

    def row(self, t, t_next, *, kind="velocity", a=1.0, b=(), s=0.0, c=1.0, d=(), ends_step=True):
        """Append a row. `b` and `d` map a row's index (of this row or an earlier one) to the weight of its m."""
        self._rows.append((t, t_next, kind, a, self._lags(b), s, c, self._lags(d), ends_step))

    def _lags(self, weights):
        lags = np.zeros(DEPTH)
        for index, weight in dict(weights).items():
            lags[len(self) - index] += weight
        return lags

    def build(self):
        """Return the Plan, or raise a ValueError that names the first step whose coefficients are not finite."""
        t, t_next, kind, a, b, s, c, d, ends_step = (
            np.array(column) for column in zip(*self._rows, strict=True)
        )
        pairs = [self.schedule.prediction_weights(k, time) for k, time in zip(kind, t, strict=True)]
        p, q = np.array(pairs, np.float64).T
        data_x, data_v = self.schedule.prediction_weights("data", t)
        plan = Plan(
            t, t, p, q, a, b, s, c, d, ends_step, t_next, data_x, data_v, np.ones(len(t), bool)
        )
        check_finite(plan, self.name)
        return plan


def check_finite(plan, name):
    """Raise a ValueError that names the first row and column of `plan` that are not finite."""
    for i in range(plan.rows):
        for column, values in plan._asdict().items():
            if not np.all(np.isfinite(values[i])):
                step = int(np.sum(plan.ends_step[:i])) + 1
                raise ValueError(
                    f"{name}: coefficient {column} of row {i + 1}, in step {step} of {plan.steps}, from t = {plan.t[i]:.6g} to "
                    f"{plan.t_next[i]:.6g}, is not finite; keep the grid inside the schedule's finite range, or keep "
                    "final='auto'."
                )


def pad(plan, rows):
    """The same solver in a table of `rows` rows, so that plans of different length share a program.

    The padding evaluates the network at the final state and uses nothing of it: the result is the same to the last bit,
    and `nfe` does not count it. It still costs its evaluations.
    """
    extra = rows - plan.rows
    if extra < 0:
        raise ValueError(
            f"plans.pad: the plan has {plan.rows} rows, more than rows={rows}; give at least {plan.rows}."
        )
    fill = {
        "t": plan.t_next[-1], "label_time": plan.label_time[-1], "a": 1.0, "c": 1.0, "t_next": plan.t_next[-1],
        "data_x": 1.0, "ends_step": False, "counted": False,
    }  # fmt: skip

    def grown(name, column):
        tail = np.full((extra, *column.shape[1:]), fill.get(name, 0), column.dtype)
        return np.concatenate([column, tail])

    return Plan(*(grown(name, column) for name, column in plan._asdict().items()))


def concat(first, second):
    """Do `first`, then `second` from the state it ends in; the history starts anew in between."""
    if not np.isclose(first.t_next[-1], second.t[0], rtol=0, atol=1e-12):
        raise ValueError(
            f"plans.concat: the first plan ends at t = {first.t_next[-1]:.6g} and the second begins at {second.t[0]:.6g}; the "
            "two must meet."
        )
    return Plan(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def with_path(plan, schedule):
    """The same solver, with the data prediction that a `data_hook` corrects taken on the path of `schedule`.

    Plans of the velocity (Euler, Heun, Runge-Kutta, Adams-Bashforth) know no path and take the linear one; the others
    know theirs. Wrap before `with_labels`.
    """
    data_x, data_v = schedule.prediction_weights("data", plan.t)
    return plan._replace(data_x=data_x, data_v=data_v)


def with_labels(plan, labels, *, network="velocity", schedule=None):
    """The same solver, but the network is told the times `labels` instead of the times where the state lies.

    Peers truncate or round the label of a step; this reproduces them, and measures what it costs.

    Args:
      plan: any plan.
      labels: (rows,) times in [0, 1].
      network: what the network predicts. A "velocity" network's answer is used as it is. Any other kind was turned into
        a velocity at the label's time when it was wrapped, and p and q undo exactly that.
      schedule: needed when `network` is not "velocity".
    """
    labels = np.asarray(labels, np.float64)
    if labels.shape != plan.t.shape:
        raise ValueError(
            f"plans.with_labels: {labels.shape} labels for {plan.rows} rows; give one label a row."
        )
    if not np.all((labels >= 0) & (labels <= 1)):
        worst = labels[~((labels >= 0) & (labels <= 1))][0]
        raise ValueError(
            f"plans.with_labels: the label {worst:g} is not a time in [0, 1]; divide the network's own labels by their scale."
        )
    check_choice("plans.with_labels", "network", network, PREDICTIONS)
    if network == "velocity":
        return plan._replace(label_time=labels)
    if schedule is None:
        raise ValueError(
            f"plans.with_labels: a network of kind {network!r} needs its schedule; pass schedule=."
        )
    # velocity (as seen by the plan) = (prediction - p_t x)/q_t, with prediction = p_label x + q_label v (as wrapped).
    p_true, q_true = schedule.prediction_weights(network, plan.t)
    p_told, q_told = schedule.prediction_weights(network, labels)
    with np.errstate(divide="ignore", invalid="ignore"):  # refused below, in words
        offset, factor = (p_told - p_true) / q_true, q_told / q_true
        changed = {
            "p": plan.p + plan.q * offset, "q": plan.q * factor,
            "data_x": plan.data_x + plan.data_v * offset, "data_v": plan.data_v * factor,
        }  # fmt: skip
    plan = plan._replace(label_time=labels, **changed)
    check_finite(plan, "plans.with_labels")
    return plan


def snap_labels(labels, scale):
    """Labels in units of `scale` discrete steps, those within 1e-3 of a whole number set to it."""
    near = np.round(labels)
    return np.where(np.abs(labels - near) < 1e-3, near, labels) / scale
