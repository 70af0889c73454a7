"""From which push on does a loop grow, by the number of stale layers and of steps?

The forecast K1 + g (K1 - K2) misses 2 + 2 g of an oscillation at most. Its gain g is raised until
the loop grows by itself.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np

from experiments import report
from experiments.lab.subjects import check_networks
from experiments.staleness import subjects
from experiments.staleness.loop import gain, numbers

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "threshold"
DEVICES = 8
# The largest gain that is tried, and the number of times that its range is halved.
MOST, HALVINGS = 16.0, 9
# Fewer stale layers are not tried: alone they do not grow at any gain in this range.
FEWEST_LAYERS = 3
# Times as many steps as `gain.STEPS`, with all layers stale.
FINER = 2


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a number of stale layers, and one with more steps, of each network."""
    found = []
    for network in config.threshold_networks:
        depth = gain.network_of(network).card.config.depth
        common = {"question": QUESTION, "network": network, "devices": DEVICES}
        layers = range(depth, max(min(depth, FEWEST_LAYERS), 1) - 1, -1)
        found += [common | {"layers": count, "steps": gain.STEPS} for count in layers]
        found.append(common | {"layers": depth, "steps": FINER * gain.STEPS})
    return found


def check(config: "Config") -> None:
    """Refuse a network that there is not."""
    named = [name for name in config.threshold_networks if name != subjects.RANDOM]
    check_networks("threshold_networks", named)


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the push from which the loop grows, infinite where none does."""
    for key in todo:
        setting = {
            "layers": key["layers"],
            "steps": key["steps"],
            "time": gain.TIME,
            "state": "moves",
            "correction": 0.0,
        }
        network = key["network"]
        own = gain.rate_of(network, "hold", devices=1, **setting | {"layers": 0})

        def grows(extra: float, network=network, setting=setting, own=own) -> bool:
            weights = (1 + extra, -extra, 0.0)
            rate = gain.rate_with(network, weights, devices=DEVICES, **setting)
            return numbers.grows({"rate": rate, "own_rate": own})

        first = first_that(grows, MOST, HALVINGS)
        # The bisection leaves the place where growth begins between two gains.
        last = max(first - MOST / 2**HALVINGS, 0.0)
        values = {"gain": first, "own_rate": own, "push": push_of(first)}
        yield key, values | {"push_low": push_of(last), "push_high": push_of(first)}


def push_of(extra: float) -> float:
    """The push of a loop whose forecast has the gain `extra`."""
    return numbers.seen(DEVICES) * (2 + 2 * extra)


def first_that(grows: Callable[[float], bool], most: float, halvings: int) -> float:
    """The least number in [0, most] for which `grows`, by bisection; infinite where none does."""
    if grows(0.0):
        return 0.0
    if not grows(most):
        return float(np.inf)
    low, high = 0.0, most
    for _ in range(halvings):
        middle = (low + high) / 2
        if grows(middle):
            high = middle
        else:
            low = middle
    return high


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """The push from which loops grow, a point for each depth and number of steps."""
    fig, ax = report.canvas(1, 1, width=7.0, height=0.36 * len(rows) + 1.0)
    finite = [row["push"] for row in rows if np.isfinite(row["push"])]
    for place, row in enumerate(rows):
        if np.isfinite(row["push"]):
            ax.plot(row["push"], place, "o", color=report.BLUE)
            ax.annotate(
                report.sig(row["push"]),
                (row["push"], place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
            )
    names = [f"{row['layers']} stale layers, {row['steps']} steps" for row in rows]
    ax.set_yticks(range(len(rows)), names)
    ax.set(xscale="log", xlabel="push from which the loop grows", ylim=(len(rows) - 0.5, -0.5))
    if finite:
        limits = min(finite) / 1.4, max(finite) * 1.6
        ax.set_xlim(limits)
        report.decade_ticks(ax.xaxis, limits)
    return fig


# -- words


def _answer(rows: list[dict]) -> list[str]:
    """The thresholds by depth and by steps, and the power of depth beside them."""
    steps = min(row["steps"] for row in rows)
    by_depth = [row for row in rows if row["steps"] == steps]
    finer = [row for row in rows if row["steps"] != steps]
    listed = ", ".join(
        f"**{report.sig(row['push'])}** with {row['layers']}"
        if np.isfinite(row["push"])
        else f"at no push that was tried with {row['layers']}"
        for row in by_depth
    )
    lines = [f"With {steps} steps a loop grows from a push of, by stale layers: {listed}."]
    lines += [
        f"With {row['steps']} steps and {row['layers']} stale layers it grows from "
        f"**{report.sig(row['push'])}**."
        for row in finer
    ]
    # If the gain of the loop is a constant times push^layers, log(push) is linear in 1/layers.
    own = [row for row in by_depth if np.isfinite(row["push"])]
    if len(own) > 2:
        slope = np.polyfit([1 / row["layers"] for row in own], _logs(own), 1)[0]
        lines.append(
            "If the loop's gain is a constant times the push to the power of the layers, the "
            "logarithm of the threshold is linear in 1/layers; its slope here is "
            f"{report.sig(float(slope))}."
        )
    return lines


def _logs(rows: list[dict]) -> list[float]:
    return [float(np.log(row["push"])) for row in rows]


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    finite = [row["push"] for row in rows if np.isfinite(row["push"])]
    spanned = (
        f"from {report.sig(min(finite))} to {report.sig(max(finite))}" if finite else "nowhere"
    )
    picture = report.picture(
        _figure(rows),
        "The push from which a loop grows, for each number of stale layers and of steps.",
        f"Forecasts K1 + g (K1 - K2) on {rows[0]['network']}, {DEVICES} devices, t = {gain.TIME}; "
        f"the gain g is found by {HALVINGS} halvings of 0 to {report.sig(MOST)}.",
        title=f"The push from which loops grow moves with depth and steps: {spanned}",
    )
    listed = [
        {
            "network": row["network"],
            "stale layers": row["layers"],
            "steps": row["steps"],
            "gain of the forecast": row["gain"],
            "push": row["push"],
        }
        for row in rows
    ]
    return report.Section(
        question="Is there one push from which loops grow?",
        expected=(
            "No. If the gain of the loop is a power of its push with the layers as exponent, fewer "
            "layers bear a larger push; shorter steps move the state less, which helps too."
        ),
        answer="\n".join(_answer(rows)),
        figures=(picture,),
        table={"Thresholds": listed},
        caveat=(
            f"{gain.SAMPLES} samples of one network at one time of their paths. A loop counts as "
            f"growing from {numbers.GROWS} times the rate of the path itself."
        ),
        command=command,
    )
