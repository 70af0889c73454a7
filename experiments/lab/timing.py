"""Seconds of calls: the first, which compiles, and the median of later ones."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def clock(call: Callable[[], Any]) -> float:
    """Seconds of one call, until its arrays are ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, tuple[float, float]]:
    """{name: (seconds of the first call, median of `repeats` later ones)}.

    The contenders take turns, so that a slow minute of the machine slows all of them.
    """
    first = {name: clock(call) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(clock(call))
    return {name: (first[name], statistics.median(times[name])) for name in calls}
