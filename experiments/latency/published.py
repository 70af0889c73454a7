"""Does the model give the seconds that others measured?"""

import functools
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import numpy as np
from scipy.optimize import minimize

from experiments import report
from experiments.latency import layouts
from experiments.latency.tables import TABLES, Cell, Table
from flowjax.parallel.analysis import latency
from flowjax.parallel.analysis.latency import Device, Seconds, Work

if TYPE_CHECKING:
    from configs.latency import Config

QUESTION = "published"
# Of the table on the page.
COLUMNS = ("table", "what", "size", "unit", "published", "modelled", "ratio")
# {a unit of the rows: its axis}
UNITS = {"s": "published seconds", "x": "published, times as fast", "GB": "published GB"}
# {a method's name, as its cells begin: its colour}
COLOURS = {
    "one device": report.INK,
    "displaced patches": report.RED,
    "ulysses": report.GREEN,
    "ring": report.PINK,
    "pipeline": report.BLUE,
    "others": report.GREY,
}
# A pipeline whose patches nobody states has the best of 1, 2, 4, 8 times its stages.
PATCHES = 8
# Numbers that are fractions: their fit stays within (0, 1), that of all others above 0.
FRACTIONS = ("achieved", "hidden")
# Where the fit begins: log-odds of fractions, logarithms of the others.
START = {
    "achieved": 0.0,
    "hidden": 0.0,
    "latency": math.log(3e-4),
    "floor": math.log(1e-3),
    "overhead": math.log(0.5),
}
# The table of the pipeline whose hops take a tick of their own, which has a rival.
PIPELINE = "PixArt, 8 L20, patches"


# -- the measurement


def cells(config: "Config | None") -> list[dict]:
    """One cell a published number."""
    del config
    return [
        {"question": QUESTION, "table": table.name, "what": cell.what, "size": cell.size}
        for table in TABLES
        for cell in table.cells
    ]


def measure(config: "Config | None", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): ours beside the published number, and what its table was fitted with."""
    del config
    # A cell by the names in its key.
    found = {(t.name, c.what, c.size): (t, c) for t in TABLES for c in t.cells}
    for key in todo:
        table, cell = found[key["table"], key["what"], key["size"]]
        numbers = fitted(table.name)
        modelled = model(table, cell, numbers)
        yield (
            key,
            {
                "published": cell.published,
                "modelled": modelled,
                "ratio": modelled / cell.published,
                "unit": cell.unit,
                "fitted": _listed(numbers, table.fits),
                "taken": _listed(numbers, table.takes),
            },
        )


def _listed(numbers: dict[str, float], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {report.sig(numbers[name], 3)}" for name in names)


@functools.cache
def fitted(name: str) -> dict[str, float]:
    """{number: value} of a table: taken from others' fits, and fitted to its own cells.

    The fit minimises the squares of log(modelled / published) by Nelder-Mead.
    """
    table = next(t for t in TABLES if t.name == name)
    taken = {number: fitted(source)[number] for number, source in table.takes.items()}
    if not table.fits:
        return taken

    def numbers(x):
        values = {fit: _value(fit, at) for fit, at in zip(table.fits, x, strict=True)}
        return taken | values

    def misfit(x):
        ratios = [model(table, cell, numbers(x)) / cell.published for cell in table.cells]
        return np.sum(np.square([math.log(ratio) for ratio in ratios]))

    # The fit begins at the link of the data sheet, or at 20 GB/s where that is less.
    start = START | {"link": math.log(min(table.device.link, 2e10))}
    if table.device.peak == 1:
        # A U-Net's latency is that of all collectives of a step.
        start |= {"latency": math.log(1e-2)}
    options = {"xatol": 1e-4, "fatol": 1e-7, "maxiter": 400}
    first = [start[fit] for fit in table.fits]
    return numbers(minimize(misfit, first, method="Nelder-Mead", options=options).x)


def _value(name: str, x: float) -> float:
    """The number itself, of the unbounded one that is fitted."""
    return 1 / (1 + math.exp(-x)) if name in FRACTIONS else math.exp(x)


def model(table: Table, cell: Cell, numbers: dict[str, float]) -> float:
    """The modelled number of a cell, in the cell's unit.

    Args:
      table: of the cell.
      cell: the published number.
      numbers: {number: value} as `fitted` returns it.
    """
    # A number belongs to the device or to the work.
    of_device = {name: value for name, value in numbers.items() if name in Device._fields}
    of_work = {name: value for name, value in numbers.items() if name not in of_device}
    work = table.work(**of_work, **cell.work)
    device = table.device._replace(**of_device)._replace(**cell.device)
    if cell.unit == "GB":
        # A gigabyte takes a second of this link, and nothing hides it.
        return time(work, device._replace(link=1e9, latency=0.0), cell.run).exposed
    found = time(work, device, cell.run).total
    if cell.unit == "x":
        alone = {**cell.run, "attention": "gather", "seq": 1, "pipe": 1}
        return time(work, device, alone).total / found
    return found


def time(work: Work, device: Device, run: dict[str, Any]) -> Seconds:
    """`latency.Seconds` of a cell's `run`."""
    run = dict(run)
    tokens = run.pop("tokens")
    synced = latency.masked(run.pop("steps"), run.pop("warmup"))
    devices = run.pop("devices", None)
    if run["attention"] == "any":
        best = layouts.quickest(work, tokens, synced, device, [devices], PATCHES, lag=run["lag"])
        return best[1]

    # patches=None stands for the best of some.
    patches = run.get("patches", 1)
    stages = run.get("pipe", 1)
    tried = [run.get("patches")] if patches else [stages * 2**i for i in range(4)]
    timed = [latency.seconds(work, tokens, synced, device, **{**run, "patches": m}) for m in tried]
    return min(timed, key=lambda seconds: seconds.total)


