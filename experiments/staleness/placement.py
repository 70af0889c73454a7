"""(e) Where should a fixed number of synchronous steps be placed?"""

import numpy as np

from experiments import report
from experiments.staleness import lab

QUESTION = "placement"
PLACES = ("start", "spread", "middle", "end")


def synchronous_steps(place, count, steps):
    """(steps,) bool with `count` synchronous steps, the first always among them."""
    rest = count - 1
    middle = 1 + (steps - 1 - rest) // 2
    chosen = {
        "start": range(count),
        "spread": [i * steps // count for i in range(count)],
        "middle": [0, *range(middle, middle + rest)],
        "end": [0, *range(steps - rest, steps)],
    }[place]
    return np.isin(np.arange(steps), list(chosen))


def cells(config):
    """One cell a subject, number of synchronous steps and place."""
    return [
        {"question": QUESTION, "subject": subject, "count": count, "place": place}
        for subject in config.subjects
        for count in config.placed
        for place in PLACES
    ]


def measure(config, todo):
    """Yield (key, values) with one solver and number of steps, on the largest number of devices up to 8."""
    plan, devices = lab.plan_of(config.one_solver, config.one_steps), max(n for n in config.devices if n <= 8)
    for key in todo:
        subject = lab.of(config, key["subject"])
        own = lab.synchronous(config, key["subject"], config.one_solver, config.one_steps)
        synced = synchronous_steps(key["place"], key["count"], config.one_steps)
        found, staleness = subject.end(plan, subject.told(plan, devices, synced=synced))
        values = subject.compare(found, own) | {"staleness": staleness, "devices": devices}
        yield key, {**values, "solver": config.one_solver, "steps": config.one_steps}


def section(rows, command):
    """The section of the page."""
    subjects = list(dict.fromkeys(r["subject"] for r in rows))
    fig, axes = report.canvas(len(subjects), 1, height=2.8 * len(subjects))
    for ax, subject in zip(np.atleast_1d(axes), subjects, strict=True):
        own = [dict(r, name=f"{r['count']}, {r['place']}") for r in rows if r["subject"] == subject]
        report.bar_ledger(
            ax,
            own,
            label="name",
            value="sync_rms",
            low="sync_rms_low",
            high="sync_rms_high",
            xlabel="RMS distance to the synchronous run",
        )
        ax.set_title(lab.NAMES[subject])
    said = []
    for subject in subjects:
        most = max(r["count"] for r in rows)
        ranked = sorted((r for r in rows if (r["subject"], r["count"]) == (subject, most)), key=lambda r: r["sync_rms"])
        best, worst = ranked[0], ranked[-1]
        apart = "" if best["sync_rms_high"] < worst["sync_rms_low"] else " (their intervals overlap)"
        said.append(
            f"On {lab.NAMES[subject]}, {most} synchronous steps of {best['steps']} do best at **{best['place']}** ({report.sig(best['sync_rms'])}) and worst at "
            f"**{worst['place']}** ({report.sig(worst['sync_rms'])}){apart}; the usual place, the start, gives "
            f"{report.sig(next(r for r in ranked if r['place'] == 'start')['sync_rms'])}."
        )
    return report.Section(
        question="Where should the same number of synchronous steps be placed?",
        expected="Not at the start, as everybody does it: what matters is where the sample decides, later on. A synchronous step also makes the copy fresh "
        "for one more step only, so spreading should not help much by itself.",
        answer=" ".join(said),
        figures=(
            report.picture(
                fig,
                "Bars: the distance to the synchronous run for synchronous steps at the start, spread, in the middle, at the end.",
                f"{rows[0]['solver']}, {rows[0]['steps']} steps, {rows[0]['devices']} devices; the first step is always synchronous.",
            ),
        ),
        table=[{k: r[k] for k in ("subject", "count", "place", "sync_rms", "sync_rms_low", "sync_rms_high", "exact_rms", "misrouted")} for r in rows],
        caveat="A place is a share of the steps of this grid, and another grid decides elsewhere.",
        command=command,
    )  # fmt: skip
