"""How much staleness can you bear? One module a question; `python -m experiments.staleness` runs them all."""

import pathlib

from experiments import report
from experiments.cli.run import ask
from experiments.staleness import (
    claims,
    error,
    forecasts,
    gallery,
    geometry,
    law,
    loop,
    orders,
    pareto,
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

# The law is read from the rows of the errors.
QUESTIONS = (
    orders, error, law, pipeline, warmup, placement, window, pareto, forecasts, loop, precision, solvers, geometry, resolution,
    pictures, gallery,
)  # fmt: skip
WORDS = ("NFE", "order", "staleness", "misrouted")
KEPT = pathlib.Path(__file__).parents[2] / "results" / "staleness"


def run(config, workdir):
    """Measure what `workdir` does not hold yet, and return all rows."""
    return ask(config, workdir, QUESTIONS)


def gathered(workdir):
    """{question: (rows, command, kept)}: those of `workdir`, and of questions that it did not ask the kept ones."""
    found = {}
    for place in (KEPT, workdir) if (KEPT / "rows.jsonl").exists() else (workdir,):
        command, own = report.origin(place)["command"], {}
        for row in records.read(place):
            own.setdefault(row["question"], []).append(row)
        found |= {name: (rows, command, place is not workdir) for name, rows in own.items()}
    return found


def marked(section, kept):
    """The section, with a word that its rows were not measured here if they were not."""
    if not kept:
        return section
    origin = "Not measured in this run: drawn from the rows that the full experiment left in `results/staleness/rows.jsonl`. "
    return section._replace(
        question=f"{section.question} (from kept rows)", caveat=origin + section.caveat
    )


def chapter(workdir):
    """The `report.Chapter` of the rows of `workdir`; a question without rows anywhere is left out."""
    found = gathered(workdir)
    rows = [row for own, _, _ in found.values() for row in own]
    sections = [
        marked(module.section(rows, command), kept)
        for module in QUESTIONS
        if module.QUESTION in found
        for rows, command, kept in [found[module.QUESTION]]
    ]
    first = claims.section(rows, report.origin(workdir)["command"])
    if first:
        sections.insert(0, marked(first, any(kept for _, _, kept in found.values())))
    return report.Chapter(
        "How much staleness can you bear?",
        verdict.lead(rows),
        sections,
        report.origin(workdir),
        WORDS,
    )


def make_report(workdir):
    """Draw the rows of `workdir` into report.html."""
    drawn = chapter(workdir)
    page = report.page(
        drawn.title, drawn.lead, drawn.sections, definitions=drawn.definitions, **drawn.origin
    )
    return [report.write(f"{workdir}/report.html", page)]
