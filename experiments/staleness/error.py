"""How far is a stale run from the synchronous one, beside the solver's own error?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.axes
import matplotlib.figure

from experiments import report
from experiments.staleness import draw, subjects, words
from flowjax.records import table

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "error"
check = subjects.check_survey


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject, number of steps, solver and number of devices.

    One step at the start is synchronous.
    """
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


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the staleness, and errors to the synchronous and the converged run."""
    for key in todo:
        where = subjects.surveyed(config, key["subject"])
        subject = subjects.subject(where)
        plan = subjects.plan_of(key["solver"], key["steps"])
        # Kept from cell to cell: all numbers of devices are compared with it.
        own = subjects.synchronous(where, key["solver"], key["steps"])
        found = subject.end(plan, subject.exchange(plan, key["devices"]))
        yield (
            key,
            {
                **subject.compare(found.x, own),
                "staleness": found.staleness,
                "doubling": subject.doubling,
            },
        )


# -- numbers


def stale(rows: list[dict]) -> list[dict]:
    """The rows of more than one device."""
    return [row for row in rows if row["devices"] > 1]


def flat(rows: list[dict]) -> list[dict]:
    """The rows with what a reader compares: the error of staleness beside the solver's own."""
    return [
        {
            "subject": row["subject"],
            "solver": row["solver"],
            "steps": row["steps"],
            "devices": row["devices"],
            "error": words.error(row),
            "solver's own": row["own_rms"],
            "to the converged run": row["exact_rms"],
            "misrouted": row["misrouted"],
            "staleness": row["staleness"],
        }
        for row in rows
    ]


# -- figures


def _figure(rows: list[dict], most: int) -> matplotlib.figure.Figure:
    """Error against steps for each subject, synchronous and on the most devices."""
    fig, shown = draw.panels(rows, height=3.8)
    for ax, _, own in shown:
        # One device is synchronous.
        for devices in (1, most):
            _draw(ax, [row for row in own if row["devices"] == devices])
        ax.set(xscale="log", yscale="log", xlabel="steps")
        draw.ticks(ax, [row["steps"] for row in own])
        draw.decades(ax)
    shown[0][0].set_ylabel("relative RMS error to the converged run")
    draw.legend(fig, columns=3)
    return fig


def _draw(ax: matplotlib.axes.Axes, rows: list[dict]) -> None:
    """A curve for each solver: full where it is synchronous, dashed and hollow where stale."""
    for solver in dict.fromkeys(row["solver"] for row in rows):
        own = sorted((row for row in rows if row["solver"] == solver), key=lambda row: row["steps"])
        look = report.style(solver) | {"label": f"{solver}, synchronous"}
        if own[0]["devices"] > 1:
            look |= {"linestyle": "--", "markerfacecolor": "none", "label": f"{solver}, stale"}
        ax.plot([row["steps"] for row in own], [row["exact_rms"] for row in own], **look)


# -- words


def beside(own: list[dict]) -> float:
    """The distance that staleness makes over the solver's own error, at the most steps."""
    last = max(own, key=lambda row: row["steps"])
    return last["sync_rms"] / last["own_rms"]


def _answer(own: list[dict], subject: str, devices: int) -> str:
    """Staleness over the solver's own error on one subject, at the fewest and at the most steps."""
    own = [row for row in own if row["devices"] == devices]
    parts = []
    for solver in dict.fromkeys(row["solver"] for row in own):
        # The fewest and the most steps.
        ends = [row for row in own if row["solver"] == solver]
        ends.sort(key=lambda row: row["steps"])
        ratios = [
            f"{report.sig(row['sync_rms'] / row['own_rms'])} at {row['steps']} steps"
            for row in (ends[0], ends[-1])
        ]
        parts.append(f"{solver} **{' and '.join(ratios)}**")
    return (
        f"On {subjects.NAMES[subject]} with {devices} devices, the distance that staleness makes "
        f"over the solver's own error: {', '.join(parts)}."
    )


def _title(rows: list[dict], most: int) -> str:
    """The largest excess over the solver's own error, as the claim of the figure."""
    found = max(
        (row for row in rows if row["devices"] == most),
        key=lambda row: row["sync_rms"] / row["own_rms"],
    )
    return (
        f"On {subjects.NAMES[found['subject']]} staleness makes up to "
        f"{report.sig(found['sync_rms'] / found['own_rms'])} times the solver's own error "
        f"({found['solver']}, {found['steps']} steps)"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    most = max(row["devices"] for row in rows)
    answers = [_answer(own, subject, most) for subject, own in draw.by_subject(rows).items()]
    moved = " and ".join(
        f"{report.sig(max(values))} ({subjects.NAMES[name]})"
        for name, values in table(rows, "subject", "doubling").items()
    )
    picture = report.picture(
        _figure(rows, most),
        f"Error to the converged run against steps, synchronous and stale on {most} devices, "
        "for each subject.",
        f"One synchronous step, {most} devices; each point is the RMS over all starts.",
        title=_title(rows, most),
    )
    return report.Section(
        question="Is staleness large beside the error that the solver makes anyway?",
        expected=(
            "Under Euler it hides: both are first order. Under a solver of higher order it does "
            "not, and the more steps are taken the more of its order is lost."
        ),
        answer="\n".join(answers),
        figures=(picture,),
        table={"Errors on each subject": flat(stale(rows))},
        caveat=(
            "Error is the RMS distance to the run of the same solver and steps without staleness, "
            "with its 95 % interval over seeds and starts; the solver's own is that run's distance "
            "to the converged one. The converged run moved "
            f"by {moved} when its steps doubled; errors near that are not measured."
        ),
        command=command,
    )
