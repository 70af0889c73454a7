"""Which fraction of the own miss should a receiver add, by the number of devices?

With even attention the part of the misses that a layer sees is least, 1/2, at the fraction
(n - 2)/(2 n - 2) (`experiments.staleness.loop`). This rule, a constant, and the best fraction of
another network are compared on the same starts.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from experiments.cli.run import check_names
from experiments.lab.subjects import check_networks
from experiments.staleness import comparison, subjects
from flowjax.parallel.stale.forecast import CORRECTION

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "fractions"
RULE = "(n-2)/(2n-2)"
COUNTS = (2, 4, 8, 16)
# The fractions that are tried, `CORRECTION` among them, beside the rule.
FRACTIONS = (0.0, 0.2, CORRECTION, 0.6)


def by_rule(devices: int) -> float:
    """The fraction at which the larger eigenvalue of the misses is least."""
    return (devices - 2) / (2 * devices - 2)


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a network, number of devices and fraction."""
    return [
        {"question": QUESTION, "network": network, "devices": devices, "fraction": fraction}
        for network in config.fraction_networks
        for devices in COUNTS
        for fraction in (*map(str, FRACTIONS), RULE)
    ]


def check(config: "Config") -> None:
    """Refuse networks and solvers that there are not."""
    known = [name for name in config.fraction_networks if name != subjects.RANDOM]
    check_networks("fraction_networks", known)
    check_names("one_solver", config.one_solver, subjects.ONE_ROW_SOLVERS)


def correction_of(fraction: str, devices: int) -> float:
    """The number of a named fraction."""
    return by_rule(devices) if fraction == RULE else float(fraction)


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values) of tuned forecasts.

    Ratios are to the same forecast with the constant `CORRECTION`, on the same starts.
    """
    todo = list(todo)
    for network in dict.fromkeys(key["network"] for key in todo):
        own = dataclasses.replace(config, network=network)
        mine = [key | {"subject": "network"} for key in todo if key["network"] == network]
        for key, values in comparison.measured(own, mine, _setup, _base):
            del key["subject"]
            correction = correction_of(key["fraction"], key["devices"])
            yield key, values | {"correction": correction}


def _setup(key: dict) -> dict:
    """The options of a cell."""
    correction = correction_of(key["fraction"], key["devices"])
    return {"forecast": "tuned", "devices": key["devices"], "correction": correction}


def _base(key: dict) -> dict:
    """The cell of comparison."""
    return key | {"fraction": str(CORRECTION)}
