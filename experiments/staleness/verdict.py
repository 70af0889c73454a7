"""The page in a few sentences, computed from rows."""

from experiments import report
from experiments.staleness import error, law, orders, placement, warmup


def lead(rows):
    """Paragraphs; a question without rows is left out."""
    said = [(orders, _order), (error, _size), (law, _law), (warmup, _warmup), (placement, _placement)]
    own = [(say, [row for row in rows if row["question"] == module.QUESTION]) for module, say in said]
    return [say(found) for say, found in own if found]


def _order(rows):
    table = orders.slopes(rows)
    sync, stale = (", ".join(report.sig(r[mode], 3) for r in table) for mode in orders.MODES)
    return f"**What order is left**: {sync} (synchronous) become {stale} with keys and values one step old."


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
        best[fit["subject"]] = f"{fit['law']} on the {fit['subject']} (misfit {report.sig(fit['misfit'])})"
    return f"**With the number of devices** the median error grows as {' and '.join(best.values())}."


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
        own = [r for r in rows if (r["subject"], r["count"]) == (subject, most) and r["place"] != "start"]
        best = min(own, key=lambda r: r["rms_ratio"])
        said.append(
            f"{best['place']} has {report.sig(best['rms_ratio'])} times the error ({best['rms_verdict']}) on the {subject}"
        )
    return f"**Where to put {most} synchronous steps**: compared with all at the start, {'; '.join(said)}."
