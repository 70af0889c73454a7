"""(e) Where should a fixed number of synchronous steps be placed?"""

import numpy as np

from experiments import report
from experiments.order.lab import paired
from experiments.staleness import lab
from flowjax.parallel.stale import policies

QUESTION = "placement"
COLUMNS = (
    "subject",
    "count",
    "place",
    "sync_rms",
    "exact_rms",
    "misrouted",
    "rms_ratio",
    "rms_low",
    "rms_high",
    "rms_verdict",
)
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
    """Yield (key, values) with one solver and number of steps, on the largest number of devices up to 8.

    `rms_ratio` and its interval compare with the same number of steps at the start, on the same starts.
    """
    plan, devices = (
        lab.plan_of(config.one_solver, config.one_steps),
        max(n for n in config.devices if n <= 8),
    )

    def end(subject, place, count):
        policy = policies.at(config.one_steps, synchronous_steps(place, count, config.one_steps))
        return subject.end(plan, subject.told(plan, devices, policy=policy))

    starts = {}
    for key in todo:
        subject, group = lab.of(config, key["subject"]), (key["subject"], key["count"])
        own = lab.synchronous(config, key["subject"], config.one_solver, config.one_steps)
        if group not in starts:
            starts[group] = subject.errors(end(subject, "start", key["count"]).x, own)
        found = end(subject, key["place"], key["count"])
        values = subject.compare(found.x, own) | paired(
            subject.errors(found.x, own), starts[group], subject.seed
        )
        yield key, {
            **values, "staleness": found.staleness, "devices": devices, "solver": config.one_solver, "steps": config.one_steps,
        }  # fmt: skip


def section(rows, command):
    """The section of the page."""
    subjects = list(dict.fromkeys(r["subject"] for r in rows))
    elsewhere = [dict(r, name=f"{r['count']}, {r['place']}") for r in rows if r["place"] != "start"]
    fig, axes = report.canvas(len(subjects), 1, height=2.8 * len(subjects))
    for ax, subject in zip(np.atleast_1d(axes), subjects, strict=True):
        own = [r for r in elsewhere if r["subject"] == subject]
        label = "error, over that of as many at the start"
        report.bar_ledger(
            ax, own, label="name", value="rms_ratio", low="rms_low", high="rms_high", xlabel=label
        )
        ax.axvline(1, color=report.GREY, linestyle=(0, (1, 3)))
        ax.set_title(lab.NAMES[subject])
    said = []
    for subject in subjects:
        most = max(r["count"] for r in rows)
        own = [r for r in elsewhere if (r["subject"], r["count"]) == (subject, most)]
        parts = [
            f"{r['place']} **{report.sig(r['rms_ratio'])}** ({report.sig(r['rms_low'])} to {report.sig(r['rms_high'])}, {r['rms_verdict']})"
            for r in sorted(own, key=lambda r: r["rms_ratio"])
        ]
        said.append(
            f"On {lab.NAMES[subject]}, {most} synchronous steps of {own[0]['steps']}: "
            + ", ".join(parts)
            + "."
        )
    return report.Section(
        question="Where should the same number of synchronous steps be placed?",
        expected="Not at the start, as everybody does it: what matters is where the sample decides, later on. A synchronous step also makes the copy fresh "
        "for one more step only, so spreading should not help much by itself.",
        answer="Error over that of the same steps at the start, with 95 % intervals on shared starts. " + " ".join(said),
        figures=(
            report.picture(
                fig,
                "Bars: the distance to the synchronous run for synchronous steps spread, in the middle or at the end, over that at the start.",
                f"{rows[0]['solver']}, {rows[0]['steps']} steps, {rows[0]['devices']} devices; the first step is always synchronous.",
            ),
        ),
        table=[{k: r[k] for k in COLUMNS} for r in rows],
        caveat="A place is a share of the steps of this grid, and another grid decides elsewhere.",
        command=command,
    )  # fmt: skip
