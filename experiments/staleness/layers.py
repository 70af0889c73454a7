"""Does each layer want its own fraction of the correction, and does a linear forecast want one?

The correction adds a fraction of the own miss to what a layer's attention puts out
(`flowjax.parallel.attention.corrected`). Here the fraction of one layer after the other is varied.
Then the best ones of all layers are taken together, on the network that chose them and on others.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.lab.subjects import load
from experiments.staleness import comparison, draw, fractions, subjects, words
from flowjax.parallel.stale.forecast import CORRECTION

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "layers"
check = fractions.check
TRIED = (0.0, 0.2, 0.6, 0.8)  # fractions of one layer, beside `CORRECTION` in the others
ALL = "all"  # layers at once
OF = "of "  # before the network that chose the fractions of the layers
FORECASTS = {"tuned": "tuned", "linear": 1}


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a network, forecast, layer and fraction; last the fractions that a network chose."""
    found = []
    for network in config.fraction_networks:
        for forecast in FORECASTS:
            for fraction in (*map(str, fractions.FRACTIONS), fractions.RULE):
                found.append(_cell(network, forecast, ALL, fraction))
        found += _one_by_one(network)
    # Of networks of one depth.
    for network, other in itertools.product(config.fraction_networks, repeat=2):
        if _depth(other) == _depth(network):
            found.append(_cell(network, "tuned", ALL, f"{OF}{other}"))
    return found


def _one_by_one(network: str) -> list[dict]:
    """The cells of tuned forecasts with another fraction in one layer."""
    return [
        _cell(network, "tuned", str(layer), str(fraction))
        for layer in range(_depth(network))
        for fraction in TRIED
    ]


def _cell(network: str, forecast: str, layer: str, fraction: str) -> dict:
    return {
        "question": QUESTION,
        "network": network,
        "forecast": forecast,
        "layer": layer,
        "fraction": fraction,
    }


