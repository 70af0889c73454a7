"""Checks of a plan of one's own: rows in the order of time, and consistency.

Without consistency no solver converges. Where the network's predictions are constant, every row
must give the exact state, alpha data + sigma noise. Where the velocity is constant this means that
the weights of a step sum to its length.
"""

from collections.abc import Sequence

import numpy as np

from flowjax.plans.table import DEPTH, Plan
from flowjax.schedules import Linear, Schedule

CONSISTENT = 1e-9  # error of a state, relative to the numbers that it is summed from


def check_times(name: str, t: np.ndarray, t_next: np.ndarray, ends_step: np.ndarray) -> None:
    """Check that the rows follow each other in time, and that the last one accepts its state.

    Args:
      name: the function that errors speak for.
      t: (N,) times of the evaluations.
      t_next: (N,) times of the new states.
      ends_step: (N,) bool, whether the new states are accepted.

    Raises:
      ValueError: the first row for which this is not so.
    """
    for column, times in (("t", t), ("t_next", t_next)):
        outside = np.flatnonzero(~((times >= 0) & (times <= 1)))
        if len(outside):
            raise ValueError(
                f"{name}: row {outside[0]} has {column} = {times[outside[0]]:g}; wanted a time in "
                "[0, 1], where 1 is noise and 0 is data."
            )
    apart = np.flatnonzero(np.abs(t[1:] - t_next[:-1]) > 1e-12)
    if len(apart):
        row = apart[0] + 1
        raise ValueError(
            f"{name}: row {row} evaluates at t = {t[row]:.6g}, but row {row - 1} leaves the state "
            f"at t_next = {t_next[row - 1]:.6g}; give row {row} that time, or place the state with "
            f"the t_next of row {row - 1}."
        )
    if not ends_step[-1]:
        raise ValueError(
            f"{name}: the last row, {len(t) - 1}, has ends_step=False, so that its state would not "
            "be accepted; end the plan with a row that has ends_step=True."
        )


def check_exact(name: str, plan: Plan, kinds: Sequence[str], schedule: Schedule) -> None:
    """Check that the plan is exact where all predictions are constant.

    Plans that solve only for the velocity are checked on the linear path, all others on that of
    their schedule. A plan that draws noise has no exact state and is not checked.

    Args:
      name: the function that errors speak for.
      plan: the plan.
      kinds: (N,) the prediction that each row puts into the history.
      schedule: the path.

    Raises:
      ValueError: the first row whose new state is not exact; a plan that solves for the velocity
        and for other predictions off the linear path, which cannot be exact.
    """
    if np.any(plan.s != 0):
        return
    # A solver of the velocity knows no path: a constant velocity moves along the linear one.
    only_velocity = set(kinds) == {"velocity"}
    schedule = Linear() if only_velocity else schedule
    linear = isinstance(schedule, Linear)
    if "velocity" in kinds and not linear:
        row = next(i for i, kind in enumerate(kinds) if kind == "velocity")
        raise ValueError(
            f"{name}: row {row} has the kind 'velocity' and others have not; off the linear path "
            "no plan of both is exact for constant predictions, so it cannot be checked: pass "
            "build(check=False)."
        )
    # On the path x = alpha data + sigma noise; the two cases give all others as their sums.
    if linear:
        _check_case(name, plan, kinds, schedule, "a velocity of 0 and the state 1", 1.0, 1.0)
        _check_case(name, plan, kinds, schedule, "a velocity of 1 and the state t", 0.0, 1.0)
    else:
        _check_case(name, plan, kinds, schedule, "data of 1 and noise of 0", 1.0, 0.0)
        _check_case(name, plan, kinds, schedule, "noise of 1 and data of 0", 0.0, 1.0)


def _check_case(name, plan, kinds, schedule, words, data, noise):
    """Run the rows for constant data and noise; refuse the first state that is not exact."""

    def exact(t):
        return schedule.alpha(t) * data + schedule.sigma(t) * noise

    start = plan.t[0]
    base = exact(start)
    size = abs(base)  # bounds the numbers that are summed, and so the rounding
    history = np.zeros(DEPTH)
    for i in range(plan.rows):
        # The row, as the sampler does it
        prediction = _constant_prediction(kinds[i], schedule, plan.t[i], data, noise)
        history = np.append(prediction, history[:-1])
        base = plan.a[i] * base + plan.b[i] @ history
        x = plan.c[i] * base + plan.d[i] @ history
        # The same with all signs positive
        size = abs(plan.a[i]) * size + np.abs(plan.b[i]) @ np.abs(history)
        bound = abs(plan.c[i]) * size + np.abs(plan.d[i]) @ np.abs(history)
        t_next = plan.t_next[i]
        if abs(x - exact(t_next)) > CONSISTENT * bound:
            kind = "step" if plan.ends_step[i] else "substep"
            raise ValueError(
                f"{name}: with {words}, row {i} (the {kind} from t = {start:.6g} to "
                f"{t_next:.6g}) gives the state {x:.6g} instead of {exact(t_next):.6g}. "
                f"{_rule(kinds, t_next - start)} Correct the weights, or pass "
                "build(check=False) for a method that is not meant to be exact there."
            )
        if plan.ends_step[i]:
            start = t_next


def _constant_prediction(kind, schedule, t, data, noise):
    """The prediction of this kind where data and noise are constant."""
    if kind == "data":
        return data
    if kind == "noise":
        return noise
    if kind == "velocity":  # of the linear path
        return noise - data
    if kind == "score":
        return -noise / schedule.sigma(t)
    # "v": alpha noise - sigma data
    return schedule.alpha(t) * noise - schedule.sigma(t) * data


def _rule(kinds, length):
    """What the weights of a step must fulfil."""
    if set(kinds) == {"velocity"}:
        return f"With a = c = 1 its weights must sum to its length, {length:.6g}."
    return "Constant predictions must keep the state on x = alpha data + sigma noise."
