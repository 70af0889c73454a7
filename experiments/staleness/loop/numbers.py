"""Loops: their cells, their measurement, and what is read from their rows."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from experiments.lab.subjects import check_networks
from experiments.staleness import subjects
from experiments.staleness.loop.gain import (
    COUNTS,
    STEPS,
    TIME,
    WEIGHTS,
    network_of,
    rate_of,
    runs_of,
)
from flowjax.parallel.stale.forecast import CORRECTION

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "loop"
# {config.network: networks}: the shipped one and its twin with the clock 1 - t.
NETWORKS = {"digits": ("digits", "digits-smooth"), subjects.RANDOM: (subjects.RANDOM,)}
CORRECTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
# A rate this many times the path's own is that of a loop that grows by itself.
GROWS = 1.05
# A fast growth a row: 190 times in 20 rows.
FAST = 1.3
# The value of every column in the common setting.
COMMON = {"layers": 0, "time": TIME, "steps": STEPS, "state": "moves", "correction": 0.0}


# -- what is expected


def swing(weights: Iterable[float]) -> float:
    """The largest relative error of a forecast of an oscillation.

    For an oscillation z^-i with |z| = 1 the relative error is |1 - sum_m w_m z^m|.
    """
    z = np.exp(1j * np.linspace(0, np.pi, 1001))
    forecast = sum(w * z ** (m + 1) for m, w in enumerate(weights))
    return float(np.abs(1 - forecast).max())


def seen(devices: int, correction: float = 0.0) -> float:
    """The part of the misses that a layer sees: the larger eigenvalue, with even attention."""
    others = 1 - 1 / devices
    alike = (1 - correction) * others
    different = 1 - others + correction * others
    return max(alike, different)


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a network, forecast and number of devices, with several corrections.

    Of one network with the linear forecast, also one cell for each change of one other setting.
    """
    if "network" not in config.compared_subjects:
        return []
    networks = _networks(config)
    linear = {
        "question": QUESTION,
        "network": networks[0],
        "forecast": "linear",
        "devices": COUNTS[-1],
        **COMMON,
    }
    matrix = [
        linear | {"network": network, "forecast": name, "devices": devices}
        for network in networks
        for name in WEIGHTS
        for devices in COUNTS
    ]
    changed = [linear | change for change in _changes(networks[0])]
    corrected = [
        cell | {"correction": fraction}
        for fraction in CORRECTIONS
        for cell in matrix
        if cell["devices"] == COUNTS[-1] or fraction == CORRECTION
    ]
    return matrix + changed + corrected


def _networks(config: "Config") -> tuple[str, ...]:
    return NETWORKS.get(config.network, (config.network,))


def _changes(network: str) -> list[dict]:
    """One other value of one setting, each."""
    depth = network_of(network).card.config.depth
    return [
        *({"layers": count} for count in range(1, depth)),
        *({"time": time} for time in (0.9, 0.7, 0.3, 0.1)),
        *({"steps": times * STEPS} for times in (2, 4)),
        {"state": "rests"},
    ]


def check(config: "Config") -> None:
    """Refuse subjects and networks that there are not."""
    subjects.check_comparison(config)
    if "network" in config.compared_subjects and config.network != subjects.RANDOM:
        check_networks("network", _networks(config))


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): rates, the error of the forecast on oscillations, and complete runs.

    `rate` is that of the cell and `own_rate` that of the path. `worse`, where only network,
    forecast, devices and correction differ from the common setting, is the RMS distance of a run to
    the synchronous one, over that of held keys and values.
    """
    for key in todo:
        missed = swing(WEIGHTS[key["forecast"]])
        cell = {name: value for name, value in key.items() if name != "question"}
        synchronous = {"forecast": "hold", "devices": 1, "layers": 0, "correction": 0.0}
        values = {
            "rate": rate_of(**cell),
            "own_rate": rate_of(**cell | synchronous),
            "swing": missed,
            "push": seen(key["devices"], key["correction"]) * missed,
        }
        if is_plain(key | {"correction": 0.0}):
            values["worse"] = _worse(config, key)
        yield key, values


def _worse(config: "Config", key: dict) -> float:
    """The distance of a run to the synchronous one, over that of held keys and values."""
    end, devices = runs_of(key["network"], config.network_starts), key["devices"]
    synchronous = end("hold", 1)
    found = np.linalg.norm(end(key["forecast"], devices, key["correction"]) - synchronous)
    return float(found / np.linalg.norm(end("hold", devices) - synchronous))


# -- numbers


def is_plain(key: dict) -> bool:
    """Whether a row has the common setting, whatever its network, forecast and devices."""
    return all(key[name] == value for name, value in COMMON.items())


def plain(rows: list[dict]) -> list[dict]:
    """The rows in the common setting, without a correction."""
    return [row for row in rows if is_plain(row)]


def corrected(rows: list[dict]) -> list[dict]:
    """The rows with a correction."""
    return [row for row in rows if row["correction"]]


def changed(rows: list[dict]) -> list[dict]:
    """The rows in which one setting other than the correction is changed."""
    return [row for row in rows if not is_plain(row) and not row["correction"]]


def grows(row: dict) -> bool:
    """Whether the loop grows by itself."""
    return row["rate"] > GROWS * row["own_rate"]
