"""What does a table that is tuned to a model gain, and where does the gain come from?

One module a question, as in `experiments.order`; `python -m experiments.tune` runs those that the
configuration names. Tables are made by `flowjax.tune.tune` and kept as files, see `tables`.

    ratio       tuned over best published, for models x guidance x evaluations: the command itself
    quality     samples of tuned tables by their distribution
    parts       what the times, the weights and the label times give, each alone
    order       which causes of lost order remain, and what past outputs are worth
    transfer    tables on other models, guidance scales and numbers of evaluations
    optimizer   Adam, least squares and Levenberg-Marquardt on the same numbers
    floor       the fraction of the needed steps that no table reaches
    stale       tables tuned through stale attention on several devices
"""

import dataclasses
import os
import pathlib

from configs.tune import Config
from experiments import report
from experiments.cli.run import ask
from experiments.tune import floor, optimizer, order, parts, quality, ratio, stale, transfer
from flowjax import records

# In the order of the page; the summary takes the first seven that have something to say.
QUESTIONS = (ratio, quality, parts, order, transfer, optimizer, floor, stale)
DEFINITIONS = {
    "NFE": report.DEFINITIONS["NFE"],
    "error": "Distance to the model's own converged endpoint from the same start, relative to the "
    "root mean square norm of the endpoints.",
    "tuned": "A table whose numbers were fitted to this model by `flowjax.tune.tune`.",
    "published": "A solver whose numbers come from theory; each stands on its best uniform grid.",
    "shift": report.DEFINITIONS["shift"],
}


def run(config: Config, workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet, and return all rows."""
    # The rows do not depend on where the plan files lie, so the folder is no recorded field.
    folder = config.plans or str(pathlib.Path(workdir) / "plans")
    return ask(dataclasses.replace(config, plans=folder), workdir, QUESTIONS)


def lead(rows: list[dict]) -> list[str]:
    """At most seven sentences, one a question that has rows."""
    found = []
    for module in QUESTIONS:
        own = [row for row in rows if row["question"] == module.QUESTION]
        if own and hasattr(module, "summary"):
            found.append(module.summary(rows))
    return [text for text in found if text][:7]


def findings(rows: list[dict]) -> str:
    """The answers of all questions but `ratio` as a list in Markdown, for docs/findings.md."""
    lines = []
    for module in QUESTIONS:
        own = [row for row in rows if row["question"] == module.QUESTION]
        if not own or module is ratio:
            continue
        models = ", ".join(sorted({_model_of(row) for row in own}))
        # Questions of several parts have a sentence for each.
        words = getattr(module, "WORDS", (module.summary,))
        sentences = [text for text in (make(rows) for make in words) if text]
        lines.append(f"- `{module.QUESTION}` ({len(own)} rows; {models}): {' '.join(sentences)}")
    return "\n".join(lines)


def _model_of(row: dict) -> str:
    """The model on which a row's errors are taken."""
    return row["used_on"] if "used_on" in row else row["model"]


def chapter(workdir: str | os.PathLike) -> report.Chapter:
    """The `report.Chapter` of the rows of `workdir`; a question without rows is left out."""
    rows = records.read(workdir)
    origin = report.origin(workdir)
    asked = {row["question"] for row in rows}
    # Sections read all rows: some compare their own with those of `ratio`.
    sections = [
        module.section(rows, origin["command"]) for module in QUESTIONS if module.QUESTION in asked
    ]
    title = "What does a table gain that is tuned to a model?"
    return report.Chapter(title, lead(rows), sections, origin, DEFINITIONS)


def make_report(workdir: str | os.PathLike) -> list[str]:
    """Draw the rows of `workdir` into report.html."""
    drawn = chapter(workdir)
    page = report.page(
        drawn.title, drawn.lead, drawn.sections, definitions=DEFINITIONS, **drawn.origin
    )
    return [report.write(f"{workdir}/report.html", page)]
