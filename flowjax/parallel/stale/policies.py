"""Which steps of a stale run are synchronous. A policy is a row of thresholds, one a step.

Step i is synchronous if the relative staleness metered in step i - 1, |KV - copy|/|KV| of the worst sample, exceeds
policy[i]: ALWAYS is synchronous whatever the meter says, NEVER is stale, and a number between decides while the run is on
its way, on the device, without asking the host. The first step is synchronous under every policy, since nothing is there
that could be stale. `np.minimum(a, b)` synchronises where a or b does.

    policies.warm_up(20, 4)                                                      what everybody does
    np.minimum(policies.tolerance(20, 0.05), policies.cool_down(20, 2))          by tolerance, and the last two steps
"""

import math

import numpy as np

ALWAYS, NEVER = -1.0, np.inf


def _whole(name, argument, value, least, most=None):
    good = isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= least
    if not good or (most is not None and value > most):
        upto = "" if most is None else f" to {most}"
        raise ValueError(
            f"policies.{name}: {argument}={value!r}; wanted a whole number from {least}{upto}."
        )


def at(steps, which):
    """Synchronous in the steps `which` (numbers from 0, or a mask), and in the first: (steps,)."""
    _whole("at", "steps", steps, 1)
    policy = np.full(steps, NEVER)
    try:
        policy[np.asarray(which, bool if np.asarray(which).dtype == bool else int)] = ALWAYS
    except (IndexError, ValueError) as error:
        raise ValueError(f"policies.at: {which!r} are no steps of {steps}: {error}.") from error
    policy[0] = ALWAYS
    return policy


def warm_up(steps, count):
    """The first `count` steps, exactly (DistriFusion's and xDiT's warm-up, the former of count + 1)."""
    _whole("warm_up", "count", count, 1, steps)
    return at(steps, np.arange(count))


def sqrt_rule(steps, base, devices):
    """A warm-up of base sqrt(devices) steps, rounded up and at most all: a rule that circulates."""
    _whole("sqrt_rule", "devices", devices, 1)
    if not math.isfinite(base) or base <= 0:
        raise ValueError(f"policies.sqrt_rule: base={base!r}; wanted a number of steps above 0.")
    return warm_up(steps, min(steps, math.ceil(base * math.sqrt(devices) - 1e-9)))


def cool_down(steps, count):
    """The first step and the last `count`."""
    _whole("cool_down", "count", count, 0, steps)
    return at(steps, np.arange(steps - count, steps))


def window(plan, start, end):
    """The first step and those that begin at a time in [end, start]: 1 is noise, 0 is data."""
    t = np.asarray(plan.t)[
        np.concatenate([[True], np.asarray(plan.ends_step)[:-1]])
    ]  # where steps begin
    first, last = max(t[0], plan.t_next[-1]), min(t[0], plan.t_next[-1])
    if not (last <= end <= start <= first):
        raise ValueError(
            f"policies.window: from {start!r} to {end!r}; wanted {first:.6g} >= start >= end >= {last:.6g}, the plan's span."
        )
    return at(len(t), (t <= start) & (t >= end))


def every(steps, period):
    """The first step and each `period`-th after it."""
    _whole("every", "period", period, 1)
    return at(steps, np.arange(0, steps, period))


def tolerance(steps, tol):
    """Synchronise a step if the one before was staler than `tol`, by the worst sample's |KV - copy|/|KV|.

    The meter compares what the others were told, or in a synchronous step would have been told, with what then was true, so
    it does not depend on being stale, and a synchronous step does not hide what the next needs to know. The second step is
    synchronous too: before it nothing could be metered.
    """
    if not (isinstance(tol, (int, float, np.number)) and tol > 0):
        raise ValueError(
            f"policies.tolerance: tol={tol!r}; wanted a relative staleness above 0 (a policy that is always synchronous is "
            "warm_up(steps, steps))."
        )
    _whole("tolerance", "steps", steps, 1)
    policy = np.full(steps, float(tol))
    policy[0] = ALWAYS
    return policy


def check(name, policy, steps):
    """`policy` as (steps,) float64, or a sentence that begins with `name`."""
    policy = np.asarray(policy, np.float64)
    if policy.shape != (steps,) or np.isnan(policy).any():
        raise ValueError(
            f"{name}: policy has shape {policy.shape} for a plan of {steps} steps; wanted a threshold for each step, from "
            "flowjax.parallel.stale.policies."
        )
    if policy[0] >= 0:
        raise ValueError(
            f"{name}: policy[0]={policy[0]:g}; the first step has nothing stale to use: wanted ALWAYS there."
        )
    return policy
