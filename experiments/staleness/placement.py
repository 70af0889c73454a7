"""Where should a fixed number of synchronous steps be placed?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np

from experiments import report
from experiments.lab.statistics import paired
from experiments.staleness import draw, subjects, words
from flowjax.parallel.stale import policies

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "placement"
check = subjects.check_survey
PLACES = ("start", "spread", "middle", "end")
# The place that the others are compared with.
BASE = "start"
# The comparisons have so many devices too; the survey may have more.
MOST_DEVICES = 8


def synchronous_steps(place: str, count: int, steps: int) -> np.ndarray:
    """(steps,) bool with `count` synchronous steps, the first always among them."""
    rest = count - 1
    middle = 1 + (steps - 1 - rest) // 2
    chosen = {
        "start": range(count),
        # At even distances, beginning with the first step.
        "spread": [i * steps // count for i in range(count)],
        "middle": [0, *range(middle, middle + rest)],
        "end": [0, *range(steps - rest, steps)],
    }[place]
    return np.isin(np.arange(steps), list(chosen))


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject, number of synchronous steps and place."""
    return [
        {"question": QUESTION, "subject": subject, "count": count, "place": place}
        for subject in config.subjects
        for count in config.placed
        for place in PLACES
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values) with one solver and number of steps, on up to 8 devices.

    `rms_ratio` and its interval compare with as many steps at the start, on the same starts.
    """
    solver, steps = config.one_solver, config.one_steps
    plan = subjects.plan_of(solver, steps)
    devices = max(n for n in config.devices if n <= MOST_DEVICES)

    def end(subject, place, count):
        policy = policies.at(steps, synchronous_steps(place, count, steps))
        return subject.end(plan, subject.exchange(plan, devices, policy=policy))

    # {(subject, count): errors (B,) with the steps at the start}
    base = {}
    for key in todo:
        where = subjects.surveyed(config, key["subject"])
        subject = subjects.subject(where)
        own = subjects.synchronous(where, solver, steps)
        group = key["subject"], key["count"]
        # The start is itself one of the places; its ratio is exactly 1.
        if group not in base:
            base[group] = subject.errors(end(subject, BASE, key["count"]).x, own)
        found = end(subject, key["place"], key["count"])
        yield (
            key,
            {
                **subject.compare(found.x, own),
                **paired(subject.errors(found.x, own), base[group], subject.seed),
                "staleness": found.staleness,
                "devices": devices,
                "solver": solver,
                "steps": steps,
            },
        )


# -- figures


def _figure(elsewhere: list[dict]) -> matplotlib.figure.Figure:
    """Bars of the ratio to the start, for each count and place: a panel for each subject."""
    named = [{**row, "name": f"{row['count']} steps, {row['place']}"} for row in elsewhere]
    fig, shown = draw.panels(named, height=3.0)
    for ax, _, own in shown:
        draw.ratio_bars(ax, own, label="name", xlabel="RMS error over that of as many at the start")
    return fig


# -- words


def _answer(own: list[dict], subject: str, count: int) -> str:
    """The ratios of one subject with `count` synchronous steps, from the best place on."""
    own = [row for row in own if row["count"] == count]
    parts = [
        f"{row['place']} **{report.sig(row['rms_ratio'])}** ({report.sig(row['rms_low'])} to "
        f"{report.sig(row['rms_high'])}, {row['rms_verdict']})"
        for row in sorted(own, key=lambda row: row["rms_ratio"])
    ]
    return (
        f"On {subjects.NAMES[subject]}, {count} synchronous steps of {own[0]['steps']}: "
        f"{', '.join(parts)}."
    )


def best(own: list[dict]) -> dict:
    """The row with the least ratio; it may be above 1."""
    return min(own, key=lambda row: row["rms_ratio"])


def _title(elsewhere: list[dict]) -> str:
    """The best place on each subject, as the claim of the figure."""
    found = {subject: best(own) for subject, own in draw.by_subject(elsewhere).items()}
    parts = [
        f"{row['place']} on {subjects.NAMES[subject]} ({report.sig(row['rms_ratio'])} times)"
        for subject, row in found.items()
    ]
    return f"The best place for {elsewhere[0]['count']} synchronous steps: {', '.join(parts)}"


def _listed(rows: list[dict]) -> list[dict]:
    """The rows as the page lists them."""
    return [
        {name: row[name] for name in ("subject", "count", "place")}
        | {
            "error": words.error(row),
            "ratio of RMS": words.ratio(row).replace("**", ""),
            "ratio of medians": words.ratio(row, "median").replace("**", ""),
            "against the start": row["rms_verdict"],
            "misrouted": row["misrouted"],
        }
        for row in rows
    ]


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    elsewhere = [row for row in rows if row["place"] != BASE]
    most = max(row["count"] for row in rows)
    answers = [_answer(own, subject, most) for subject, own in draw.by_subject(elsewhere).items()]
    picture = report.picture(
        _figure(elsewhere),
        "Bars: the distance to the synchronous run for synchronous steps spread, in the middle or "
        "at the end, over that at the start.",
        f"{rows[0]['solver']}, {rows[0]['steps']} steps, {rows[0]['devices']} devices; "
        "the first step is always synchronous.",
        title=_title([row for row in elsewhere if row["count"] == most]),
    )
    return report.Section(
        question="Where should the same number of synchronous steps be placed?",
        expected=(
            "Not at the start, as everybody does it: what matters is where the sample decides, "
            "later on. A synchronous step also makes the copy fresh for one more step only, "
            "so spreading should not help much by itself."
        ),
        answer="\n".join(answers),
        figures=(picture,),
        table={"Errors by place": _listed(rows)},
        caveat=(
            "Ratios are to the same number of steps at the start, on shared starts. A place is a "
            "part of the steps of this grid; on another grid the sample decides in other steps."
        ),
        command=command,
    )
