"""Options of stale sampling as the facts of a plan's file, for a plan that was tuned with them."""

from typing import Any

import numpy as np

from flowjax.errors import check_choice, check_whole
from flowjax.parallel.options import Options, from_keywords, is_default
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import Forecast
from flowjax.plans.table import Plan

# What a file holds; warmup and policy as the numbers of the synchronous steps.
STORED = ("warmup", "policy", "forecast", "correction")


def stale_facts(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `parallel.sample` with attention="stale" as facts for `plans.save`.

    Args:
      options: warmup, or policy: a mask (steps,) of the synchronous steps, or thresholds that are
        ALWAYS or NEVER; forecast; and correction, where it is not the usual one. What is left out
        has the default of `parallel.sample`.

    Raises:
      ValueError: an option that is not stored and not its default, or a policy by tolerance.
    """
    name = "parallel.stale_facts"
    chosen = from_keywords(name, {"attention": "stale"} | options)
    check_choice(name, "attention", chosen.attention, ("stale",))
    for option, value in options.items():
        if option not in (*STORED, "attention") and not is_default(option, value):
            raise ValueError(
                f"{name}: {option}={value!r} is not stored with a plan; wanted options among "
                f"{', '.join(STORED)}. Leave it here, and give it to parallel.sample."
            )
    found = {"synchronous_steps": _synchronous_steps(name, chosen)}
    given = chosen.forecast
    if isinstance(given, Forecast):
        columns = given._asdict().items()
        given = {
            name: None if part is None else np.asarray(part).tolist() for name, part in columns
        }
    found["forecast"] = given
    if chosen.correction is not None:
        found["correction"] = np.asarray(chosen.correction).tolist()
    return {"stale": found}


def _synchronous_steps(name: str, options: Options) -> list[int]:
    """The numbers of the steps that are synchronous, from 0."""
    if options.policy is None:
        check_whole(name, "warmup", options.warmup, 1)
        return list(range(options.warmup))
    if options.warmup != 1:
        raise ValueError(
            f"{name}: warmup={options.warmup!r} and a policy, which decides by itself what is "
            "synchronous; leave warmup."
        )
    policy = np.asarray(options.policy)
    if policy.dtype == bool:
        policy = policies.at(policy.size, policy)
    policy = policies.check(name, policy, policy.size)
    by_tolerance = (policy >= 0) & (policy < policies.NEVER)
    if np.any(by_tolerance):
        raise ValueError(
            f"{name}: policy has the threshold {policy[by_tolerance][0]:g}, so the run decides "
            "which steps are synchronous, and a file cannot say it; wanted ALWAYS or NEVER in each "
            "step, or warmup."
        )
    return np.flatnonzero(policy < 0).tolist()


def stale_options(facts: dict[str, Any], plan: Plan, source: str) -> dict[str, Any]:
    """The options of `parallel.sample` with which a plan was tuned for stale attention.

    They are policy, forecast and correction, as `stale_facts` wrote them.

    Args:
      facts: as `plans.load_with_facts` returns them.
      plan: the plan of the file.
      source: where it comes from, for messages.

    Raises:
      ValueError: the plan was not tuned for stale attention, or its facts are damaged.
    """
    if "stale" not in facts:
        raise ValueError(
            f"{source}: the plan was not tuned for stale attention, so its file has no forecasts; "
            "python -m experiments.tune --config.questions=stale tunes one."
        )
    stored = facts["stale"]
    try:
        given = stored["forecast"]
        if isinstance(given, dict):
            columns = {
                name: None if part is None else np.array(part, float)
                for name, part in given.items()
            }
            given = Forecast(**columns)
        return {
            "policy": policies.at(plan.steps, stored["synchronous_steps"]),
            "forecast": given,
            "correction": stored.get("correction"),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{source}: the facts on stale attention are not complete ({error}); save the plan "
            "again with the facts of parallel.stale_facts."
        ) from error
