"""Which fraction of the own miss should a receiver add, by the number of devices?

With even attention the part of the misses that a layer sees is least, 1/2, at the fraction
(n - 2)/(2 n - 2) (`experiments.staleness.loop`). This rule, a constant, and the best fraction of
another network are compared on the same starts.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure

from experiments import report
from experiments.cli.run import check_names
from experiments.lab.subjects import check_networks
from experiments.staleness import comparison, draw, subjects, words
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


# -- numbers


def groups(rows: list[dict]) -> dict[tuple[str, int], list[dict]]:
    """{(network, devices): its rows}."""
    found = {}
    for row in rows:
        found.setdefault((row["network"], row["devices"]), []).append(row)
    return found


def transferred(rows: list[dict]) -> list[dict]:
    """What the best fraction of one network does on the others.

    Returns:
      [{network, devices, chosen on, fraction, ratio of RMS, ratio of medians}], for each network
      and number of devices and each other network; ratios are to the constant `CORRECTION`.
    """
    own = groups(rows)
    # Of the numbers that were tried; the rule is no choice.
    best = {
        group: min((row for row in mine if row["fraction"] != RULE), key=lambda r: r["rms_ratio"])
        for group, mine in own.items()
    }
    table = []
    for (network, devices), mine in own.items():
        for (other, count), chosen in best.items():
            if other == network or count != devices:
                continue
            row = next((row for row in mine if row["fraction"] == chosen["fraction"]), None)
            # A run that was stopped lacks cells.
            if row is None:
                continue
            table.append(
                {
                    "network": network,
                    "devices": devices,
                    "chosen on": other,
                    "fraction": float(chosen["fraction"]),
                    "ratio of RMS": words.ratio(row).replace("**", ""),
                    "ratio of medians": words.ratio(row, "median").replace("**", ""),
                }
            )
    return table


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Distance over that of the constant fraction, against the fraction; crosses for the rule."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    fig, axes = draw.side_by_side(networks, height=3.4)
    for ax, network in zip(axes, networks, strict=True):
        for (name, devices), mine in groups(rows).items():
            if name != network:
                continue
            tried = [row | {"n": f"{devices} devices"} for row in mine if row["fraction"] != RULE]
            colours = {f"{devices} devices": draw.DEVICES[devices]}
            draw.lines(ax, tried, x="correction", y="rms_ratio", by="n", colours=colours)
            ruled = [row for row in mine if row["fraction"] == RULE]
            at = [row["correction"] for row in ruled]
            ratios = [row["rms_ratio"] for row in ruled]
            ax.plot(at, ratios, "X", color=draw.DEVICES[devices], markersize=9, linestyle="none")
        ax.axhline(1, **draw.DOTTED)
        ax.set(xlabel="fraction of the own miss that is added", yscale="log")
        ax.set_xticks(FRACTIONS)
        draw.decades(ax)
    axes[0].set_ylabel(f"RMS distance over that with {CORRECTION}")
    axes[0].plot([], [], "X", color=report.GREY, linestyle="none", label=RULE)
    draw.legend(fig, columns=5)
    return fig


# -- words


def _answer(rows: list[dict]) -> list[str]:
    """The ratios of the rule, and those of fractions that another network chose."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        ruled = [
            f"{words.ratio(row)} on {row['devices']} devices"
            for row in rows
            if (row["network"], row["fraction"]) == (network, RULE)
        ]
        if not ruled:
            continue
        lines.append(
            f"On {network}, {RULE} has, of the distance with the constant {CORRECTION}: "
            f"{', '.join(ruled)}."
        )
    moved = [
        f"{row['fraction']} from {row['chosen on']} has {row['ratio of RMS']} on {row['network']} "
        f"with {row['devices']} devices"
        for row in transferred(rows)
    ]
    if moved:
        lines.append(f"The best fraction of the other network: {'; '.join(moved)}.")
    return lines


def _title(rows: list[dict]) -> str:
    """How often the rule is better or worse beyond its interval, as the claim of the figure."""
    ruled = [row for row in rows if row["fraction"] == RULE]
    better = sum(row["rms_high"] < 1 for row in ruled)
    worse = sum(row["rms_low"] > 1 for row in ruled)
    return (
        f"{RULE} is better than {CORRECTION} in {better} of {len(ruled)} cases and worse in {worse}"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    picture = report.picture(
        _figure(rows),
        "The distance to the synchronous run of tuned forecasts against the fraction of the "
        "correction, for several numbers of devices, on two networks.",
        f"{words.common(rows)}, one synchronous; bands are 95 % intervals; crosses: {RULE}.",
        title=_title(rows),
    )
    named = [row | {"subject": row["network"]} for row in rows]
    return report.Section(
        question="Should the correction depend on the number of devices?",
        expected=(
            f"If attention is even, the part of the misses that a layer sees is least at {RULE}: 0 "
            "on 2 devices, 0.33 on 4, 0.43 on 8, 0.47 on 16. A real network is not even, so the "
            "constant may do as well."
        ),
        answer="\n".join(_answer(rows)),
        figures=(picture,),
        table={
            "The best fraction of another network": transferred(rows),
            "Errors by fraction": words.columns(named, ("subject", "devices", "fraction")),
        },
        caveat=(
            "Few starts, one training run of each network. The question `layers` has a fraction "
            "for each layer."
        ),
        command=command,
    )
