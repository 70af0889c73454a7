"""Seconds of calls: the first, which compiles, and the median of later ones, with the contenders taking turns."""

import statistics
import time

import jax


def clock(call):
    """Seconds of one call, waited for."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def interleaved(calls, repeats):
    """{name: (first call, median of `repeats` later calls)}; the contenders take turns."""
    first = {name: clock(call) for name, call in calls.items()}
    times = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(clock(call))
    return {name: (first[name], statistics.median(times[name])) for name in calls}
