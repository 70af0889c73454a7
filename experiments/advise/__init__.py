"""What should be set for this model? One command from a checkpoint to settings.

    budget     what can be measured in the time given: it decides the sizes of the others
    setting    solver, grid and shift at each number of evaluations, and a tuned table
    why        what bends the paths and what the parts of the error are
    devices    what staleness costs on several devices, and which mode is the quickest
    gallery    samples of the settings side by side

The numbers come from the parts of the other experiments: the solvers and starts of
`experiments.tune`, the second differences and the ledger of `experiments.order`, the emulation of
stale attention and the latency model of `flowjax.parallel`.
"""

import dataclasses
import os
import pathlib

from configs.advise import Config
from experiments import report
from experiments.advise import budget, devices, gallery, setting, why
from experiments.cli.run import ask
from flowjax import records

QUESTIONS = (budget, setting, why, devices, gallery)


def run(config: Config, workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet, print the advice, and return all rows."""
    folder = config.plans or str(pathlib.Path(workdir) / "plans")
    config = dataclasses.replace(config, plans=folder)
    # A mistake in the last question must not show after minutes of measuring.
    for module in QUESTIONS:
        module.check(config)
    # The sizes are decided once: a run that goes on keeps those that it began with.
    first = dataclasses.replace(config, questions=(budget.QUESTION,))
    rows = ask(first, workdir, QUESTIONS)
    sizes = budget.sizes_of(rows)
    print(budget.sentence(config, sizes))
    rows = ask(dataclasses.replace(config, sizes=sizes), workdir, QUESTIONS)
    print(terminal(rows))
    return rows


def terminal(rows: list[dict]) -> str:
    """The advice as a table for the terminal."""
    lines = [line for module in QUESTIONS for line in module.advice(rows)]
    width = max((len(name) for name, _ in lines), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def chapter(workdir: str | os.PathLike) -> report.Chapter:
    """The `report.Chapter` of the rows of `workdir`."""
    rows = records.read(workdir)
    origin = report.origin(workdir)
    asked = {row["question"] for row in rows}
    sections = [
        module.section(rows, origin["command"])
        for module in QUESTIONS
        if module.QUESTION in asked and hasattr(module, "section")
    ]
    lead = [f"**{name}**: {text}" for module in QUESTIONS for name, text in module.advice(rows)]
    title = f"What to set for {budget.model_of(rows)}"
    kept = [section for section in sections if section is not None]
    return report.Chapter(title, lead[: report.LINES], kept, origin, ("NFE", "shift", "staleness"))


def make_report(workdir: str | os.PathLike) -> list[str]:
    """Draw the rows of `workdir` into report.html."""
    drawn = chapter(workdir)
    page = report.page(
        drawn.title, drawn.lead, drawn.sections, **drawn.origin, definitions=drawn.definitions
    )
    return [report.write(f"{workdir}/report.html", page)]
