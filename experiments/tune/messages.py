"""Runs of stale attention whose forecasts, corrections and synchronous steps can be chosen."""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from experiments.lab import subjects
from flowjax import Plan, tune
from flowjax.distances import rms
from flowjax.parallel.emulation.network import Exchange, emulate_with, exchange, tokens_of
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import CORRECTION, Forecast, forecast

FREE = "free"  # a forecast whose numbers are tuned
NEWEST = 3  # rows whose weights are free in a forecast

# (plan, noise, label) -> endpoints (B, *D); for `FREE` with the free numbers at the end.
Run = Callable[..., np.ndarray]


def stale_run(name: str, devices: int, kind: int | str, is_synchronous: np.ndarray) -> Run:
    """The run of a network with stale keys and values on so many devices.

    Args:
      name: of a network.
      devices: n.
      kind: 0 or "tuned", as `forecast` of `parallel.sample`, or `FREE`.
      is_synchronous: (steps,) bool, the first always among them.
    """

    def run(plan: Plan, noise: np.ndarray, label: np.ndarray, numbers: np.ndarray | None = None):
        # On the host, since forecasts follow the times of this plan.
        options = options_of(plan, kind, is_synchronous, numbers)
        return run_with(name, devices, options, plan, noise, label)

    return run


def run_with(
    name: str, devices: int, options: dict, plan: Plan, noise: np.ndarray, label: np.ndarray
) -> np.ndarray:
    """Endpoints (B, *D) with these options of `parallel.sample`."""
    model = subjects.load(name)
    exchanged = exchange(plan, tokens_of(model, noise), devices, **options)
    return np.asarray(_program(name)(model.params, noise, label, plan, exchanged))


@functools.cache
def _program(name: str) -> Callable:
    """The compiled emulation of a network: one program for all plans and exchanges of one shape."""
    model = subjects.load(name)

    # Parameters are an argument, so that they are no constants of the program.
    @jax.jit
    def run(params: dict, noise: jax.Array, label: jax.Array, plan: Plan, exchanged: Exchange):
        bound = model._replace(params=params)
        return emulate_with(bound, noise, label, plan, exchanged).x

    return run


# ---- free forecasts


def start_of(is_synchronous: np.ndarray) -> np.ndarray:
    """The free numbers at which a free forecast is the tuned one with its usual correction."""
    weights = np.zeros(np.sum(_is_free(is_synchronous)))
    return np.concatenate([weights, np.full(np.sum(~is_synchronous), CORRECTION)])


def options_of(
    plan: Plan, kind: int | str, is_synchronous: np.ndarray, numbers: np.ndarray | None = None
) -> dict:
    """The options of `parallel.sample`: policy, forecast and, with free numbers, correction.

    The first numbers are added to the weights of the last rows in the tuned forecast, whose fitted
    gain stays; the last ones are the fractions of the correction in the stale steps.
    """
    policy = policies.at(len(is_synchronous), is_synchronous)
    if kind != FREE:
        return {"policy": policy, "forecast": kind}
    is_free = _is_free(is_synchronous)
    added, fractions = np.split(numbers, [np.sum(is_free)])
    base = forecast(plan, np.zeros(plan.rows, int), "tuned")
    weights = base.weights.copy()
    weights[:, :NEWEST][is_free] += added
    correction = np.zeros(plan.rows)
    correction[~is_synchronous] = np.clip(fractions, 0, 1)
    own = Forecast(weights, base.change, base.before)
    return {"policy": policy, "forecast": own, "correction": correction}


def _is_free(is_synchronous: np.ndarray) -> np.ndarray:
    """(steps, NEWEST) bool: the weights that a stale step has; the first steps have few."""
    before = np.arange(len(is_synchronous))[:, None]
    return ~is_synchronous[:, None] & (before > np.arange(NEWEST))


# ---- synchronous steps


def at_start(steps: int, count: int) -> np.ndarray:
    """(steps,) bool, the first `count` steps."""
    return np.arange(steps) < count


def by_worth(
    run_of: Callable[[np.ndarray], Run], plan: Plan, starts: tune.Starts, count: int
) -> np.ndarray:
    """(steps,) bool: the first step and, one after another, the step that helps most.

    Args:
      run_of: (steps,) bool -> the run with these synchronous steps.
      plan: a table.
      starts: on which its endpoints are compared.
      count: of synchronous steps, with the first.
    """

    def error(is_synchronous: np.ndarray) -> float:
        ends = run_of(is_synchronous)(plan, starts.noise, starts.condition)
        return float(rms(tune.truth.errors(ends, starts.exact)))

    chosen = at_start(plan.steps, 1)
    for _ in range(count - 1):
        chosen = min(_one_more(chosen), key=error)
    return chosen


def _one_more(chosen: np.ndarray) -> Iterator[np.ndarray]:
    """The masks with one more step."""
    for step in np.flatnonzero(~chosen):
        more = chosen.copy()
        more[step] = True
        yield more
