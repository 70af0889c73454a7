"""The mesh and the policy that a configuration writes as text, and virtual devices for a CPU."""

import dataclasses
import math
import os
import re
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from flowjax import Plan, parallel, plans
from flowjax.errors import check_choice
from flowjax.parallel.mesh import token_shards
from flowjax.parallel.options import Options
from flowjax.parallel.stale import policies

FACTORS = ("data", "cfg", "seq", "pipe")
OF_PLAN = "plan"  # a forecast: that of the file of the plan
# A policy -> how a part of the text names it
POLICIES = {
    "warm_up": "warm_up=4",
    "sqrt_rule": "sqrt_rule=1.5",
    "cool_down": "cool_down=2",
    "window": "window=0.7:0.3",
    "every": "every=4",
    "tolerance": "tolerance=0.05",
}


def _parts(text: str) -> list[str]:
    """The parts of a text, which commas or spaces separate."""
    return [part for part in re.split(r"[,\s]+", text) if part]


def factors(text: str) -> dict[str, int | tuple[int, int]]:
    """{"data": 2, "seq": (2, 4)} of "data=2, seq=2x4".

    Raises:
      ValueError: an unknown factor, one given twice, or a pair for another factor than seq.
    """
    found = {}
    for part in _parts(text):
        match = re.fullmatch(r"(\w+)=(\d+)(?:x(\d+))?", part)
        is_known = match and match[1] in FACTORS and match[1] not in found
        if not is_known or (match[3] and match[1] != "seq"):
            raise ValueError(
                f"mesh={text!r}: {part!r} is not understood; wanted factors of "
                f"{', '.join(FACTORS)}, each at most once, such as 'data=2, cfg=2, seq=2', or "
                "'seq=2x4' for attention='ulysses_ring'."
            )
        found[match[1]] = (int(match[2]), int(match[3])) if match[3] else int(match[2])
    return found


def make_devices(text: str) -> None:
    """Let a CPU show as many devices as the mesh takes; to be called before JAX looks for devices.

    Their programs and numbers are those of real devices; their speed is not.
    """
    sizes = factors(text).values()
    count = math.prod(math.prod(n) if isinstance(n, tuple) else n for n in sizes)
    set_by_hand = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count > 1 and not set_by_hand:
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:
            # JAX has its devices already. If they are too few, make_mesh refuses with a sentence.
            pass


def policy(text: str, plan: Plan, devices: int) -> np.ndarray | None:
    """The thresholds (steps,) of a policy, see `flowjax.parallel.stale.policies`.

    Args:
      text: parts such as "tolerance=0.05, cool_down=2" or "window=0.7:0.3". A step is synchronous
        where one of the parts makes it so. "" is no policy: None.
      plan: the plan of the run.
      devices: the number of shards of the tokens.

    Raises:
      ValueError: an unknown part, or numbers that do not fit it.
    """
    found = None
    for part in _parts(text):
        name, _, numbers = part.partition("=")
        check_choice("policy", "part", name, POLICIES)
        given = _numbers(numbers)
        if len(given) != POLICIES[name].count(":") + 1:
            raise ValueError(
                f"policy={text!r}: {part!r} does not fit; wanted numbers as in {POLICIES[name]!r}."
            )
        try:
            thresholds = _thresholds(name, given, plan, devices)
        except ValueError as error:
            raise ValueError(f"policy={text!r}: {part!r} does not fit: {error}") from None
        # The smaller threshold is the stricter one.
        found = thresholds if found is None else np.minimum(found, thresholds)
    return found


def _numbers(text: str) -> list[int | float]:
    """The numbers of a text such as "0.7:3e-1"; none where one of them is no number."""
    try:
        return [float(part) if re.search("[.eE]", part) else int(part) for part in text.split(":")]
    except ValueError:
        return []


def _thresholds(name: str, numbers: list, plan: Plan, devices: int) -> np.ndarray:
    if name == "window":
        return policies.window(plan, *numbers)
    if name == "sqrt_rule":
        (base,) = numbers
        return policies.sqrt_rule(plan.steps, base, devices)
    return getattr(policies, name)(plan.steps, *numbers)


def check(config: Any) -> None:
    """Refuse options of several devices on one, and forecasts of a plan beside what they replace.

    Raises:
      ValueError: an option of parallel sampling without a mesh; forecasts of a plan without a plan
        or without stale attention, or with a policy, warm-up or correction beside them.
    """
    if not config.mesh:
        _check_one_device(config)
    if config.forecast != OF_PLAN:
        return
    beside = {"policy": "", "warmup": 1, "correction": None, "patches": 0}
    given = [name for name, default in beside.items() if getattr(config, name) != default]
    if given:
        raise ValueError(
            f"forecast={OF_PLAN!r} takes policy, forecast and correction from the file of the "
            f"plan; leave out {', '.join(given)}."
        )
    if not config.plan or config.attention != "stale":
        raise ValueError(
            f"forecast={OF_PLAN!r} with plan={config.plan!r}, mesh={config.mesh!r} and attention="
            f"{config.attention!r}; wanted the file of a plan that was tuned for stale attention, "
            "a mesh such as seq=8, and attention='stale'."
        )


def _check_one_device(config: Any) -> None:
    """Refuse options that only a mesh has; guidance is the only one that one device has too."""
    given = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name in Options._fields
        and field.name != "guidance"
        and getattr(config, field.name) != field.default
    ]
    if given:
        raise ValueError(
            f"mesh='' is one device, where {', '.join(given)} would change nothing; give several "
            "devices, such as --config.mesh=seq=4 (pipe=4 for pipefusion), or leave these options "
            "out."
        )


def _of_plan(config: Any, devices: int) -> dict[str, Any]:
    """Policy, forecast and correction that the file of the plan holds.

    Another number of devices than the plan was tuned for is printed.
    """
    check(config)
    plan, facts = plans.load_with_facts(config.plan)
    if facts.get("devices", devices) != devices:
        print(
            f"plan={config.plan!r} was tuned for {facts['devices']} devices and runs on {devices}; "
            "the error that was measured for it does not hold here.",
            file=sys.stderr,
        )
    return parallel.stale_options(facts, plan, f"plan={config.plan!r}")


def options(config: Any, plan: Plan, mesh: Mesh) -> dict[str, Any]:
    """The options of `flowjax.parallel.sample` in a configuration of experiments.sample.

    Every field of `Options` that the configuration has is passed on. Those that are text, or a
    number that stands for none, are read first.
    """
    given = {name: getattr(config, name) for name in Options._fields if hasattr(config, name)}
    if config.forecast == OF_PLAN:
        return (
            given
            | _of_plan(config, token_shards(mesh))
            | {"comm_dtype": config.comm_dtype or None, "patches": None}
        )
    return given | {
        "policy": policy(config.policy, plan, token_shards(mesh)),
        "forecast": int(config.forecast) if config.forecast.isdigit() else config.forecast,
        "comm_dtype": config.comm_dtype or None,
        "patches": config.patches or None,
    }
