"""What is read from the rows of a network: quantities, each with its interval over starts."""

from typing import NamedTuple

from experiments.networks import roughness
from experiments.networks.order import PAIRS, SOLVERS


class Value(NamedTuple):
    """A number with its 95 % interval over starts; equal ends where it has none."""

    value: float
    low: float
    high: float


# The names of quantities, as the page has them.
LOSS = "final loss"
PARAMETERS = "parameters"
ACCURACY = "label accuracy"
PUSH = "push from which errors grow"
DOUBLING = "doubling the reference moves"


def order_of(solver: str) -> str:
    """The name of a solver's order."""
    return f"order of {solver}"


def ratio_of(pair: tuple[str, str]) -> str:
    """The name of the ratio of two errors, at the largest number of evaluations."""
    return f"{pair[0]} over {pair[1]}"


def fall_of(moved: str, steps: int) -> str:
    """The name of the factor by which halving a step divides a second difference."""
    return f"fall, {moved}, at 1/{steps}"


def distance_of(forecast: str, devices: int) -> str:
    """The name of a stale run's distance to the synchronous run."""
    return f"{forecast}, {devices} devices"


def over_held_of(devices: int) -> str:
    """The name of the distance with tuned forecasts over that with held copies."""
    return f"tuned over held, {devices} devices"


ORDERS = tuple(order_of(solver) for solver in SOLVERS)
RATIOS = tuple(ratio_of(pair) for pair in PAIRS)
FALLS = tuple(
    fall_of(moved, steps) for moved in ("time alone", "state alone") for steps in roughness.STEPS
)


def quantities(rows: list[dict]) -> dict[str, dict[str, Value]]:
    """{network: {name of a quantity: its `Value`}}, in the order of the rows."""
    readers = {
        "training": _of_training,
        "order": _of_order,
        "roughness": _of_roughness,
        "staleness": _of_staleness,
        "growth": _of_growth,
        "quality": _of_quality,
    }
    found = {}
    for row in rows:
        found.setdefault(row["network"], {}).update(readers[row["question"]](row))
    return found


def _alone(value: float) -> Value:
    """A number without an interval."""
    return Value(value, value, value)


def _of_training(row: dict) -> dict[str, Value]:
    return {LOSS: _alone(row["loss"]), PARAMETERS: _alone(row["parameters"])}


def _of_order(row: dict) -> dict[str, Value]:
    most = max(line["nfe"] for line in row["errors"])
    found = {
        order_of(line["solver"]): Value(line["order"], line["low"], line["high"])
        for line in row["orders"]
    }
    for line in row["ratios"]:
        if line["nfe"] == most:
            name = ratio_of((line["a"], line["b"]))
            found[name] = Value(line["ratio"], line["low"], line["high"])
    return found | {DOUBLING: _alone(row["doubling"])}


def _of_roughness(row: dict) -> dict[str, Value]:
    return {
        fall_of(moved, steps): _alone(fall)
        for steps in roughness.STEPS
        for moved, fall in roughness.falls(row, steps).items()
        if moved != "path"
    }


def _of_staleness(row: dict) -> dict[str, Value]:
    found = {}
    for line in row["distances"]:
        name = distance_of(line["forecast"], line["devices"])
        found[name] = Value(line["rms"], line["rms_low"], line["rms_high"])
        if "over_held" in line:
            over = Value(line["over_held"], line["over_held_low"], line["over_held_high"])
            found[over_held_of(line["devices"])] = over
    return found


def _of_growth(row: dict) -> dict[str, Value]:
    return {PUSH: Value(row["push"], row["push_low"], row["push_high"])}


def _of_quality(row: dict) -> dict[str, Value]:
    return {ACCURACY: Value(row["accuracy"], row["low"], row["high"])}
