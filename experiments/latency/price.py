"""What is a stale step worth, beside the quickest exact one?"""

import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure

from experiments import report
from experiments.latency import layouts, planning
from flowjax.parallel.analysis import latency
from flowjax.parallel.analysis.latency import Device, Work

if TYPE_CHECKING:
    from configs.latency import Config

QUESTION = "price"
METHODS = ("gather", "ulysses", "ring", "stale", "pipefusion")
# One island of devices at most: beyond it the link is another.
ISLAND = (2, 4, 8)
# The rows of a long run, whose seconds less those of the first are `ROWS - 1` steps.
ROWS = 101
# {a link's name in the machine's name: its words in the answer}
LINKS = {"NVLink": "by NVLink", "PCIe": "over PCIe", "TPU": "on TPUs"}
# {column: the title of its heat map}
MAPS = {
    "worth": "displaced patches, hidden as published",
    "worth_hidden": "displaced patches, all hidden",
    "worth_pipeline": "pipeline of patches",
}
# Of the table on the page.
COLUMNS = (
    "machine",
    "tokens",
    "devices",
    *METHODS,
    "exact",
    "stale, all hidden",
    *MAPS,
)


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a machine, number of tokens and number of devices of one island."""
    return [
        {"question": QUESTION, "machine": machine, "tokens": tokens, "devices": n}
        for machine in config.machines
        for tokens in config.tokens
        for n in config.devices
        if n in ISLAND
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, milliseconds of a step by method, and what staleness is worth).

    The step is far from the start, and both branches of guidance are in one batch.
    """
    for key in todo:
        work, tokens, _, device = planning.setting(config, key)
        at = functools.partial(step, config, work, tokens, key["devices"], device)
        found = {name: at(name) for name in METHODS}
        exact = at(*planning.EXACT)
        hidden = at("stale", hidden=1.0)
        yield (
            key,
            {
                **found,
                "exact": exact,
                "stale, all hidden": hidden,
                "worth": exact / found["stale"],
                "worth_hidden": exact / hidden,
                "worth_pipeline": exact / found["pipefusion"],
                "of_gather": found["gather"] / found["stale"],
            },
        )


def step(
    config: "Config",
    work: Work,
    tokens: int,
    devices: int,
    device: Device,
    *attentions: str,
    **figures: float,
) -> float:
    """Milliseconds of one more step of the quickest layout of these attentions.

    Args:
      config: for the number of patches.
      work, tokens, devices, device: of the cell.
      *attentions: among which to choose.
      **figures: of the device, in the place of its own.
    """
    every = layouts.layouts(work, tokens, devices, config.patches, attentions)
    # Both branches of guidance are in one batch.
    options = [layout for layout in every if layout.cfg == 1]
    if not options:
        # A pipeline whose stages have unequal depth: `latency` waits for the deepest.
        options = [
            layouts.Layout(*attentions, pipe=devices, patches=devices * 2**i) for i in range(3)
        ]
    device = device._replace(**figures)
    return 1e3 * min(_slope(layout, work, tokens, device) for layout in options)


def _slope(layout: layouts.Layout, work: Work, tokens: int, device: Device) -> float:
    """Seconds of one more step: those of a long run, less those of its first row, by the rest."""
    longer, first = (
        layouts.seconds(layout, work, tokens, latency.masked(n, 1), device).total for n in (ROWS, 1)
    )
    return (longer - first) / (ROWS - 1)


# -- figures


def heat_maps(
    own: list[dict], maps: dict[str, str], column: str, label: str
) -> matplotlib.figure.Figure:
    """A heat map over machines for each of some ratios, all with 1 as the middle colour.

    Args:
      own: rows.
      maps: {column of a ratio: its title}.
      column, label: what runs to the right, and its words.
    """
    fig, axes = report.canvas(len(maps), 1, width=7.2, height=2.6 * len(maps))
    # One scale of colours, as far below 1 as above.
    values = [row[name] for row in own for name in maps]
    reach = max(max(values), 1 / min(values))
    for ax, (name, title) in zip(axes, maps.items(), strict=True):
        report.heatmap(
            ax,
            own,
            x=column,
            y="machine",
            value=name,
            log=True,
            label="times as fast",
            centre=1.0,
            reach=reach,
        )
        ax.set(title=title, xlabel=label, ylabel="")
    return fig


# -- words


def _worth(own: list[dict], name: str, title: str) -> str:
    """What one kind of staleness is worth over each kind of link, in a sentence."""
    parts = []
    for link, words in LINKS.items():
        values = [row[name] for row in own if link in row["machine"]]
        if values:
            least, most = report.sig(min(values)), report.sig(max(values))
            parts.append(f"{words} **{least} to {most}** times as fast")
    return f"{title[0].upper()}{title[1:]}: {', '.join(parts)}."


def best(rows: list[dict], name: str) -> str:
    """The most that one kind of staleness is worth over all machines and tokens, as a clause."""
    most = max(row["devices"] for row in rows)
    found = max((row for row in rows if row["devices"] == most), key=lambda row: row[name])
    return (
        f"at most {report.sig(found[name])} times as fast as the quickest exact one on {most} "
        f"devices ({found['machine']}, {found['tokens']} tokens)"
    )


def claim(rows: list[dict]) -> str:
    """The claim of the figure."""
    return f"A step with displaced patches is {best(rows, 'worth')}"


def summary(rows: list[dict]) -> list[str]:
    """The lines of the page's summary."""
    return [
        f"**Displaced patches**: a step is {best(rows, 'worth')}.",
        f"**A pipeline of patches**: a step is {best(rows, 'worth_pipeline')}.",
    ]


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    most = max(row["devices"] for row in rows)
    # As texts, so that the heat map gives each size one column.
    own = [{**row, "size": str(row["tokens"])} for row in rows if row["devices"] == most]
    sentences = [_worth(own, name, title) for name, title in MAPS.items()]
    picture = report.picture(
        heat_maps(own, MAPS, "size", "tokens"),
        "Heat maps of the worth of a stale step by machine and number of tokens.",
        "Red: the stale step is quicker than the best of gather, ulysses and ring on "
        f"{most} devices; blue: it is slower. Milliseconds are in the table.",
        title=claim(rows),
    )
    return report.Section(
        question="What is a stale step worth, beside the quickest exact one?",
        expected=(
            "Much where links are slow beside compute, little by NVLink: there exchanging heads "
            "moves 2/n of the bytes of a gather."
        ),
        answer=f"Beside the quickest exact step on {most} devices. {' '.join(sentences)}",
        figures=(picture,),
        table=[{name: row[name] for name in COLUMNS} for row in rows],
        caveat=(
            "Guidance in the batch, a step far from the start. How much of a transfer compute "
            "hides is measured for DistriFusion's program, and a compiled one that starts "
            "a gather a whole layer ahead may hide more: the second map is its bound. "
            "Between stages of unequal depth a pipeline waits for the deepest."
        ),
        command=command,
    )
