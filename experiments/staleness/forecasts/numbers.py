"""Forecasts: their cells, their measurement, and selections of their rows."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab.subjects import check_networks
from experiments.staleness import comparison, subjects
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import CORRECTION

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "forecasts"
# {option `forecast`: its name}
FORECASTS = {0: "held", 1: "linear", 2: "quadratic", "tuned": "tuned"}
# {network: others of the same size}: one with the clock 1 - t; one trained on a coupling; and one
# trained on its own samples.
OTHERS = {"digits": ("digits-smooth", "digits-ot", "digits-reflow")}
# Other numbers of devices for the network, and so many times as many steps.
COUNTS, FINER = (2, 4, 16), 2
# The steps that are synchronous: the usual one, a warm-up, and what else the network is asked for.
FIRST, WARM = "first 1", "first 4"
SYNC = (WARM, "last 2", "last 4")
# Fractions of the correction, beside none and the usual one.
FRACTIONS = (0.2, 0.6, 0.8, 1.0)
# The correction of the forecast's own: `CORRECTION` of "tuned", else none.
USUAL = None


# -- the measurement


class _Cells:
    """The cells of one configuration, one after the other."""

    def __init__(self, config: "Config"):
        self.config = config
        self.found = []

    def add(self, subject: str, forecast: int | str, correction: float | None = USUAL, **other):
        """Add a cell; `other` are its differences from the common one."""
        network = other.get("network", self.config.network)
        self.found.append(
            {
                "question": QUESTION,
                "subject": subject,
                "network": network if subject == "network" else "",
                "devices": other.get("devices", subjects.DEVICES),
                "steps": other.get("steps", self.config.one_steps),
                "sync": other.get("sync", FIRST),
                "forecast": forecast,
                "correction": correction,
            }
        )


def cells(config: "Config") -> list[dict]:
    """One cell a subject and forecast; corrections of networks; a warm-up of the other subjects.

    The digits network also has other devices, steps, warm-ups and networks of its size.
    """
    made = _Cells(config)
    for subject in config.compared_subjects:
        _add_subject(made, subject)
    if "network" in config.compared_subjects:
        _add_network(made)
    return made.found


def _add_subject(made: _Cells, subject: str) -> None:
    """The cells that every subject has."""
    for forecast in FORECASTS:
        made.add(subject, forecast)
    if subject != "field":
        # A field has no attention that could be corrected.
        for forecast in (0, 1):
            made.add(subject, forecast, CORRECTION)
        for fraction in (0.0, *FRACTIONS):
            made.add(subject, "tuned", fraction)
    if subject != "network":
        for forecast in (0, "tuned"):
            made.add(subject, forecast, sync=WARM)


def _add_network(made: _Cells) -> None:
    """The further cells of the digits network."""
    others = OTHERS.get(made.config.network, ())
    for forecast in FORECASTS:
        for devices in COUNTS:
            made.add("network", forecast, devices=devices)
        for network in others:
            made.add("network", forecast, network=network)
    for network in others:
        made.add("network", 1, CORRECTION, network=network)
        made.add("network", "tuned", 0.0, network=network)
    for forecast in (0, "tuned"):
        for sync in SYNC:
            made.add("network", forecast, sync=sync)
        made.add("network", forecast, steps=FINER * made.config.one_steps)


def check(config: "Config") -> None:
    """Refuse subjects and networks that there are not."""
    subjects.check_comparison(config)
    if "network" in config.compared_subjects:
        check_networks("network", OTHERS.get(config.network, ()))


def policy(sync: str, steps: int) -> np.ndarray:
    """The first or the last so many steps."""
    where, count = sync.split()
    make = {"first": policies.warm_up, "last": policies.cool_down}[where]
    return make(steps, int(count))


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to held keys and values, all else equal.

    `total` is the error to the converged run, over that of the synchronous run.
    """
    todo = list(todo)
    for network in dict.fromkeys(key["network"] for key in todo):
        own = dataclasses.replace(config, network=network or config.network)
        mine = [key for key in todo if key["network"] == network]
        for key, values in comparison.measured(own, mine, _setup, _base):
            yield key, values | {"total": values["exact_rms"] / values["own_rms"]}


def _setup(key: dict) -> dict[str, Any]:
    """The options of a cell."""
    options = {
        "forecast": key["forecast"],
        "devices": key["devices"],
        "steps": key["steps"],
        "policy": policy(key["sync"], key["steps"]),
    }
    if key["correction"] is not USUAL:
        options["correction"] = key["correction"]
    return options


def _base(key: dict) -> dict:
    """The cell of comparison."""
    return key | {"forecast": 0, "correction": USUAL}


# -- numbers


def is_common(row: dict, steps: int) -> bool:
    """Whether a row is of the common number of devices, steps and synchronous steps."""
    return (row["devices"], row["steps"], row["sync"]) == (subjects.DEVICES, steps, FIRST)


def usual_tuned(rows: list[dict]) -> list[dict]:
    """The rows of tuned forecasts with their own correction."""
    return [row for row in rows if row["forecast"] == "tuned" and row["correction"] is USUAL]


def not_corrected(rows: list[dict]) -> list[dict]:
    """The rows of tuned forecasts without a correction."""
    return [row for row in rows if row["forecast"] == "tuned" and row["correction"] == 0.0]


def extrapolated(rows: list[dict]) -> list[dict]:
    """The rows of linear and quadratic forecasts without a correction."""
    return [row for row in rows if row["forecast"] in (1, 2) and row["correction"] is USUAL]


def linear_corrected(rows: list[dict]) -> list[dict]:
    """The rows of linear forecasts with the correction of tuned ones."""
    return [row for row in rows if row["forecast"] == 1 and row["correction"] == CORRECTION]
