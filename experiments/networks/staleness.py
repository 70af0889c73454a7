"""Staleness: how far runs with stale attention end from the synchronous one, on each network."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import flowjax
from experiments.lab import solvers, statistics, subjects
from experiments.networks import catalogue, training
from experiments.networks.catalogue import check
from flowjax.models import networks
from flowjax.parallel.emulation.network import Exchange, emulate_with, exchange, tokens_of

if TYPE_CHECKING:
    from configs.networks import Config

__all__ = ["QUESTION", "SOLVER", "cells", "check", "measure"]

QUESTION = "staleness"
SOLVER = "DPM++ 2M"
# {name on the page: forecast}. Linear attention exchanges sums, which have no forecast.
FORECASTS = {"held": 0, "tuned": "tuned"}
OF_LINEAR = ("held",)


def cells(config: "Config") -> list[dict]:
    """One cell a network."""
    return catalogue.cells(QUESTION, config)


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): distances to the synchronous run."""
    for key in todo:
        name = training.model_of(config, key["network"])
        yield key, {"distances": _distances(config, name), "starts": config.network_starts}


def _distances(config: "Config", name: str) -> list[dict]:
    """[{forecast, devices, rms, ...}]: distances relative to the size of synchronous samples."""
    end = _runs(config, name)
    synchronous = end(1)
    size = statistics.scale_of(synchronous)
    starts = np.arange(len(synchronous))  # every start is its own seed
    is_linear = networks.is_linear(subjects.load(name).card.config)
    errors = {
        (forecast, n): statistics.row_norms(end(n, forecast=FORECASTS[forecast]) - synchronous)
        for forecast in (OF_LINEAR if is_linear else FORECASTS)
        for n in config.devices
    }
    table = []
    for (forecast, n), found in errors.items():
        line = {"forecast": forecast, "devices": n, **statistics.summary(found / size, starts)}
        if forecast != "held":
            over = statistics.paired(found, errors["held", n], starts)
            line |= {
                "over_held": over["rms_ratio"],
                "over_held_low": over["rms_low"],
                "over_held_high": over["rms_high"],
            }
        table.append(line)
    return table


def _runs(config: "Config", name: str) -> Callable[..., np.ndarray]:
    """(devices, **options of an exchange) -> endpoints (B, *D), one synchronous step first."""
    model = subjects.load(name)
    ids = np.arange(config.network_starts)
    drawn = flowjax.draw_noise(jax.random.key(0), ids, subjects.image_shape(name))
    noise = np.asarray(drawn, np.float32)
    label = np.arange(len(noise)) % model.card.config.classes
    make_grid = solvers.shifted(1.0)
    plan = solvers.plan_of(SOLVER, model.card.schedule, make_grid, config.stale_steps)

    @jax.jit
    def run(params: Any, given: Exchange) -> jax.Array:
        return emulate_with(model._replace(params=params), noise, label, plan, given).x

    # Exchanges of one size share a compiled program.
    slots = max(config.devices)

    def end(devices: int, **options: Any) -> np.ndarray:
        found = exchange(plan, tokens_of(model, noise), devices, slots=slots, warmup=1, **options)
        return np.asarray(run(model.params, found), np.float64)

    return end
