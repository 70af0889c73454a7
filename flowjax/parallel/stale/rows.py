"""The schedule of rows: which ones are synchronous, which ones exchange, and their forecasts.

The programs on a mesh and the emulation on one device read the same schedule. Where a plan has
several rows a step, row k of a step (its substep k) uses keys and values of substep k of earlier
steps, so the age of a copy is a number of steps.

A row is of one of three kinds:

    SYNC      the keys and values of all devices are gathered and used at once
    EXCHANGE  the row is stale; meanwhile it gathers what a later layer or row will use
    HOLD      the row is stale, and nothing is sent
"""

from typing import NamedTuple

import numpy as np

from flowjax.parallel.options import Options
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import Forecast, correction_of, forecast
from flowjax.plans.table import Plan

# The numbers are the indices of the branches of a `lax.switch`, where all three kinds occur.
SYNC, EXCHANGE, HOLD = 0, 1, 2


class RowSchedule(NamedTuple):
    """What each row of a plan does. A pytree of arrays, with N rows, and S the most rows of a step.

    Attributes:
      policy: (N,) the thresholds. Row i is synchronous if the staleness that was metered in row
        decided_by[i] exceeds policy[i].
      decided_by: (N,) int, the last row of the step before; -1 where there is none, and then the
        row is synchronous.
      sent: (N,) bool, whether later rows receive this row's keys and values. A row that is
        synchronous for certain sends; any other row also sends if the meter makes it synchronous.
      substep: (N,) int, which row of its step a row is.
      first_of_substep: (S,) int, the first row of each substep.
      next_of_substep: (N,) int, the next row of the same substep; the row itself where there is
        none.
      forecast: a `Forecast`.
      correction: None, or (N,), the fraction of `attention.corrected` in each row. The emulation
        also takes (N, K), one for each layer.
    """

    policy: np.ndarray
    decided_by: np.ndarray
    sent: np.ndarray
    substep: np.ndarray
    first_of_substep: np.ndarray
    next_of_substep: np.ndarray
    forecast: Forecast
    correction: np.ndarray | None


def row_schedule(plan: Plan, options: Options) -> RowSchedule:
    """The schedule of a plan's rows.

    All rows of a step follow the threshold of their step, with one exception: the first row of each
    substep is synchronous, since no copy exists there. With refresh = r, the steps that exchange
    are those whose number, counted from the last synchronous step, is a multiple of r, so copies
    are 1 to r steps old.

    Args:
      plan: a `Plan` with known numbers.
      options: `Options` that `options.check` accepts. Its warmup, policy, refresh, forecast and
        correction are used.
    """
    # Number the rows within their steps.
    step = plan.steps_before
    first_of_step = np.searchsorted(step, step)  # the first row of each row's step
    # Rows that only pad the plan count as first rows of a step.
    substep = np.where(plan.counted, np.arange(plan.rows) - first_of_step, 0)
    first_of_substep = np.unique(substep, return_index=True)[1]

    # Rows have the thresholds of their steps.
    thresholds = _thresholds(plan.steps, options)
    policy = thresholds[np.minimum(step, plan.steps - 1)]  # padding follows the last step
    policy[first_of_substep] = policies.ALWAYS  # no copy exists yet

    # With a policy, refresh is 1, and the last synchronous step does not matter.
    last_synchronous = np.flatnonzero(thresholds < 0).max()
    return RowSchedule(
        policy=policy,
        decided_by=(first_of_step - 1).astype(np.int32),
        sent=(policy < 0) | _exchanges(step - last_synchronous, options.refresh),
        substep=substep.astype(np.int32),
        first_of_substep=first_of_substep.astype(np.int32),
        next_of_substep=_next_of_substep(substep),
        forecast=forecast(plan, substep, options.forecast),
        correction=correction_of(options.forecast, options.correction, plan),
    )


def kinds_of(refresh: int | None) -> tuple[int, ...]:
    """The kinds of row that occur with this `refresh`, in the order of their numbers."""
    if refresh == 1:
        return SYNC, EXCHANGE
    if refresh is None:
        return SYNC, HOLD
    return SYNC, EXCHANGE, HOLD


def _thresholds(steps, options):
    """(steps,) the threshold of each step."""
    if options.policy is None:
        return policies.warm_up(steps, options.warmup)
    return np.asarray(options.policy, np.float64)


def _exchanges(steps_after, refresh):
    """Whether a stale row exchanges that stands so many steps after the last synchronous one."""
    if refresh is None:
        return np.zeros(len(steps_after), bool)
    return steps_after % refresh == 0


def _next_of_substep(substep):
    """(N,) int32, the next row of the same substep; the row itself where there is none."""
    following = np.arange(len(substep), dtype=np.int32)
    for number in np.unique(substep):
        rows = np.flatnonzero(substep == number)  # in order
        following[rows[:-1]] = rows[1:]
    return following
