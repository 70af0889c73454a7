"""The table: what every fixed-step solver is, and what can be done with any of them.

One row is one evaluation of the network. With x, base and the history m of the last four rows as
state, row i does

    m_i   = p_i x + q_i velocity(x, label_time_i)
    base <- a_i base + sum_j b_ij m_{i-j} + s_i z_i            j = 0..3
    x    <- c_i base + sum_j d_ij m_{i-j}

`base` is the state that a step starts from, x the place of the next evaluation (a substep, or a
predictor); the last x is the result. Tables are float64 on the host; `flowjax.sample` scans over
the rows.
"""

from typing import NamedTuple

import numpy as np

from flowjax.errors import check_whole
from flowjax.types import Array

DEPTH = 4  # evaluations in the history: the same for every plan, so that plans share a program


class Plan(NamedTuple):
    """A fixed-step solver as a table of N rows; one row is one evaluation of the network. A pytree.

    Attributes:
      t: (N,) time at which the state lies when the network is evaluated.
      label_time: (N,) the time that the network receives.
      p: (N,) weight of x in the history entry m = p x + q velocity.
      q: (N,) weight of the velocity in it.
      a: (N,) weight of the base state in its own update.
      b: (N, 4) weights of the last four m in it, the newest first.
      s: (N,) weight of fresh noise in it.
      c: (N,) weight of the new base state in the next place of evaluation.
      d: (N, 4) weights of the last four m in it, the newest first.
      ends_step: (N,) bool; the new x is an accepted state, at time `t_next`.
      t_next: (N,) time at which the new x lies.
      data_x: (N,) weight of x in the data prediction = data_x x + data_v velocity, which a data
        hook corrects.
      data_v: (N,) weight of the velocity in it.
      counted: (N,) bool; False on rows that only pad.
    """

    t: Array
    label_time: Array
    p: Array
    q: Array
    a: Array
    b: Array
    s: Array
    c: Array
    d: Array
    ends_step: Array
    t_next: Array
    data_x: Array
    data_v: Array
    counted: Array

    def __getitem__(self, key: int) -> Array:
        """A column by its number. Rows are not cut out like this, since they need their history."""
        if isinstance(key, slice):
            raise ValueError(
                "flowjax.Plan: a slice of a plan is no plan, since its rows use the evaluations of "
                "the rows before them; plans.tail(plan, steps) gives the last steps where that is "
                "exact, and the columns are plan.t, plan.b and so on."
            )
        return tuple.__getitem__(self, key)

    @property
    def rows(self) -> int:
        """Number of rows, padding included."""
        return self.t.shape[-1]

    @property
    def nfe(self) -> int:
        """Evaluations of the network that count: the rows without padding."""
        return int(np.sum(self.counted))

    @property
    def steps(self) -> int:
        """Number of accepted steps."""
        return int(np.sum(self.ends_step))

    @property
    def steps_before(self) -> np.ndarray:
        """How many steps end before each row, (rows,): the number of its step, from 0.

        Rows that only pad the plan come after all steps.
        """
        return np.cumsum(self.ends_step) - self.ends_step

    @property
    def grid(self) -> np.ndarray:
        """Times of the accepted states, (steps+1,)."""
        return np.append(self.t[0], self.t_next[self.ends_step])


def check_finite(
    plan: Plan, name: str, *, way_out: str = "keep the grid where the schedule is finite"
) -> None:
    """Check that every number of `plan` is finite.

    Args:
      plan: the plan.
      name: the public function that the error speaks for.
      way_out: the end of the error, what the caller of this function can do.

    Raises:
      ValueError: the first row and column of `plan` that are not finite.
    """
    for i in range(plan.rows):
        for column, values in plan._asdict().items():
            if np.all(np.isfinite(values[i])):
                continue
            step = int(plan.steps_before[i]) + 1
            raise ValueError(
                f"{name}: coefficient {column} of row {i + 1}, in step {step} of {plan.steps}, "
                f"from t = {plan.t[i]:.6g} to {plan.t_next[i]:.6g}, is not finite; {way_out}."
            )


