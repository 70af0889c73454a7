"""What a configuration's text says of sampling on a mesh, with virtual devices where there is only a CPU."""

import math
import os
import re

import jax
import numpy as np

from flowjax.errors import check_choice
from flowjax.parallel.mesh import token_shards
from flowjax.parallel.options import Options
from flowjax.parallel.stale import policies

FACTORS = ("data", "cfg", "seq", "pipe")


def factors(text):
    """{"data": 2, "seq": (2, 4)} of "data=2, seq=2x4"."""
    found = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        match = re.fullmatch(r"(\w+)=(\d+)(?:x(\d+))?", part)
        if (
            not match
            or match[1] not in FACTORS
            or match[1] in found
            or (match[3] and match[1] != "seq")
        ):
            raise ValueError(
                f"mesh={text!r}: {part!r} is not understood; wanted factors of {', '.join(FACTORS)}, each at most once, such as "
                "'data=2, cfg=2, seq=2', or 'seq=2x4' for attention='ulysses_ring'."
            )
        found[match[1]] = (int(match[2]), int(match[3])) if match[3] else int(match[2])
    return found


def make_devices(text):
    """Let a CPU show as many devices as the mesh takes; to be called before jax looks for devices.

    Their programs and numbers are those of real devices; their speed is not.
    """
    count = math.prod(math.prod(n) if isinstance(n, tuple) else n for n in factors(text).values())
    if count > 1 and "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:
            pass  # devices are there already, and make_mesh says if they are too few


POLICIES = {
    "warm_up": lambda plan, devices, count: policies.warm_up(plan.steps, count),
    "sqrt_rule": lambda plan, devices, base: policies.sqrt_rule(plan.steps, base, devices),
    "cool_down": lambda plan, devices, count: policies.cool_down(plan.steps, count),
    "window": lambda plan, devices, start, end: policies.window(plan, start, end),
    "every": lambda plan, devices, period: policies.every(plan.steps, period),
    "tolerance": lambda plan, devices, tol: policies.tolerance(plan.steps, tol),
}


def policy(text, plan, devices):
    """Synchronous where one of the parts says so: (steps,) of "tolerance=0.05, cool_down=2" or "window=0.7:0.3"; "" is None."""
    found = None
    for part in filter(None, re.split(r"[,\s]+", text)):
        name, _, numbers = part.partition("=")
        check_choice("policy", "part", name, tuple(POLICIES))
        try:
            one = POLICIES[name](
                plan,
                devices,
                *(float(n) if "." in n or "e" in n else int(n) for n in numbers.split(":")),
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"policy={text!r}: {part!r} does not fit: {error}") from None
        found = one if found is None else np.minimum(found, one)
    return found


def options(config, plan, mesh):
    """The options of `flowjax.parallel.sample` that a configuration of experiments.sample holds.

    Every field of `Options` that the configuration has is passed on. Those that are text, or a
    number that stands for none, are read first.
    """
    given = {name: getattr(config, name) for name in Options._fields if hasattr(config, name)}
    return given | {
        "policy": policy(config.policy, plan, token_shards(mesh)),
        "forecast": int(config.forecast) if config.forecast.isdigit() else config.forecast,
        "comm_dtype": config.comm_dtype or None,
        "patches": config.patches or None,
    }
