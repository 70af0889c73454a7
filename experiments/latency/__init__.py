"""How long does an image take over several devices?

One module a question; `python -m experiments.latency` answers them all.
"""

import os
from typing import TYPE_CHECKING

from configs.latency import DEVICES
from experiments import report
from experiments.cli.run import ask
from experiments.latency import linear, planning, price, published
from flowjax import records
from flowjax.errors import check_choice

if TYPE_CHECKING:
    from configs.latency import Config

QUESTIONS = (published, price, linear, planning)
# What the page explains.
WORDS = {
    "operations": "Of the matrix products, two for each multiplication and addition.",
    "achieved": (
        "Fraction of the peak that a large layer reaches, with everything between its products."
    ),
    "floor": "Seconds that a layer takes however few its tokens: programs have to be started.",
    "latency": "Seconds of a collective however few its bytes.",
    "hidden": "Fraction of a transfer under compute that costs no time.",
    "stale": (
        "Attention to the other devices' keys and values of the step before (displaced patches)."
    ),
    "linear attention": (
        "Tokens see each other through sums over keys, whose size does not depend on the image."
    ),
    "ulysses, ring, gather": (
        "Exact attention over devices: exchange heads, pass keys round, or gather them all."
    ),
    "pipeline": "Layers over devices, patches following each other (PipeFusion).",
}


def check(config: "Config") -> None:
    """Refuse a machine that there is not, before anything is computed."""
    for name in config.machines:
        check_choice("latency", "machines", name, DEVICES)


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Answer what `workdir` does not hold yet, and return all rows."""
    check(config)
    return ask(config, workdir, QUESTIONS)


def make_report(workdir: str | os.PathLike) -> list[str]:
    """Draw the rows of `workdir` into report.html."""
    rows, origin = records.read(workdir), report.origin(workdir)
    command, share = origin["command"], origin["config"]["pays"]
    # {question: its rows}
    of = {
        module: [row for row in rows if row["question"] == module.QUESTION] for module in QUESTIONS
    }
    sections = {
        published: published.section(of[published], command),
        price: price.section(of[price], command),
        linear: linear.section(of[linear], command),
        planning: planning.section(of[planning], command, share),
    }
    page = report.page(
        "How long does an image take over several devices?",
        [
            published.summary(of[published]),
            *price.summary(of[price]),
            linear.summary(of[linear]),
            planning.summary(of[planning], share),
        ],
        list(sections.values()),
        definitions=WORDS,
        **origin,
    )
    return [report.write(f"{workdir}/report.html", page)]
