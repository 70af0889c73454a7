"""Options of stale sampling as the facts of a plan's file, for a plan that was tuned with them."""

from typing import Any

import numpy as np

from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import Forecast
from flowjax.plans.table import Plan


def stale_facts(options: dict[str, Any]) -> dict[str, Any]:
    """Options of `parallel.sample` with attention="stale" as facts for `plans.save`.

    Args:
      options: policy (a mask or thresholds of which steps are synchronous), forecast and, where it
        is not the usual one, correction.
    """
    policy = np.asarray(options["policy"])
    synchronous = policy if policy.dtype == bool else policy < 0
    found = {"synchronous_steps": np.flatnonzero(synchronous).tolist()}
    given = options["forecast"]
    if isinstance(given, Forecast):
        columns = given._asdict().items()
        given = {
            name: None if part is None else np.asarray(part).tolist() for name, part in columns
        }
    found["forecast"] = given
    if options.get("correction") is not None:
        found["correction"] = np.asarray(options["correction"]).tolist()
    return {"stale": found}


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
