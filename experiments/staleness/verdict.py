"""The page in a few sentences, computed from rows."""

from experiments import report
from experiments.staleness import (
    error,
    forecasts,
    lab,
    law,
    loop,
    orders,
    pareto,
    pipeline,
    placement,
    precision,
    solvers,
    warmup,
    window,
)
from experiments.staleness.draw import ratio


def lead(rows):
    """Paragraphs; a question without rows is left out."""
    said = [
        (orders, _order), (error, _size), (law, _law), (pipeline, _pipeline), (warmup, _warmup), (placement, _placement),
        (window, _window), (pareto, _policies), (forecasts, _forecasts), (loop, _loop), (precision, _precision), (solvers, _solvers),
    ]  # fmt: skip
    own = [
        (say, [row for row in rows if row["question"] == module.QUESTION]) for module, say in said
    ]
    return [say(found) for say, found in own if found]


def _order(rows):
    table = orders.slopes(rows)
    said = (
        f"{', '.join(report.sig(r[mode], 3) for r in table)} ({mode})"
        for mode in orders.MODES
        if all(mode in r for r in table)
    )
    return f"**What order is left** of {', '.join(r['solver'] for r in table)}: {'; '.join(said)}."


def _size(rows):
    steps, devices = (max(r[name] for r in rows) for name in ("steps", "devices"))
    own = [r for r in rows if (r["steps"], r["devices"]) == (steps, devices)]
    said = [
        f"{report.sig(r['sync_rms'] / r['own_rms'])} under {r['solver']}"
        for r in own
        if r["subject"] == own[-1]["subject"]
    ]  # fmt: skip
    return (
        f"**Beside the solver's own error**: with {steps} steps on {devices} devices ({own[-1]['subject']}) the distance from the synchronous run "
        f"over that error is {', '.join(said)}."
    )


def _law(rows):
    best = {}
    for fit in sorted(law.fits(rows), key=lambda t: -t["misfit"]):
        best[fit["subject"]] = (
            f"{fit['law']} on the {fit['subject']} (misfit {report.sig(fit['misfit'])})"
        )
    return (
        f"**With the number of devices** the median error grows as {' and '.join(best.values())}."
    )


def _warmup(rows):
    said = []
    for subject in dict.fromkeys(r["subject"] for r in rows):
        many = [t for t in warmup.demands(rows) if t["subject"] == subject]
        said.append(
            f"{', '.join(report.sig(t['steps needed']) for t in many)} (sqrt rule {report.sig(many[-1]['sqrt rule'])}) on the {subject}"
        )
    counts = ", ".join(str(n) for n in sorted({r["devices"] for r in rows}))
    return (
        f"**How much warm-up**: synchronous steps of {rows[0]['steps']} to halve what the fewest devices have, for n = {counts}: "
        f"{'; '.join(said)}."
    )


def _placement(rows):
    most, said = max(r["count"] for r in rows), []
    for subject in dict.fromkeys(r["subject"] for r in rows):
        own = [
            r
            for r in rows
            if (r["subject"], r["count"]) == (subject, most) and r["place"] != "start"
        ]
        best = min(own, key=lambda r: r["rms_ratio"])
        said.append(
            f"{best['place']} has {report.sig(best['rms_ratio'])} times the error ({best['rms_verdict']}) on the {subject}"
        )
    return f"**Where to put {most} synchronous steps**: compared with all at the start, {'; '.join(said)}."


def _by_subject(rows):
    """[(its name on the page, its rows)]."""
    return [
        (lab.NAMES[name], [r for r in rows if r["subject"] == name])
        for name in dict.fromkeys(r["subject"] for r in rows)
    ]


def _pipeline(rows):
    most, said = max(r["devices"] for r in rows), []
    for name, own in _by_subject(rows):
        (row,) = (r for r in own if (r["attention"], r["devices"]) == ("pipefusion", most))
        said.append(f"{ratio(row)} on {name}")
    return f"**Patches in a pipeline** have, over as many displaced patches ({most}), {', '.join(said)} times the error."


def _window(rows):
    said = []
    for name, own in _by_subject(rows):
        at = {r["place"]: r for r in own}
        best = min((r for r in own if r["synced"] == window.FEW), key=lambda r: r["rms_ratio"])
        first = at[f"warm-up {window.FEW}"]
        said.append(
            f"{ratio(first)} on {name}, where the best {window.FEW} are {best['place']} with {ratio(best)}"
        )
    return f"**A warm-up of {window.FEW} of {window.STEPS} steps** leaves of the error {'; '.join(said)}."


def _policies(rows):
    said = []
    for (subject, forecast), own in pareto.groups(rows).items():
        fought = pareto.duels(own)
        won = sum(d["ratio"] < 1 for d in fought)
        said.append(
            f"{won} of {len(fought)} on {lab.NAMES[subject]} ({'held' if forecast == 0 else 'forecast'})"
        )
    return f"**By tolerance** one does better than the fixed policies of as many synchronous steps in {', '.join(said)}."


def _forecasts(rows):
    usual = [r for r in rows if r["forecast"] == "tuned" and r["correction"] is forecasts.USUAL]
    steps = min(r["steps"] for r in rows)
    said = [f"{ratio(r)} on {forecasts.name_of(r)}" for r in usual if forecasts.common(r, steps)]
    return (
        f"**Forecasts with a gain, corrected by the receiver**, without a byte more: of held keys' and values' distance to the synchronous run "
        f"they leave, on {lab.DEVICES} devices with one synchronous step of {steps}, {', '.join(said)}."
    )


def _loop(rows):
    return (
        "**Whether an error grows from row to row** is told by the push of the loop. "
        + " ".join(loop.splits(rows))
    )


def _precision(rows):
    said = []
    for name, own in _by_subject(
        [r for r in rows if r["forecast"] == 0 and r["devices"] == lab.DEVICES]
    ):
        told = ", ".join(
            f"{r['bits']} bits {r['form']} {ratio(r)}" for r in own if r["bits"] in (8, 4, 2)
        )
        said.append(f"{told} on {name}")
    return f"**Fewer bits**, error over that of full precision with held keys and values on {lab.DEVICES} devices: {'; '.join(said)}."


def _solvers(rows):
    said, steps = [], max(r["steps"] for r in rows)
    for name, own in _by_subject(rows):
        (row,) = (r for r in own if (r["solver"], r["steps"]) == ("DPM++ 2M", steps))
        said.append(f"{ratio(row)} on {name} (in all {ratio(row, 'total_rms')})")
    return f"**DPM++ 2M over DDIM**, {steps} steps, each to its own synchronous run: {', '.join(said)}."
