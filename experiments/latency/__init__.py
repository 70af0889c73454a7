"""How long does an image take over several devices? One module a question; `python -m experiments.latency` answers them all."""

from configs.latency import DEVICES
from experiments import report
from experiments.cli.run import ask
from experiments.latency import planning, price, published
from flowjax import records
from flowjax.errors import check_choice

QUESTIONS = (published, price, planning)
WORDS = {
    "operations": "Of the matrix products, two for each multiplication and addition.",
    "achieved": "Share of the peak that a large layer reaches, with everything between its products.",
    "floor": "Seconds that a layer takes however few its tokens: programs have to be started.",
    "latency": "Seconds of a collective however few its bytes.",
    "hidden": "Share of a transfer under compute that costs no time.",
    "stale": "Attention to the other devices' keys and values of the step before (displaced patches).",
    "ulysses, ring, gather": "Exact attention over devices: exchange heads, pass keys round, or gather them all.",
    "pipeline": "Layers over devices, patches following each other (PipeFusion).",
}


def run(config, workdir):
    """Answer what `workdir` does not hold yet, and return all rows."""
    for name in config.machines:
        check_choice("latency", "machines", name, DEVICES)
    return ask(config, workdir, QUESTIONS)


def make_report(workdir):
    """Draw the rows of `workdir` into report.html."""
    rows, origin = records.read(workdir), report.origin(workdir)
    of = {
        module: [row for row in rows if row["question"] == module.QUESTION] for module in QUESTIONS
    }
    command = origin["command"]
    sections = [
        published.section(of[published], command),
        price.section(of[price], command),
        planning.section(of[planning], command, origin["config"]["pays"]),
    ]
    lead = [
        f"**{name}.** {section.answer}"
        for name, section in zip(("Published", "Staleness", "Devices"), sections, strict=True)
    ]
    page = report.page(
        "How long does an image take over several devices?",
        lead,
        sections,
        definitions=WORDS,
        **origin,
    )
    return [report.write(f"{workdir}/report.html", page)]
