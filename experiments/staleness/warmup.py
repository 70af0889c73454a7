"""What does a warm-up buy, and how much more of it do more devices need?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.axes
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import draw, subjects, words

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "warmup"
check = subjects.check_survey
# The warm-ups in the answer, as fractions of the steps.
PARTS = (0.25, 0.5)


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject, number of devices and warm-up."""
    return [
        {"question": QUESTION, "subject": subject, "devices": devices, "warmup": warmup}
        for subject in config.subjects
        for devices in config.devices
        for warmup in config.warmups
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values) with one solver and number of steps."""
    solver, steps = config.one_solver, config.one_steps
    plan = subjects.plan_of(solver, steps)
    for key in todo:
        where = subjects.surveyed(config, key["subject"])
        subject = subjects.subject(where)
        own = subjects.synchronous(where, solver, steps)
        exchange = subject.exchange(plan, key["devices"], warmup=key["warmup"])
        found = subject.end(plan, exchange)
        yield (
            key,
            {
                **subject.compare(found.x, own),
                "staleness": found.staleness,
                "solver": solver,
                "steps": steps,
            },
        )


# -- numbers


def needed(rows: list[dict], tolerance: float) -> float:
    """The synchronous steps from which the error to the synchronous run is `tolerance`.

    Interpolated between the warm-ups that were measured; NaN where none is long enough.
    """
    own = sorted(rows, key=lambda row: row["warmup"])
    warmups = np.array([row["warmup"] for row in own], float)
    errors = np.array([row["sync_rms"] for row in own], float)
    # The first warm-up that is long enough, and the one before it.
    below = np.flatnonzero(errors <= tolerance)
    if not len(below):
        return float("nan")
    i = below[0]
    if i == 0:
        return warmups[0]
    part = (errors[i - 1] - tolerance) / (errors[i - 1] - errors[i])
    return float(warmups[i - 1] + part * (warmups[i] - warmups[i - 1]))


def demands(rows: list[dict]) -> list[dict]:
    """[{subject, devices, steps needed, sqrt rule}], the warm-ups that halve the error.

    The error is that of the fewest devices after one synchronous step. The rule of thumb multiplies
    the warm-up of the fewest devices by sqrt(n/fewest).
    """
    table = []
    for subject, own in draw.by_subject(rows).items():
        counts = sorted({row["devices"] for row in own})
        by_count = {n: [row for row in own if row["devices"] == n] for n in counts}
        first = min(by_count[counts[0]], key=lambda row: row["warmup"])
        # What the fewest devices need, to which the rule is applied.
        base = needed(by_count[counts[0]], first["sync_rms"] / 2)
        for n in counts:
            table.append(
                {
                    "subject": subject,
                    "devices": n,
                    "steps needed": needed(by_count[n], first["sync_rms"] / 2),
                    "sqrt rule": base * np.sqrt(n / counts[0]),
                }
            )
    return table


def left(own: list[dict], devices: int, part: float) -> tuple[int, float]:
    """(warm-up, its error over that of the shortest one), at the warm-up nearest to a fraction.

    Args:
      own: rows of one subject.
      devices: of the rows to take.
      part: of the steps.
    """
    own = [row for row in own if row["devices"] == devices]
    first = min(own, key=lambda row: row["warmup"])
    # The measured warm-ups need not contain the fraction exactly.
    found = min(own, key=lambda row: abs(row["warmup"] - part * row["steps"]))
    return found["warmup"], found["sync_rms"] / first["sync_rms"]


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Distance to the synchronous run against the warm-up: a panel for each subject."""
    fig, shown = draw.panels(rows, height=3.4)
    for ax, _, own in shown:
        _draw(ax, own)
    shown[0][0].set_ylabel("distance to the synchronous run")
    draw.legend(fig, columns=5)
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict]) -> None:
    """The curves of one subject, one for each number of devices."""
    curves = sorted(own, key=lambda row: row["devices"])
    curves = [{**row, "curve": f"{row['devices']} devices"} for row in curves]
    colours = {f"{n} devices": colour for n, colour in draw.DEVICES.items()}
    draw.lines(ax, curves, x="warmup", y="sync_rms", by="curve", colours=colours)
    draw.own_error(ax, own[0]["own_rms"])
    ax.set(xlabel=f"synchronous steps at the start, of {own[0]['steps']}", ylim=(0, None))
    ax.set_xticks(sorted({row["warmup"] for row in own}))


# -- words


def _answer(own: list[dict], table: list[dict], subject: str) -> str:
    """What a quarter and a half of the steps leave on one subject, and the steps needed."""
    demand = [row for row in table if row["subject"] == subject]
    # The fewest and the most devices.
    few, many = demand[0], demand[-1]
    steps = own[0]["steps"]
    kept = [left(own, many["devices"], part) for part in PARTS]
    leaves = " and ".join(
        f"a warm-up of {warmup} of {steps} steps leaves **{fraction:.0%}** of the error"
        for warmup, fraction in kept
    )
    return (
        f"On {subjects.NAMES[subject]} with {many['devices']} devices {leaves}. "
        f"To come to half of what {few['devices']} devices have after one step, "
        f"{few['devices']} need {report.sig(few['steps needed'])} synchronous steps and "
        f"{many['devices']} need {report.sig(many['steps needed'])}; "
        f"sqrt(n) would say {report.sig(many['sqrt rule'])}."
    )


def _title(rows: list[dict]) -> str:
    """What half of the steps leave on the most devices, as the claim of the figure."""
    most = max(row["devices"] for row in rows)
    parts = []
    for subject, own in draw.by_subject(rows).items():
        count, fraction = left(own, most, PARTS[-1])
        parts.append(f"{fraction:.0%} on {subjects.NAMES[subject]}")
    return f"{count} of {rows[0]['steps']} steps at the start leave {', '.join(parts)}"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = demands(rows)
    answers = [_answer(own, table, subject) for subject, own in draw.by_subject(rows).items()]
    picture = report.picture(
        _figure(rows),
        "Distance to the synchronous run against the warm-up, a line for each number of devices, "
        "falling to 0.",
        f"{rows[0]['solver']}, {rows[0]['steps']} steps; bands are 95 % intervals over seeds and "
        "starts.",
        title=_title(rows),
    )
    listed = [
        {name: row[name] for name in ("subject", "devices", "warmup")}
        | {
            "error": words.error(row),
            "median error": row["sync_median"],
            "to the converged run": row["exact_rms"],
            "misrouted": row["misrouted"],
        }
        for row in rows
    ]
    return report.Section(
        question="What does a warm-up buy, and do more devices need more of it?",
        expected=(
            "The error falls with every synchronous step and is exactly 0 when all are. "
            "More devices need a few more steps, by a constant and not by sqrt(n). "
            "If staleness hurts late, a warm-up at the start buys little at any n."
        ),
        answer="\n".join(answers),
        figures=(picture,),
        table={"Steps that halve the error": table, "Errors by warm-up": listed},
        caveat="Steps needed are interpolated between the warm-ups that were measured.",
        command=command,
    )
