"""The same solver for the same network on another path.

Two paths that carry the same data and noise have states that differ by a factor where their
log-SNR agrees, x_other = scale x. A row combines data and noise, so it has other weights of the
state and the velocity there, and the same result.
"""

import numpy as np

from flowjax import schedules
from flowjax.plans import table
from flowjax.plans.table import Plan
from flowjax.schedules import Schedule


def on_path(plan: Plan, source: Schedule, target: Schedule) -> Plan:
    """The plan `plan` of the path `source` as a plan of the path `target`.

    Started from the scaled state, its accepted states are those of `plan`, times
    (alpha + sigma of the target)/(alpha + sigma of the source). A solver that is published for one
    path, or tuned on it, so runs on the other, for example one of `schedules.straight` on the path
    of the network.

    Args:
      plan: of the path `source`; its network receives the times of the states.
      source: the path of the plan.
      target: another path. Its times are those of the same log-SNR.

    Raises:
      ValueError: a plan with label times of its own, a time whose log-SNR the target does not have,
        or a row that has no finite weights on the target's path.
    """
    name = "plans.on_path"
    for schedule in (source, target):
        schedules.check(schedule, name)
    # Rows that pad use nothing of the network.
    if np.any((plan.label_time != plan.t) & plan.counted):
        raise ValueError(
            f"{name}: the network of this plan receives other times than those of its states, and "
            "its predictions there belong to the source's path; convert the plan first and call "
            "plans.with_labels after it."
        )
    t, t_next, label_time = (
        _times(name, source, target, times) for times in (plan.t, plan.t_next, plan.label_time)
    )

    # m = p x + q velocity as weights of data and noise.
    alpha, sigma = source.alpha(plan.t), source.sigma(plan.t)
    with np.errstate(divide="ignore", invalid="ignore"):  # refused below with a sentence
        sigma_dot = source.sigma_sigma_dot(plan.t) / sigma
        # A row that uses no velocity has none of the derivatives.
        uses = np.asarray(plan.q) != 0
        of_data = plan.p * alpha + np.where(uses, plan.q * source.alpha_dot(plan.t), 0.0)
        of_noise = plan.p * sigma + np.where(uses, plan.q * sigma_dot, 0.0)
        # The same combination as weights of the target's state and velocity.
        data_x, data_v = target.prediction_weights("data", t)
        noise_x, noise_v = target.prediction_weights("noise", t)
        p = of_data * data_x + of_noise * noise_x
        q = of_data * data_v + of_noise * noise_v

    # The base state is at the time where it was last changed.
    first = _scale(source, target, plan.t[:1], t[:1])
    after = _scale(source, target, plan.t_next, t_next)
    changed = (plan.a != 1) | (plan.s != 0) | np.any(plan.b != 0, axis=1)
    last_change = np.maximum.accumulate(np.where(changed, np.arange(plan.rows), -1))
    base = np.where(last_change >= 0, after[last_change], first)
    before = np.concatenate([first, base[:-1]])
    converted = plan._replace(
        t=t,
        t_next=t_next,
        label_time=label_time,
        p=p,
        q=q,
        a=plan.a * base / before,
        b=plan.b * base[:, None],
        s=plan.s * base,
        c=plan.c * after / base,
        d=plan.d * after[:, None],
        data_x=data_x,
        data_v=data_v,
    )
    table.check_finite(converted, name)
    return converted


def _times(name, source, target, times):
    """The target's times of the same log-SNR."""
    log_snr = source.log_snr(times)
    with np.errstate(invalid="ignore", divide="ignore"):  # refused below with a sentence
        # Rounding must not lead beyond t = 1.
        found = np.minimum(target.time_of_log_snr(log_snr), 1.0)
        same = np.isclose(target.log_snr(found), log_snr, rtol=1e-6, atol=1e-6)
    if not np.all(same):
        time = times[~same][0]
        raise ValueError(
            f"{name}: at t = {time:g} the source's path has the log-SNR {log_snr[~same][0]:g}, and "
            f"no time of the target's path has it; wanted a plan inside the target's range, from "
            f"{target.log_snr(1.0):g} on."
        )
    return found


def _scale(source, target, t, target_t):
    """(alpha + sigma) of the target over that of the source, at times of the same log-SNR."""
    return (target.alpha(target_t) + target.sigma(target_t)) / (source.alpha(t) + source.sigma(t))