def pad(plan: Plan, rows: int) -> Plan:
    """The same solver in a table of `rows` rows, so that plans of different length share a program.

    The rows that pad evaluate the network at the final state and use nothing of it: the result is
    the same to the last bit, and `nfe` does not count them. They still cost their evaluations. A
    last row that places the state away from its base (c != 1 or d != 0) is written in another form,
    whose result is the same up to rounding.

    Args:
      plan: any plan.
      rows: number of rows of the result, at least those of `plan`.

    Raises:
      ValueError: `rows` is no whole number, or is less than the plan has.
    """
    check_whole("plans.pad", "rows", rows, 1)
    extra = rows - plan.rows
    if extra < 0:
        raise ValueError(
            f"plans.pad: the plan has {plan.rows} rows, more than rows={rows}; give at least "
            f"{plan.rows}."
        )
    if extra == 0:
        return plan
    plan = _ending_at_its_base(plan)
    # a = c = 1 leaves base and x as they are; every column that is not named is 0.
    fill = {
        "t": plan.t_next[-1],
        "label_time": plan.label_time[-1],
        "a": 1.0,
        "c": 1.0,
        "t_next": plan.t_next[-1],
        "data_x": 1.0,
        "ends_step": False,
        "counted": False,
    }

    # The tail has the column's dtype, so that the padded plan shares its program.
    def grown(name, column):
        tail = np.full((extra, *column.shape[1:]), fill.get(name, 0), column.dtype)
        return np.concatenate([column, tail])

    return Plan(*(grown(name, column) for name, column in plan._asdict().items()))


def concat(first: Plan, second: Plan) -> Plan:
    """Do `first`, then `second` from the state in which it ends; the history starts anew.

    Args:
      first: any plan.
      second: a plan that begins at the time where `first` ends.

    Raises:
      ValueError: the two do not meet.
    """
    # The grids of the two may come from different arithmetic.
    if not np.isclose(first.t_next[-1], second.t[0], rtol=0, atol=1e-12):
        raise ValueError(
            f"plans.concat: the first plan ends at t = {first.t_next[-1]:.6g} and the second "
            f"begins at {second.t[0]:.6g}; the two must meet."
        )
    first = _ending_at_its_base(first)
    return Plan(*(np.concatenate(pair) for pair in zip(first, second, strict=True)))


def _leaves_its_base(plan: Plan, row: int) -> bool:
    """Whether the state after this row is another one than the base."""
    return bool(plan.c[row] != 1 or np.any(plan.d[row] != 0))


def _ending_at_its_base(plan: Plan) -> Plan:
    """The same solver, whose base lies at the final state: rows that follow start from there."""
    if not _leaves_its_base(plan, -1):
        return plan
    # x = c (a base + b.m + s z) + d.m becomes the update of the base, and x = base.
    a, b, s, c, d = (column[-1] for column in (plan.a, plan.b, plan.s, plan.c, plan.d))
    last = {"a": c * a, "b": c * b + d, "s": c * s, "c": 1.0, "d": 0.0}
    changed = {name: np.array(getattr(plan, name)) for name in last}
    for name, value in last.items():
        changed[name][-1] = value
    return plan._replace(**changed)


def tail(plan: Plan, steps: int) -> Plan:
    """The last `steps` steps of a plan, as a plan of its own: it begins at `plan.grid[-steps - 1]`.

    It exists where the rest of the plan needs nothing of what comes before: singlestep and
    Runge-Kutta methods, DDIM, and a multistep method of order 1. Other multistep methods begin with
    a history of no evaluations, and their first steps have lower orders than those of the complete
    plan, so that the rows themselves differ.

    Args:
      plan: any plan; rows that pad stay.
      steps: number of steps of the result, from 1 to those of `plan`.

    Raises:
      ValueError: `steps` is no such number; or a row of the last steps uses an earlier evaluation,
        or a state that the step before leaves to it.
    """
    name = "plans.tail"
    check_whole(name, "steps", steps, 1, plan.steps)
    dropped = plan.steps - steps
    if dropped == 0:
        return plan
    # The first row that is kept follows the last row of the dropped steps.
    first = int(np.flatnonzero(plan.ends_step)[dropped - 1]) + 1
    way_out = (
        "build the solver on the last points of its grid instead, for example plans.dpm_solver_pp("
        f"schedule, plan.grid[-{steps + 1}:], order); compat.diffusers_plan has strength= for that."
    )

    # No row may reach back beyond the first one.
    age = np.arange(DEPTH)
    rows = np.arange(plan.rows)
    reaches_back = rows[:, None] - age < first  # (rows, DEPTH)
    uses_older = np.any(reaches_back & ((plan.b != 0) | (plan.d != 0)), axis=1)
    wrong = np.flatnonzero(uses_older & (rows >= first))
    if len(wrong):
        raise ValueError(
            f"{name}: row {wrong[0]} of the plan uses an evaluation before row {first}, where the "
            f"last {steps} steps begin, and a tail has no history; {way_out}"
        )
    # The base must lie where the state lies, since a run begins with both at the same place.
    if _leaves_its_base(plan, first - 1):
        raise ValueError(
            f"{name}: row {first} of the plan corrects the step before it, which a tail does not "
            f"have; {way_out}"
        )
    return Plan(*(column[first:] for column in plan))
