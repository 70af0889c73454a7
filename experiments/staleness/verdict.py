"""The summary of the page: at most seven lines, each one claim in plain words with one number."""

from collections.abc import Callable

from experiments import report
from experiments.staleness import (
    draw,
    error,
    forecasts,
    orders,
    pipeline,
    precision,
    subjects,
    viewer,
    window,
)


def lead(rows: list[dict]) -> list[str]:
    """The lines, in the order of the page; a question without rows is left out."""
    lines: dict[Callable[[list[dict]], str], str] = {
        _order: orders.QUESTION,
        _size: error.QUESTION,
        _growth: pipeline.QUESTION,
        _warmup: window.QUESTION,
        _forecast: forecasts.QUESTION,
        _bits: precision.QUESTION,
        _viewer: viewer.QUESTION,
    }
    found = []
    for line, question in lines.items():
        own = [row for row in rows if row["question"] == question]
        text = line(own) if own else ""
        if text:
            found.append(text)
    return found


def _network_of(rows: list[dict]) -> tuple[str, list[dict]]:
    """(name on the page, its rows) of the digits network, or of the first subject without it."""
    own = draw.by_subject(rows)
    name = "network" if "network" in own else next(iter(own))
    return subjects.NAMES[name], own[name]


def _order(rows: list[dict]) -> str:
    steepest = orders.slopes(rows)[-1]
    if "stale" not in steepest:
        return ""
    return (
        "Keys and values that are one step old make every solver first order: "
        f"{steepest['solver']} falls to order **{report.sig(steepest['stale'])}** on a smooth "
        "exact field, and a forecast of them restores it there."
    )


def _size(rows: list[dict]) -> str:
    steps, devices = (max(row[name] for row in rows) for name in ("steps", "devices"))
    name, own = _network_of(rows)
    largest = max(
        (row for row in own if (row["steps"], row["devices"]) == (steps, devices)),
        key=lambda row: row["sync_rms"] / row["own_rms"],
    )
    return (
        f"On {name} with {steps} steps over {devices} devices, staleness moves a sample "
        f"**{report.sig(largest['sync_rms'] / largest['own_rms'])}** times as far as the "
        f"error of {largest['solver']} itself."
    )


def _growth(rows: list[dict]) -> str:
    name, own = _network_of(rows)
    grown = pipeline.grown(own)
    least = min(row["devices"] for row in own)
    return (
        f"More devices add less and less: from {least} to {grown['devices']} of them the error on "
        f"{name} grows **{report.sig(grown['rms_ratio'])}** times."
    )


def _warmup(rows: list[dict]) -> str:
    name, own = _network_of(rows)
    warm, _ = window.few_of(own)
    return (
        f"A warm-up of {window.FEW} of {window.STEPS} steps leaves "
        f"**{warm['rms_ratio']:.0%}** of the error on {name}; which steps are worth "
        "synchronising depends on the network."
    )


def _forecast(rows: list[dict]) -> str:
    steps = min(row["steps"] for row in rows)
    common = [row for row in forecasts.usual_tuned(rows) if forecasts.is_common(row, steps)]
    if not common:
        return ""
    name, own = _network_of(common)
    return (
        f"A tuned forecast, corrected by the receiver and without a byte more, leaves "
        f"**{own[0]['rms_ratio']:.0%}** of the error of held copies on {name} over "
        f"{subjects.DEVICES} devices."
    )


def _bits(rows: list[dict]) -> str:
    own = precision.few_bits(rows, "residual", 4)
    if not own:
        return ""
    worst = max(abs(row["rms_ratio"] - 1) for row in own)
    return f"Messages of 4 bits, sent as residuals, change the error by at most **{worst:.1%}**."


def _viewer(rows: list[dict]) -> str:
    own = viewer.stale(rows)
    seen = sum(map(viewer.is_seen, own))
    return (
        "A classifier that looks at the samples tells "
        f"**{seen} of {len(own)}** stale runs from synchronous ones."
    )
