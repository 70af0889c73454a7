"""Does DPM-Solver++ bear staleness better than DDIM?

Both by its distance to its own synchronous run, and by its error to the converged run.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure

from experiments import report
from experiments.cli.run import check_names
from experiments.staleness import comparison, draw, subjects, words

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "solvers"
# On the linear path DDIM is Euler's step.
DDIM = "Euler"
# The solver in the answer; the others stand in the figure and in the table.
NAMED = "DPM++ 2M"
# {kind of ratio: its words in the figure}
KINDS = {"rms": "synchronous", "total_rms": "converged"}


# -- the measurement


def check(config: "Config") -> None:
    """Refuse subjects, networks and solvers that there are not."""
    subjects.check_comparison(config)
    check_names("solvers", config.solvers, subjects.ONE_ROW_SOLVERS)


def cells(config: "Config") -> list[dict]:
    """One cell a subject, number of steps and solver."""
    return [
        {"question": QUESTION, "subject": subject, "steps": steps, "solver": solver}
        for subject in config.compared_subjects
        for steps in config.solver_steps
        for solver in config.solvers
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to DDIM of as many steps."""

    def setup(key):
        return {"solver": key["solver"], "steps": key["steps"]}

    def base(key):
        return key | {"solver": DDIM}

    return comparison.measured(config, todo, setup, base)


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Bars of both ratios to DDIM: a panel for each subject."""
    fig, shown = draw.panels(rows, height=3.8)
    for ax, _, own in shown:
        bars = [
            {
                "name": f"{row['solver'].removesuffix(' exact')}, {row['steps']}, {name}",
                "rms_ratio": row[f"{kind}_ratio"],
                "rms_low": row[f"{kind}_low"],
                "rms_high": row[f"{kind}_high"],
            }
            for row in own
            if row["solver"] != DDIM
            for kind, name in KINDS.items()
        ]
        draw.ratio_bars(ax, bars, label="name", xlabel="RMS error over that of DDIM")
    return fig


# -- words


def _answer(own: list[dict], subject: str) -> str:
    """Both ratios of DPM++ 2M on one subject."""
    parts = [
        f"{row['steps']} steps {words.ratio(row)} to its own synchronous run, "
        f"{words.ratio(row, 'total_rms')} to the converged run"
        for row in own
        if row["solver"] == NAMED
    ]
    return f"On {subjects.NAMES[subject]}, error of {NAMED} over that of DDIM: {'; '.join(parts)}."


def _title(rows: list[dict]) -> str:
    """The ratios at the most steps, as the claim of the figure."""
    steps = max(row["steps"] for row in rows)
    parts = [
        f"{report.sig(row['rms_ratio'])} on {subjects.NAMES[row['subject']]}"
        for row in rows
        if (row["solver"], row["steps"]) == (NAMED, steps)
    ]
    return (
        f"Distance to the own synchronous run, {NAMED} over DDIM at {steps} steps: "
        f"{', '.join(parts)}"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    picture = report.picture(
        _figure(rows),
        "Bars: the error of DPM-Solver++ 2M and 3M over that of DDIM, both stale, to the own "
        "synchronous run and to the converged one.",
        f"{rows[0]['devices']} devices, one synchronous step. A line names the solver, the steps, "
        "and the run to which the error is measured: its own synchronous one, or the converged "
        "one.",
        title=_title(rows),
    )
    return report.Section(
        question="Does DPM-Solver++ bear staleness better than DDIM?",
        expected=(
            "Not by its distance to its own synchronous run: held keys and values are wrong by "
            "O(h) for every solver. Its own error is smaller, so to the converged run it stays "
            "ahead where staleness is not the larger part."
        ),
        answer="\n".join(_answer(own, subject) for subject, own in draw.by_subject(rows).items()),
        figures=(picture,),
        table={"Errors by solver": words.columns(rows, ("subject", "solver", "steps"))},
        caveat=f"On this path DDIM is Euler's step. {words.converged(rows)}",
        command=command,
    )
