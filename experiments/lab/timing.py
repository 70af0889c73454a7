"""Seconds of calls: the first, which compiles, and the median of later ones."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def clock(call: Callable[[], Any], processor: bool = False) -> float:
    """Seconds of one call, until its arrays are ready.

    Args:
      call: what is timed.
      processor: count the seconds that this process spends on the processors, and not those that
        pass. Other work on the machine then counts only as far as it takes cache and memory.
    """
    now = time.process_time if processor else time.perf_counter
    start = now()
    jax.block_until_ready(call())
    return now() - start


def interleaved(
    calls: Mapping[str, Callable[[], Any]], repeats: int, processor: bool = False
) -> dict[str, tuple[float, float]]:
    """{name: (seconds of the first call, median of `repeats` later ones)}.

    The contenders take turns, so that a slow minute of the machine slows all of them. `processor`
    is that of `clock`.
    """
    first = {name: clock(call, processor) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(clock(call, processor))
    return {name: (first[name], statistics.median(times[name])) for name in calls}
