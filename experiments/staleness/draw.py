"""Figures that several questions have in common: panels of subjects, curves with intervals.

One series has one colour in all figures: copies by how they are made, devices by their number.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.ticker import MaxNLocator, NullLocator

from experiments import report
from experiments.staleness import subjects

# A dotted line at a level that a reader compares with.
DOTTED = {"color": report.GREY, "linestyle": (0, (1, 3))}
# {how a copy is made: its colour}
COPIES = {
    "synchronous": report.INK,
    "held": report.BLUE,
    "held, corrected": report.SKY,
    "linear": report.AMBER,
    "quadratic": report.PINK,
    "tuned": report.GREEN,
    "warm-up": report.RED,
}
# {option `forecast`: its name}
FORECASTS = {0: "held", 1: "linear", 2: "quadratic", "tuned": "tuned"}
# {devices, or patches of a pipeline: its colour}, from light to dark.
DEVICES = {2: "#9ecae1", 4: "#4292c6", 8: "#08519c", 16: report.INK}
# {network: its colour}
NETWORKS = {
    "digits": report.BLUE,
    "digits-smooth": report.GREEN,
    "digits-linear": report.INK,
    "digits-ot": report.AMBER,
    "digits-reflow": report.PINK,
    "emoji": report.RED,
    "emoji-smooth": report.SKY,
}
# Inches: of a page of 1200 pixels, and of a panel that stands alone.
PAGE, ALONE = 11.0, 5.2
# Ratios that are written with three digits.
NEAR_ONE = 0.9, 1.1
# The least ratio that is drawn, and the span of an axis from which its ticks are powers of ten.
SMALLEST, WIDE = 1e-4, 8.0


def by_subject(rows: list[dict]) -> dict[str, list[dict]]:
    """{subject: its rows}, in the order of the rows."""
    found = {}
    for row in rows:
        found.setdefault(row["subject"], []).append(row)
    return found


def side_by_side(
    titles: Sequence[str], *, height: float = 3.2, sharey: bool = False
) -> tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]:
    """(figure, axes): a panel beside the other for each title.

    Args:
      titles: of the panels.
      height: in inches.
      sharey: whether they have one vertical axis.
    """
    count = max(len(titles), 1)
    fig, axes = report.canvas(1, count, height=height, width=min(ALONE * count, PAGE))
    # One panel is a single axis, and not an array of axes.
    axes = list(np.atleast_1d(axes))
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title)
        if sharey and ax is not axes[0]:
            ax.sharey(axes[0])
    return fig, axes


def grid(
    lines: int, titles: Sequence[str], *, height: float = 3.0
) -> tuple[matplotlib.figure.Figure, np.ndarray]:
    """(figure, axes (lines, panels)): several lines of panels, the first with the titles."""
    width = min(ALONE * len(titles), PAGE)
    fig, axes = report.canvas(lines, len(titles), height=height * lines, width=width)
    axes = np.reshape(axes, (lines, len(titles)))
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    return fig, axes


def panels(
    rows: list[dict], *, height: float = 3.2
) -> tuple[matplotlib.figure.Figure, list[tuple[matplotlib.axes.Axes, str, list[dict]]]]:
    """(figure, [(axis, subject, its rows)]): a panel beside the other for each subject."""
    own = by_subject(rows)
    fig, axes = side_by_side([subjects.NAMES[subject] for subject in own], height=height)
    return fig, [(ax, *pair) for ax, pair in zip(axes, own.items(), strict=True)]


def lines(
    ax: matplotlib.axes.Axes,
    rows: list[dict],
    *,
    x: str,
    y: str,
    by: str,
    band: bool = True,
    colours: dict[Any, str] | None = None,
    **style: Any,
) -> None:
    """A curve of `y` against `x` for each value of `by`.

    Args:
      ax: where to draw.
      rows: what to draw.
      x, y, by: names of columns.
      band: whether to show the interval from `y`_low to `y`_high.
      colours: {value of `by`: its colour}; those of matplotlib's cycle by default.
      **style: of `ax.plot`.
    """
    for name in dict.fromkeys(row[by] for row in rows):
        own = sorted((row for row in rows if row[by] == name), key=lambda row: row[x])
        at = [row[x] for row in own]
        look = {"marker": "o", "label": str(name)} | style
        if colours and name in colours:
            look["color"] = colours[name]
        # The band takes the colour of its curve.
        (drawn,) = ax.plot(at, [row[y] for row in own], **look)
        if band:
            # A ratio has its ends beside it, another number has them by its own name.
            stem = y.removesuffix("_ratio")
            low, high = ([row[f"{stem}_{end}"] for row in own] for end in ("low", "high"))
            ax.fill_between(at, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def legend(fig: matplotlib.figure.Figure, columns: int = 4) -> None:
    """One legend below all panels, each name once."""
    found = {}
    for ax in fig.axes:
        for line, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, line)
    fig.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def ticks(ax: matplotlib.axes.Axes, places: Iterable[float]) -> None:
    """Marks at the measured places of a logarithmic axis, and none between them."""
    report.measured_ticks(ax.xaxis, sorted(set(places)))


def decades(ax: matplotlib.axes.Axes) -> None:
    """Plain numbers on a logarithmic vertical axis, within the limits that it has now."""
    report.decade_ticks(ax.yaxis, ax.get_ylim())


def own_error(ax: matplotlib.axes.Axes, level: float) -> None:
    """A dotted line at the solver's own error; the legend has its words."""
    ax.axhline(level, **DOTTED, label="the solver's own error")


def ratio_bars(ax: matplotlib.axes.Axes, rows: list[dict], *, label: str, xlabel: str) -> None:
    """Points of `rms_ratio` with their intervals and numbers, on a logarithmic axis about 1."""
    for place, row in enumerate(rows):
        low, high = row["rms_low"], row["rms_high"]
        colour = report.GREY
        if high < 1:
            colour = report.BLUE
        elif low > 1:
            colour = report.RED
        ax.plot([low, high], [place] * 2, color=colour, linewidth=2.5)
        ax.plot(row["rms_ratio"], place, "o", color=colour)
    ax.set_yticks(range(len(rows)), [str(row[label]) for row in rows])
    ax.axvline(1, **DOTTED)
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    ends = [row[f"rms_{end}"] for row in rows for end in ("low", "high", "ratio")]
    ratio_axis(ax, [max(end, SMALLEST) for end in (*ends, 1.0)])


def ratio_axis(ax: matplotlib.axes.Axes, values: Sequence[float]) -> None:
    """A logarithmic axis across that holds the values, with two numbers on it at least."""
    low, high = min(values) / 1.1, max(values) * 1.1
    ax.set(xscale="log", xlim=(low, high))
    if high / low > WIDE:
        report.decade_ticks(ax.xaxis, (low, high))
        return
    # Within less than a decade equal distances read better than powers of ten.
    places = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(low, high)
    inside = [place for place in places if low <= place <= high]
    ax.set_xticks(inside, [f"{place:g}" for place in inside])
    ax.xaxis.set_minor_locator(NullLocator())


def with_interval(value: float, low: float, high: float) -> str:
    """A number with its interval, as "0.61 (0.55 to 0.70)"; NaN where there is no interval."""
    # Two digits do not tell a ratio near 1 from 1.
    digits = 3 if NEAR_ONE[0] < value < NEAR_ONE[1] else 2
    text = report.sig(value, digits)
    if math.isnan(low):
        return f"{text} (no interval)"
    return f"{text} ({report.sig(low, digits)} to {report.sig(high, digits)})"
