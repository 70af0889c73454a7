"""How much staleness can you bear?

One module or package a question; `python -m experiments.staleness` answers them all. Each has its
cells, its measurement, and three parts: numbers that are read from rows, figures, and words.
"""

import os
import pathlib
from types import ModuleType
from typing import TYPE_CHECKING

from experiments import report
from experiments.cli.run import ask
from experiments.staleness import (
    claims,
    error,
    forecasts,
    gallery,
    law,
    loop,
    orders,
    pareto,
    partition,
    pictures,
    pipeline,
    placement,
    precision,
    resolution,
    solvers,
    verdict,
    warmup,
    window,
)
from flowjax import records

if TYPE_CHECKING:
    from configs.staleness import Config

# In the order of the page. `law` is read from the rows of `error`.
QUESTIONS: tuple[ModuleType, ...] = (
    orders,
    error,
    law,
    pipeline,
    warmup,
    placement,
    window,
    pareto,
    forecasts,
    loop,
    precision,
    solvers,
    partition,
    resolution,
    pictures,
    gallery,
)
TITLE = "How much staleness can you bear?"
# Of `report.DEFINITIONS`, which the page explains.
WORDS = ("NFE", "order", "staleness", "misrouted")
# The rows of the full experiment.
KEPT = pathlib.Path(__file__).parents[2] / "results" / "staleness"
FROM_KEPT = (
    "Not measured in this run: drawn from the rows that the full experiment left in "
    "`results/staleness/rows.jsonl`. "
)

# (rows of a question, the command that measured them, whether they are kept ones)
Gathered = tuple[list[dict], str, bool]


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet, and return all rows."""
    return ask(config, workdir, QUESTIONS)


def gathered(workdir: str | os.PathLike) -> dict[str, Gathered]:
    """{question: its rows}: those of `workdir`, and the kept ones of questions that it lacks."""
    places = (KEPT, workdir) if (KEPT / "rows.jsonl").exists() else (workdir,)
    # {question: (rows, command, kept)}
    found = {}
    for place in places:
        command, own = report.origin(place)["command"], {}
        for row in records.read(place):
            own.setdefault(row["question"], []).append(row)
        # The rows of the work directory come last, and replace the kept ones.
        found |= {name: (rows, command, place is not workdir) for name, rows in own.items()}
    return found


def marked(section: report.Section, kept: bool) -> report.Section:
    """The section, with a note that its rows were not measured here if they were not."""
    if not kept:
        return section
    return section._replace(
        question=f"{section.question} (from kept rows)", caveat=FROM_KEPT + section.caveat
    )


def chapter(workdir: str | os.PathLike) -> report.Chapter:
    """The `report.Chapter` of `workdir`; a question without rows anywhere is left out."""
    found = gathered(workdir)
    rows = [row for own, _, _ in found.values() for row in own]
    sections = []
    for module in QUESTIONS:
        if module.QUESTION in found:
            own, command, kept = found[module.QUESTION]
            sections.append(marked(module.section(own, command), kept))

    # The claims are judged by the rows of all questions, and stand first.
    origin = report.origin(workdir)
    first = claims.section(rows, origin["command"])
    if first:
        any_kept = any(kept for _, _, kept in found.values())
        sections.insert(0, marked(first, any_kept))
    return report.Chapter(TITLE, verdict.lead(rows), sections, origin, WORDS)


def make_report(workdir: str | os.PathLike) -> list[str]:
    """Draw the rows of `workdir` into report.html."""
    drawn = chapter(workdir)
    page = report.page(
        drawn.title, drawn.lead, drawn.sections, definitions=drawn.definitions, **drawn.origin
    )
    return [report.write(f"{workdir}/report.html", page)]
