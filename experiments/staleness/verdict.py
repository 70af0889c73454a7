"""The page in a few sentences, computed from rows."""

from collections.abc import Callable

from experiments import report
from experiments.staleness import (
    draw,
    error,
    forecasts,
    law,
    loop,
    orders,
    pareto,
    pipeline,
    placement,
    precision,
    solvers,
    subjects,
    warmup,
    window,
)
from experiments.staleness.words import ratio


def lead(rows: list[dict]) -> list[str]:
    """Paragraphs, in the order of the page; a question without rows is left out."""
    paragraphs: dict[Callable[[list[dict]], str], str] = {
        _order: orders.QUESTION,
        _size: error.QUESTION,
        _law: law.QUESTION,
        _pipeline: pipeline.QUESTION,
        _warmup: warmup.QUESTION,
        _placement: placement.QUESTION,
        _window: window.QUESTION,
        _policies: pareto.QUESTION,
        _forecasts: forecasts.QUESTION,
        _loop: loop.QUESTION,
        _precision: precision.QUESTION,
        _solvers: solvers.QUESTION,
    }
    found = []
    for paragraph, question in paragraphs.items():
        own = [row for row in rows if row["question"] == question]
        if own:
            found.append(paragraph(own))
    return found


def _named(rows: list[dict]) -> dict[str, list[dict]]:
    """{the subject's name on the page: its rows}."""
    return {subjects.NAMES[name]: own for name, own in draw.by_subject(rows).items()}


# -- the survey


def _order(rows: list[dict]) -> str:
    table = orders.slopes(rows)
    names = ", ".join(found["solver"] for found in table)
    by_mode = "; ".join(
        f"{', '.join(report.sig(found[mode], 3) for found in table)} ({mode})"
        for mode in orders.MODES
        if all(mode in found for found in table)
    )
    return f"**What order is left** of {names}: {by_mode}."


def _size(rows: list[dict]) -> str:
    steps, devices = (max(row[name] for row in rows) for name in ("steps", "devices"))
    # The largest case; the last subject is a network where one is measured.
    own = [row for row in rows if (row["steps"], row["devices"]) == (steps, devices)]
    subject = own[-1]["subject"]
    ratios = ", ".join(
        f"{report.sig(row['sync_rms'] / row['own_rms'])} under {row['solver']}"
        for row in own
        if row["subject"] == subject
    )
    return (
        f"**Beside the solver's own error**: with {steps} steps on {devices} devices ({subject}) "
        f"the distance from the synchronous run over that error is {ratios}."
    )


def _law(rows: list[dict]) -> str:
    # The last fit of each subject is the best one.
    best = {}
    for fit in sorted(law.fits(rows), key=lambda fit: -fit["misfit"]):
        best[fit["subject"]] = (
            f"{fit['law']} on the {fit['subject']} (misfit {report.sig(fit['misfit'])})"
        )
    return (
        f"**With the number of devices** the median error grows as {' and '.join(best.values())}."
    )


def _warmup(rows: list[dict]) -> str:
    demands = warmup.demands(rows)
    parts = []
    for subject in draw.by_subject(rows):
        own = [demand for demand in demands if demand["subject"] == subject]
        steps = ", ".join(report.sig(demand["steps needed"]) for demand in own)
        rule = report.sig(own[-1]["sqrt rule"])
        parts.append(f"{steps} (sqrt rule {rule}) on the {subject}")
    # In the order of the steps above.
    counts = ", ".join(str(n) for n in sorted({row["devices"] for row in rows}))
    return (
        f"**How much warm-up**: synchronous steps of {rows[0]['steps']} to halve what the fewest "
        f"devices have, for n = {counts}: {'; '.join(parts)}."
    )


