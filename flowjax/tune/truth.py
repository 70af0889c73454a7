"""Converged states of a model's own ODE: what a tuned table is measured against.

The classical Runge-Kutta method integrates from the starts through the times that are asked for,
with k steps in each interval, and again with 2 k, 4 k, ... steps. The error that remains follows
from how much the last two doublings moved the end, d and then d': if each doubling divides the
change by r = d/d' > 2, the changes still to come add up to d'/(r - 1); otherwise d' itself is the
estimate. The steps double until this is less than the tolerance. A velocity that is rough in time
may never get there, and then the reference is refused.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax import grids, plans
from flowjax.distances import rms
from flowjax.errors import check_choice
from flowjax.tune.runner import DERIVATIVES, Runner, at_least_float32, check_batch
from flowjax.types import Array, PyTree

FIRST_STEPS = 10  # Runge-Kutta steps of the first attempt, over all intervals


class Reference(NamedTuple):
    """Converged states.

    Attributes:
      times: (T,) strictly monotone, times[0] is where the starts lie.
      states: (T, B, *D) in the type of the starts, at least float32.
      error: the estimated error of the end that remains, relative to the size of the end (root
        mean square).
      doubling: the change of the end when the steps were last doubled, relative alike.
      steps: Runge-Kutta steps over all intervals; each takes four evaluations.
      evaluations: network evaluations of one sample that were spent, those of coarser attempts
        included.
    """

    times: np.ndarray
    states: np.ndarray
    error: float
    doubling: float
    steps: int
    evaluations: int


def reference(
    model: Callable,
    noise: Array,
    times: Array,
    *,
    tolerance: float,
    condition: PyTree = None,
    most_steps: int = 640,
    derivatives: str = "jvp",
) -> Reference:
    """States of the model's own ODE at `times`, converged to `tolerance`.

    Args:
      model: (x, t) -> velocity (B, *D); with a condition, (x, t, condition) -> velocity.
      noise: (B, *D) states at times[0]; those of half precision are integrated in float32.
      times: (T,) strictly monotone in [0, 1], two or more.
      tolerance: the estimated error of the end that is accepted, relative to the root mean square
        norm of the end. A tenth of the error of the tables that are compared is small enough.
      condition: a pytree with leading axis B, such as labels.
      most_steps: Runge-Kutta steps at which the attempt is given up.
      derivatives: "differences" marks a model that JAX cannot trace (see `tune.refine`).

    Raises:
      ValueError: the times are no grid, the condition has another length than the noise, the
        velocity is not finite on the way, or more than `tolerance` remains at `most_steps` steps;
        the message says how much the end still moves.
    """
    check_choice("tune.reference", "derivatives", derivatives, DERIVATIVES)
    check_batch("tune.reference", noise, condition)
    return converged(Runner(model, derivatives), noise, times, tolerance, condition, most_steps)


def converged(
    runner: Runner,
    noise: Array,
    times: Array,
    tolerance: float,
    condition: PyTree = None,
    most_steps: int = 640,
) -> Reference:
    """`reference` with a `Runner`, whose evaluations it counts."""
    times = grids.check(times, "tune.reference")
    # Half precision would round the end of every interval, and finer steps alike.
    noise = at_least_float32(noise)
    before = runner.evaluations
    intervals = len(times) - 1
    substeps = max(1, -(-FIRST_STEPS // intervals))
    coarse = _integrate(runner, noise, times, substeps, condition)
    earlier = np.nan
    # Double until the end stays.
    while True:
        substeps *= 2
        fine = _integrate(runner, noise, times, substeps, condition)
        doubling = change(coarse[-1], fine[-1])
        error = _remaining(earlier, doubling)
        if error <= tolerance:
            break
        # The next attempt would take twice as many steps as this one.
        if 2 * substeps * intervals > most_steps:
            raise ValueError(
                f"tune.reference: the end of the model's ODE still moves by {doubling:.2g} of its "
                f"size when {substeps * intervals // 2} Runge-Kutta steps become "
                f"{substeps * intervals}, and tolerance={tolerance:.2g} was wanted. Give a larger "
                "tolerance if tables of that error are of use, or larger most_steps; a network "
                "that receives 1000 t may be too rough in time to converge at all."
            )
        coarse, earlier = fine, doubling
    # The runner counts over all starts; the reference reports evaluations of one sample.
    spent = (runner.evaluations - before) // len(noise)
    return Reference(times, fine, error, doubling, substeps * intervals, spent)


def _remaining(earlier: float, doubling: float) -> float:
    """The error that remains after two doublings changed the end by `earlier` and `doubling`."""
    # A rate beyond that of the method, 16, would be luck. NaN, of the first doubling, is no rate.
    rate = min(earlier / max(doubling, 1e-300), 16.0)
    return doubling / (rate - 1) if rate > 2 else doubling


def _integrate(
    runner: Runner, noise: Array, times: np.ndarray, substeps: int, condition: PyTree
) -> np.ndarray:
    """States (T, B, *D) at `times`, by `substeps` Runge-Kutta steps in each interval."""
    states = [np.asarray(noise)]
    x = noise
    for i, (start, end) in enumerate(zip(times[:-1], times[1:], strict=True)):
        # Intervals have plans of equal length, so one compiled program serves all of them.
        plan = plans.rk4(np.linspace(start, end, substeps + 1))
        x = runner.run(plan, x, condition)
        if not np.all(np.isfinite(x)):
            raise ValueError(
                f"tune.reference: the model is not finite between t = {times[i]:.6g} and t = "
                f"{times[i + 1]:.6g}; look at its output there, or end the grid before it."
            )
        # The run ends in float64 on the host; the model goes on in the type of its starts.
        x = x.astype(states[0].dtype)
        states.append(x)
        x = jnp.asarray(x) if runner.derivatives == "jvp" else x
    return np.stack(states)


def change(a: Array, b: Array) -> float:
    """Root mean square of the norms of a - b over that of b."""
    return float(rms(errors(a, b)))


def errors(ends: Array, exact: Array) -> np.ndarray:
    """Errors (B,) of endpoints, relative to the root mean square norm of the exact ones."""
    ends = np.asarray(ends, np.float64)
    exact = np.asarray(exact, np.float64)
    # One scale for all starts, so that an endpoint near 0 does not count more than another.
    return _norms(ends - exact) / rms(_norms(exact))


def _norms(x: np.ndarray) -> np.ndarray:
    """Euclidean norms (B,) of samples (B, *D)."""
    return np.linalg.norm(x.reshape(len(x), -1), axis=1)