def _depth(network: str) -> int:
    if network == subjects.RANDOM:
        return subjects.random_network().card.config.depth
    return load(network).card.config.depth


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to the tuned forecast with `CORRECTION` in every layer."""
    todo = list(todo)
    # What the networks chose, where a cell asks for it; in a run of all cells they were measured.
    ratios = {}  # {(network, layer, fraction): ratio}
    for network in dict.fromkeys(key["network"] for key in todo):
        mine = [key for key in todo if key["network"] == network and not _chosen_on(key)]
        for key, values, by_layer in _measured(config, network, mine, {}):
            ratios[network, key["layer"], key["fraction"]] = values["rms_ratio"]
            yield key, values | {"by_layer": by_layer}
    best = {}
    for key in todo:
        other = _chosen_on(key)
        if not other:
            continue
        if other not in best:
            best[other] = _best_of_layers(config, other, ratios)
        for _, values, by_layer in _measured(config, key["network"], [key], best):
            yield key, values | {"by_layer": by_layer}


def _chosen_on(key: dict) -> str:
    """The network whose choice a cell takes; "" for the others."""
    return key["fraction"].removeprefix(OF) if key["fraction"].startswith(OF) else ""


def _measured(
    config: "Config", network: str, keys: list[dict], best: dict[str, list[float]]
) -> Iterator[tuple[dict, dict, list[float]]]:
    """(key, values, the fractions of the layers) of cells of one network."""
    own = dataclasses.replace(config, network=network)
    named = [key | {"subject": "network"} for key in keys]

    def setup(key: dict) -> dict:
        by_layer = np.array(_by_layer(key, best))
        return {"forecast": FORECASTS[key["forecast"]], "by_layer": by_layer}

    for key, values in comparison.measured(own, named, setup, _base):
        del key["subject"]
        yield key, values, _by_layer(key, best)


def _base(key: dict) -> dict:
    """The cell of comparison."""
    return key | {"forecast": "tuned", "layer": ALL, "fraction": str(CORRECTION)}


def _by_layer(key: dict, best: dict[str, list[float]]) -> list[float]:
    """The K fractions of a cell."""
    if _chosen_on(key):
        return best[_chosen_on(key)]
    found = np.full(_depth(key["network"]), CORRECTION)
    which = slice(None) if key["layer"] == ALL else int(key["layer"])
    found[which] = fractions.correction_of(key["fraction"], subjects.DEVICES)
    return found.tolist()


def _best_of_layers(config: "Config", network: str, ratios: dict[tuple, float]) -> list[float]:
    """The fraction of each layer that is best while the others have `CORRECTION`."""
    # A run that goes on from kept rows measures again what it does not have at hand.
    wanted = _one_by_one(network)
    missing = [key for key in wanted if (network, key["layer"], key["fraction"]) not in ratios]
    ratios = dict(ratios)
    for key, values, _ in _measured(config, network, missing, {}):
        ratios[network, key["layer"], key["fraction"]] = values["rms_ratio"]
    best = []
    for layer in range(_depth(network)):
        tried = {fraction: ratios[network, str(layer), str(fraction)] for fraction in TRIED}
        found = {CORRECTION: 1.0} | tried
        best.append(min(found, key=found.get))
    return best


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """The distance over that with one constant, against the fraction of one layer."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    fig, axes = draw.side_by_side(networks, height=3.4)
    for ax, network in zip(axes, networks, strict=True):
        own = [row for row in rows if row["network"] == network and row["layer"] != ALL]
        for number, layer in enumerate(dict.fromkeys(row["layer"] for row in own)):
            mine = [row for row in own if row["layer"] == layer]
            points = [(float(row["fraction"]), row["rms_ratio"]) for row in mine]
            points.append((CORRECTION, 1.0))
            shade = 0.15 + 0.7 * number / max(len(own) // len(TRIED) - 1, 1)
            at, ratios = zip(*sorted(points), strict=True)
            ax.plot(
                at,
                ratios,
                "o-",
                color=matplotlib.colormaps["viridis"](shade),
                label=f"layer {layer}",
            )
        ax.axhline(1, **draw.DOTTED)
        ax.set(xlabel="fraction in this layer")
    axes[0].set_ylabel(f"RMS distance over that with {CORRECTION}")
    draw.legend(fig, columns=6)
    return fig


# -- words


def _answer(rows: list[dict]) -> list[str]:
    """What the fractions by layer give at home and elsewhere, and the best of linear forecasts."""
    lines = []
    for row in rows:
        if row["fraction"].startswith(OF):
            listed = ", ".join(f"{fraction:g}" for fraction in row["by_layer"])
            lines.append(
                f"On {row['network']}, the fractions by layer {row['fraction']} ({listed}) have "
                f"{words.ratio(row)} of the distance with {CORRECTION} in every layer."
            )
    for network in dict.fromkeys(row["network"] for row in rows):
        linear = [
            f"{words.ratio(row)} with {row['fraction']}"
            for row in rows
            if (row["network"], row["forecast"]) == (network, "linear")
        ]
        if linear:
            lines.append(
                f"On {network}, linear forecasts have, of the distance of the tuned one with "
                f"{CORRECTION}: {', '.join(linear)}."
            )
    return lines


def _title(rows: list[dict]) -> str:
    """How often fractions by layer are better than one constant elsewhere, beyond the interval."""
    moved = [
        row
        for row in rows
        if row["fraction"].startswith(OF) and row["fraction"] != f"{OF}{row['network']}"
    ]
    better = sum(row["rms_high"] < 1 for row in moved)
    return (
        f"Fractions by layer that one network chose are better than {CORRECTION} on another in "
        f"{better} of {len(moved)} cases"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    picture = report.picture(
        _figure(rows),
        "The distance to the synchronous run of tuned forecasts against the fraction of the "
        "correction in one layer, a line for each layer.",
        f"{words.common(rows)}, one synchronous; 8 devices.",
        title=_title(rows),
    )
    named = [row | {"subject": row["network"]} for row in rows]
    return report.Section(
        question="Should the correction depend on the layer, and should linear forecasts have one?",
        expected=(
            "An error in an early layer passes through all later ones, so a larger fraction may "
            "pay there; between networks the best fractions may differ."
        ),
        answer="\n".join(_answer(rows)),
        figures=(picture,),
        table={
            "Errors by layer and fraction": words.columns(
                named, ("subject", "forecast", "layer", "fraction")
            )
        },
        caveat=(
            "The fraction of each layer is chosen while the others have the constant, and on the "
            "starts of its network. Few starts, one training run of each network."
        ),
        command=command,
    )