# -- numbers


def misfits(rows: list[dict]) -> dict[str, float]:
    """{table: root mean square of log ratios}, and that of all cells under "all"."""
    groups = {"all": [row["ratio"] for row in rows]}
    for row in rows:
        groups.setdefault(row["table"], []).append(row["ratio"])
    return {name: _typical(ratios) for name, ratios in groups.items()}


def _typical(ratios: list[float]) -> float:
    """Root mean square of log ratios."""
    return float(np.sqrt(np.mean(np.square([math.log(ratio) for ratio in ratios]))))


def _percent(misfit: float) -> str:
    """A misfit as the factor that it stands for, less 1."""
    return f"{math.expm1(misfit):.0%}"


def _method(what: str) -> str:
    """The method of COLOURS that a cell is of."""
    return next((name for name in COLOURS if what.startswith(name)), "others")


def _tables(rows: list[dict]) -> list[dict]:
    """One line a table: its cells, its misfit, what was fitted in it and what it takes."""
    of_table = misfits(rows)
    lines = {}
    for row in rows:
        line = {"table": row["table"], "numbers": 0, "misfit": _percent(of_table[row["table"]])}
        line |= {"fitted": row["fitted"], "taken from others": row["taken"]}
        lines.setdefault(row["table"], line)
        lines[row["table"]]["numbers"] += 1
    return list(lines.values())


# -- figures


