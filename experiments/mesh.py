"""A mesh from a configuration's text, with virtual devices where there is only a CPU."""

import math
import os
import re

import jax

FACTORS = ("data", "cfg", "seq", "pipe")


def factors(text):
    """{"data": 2, "seq": (2, 4)} of "data=2, seq=2x4"."""
    found = {}
    for part in filter(None, re.split(r"[,\s]+", text)):
        match = re.fullmatch(r"(\w+)=(\d+)(?:x(\d+))?", part)
        if not match or match[1] not in FACTORS or match[1] in found or (match[3] and match[1] != "seq"):
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
