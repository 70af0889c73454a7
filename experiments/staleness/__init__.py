"""How much staleness can you bear? One module a question; `python -m experiments.staleness` runs them all."""

from experiments import report
from experiments.run import ask
from experiments.staleness import error, law, orders, pictures, placement, verdict, warmup
from flowjax import records

QUESTIONS = (orders, error, law, warmup, placement, pictures)  # the law is read from the rows of the errors
WORDS = ("NFE", "order", "staleness", "misrouted")


def run(config, workdir):
    """Measure what `workdir` does not hold yet, and return all rows."""
    return ask(config, workdir, QUESTIONS)


def chapter(workdir):
    """The `report.Chapter` of the rows of `workdir`; a question without rows is left out."""
    rows, origin = records.read(workdir), report.origin(workdir)
    own = [(module, [row for row in rows if row["question"] == module.QUESTION]) for module in QUESTIONS]
    sections = [module.section(found, origin["command"]) for module, found in own if found]
    return report.Chapter("How much staleness can you bear?", verdict.lead(rows), sections, origin, WORDS)


def make_report(workdir):
    """Draw the rows of `workdir` into report.html."""
    drawn = chapter(workdir)
    page = report.page(drawn.title, drawn.lead, drawn.sections, definitions=drawn.definitions, **drawn.origin)
    return [report.write(f"{workdir}/report.html", page)]
