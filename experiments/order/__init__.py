"""How much is a solver's order worth on a flow? One module a question; `python -m experiments.order` runs them all."""

from experiments import report
from experiments.cli.run import ask
from experiments.order import (
    claims,
    clock,
    cost,
    crossover,
    curvature,
    defects,
    distribution,
    grid_choice,
    guided,
    learned,
    ledger,
    nfe,
    smooth,
    tolerance,
    verdict,
)
from flowjax import records

QUESTIONS = (
    claims, nfe, curvature, crossover, distribution, ledger, grid_choice, guided, learned, clock, smooth, tolerance,
    defects, cost,
)  # fmt: skip


def run(config, workdir):
    """Measure what `workdir` does not hold yet, and return all rows."""
    return ask(config, workdir, QUESTIONS)


def chapter(workdir):
    """The `report.Chapter` of the rows of `workdir`; a question without rows is left out."""
    rows = records.read(workdir)
    found, sections = report.origin(workdir), []
    for module in QUESTIONS:
        own = verdict.of(rows, module)
        if own:
            # networks stand beside the exact fields of other questions
            sections.append(
                module.section(rows if module in (learned, smooth) else own, found["command"])
            )
    return report.Chapter(
        "How much is a solver's order worth?", verdict.lead(rows), sections, found
    )


def make_report(workdir):
    """Draw the rows of `workdir` into report.html and order.png."""
    rows, drawn = records.read(workdir), chapter(workdir)
    page = report.page(drawn.title, drawn.lead, drawn.sections, **drawn.origin)
    made = [report.write(f"{workdir}/report.html", page)]
    if verdict.of(rows, nfe) and verdict.of(rows, ledger):
        made.append(f"{workdir}/order.png")
        verdict.figure(rows).savefig(made[-1], dpi=120)
    return made
