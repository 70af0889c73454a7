"""(b) How far is a stale run from the synchronous one, and is that far beside the solver's own error?"""

import numpy as np

from experiments import report
from experiments.staleness import lab
from flowjax.records import table

QUESTION = "error"


def cells(config):
    """One cell a subject, number of steps, solver and number of devices; one synchronous step at the start."""
    return [
        {
            "question": QUESTION,
            "subject": subject,
            "steps": steps,
            "solver": solver,
            "devices": devices,
        }
        for subject in config.subjects
        for steps in config.steps
        for solver in config.solvers
        for devices in (1, *config.devices)
    ]


def measure(config, todo):
    """Yield (key, values): errors to the own synchronous run and to the converged one, and the staleness that was used."""
    for key in todo:
        subject = lab.of(config, key["subject"])
        plan = lab.plan_of(key["solver"], key["steps"])
        own = lab.synchronous(config, key["subject"], key["solver"], key["steps"])
        found = subject.end(plan, subject.told(plan, key["devices"]))
        yield (
            key,
            {
                **subject.compare(found.x, own),
                "staleness": found.staleness,
                "doubling": subject.doubling,
            },
        )


def stale(rows):
    """The rows of more than one device."""
    return [row for row in rows if row["devices"] > 1]


def flat(rows):
    """The rows with what a reader compares: staleness's own error beside the solver's own error."""
    names = (
        "subject",
        "solver",
        "steps",
        "devices",
        "sync_rms",
        "sync_rms_low",
        "sync_rms_high",
        "own_rms",
        "exact_rms",
        "misrouted",
    )
    return [
        {name: row[name] for name in names} | {"KV staleness": row["staleness"]} for row in rows
    ]


def section(rows, command):
    """The section of the page."""
    subjects = list(dict.fromkeys(r["subject"] for r in rows))
    most = max(r["devices"] for r in rows)
    fig, axes = report.canvas(len(subjects), 1, height=3.8 * len(subjects))
    for ax, subject in zip(np.atleast_1d(axes), subjects, strict=True):
        shown = [
            dict(r, run=r["solver"] + (", stale" if r["devices"] > 1 else ""))
            for r in rows
            if r["subject"] == subject and r["devices"] in (1, most)
        ]
        report.log_log(
            ax,
            shown,
            x="steps",
            y="exact_rms",
            by="run",
            xlabel="steps",
            ylabel="RMS error to the converged run",
        )
        ax.set_title(lab.NAMES[subject])
    return report.Section(
        question="Is staleness large beside the error that the solver makes anyway?",
        expected="Under Euler it hides: both are first order. Under a solver of higher order it does not, and the more steps are taken the more of its "
        "order is thrown away.",
        answer="\n".join(_said(rows, subject, most) for subject in subjects),
        figures=(
            report.picture(
                fig,
                f"Error to the converged run against steps, synchronous and stale on {most} devices, for each subject.",
                f"One synchronous step; {most} devices; medians are not taken, each point is the RMS over all starts.",
            ),
        ),
        table=flat(stale(rows)),
        caveat="`sync_rms` is the distance to the run of the same solver and steps without staleness, with its 95 % interval over seeds and starts; "
        "`own_rms` is that run's own distance to the converged one, `exact_rms` the stale run's. The converged run moved by "
        + " and ".join(
            f"{report.sig(max(values))} ({name})"
            for name, values in table(rows, "subject", "doubling").items()
        )
        + " when its steps doubled; errors near that are not measured.",
        command=command,
    )


def _said(rows, subject, devices):
    """What one subject shows: staleness over the solver's own error, at the fewest and at the most steps."""
    own = [r for r in rows if r["subject"] == subject and r["devices"] == devices]
    parts = []
    for solver in dict.fromkeys(r["solver"] for r in own):
        ends = sorted((r for r in own if r["solver"] == solver), key=lambda r: r["steps"])
        ratios = [
            f"{report.sig(r['sync_rms'] / r['own_rms'])} at {r['steps']} steps"
            for r in (ends[0], ends[-1])
        ]
        parts.append(f"{solver} **{' and '.join(ratios)}**")
    return (
        f"On {lab.NAMES[subject]}, {devices} devices, the distance that staleness makes is this many times the solver's own error: "
        + ", ".join(parts)
        + "."
    )
