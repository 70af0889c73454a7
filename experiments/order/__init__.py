"""How much is a solver's order worth on a flow?

One module a question; `python -m experiments.order` runs them all. A module has

    QUESTION                the name of the question in rows
    check(config)           refuse what cannot be measured (where it depends on the configuration)
    cells(config)           the keys of its rows
    measure(config, todo)   yield (key, values)
    section(rows, command)  its section of the page

and reads in this order: numbers, figures, words. A long one is a folder with these three files.
"""

import pathlib

from configs.order import Config
from experiments import report
from experiments.cli.run import ask
from experiments.order import (
    claims,
    clock,
    convergence,
    cost,
    crossover,
    curvature,
    defects,
    distribution,
    grid_choice,
    guided,
    label_times,
    lead,
    learned,
    ledger,
    nfe,
    smooth,
    tolerance,
)
from flowjax import records

QUESTIONS = (
    convergence,
    nfe,
    curvature,
    crossover,
    distribution,
    ledger,
    grid_choice,
    guided,
    learned,
    clock,
    smooth,
    label_times,
    tolerance,
    defects,
    cost,
)
# Questions whose section also reads the rows of others: networks stand beside the exact fields.
READ_ALL_ROWS = (learned, smooth)


def run(config: Config, workdir: str | pathlib.Path) -> list[dict]:
    """Measure what `workdir` does not hold yet, and return all rows."""
    return ask(config, workdir, QUESTIONS)


def chapter(workdir: str | pathlib.Path) -> report.Chapter:
    """The `report.Chapter` of the rows of `workdir`; a question without rows is left out."""
    rows = records.read(workdir)
    origin = report.origin(workdir)
    sections = []
    for module in QUESTIONS:
        own = lead.rows_of(rows, module)
        if own:
            read = rows if module in READ_ALL_ROWS else own
            sections.append(module.section(read, origin["command"]))
    # The claims are judged by the rows of all questions, and stand first.
    first = claims.section(rows, origin["config"], origin["command"])
    if first:
        sections.insert(0, first)
    # The lead is computed from the same rows as the sections.
    title = "How much is a solver's order worth?"
    return report.Chapter(title, lead.lead(rows), sections, origin)


def make_report(workdir: str | pathlib.Path) -> list[str]:
    """Draw the rows of `workdir` into report.html and order.png."""
    rows = records.read(workdir)
    drawn = chapter(workdir)
    page = report.page(drawn.title, drawn.lead, drawn.sections, **drawn.origin)
    made = [report.write(f"{workdir}/report.html", page)]
    # The figure of the README needs both of its panels.
    if lead.rows_of(rows, nfe) and lead.rows_of(rows, ledger):
        path = f"{workdir}/order.png"
        lead.figure(rows).savefig(path, dpi=120)
        made.append(path)
    return made