def _placement(rows: list[dict]) -> str:
    most = max(row["count"] for row in rows)
    elsewhere = [row for row in rows if row["count"] == most and row["place"] != placement.BASE]
    parts = []
    for subject, own in draw.by_subject(elsewhere).items():
        # Which may be worse than the start: the ratio and its verdict say so.
        best = min(own, key=lambda row: row["rms_ratio"])
        parts.append(
            f"{best['place']} has {report.sig(best['rms_ratio'])} times the error "
            f"({best['rms_verdict']}) on the {subject}"
        )
    return (
        f"**Where to put {most} synchronous steps**: compared with all at the start, "
        f"{'; '.join(parts)}."
    )


# -- the comparisons


def _pipeline(rows: list[dict]) -> str:
    most = max(row["devices"] for row in rows)
    parts = []
    for name, own in _named(rows).items():
        piped = [row for row in own if (row["attention"], row["devices"]) == ("pipefusion", most)]
        parts += [f"{ratio(row)} on {name}" for row in piped]
    return (
        f"**Patches in a pipeline** have, over as many displaced patches ({most}), "
        f"{', '.join(parts)} times the error."
    )


def _window(rows: list[dict]) -> str:
    few = window.FEW
    parts = []
    for name, own in _named(rows).items():
        # The place in the claim, and the best of as many steps.
        at = {row["place"]: row for row in own}
        chosen = [row for row in own if row["synced"] == few]
        best = min(chosen, key=lambda row: row["rms_ratio"])
        parts.append(
            f"{ratio(at[f'warm-up {few}'])} on {name}, where the best {few} are {best['place']} "
            f"with {ratio(best)}"
        )
    return f"**A warm-up of {few} of {window.STEPS} steps** leaves of the error {'; '.join(parts)}."


def _policies(rows: list[dict]) -> str:
    parts = []
    for (subject, forecast), own in pareto.groups(rows).items():
        # A ratio below 1 is a duel that the tolerance wins.
        fought = pareto.duels(own)
        won = sum(duel["ratio"] < 1 for duel in fought)
        kind = "held" if forecast == 0 else "forecast"
        parts.append(f"{won} of {len(fought)} on {subjects.NAMES[subject]} ({kind})")
    return (
        "**By tolerance** one does better than the fixed policies of as many synchronous steps "
        f"in {', '.join(parts)}."
    )


def _forecasts(rows: list[dict]) -> str:
    steps = min(row["steps"] for row in rows)
    # The finer and the more synchronous runs stand in the section.
    common = [row for row in forecasts.usual_tuned(rows) if forecasts.is_common(row, steps)]
    ratios = ", ".join(f"{ratio(row)} on {forecasts.name_of(row)}" for row in common)
    return (
        "**Forecasts with a gain, corrected by the receiver**, without a byte more: of held keys' "
        f"and values' distance to the synchronous run they leave, on {subjects.DEVICES} devices "
        f"with one synchronous step of {steps}, {ratios}."
    )


def _loop(rows: list[dict]) -> str:
    return (
        "**Whether an error grows from row to row** is told by the push of the loop. "
        f"{' '.join(loop.splits(rows))}"
    )


def _precision(rows: list[dict]) -> str:
    own = [row for row in rows if row["forecast"] == 0 and row["devices"] == subjects.DEVICES]
    parts = []
    for name, mine in _named(own).items():
        # Three of the numbers of bits; the section has a curve of all.
        ratios = ", ".join(
            f"{row['bits']} bits {row['form']} {ratio(row)}"
            for row in mine
            if row["bits"] in precision.NAMED
        )
        parts.append(f"{ratios} on {name}")
    return (
        "**Fewer bits**, error over that of full precision with held keys and values on "
        f"{subjects.DEVICES} devices: {'; '.join(parts)}."
    )


def _solvers(rows: list[dict]) -> str:
    steps = max(row["steps"] for row in rows)
    parts = []
    for name, own in _named(rows).items():
        named = [row for row in own if (row["solver"], row["steps"]) == (solvers.NAMED, steps)]
        parts += [f"{ratio(row)} on {name} (in all {ratio(row, 'total_rms')})" for row in named]
    return (
        f"**{solvers.NAMED} over DDIM**, {steps} steps, each to its own synchronous run: "
        f"{', '.join(parts)}."
    )
