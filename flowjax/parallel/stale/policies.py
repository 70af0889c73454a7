"""Policies: which steps of a stale run are synchronous. A policy is one threshold a step.

Step i is synchronous if the relative staleness |KV - copy|/|KV| that was metered in step i - 1, of
the worst sample, exceeds policy[i]. The threshold ALWAYS makes the step synchronous whatever the
meter says, and NEVER makes it stale. A threshold between them decides during the run, on the
device, without the host. The first step is synchronous under every policy, since no copy exists
before it. `np.minimum(a, b)` is synchronous where a or b is.

    policies.warm_up(20, 4)                                              the usual choice
    np.minimum(policies.tolerance(20, 0.05), policies.cool_down(20, 2))  tolerance, and the last two
"""

import math
from collections.abc import Sequence

import numpy as np

from flowjax.errors import check_whole
from flowjax.plans.table import Plan

# Staleness is at least 0, and infinite where there was no copy: then NEVER is not exceeded either,
# and the schedule of rows makes the row synchronous.
ALWAYS = -1.0
NEVER = np.inf


def at(steps: int, which: Sequence[int] | np.ndarray) -> np.ndarray:
    """The first step and the steps `which`: numbers from 0, or a mask (steps,)."""
    check_whole("policies.at", "steps", steps, 1)
    given = np.asarray(which)
    is_mask = given.dtype == bool
    if is_mask:
        fits = given.shape == (steps,)
    else:
        # An empty list is an array of float64.
        are_whole = given.dtype.kind in "iu" or given.size == 0
        fits = are_whole and np.all((given >= 0) & (given < steps))
    if not fits:
        raise ValueError(
            f"policies.at: {which!r} are no steps of {steps}; wanted whole numbers from 0 to "
            f"{steps - 1}, or a mask of shape ({steps},)."
        )
    policy = np.full(steps, NEVER)
    policy[given if is_mask else given.astype(int)] = ALWAYS
    policy[0] = ALWAYS
    return policy


def warm_up(steps: int, count: int) -> np.ndarray:
    """The first `count` steps, exactly.

    xDiT counts in this way too. A warm-up of w in DistriFusion means w + 1 steps.
    """
    check_whole("policies.warm_up", "count", count, 1, steps)
    return at(steps, np.arange(count))


def sqrt_rule(steps: int, base: float, devices: int) -> np.ndarray:
    """A warm-up of base sqrt(devices) steps, rounded up, and at most all steps: a rule of thumb."""
    check_whole("policies.sqrt_rule", "devices", devices, 1)
    if not math.isfinite(base) or base <= 0:
        raise ValueError(f"policies.sqrt_rule: base={base!r}; wanted a number of steps above 0.")
    # Less 1e-9, so that a product that is an integer does not become the next one by rounding.
    count = math.ceil(base * math.sqrt(devices) - 1e-9)
    return warm_up(steps, min(steps, count))


def cool_down(steps: int, count: int) -> np.ndarray:
    """The first step and the last `count`."""
    check_whole("policies.cool_down", "count", count, 0, steps)
    return at(steps, np.arange(steps - count, steps))


def window(plan: Plan, start: float, end: float) -> np.ndarray:
    """The first step and those that begin at a time in [end, start]; 1 is noise, 0 is data."""
    counted = np.asarray(plan.counted)  # rows that only pad begin no step
    begins_step = np.concatenate([[True], np.asarray(plan.ends_step)[counted][:-1]])
    t = np.asarray(plan.t)[counted][begins_step]  # (steps,)
    # A plan may also run from data to noise.
    first = max(t[0], plan.t_next[-1])
    last = min(t[0], plan.t_next[-1])
    if not (last <= end <= start <= first):
        raise ValueError(
            f"policies.window: from {start!r} to {end!r}; wanted {first:.6g} >= start >= end >= "
            f"{last:.6g}, the plan's span."
        )
    return at(len(t), (t <= start) & (t >= end))


def every(steps: int, period: int) -> np.ndarray:
    """The first step and each `period`-th step after it."""
    check_whole("policies.every", "period", period, 1)
    return at(steps, np.arange(0, steps, period))


def tolerance(steps: int, tol: float) -> np.ndarray:
    """A step is synchronous if the step before was staler than `tol`.

    The staleness is |KV - copy|/|KV| of the worst sample. The meter compares the copies that were
    used, or in a synchronous step would have been used, with the true keys and values. So it
    measures the same in stale and in synchronous steps. The second step is synchronous too, since
    no copy could be metered in the first.
    """
    if not (isinstance(tol, (int, float, np.number)) and tol > 0):
        raise ValueError(
            f"policies.tolerance: tol={tol!r}; wanted a relative staleness above 0 (a policy that "
            "is always synchronous is warm_up(steps, steps))."
        )
    check_whole("policies.tolerance", "steps", steps, 1)
    policy = np.full(steps, float(tol))
    policy[0] = ALWAYS
    return policy


def check(name: str, policy: np.ndarray | Sequence[float], steps: int) -> np.ndarray:
    """The policy as (steps,) float64, or a refusal in the name of the function `name`."""
    policy = np.asarray(policy, np.float64)
    if policy.shape != (steps,) or np.isnan(policy).any():
        raise ValueError(
            f"{name}: policy has shape {policy.shape} for a plan of {steps} steps; wanted a "
            "threshold for each step, from flowjax.parallel.policies."
        )
    if policy[0] >= 0:
        raise ValueError(
            f"{name}: policy[0]={policy[0]:g}; the first step has nothing stale to use: wanted "
            "ALWAYS there."
        )
    return policy
