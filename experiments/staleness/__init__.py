"""How much staleness can you bear?

One module or package a question; `python -m experiments.staleness` answers them all. Each has its
cells, its measurement, and three parts: numbers that are read from rows, figures, and words.
"""

import os
import pathlib
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from experiments import report
from experiments.cli.run import ask
from experiments.staleness import (
    claims,
    error,
    forecasts,
    fractions,
    gallery,
    law,
    layers,
    linear,
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
    viewer,
    warmup,
    window,
    words,
)
from experiments.staleness.loop import threshold
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
    fractions,
    layers,
    linear,
    loop,
    threshold,
    precision,
    solvers,
    partition,
    resolution,
    viewer,
    pictures,
    gallery,
)
TITLE = "How much staleness can you bear?"
# What the page explains at its end.
WORDS = {name: report.DEFINITIONS[name] for name in ("order", "staleness", "misrouted")}
WORDS |= words.DEFINITIONS
# The rows of the full experiment.
KEPT = pathlib.Path(__file__).parents[2] / "results" / "staleness"
# Beside the heading of a section whose rows were not measured in this run.
BADGE = "kept rows"
FROM_KEPT = (
    "These rows were not measured in this run: they are those that the full experiment left in "
    "`results/staleness/rows.jsonl`, by the command below. "
)


class Gathered(NamedTuple):
    """The rows of one question, and where they come from.

    Attributes:
      rows: of the question.
      command: that measured them.
      config: with which.
      is_kept: whether they are those of the full experiment, and not of this run.
    """

    rows: list[dict]
    command: str
    config: dict
    is_kept: bool


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet, and return all rows."""
    return ask(config, workdir, QUESTIONS)


def gathered(workdir: str | os.PathLike) -> dict[str, Gathered]:
    """{question: its rows}: those of `workdir`, and the kept ones of questions that it lacks."""
    places = (KEPT, workdir) if (KEPT / "rows.jsonl").exists() else (workdir,)
    found = {}
    for place in places:
        origin, own = report.origin(place), {}
        for row in records.read(place):
            own.setdefault(row["question"], []).append(row)
        # The rows of the work directory come last, and replace the kept ones.
        found |= {
            name: Gathered(rows, origin["command"], origin["config"] or {}, place is not workdir)
            for name, rows in own.items()
        }
    return found


def marked(section: report.Section, kept: bool) -> report.Section:
    """The section, with a badge and a note if its rows were not measured in this run."""
    if not kept:
        return section
    return section._replace(badge=BADGE, caveat=FROM_KEPT + section.caveat)


def chapter(workdir: str | os.PathLike) -> report.Chapter:
    """The `report.Chapter` of `workdir`; a question without rows anywhere is left out."""
    found = gathered(workdir)
    rows = [row for own in found.values() for row in own.rows]
    sections = []
    for module in QUESTIONS:
        if module.QUESTION in found:
            own = found[module.QUESTION]
            sections.append(marked(module.section(own.rows, own.command), own.is_kept))

    # The claims are judged by the rows of all questions, and stand first.
    commands = dict.fromkeys(own.command for own in found.values() if own.command)
    configs = {name: own.config for name, own in found.items()}
    first = claims.section(rows, "\n".join(commands), configs)
    if first:
        sections.insert(0, marked(first, any(own.is_kept for own in found.values())))
    return report.Chapter(TITLE, verdict.lead(rows), sections, report.origin(workdir), WORDS)


def make_report(workdir: str | os.PathLike) -> list[str]:
    """Draw the rows of `workdir` into report.html."""
    drawn = chapter(workdir)
    page = report.page(
        drawn.title, drawn.lead, drawn.sections, definitions=drawn.definitions, **drawn.origin
    )
    return [report.write(f"{workdir}/report.html", page)]