def _figure(own: list[dict]) -> matplotlib.figure.Figure:
    """Modelled over published, a panel a unit; filled where the table was fitted, else hollow."""
    units = [unit for unit in UNITS if any(row["unit"] == unit for row in own)]
    fig, axes = report.canvas(1, len(units), width=3.6 * len(units), height=4.0)
    axes = np.atleast_1d(axes)
    for ax, unit in zip(axes, units, strict=True):
        of_unit = [row for row in own if row["unit"] == unit]
        for name, colour in COLOURS.items():
            seen = [row for row in of_unit if _method(row["what"]) == name]
            for is_fitted, fill in ((True, colour), (False, "none")):
                points = [row for row in seen if bool(row["fitted"]) == is_fitted]
                ax.plot(
                    [row["published"] for row in points],
                    [row["ratio"] for row in points],
                    "o",
                    markersize=4.5,
                    color=colour,
                    markerfacecolor=fill,
                    # One entry of the legend for each method, from the first panel.
                    label=name if is_fitted else None,
                )
        ax.axhline(1, color=report.INK, linewidth=0.8)
        ax.set(xscale="log", xlabel=UNITS[unit], ylim=(0, 2))
        published = [row["published"] for row in of_unit]
        report.decade_ticks(ax.xaxis, (0.8 * min(published), 1.25 * max(published)))
    for ax in axes[1:]:
        ax.set_yticklabels([])
    axes[0].set_ylabel("modelled over published")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return fig


# -- words


def _answer(rows: list[dict], own: list[dict]) -> str:
    """The misfits in words; `own` are the rows without those of rival models."""
    (rival,) = (table.name for table in TABLES if table.rival)
    predicted = [row for row in own if not row["fitted"]]
    fits = sum(len(table.fits) for table in TABLES if not table.rival)
    of_table = misfits(rows)
    # In either direction.
    worst = max(own, key=lambda row: abs(math.log(row["ratio"])))
    return (
        f"The typical misfit is **{_percent(misfits(own)['all'])}** (root mean square of log "
        f"ratios) over {len(own)} published numbers, with {fits} fitted ones, at most two a "
        f"table; over the {len(predicted)} in whose tables nothing was fitted it is "
        f"**{_percent(misfits(predicted)['all'])}**. The worst: {worst['what']} at "
        f"{worst['size']} pixels ({worst['table']}), {report.sig(worst['ratio'])} of the "
        f"published. The published patch sweep is met to **{_percent(of_table[PIPELINE])}** if a "
        "hop takes a tick of its own, so that a pipeline wants twice as many patches as stages, "
        f"and missed by {_percent(of_table[rival])} if hops cost only their bytes."
    )


def summary(rows: list[dict]) -> str:
    """The line of the page's summary."""
    rivals = {table.name for table in TABLES if table.rival}
    predicted = [r for r in rows if r["table"] not in rivals and not r["fitted"]]
    return (
        f"**The model holds to {_percent(misfits(predicted)['all'])}** (typical misfit) over the "
        "published numbers in whose tables nothing was fitted."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    rivals = {table.name for table in TABLES if table.rival}
    own = [row for row in rows if row["table"] not in rivals]
    picture = report.picture(
        _figure(own),
        "Modelled over published against published, one panel a unit.",
        "A point a published number; hollow where nothing was fitted in its table.",
        title=f"The model is typically {_percent(misfits(own)['all'])} from {len(own)} published "
        "numbers",
    )
    return report.Section(
        question="Does the model give the seconds that others measured?",
        expected=(
            "Within a factor of 1.3: the formulas know operations, bytes and rounds, not kernels."
        ),
        answer=_answer(rows, own),
        figures=(picture,),
        table={
            "Published and modelled": [{name: row[name] for name in COLUMNS} for row in rows],
            "What each table fits and takes": _tables(rows),
        },
        caveat=(
            "SDXL is a U-Net, of which only ratios are modelled; its seconds without any exchange "
            "are taken as published. A pipeline whose patches nobody states has the best "
            "number of four. Ulysses is taken to send queries, keys and values at once. What is "
            "fitted as hidden over PCIe is also that one bandwidth serves gathers and exchanges "
            "alike, and what is fitted as latency is the host's time to start a collective. "
            "Displaced patches on 8 L20 were published as 4.43 and 6.32 s at 1024 and 2048 "
            "pixels: four times the bytes in 1.4 times the time fit no bandwidth, and the model "
            "passes between them."
        ),
        command=command,
    )
