"""Figures that several questions have in common: panels of subjects, curves with intervals."""

from collections.abc import Sequence
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np
from matplotlib.ticker import NullLocator

from experiments import report
from experiments.staleness import subjects

# A dotted line at a level that a reader compares with.
DOTTED = {"color": report.GREY, "linestyle": (0, (1, 3))}


def by_subject(rows: list[dict]) -> dict[str, list[dict]]:
    """{subject: its rows}, in the order of the rows."""
    found = {}
    for row in rows:
        found.setdefault(row["subject"], []).append(row)
    return found


def panels(
    rows: list[dict], *, height: float = 3.2, width: float = 4.6
) -> tuple[matplotlib.figure.Figure, list[tuple[matplotlib.axes.Axes, str, list[dict]]]]:
    """(figure, [(axis, subject, its rows)]): a panel below the other for each subject."""
    own = by_subject(rows)
    fig, axes = report.canvas(len(own), 1, height=height * len(own), width=width)
    # One panel is a single axis, and not an array of axes.
    axes = np.atleast_1d(axes)
    for ax, subject in zip(axes, own, strict=True):
        ax.set_title(subjects.NAMES[subject])
    return fig, [(ax, *pair) for ax, pair in zip(axes, own.items(), strict=True)]


def lines(
    ax: matplotlib.axes.Axes,
    rows: list[dict],
    *,
    x: str,
    y: str,
    by: str,
    band: bool = True,
    **style: Any,
) -> None:
    """A curve of `y` against `x` for each value of `by`.

    Args:
      ax: where to draw.
      rows: what to draw.
      x, y, by: names of columns.
      band: whether to show the interval from `y`_low to `y`_high.
      **style: of `ax.plot`.
    """
    for name in dict.fromkeys(row[by] for row in rows):
        own = sorted((row for row in rows if row[by] == name), key=lambda row: row[x])
        at = [row[x] for row in own]
        # The band takes the colour of its curve.
        (drawn,) = ax.plot(at, [row[y] for row in own], marker="o", label=str(name), **style)
        if band:
            low, high = ([row[f"{y}_{end}"] for row in own] for end in ("low", "high"))
            ax.fill_between(at, low, high, color=drawn.get_color(), alpha=0.15, linewidth=0)


def ticks(ax: matplotlib.axes.Axes, places: Sequence[float]) -> None:
    """Marks at the measured places of a logarithmic axis, and none between them."""
    ax.set_xticks(places, map(str, places))
    # A logarithmic axis would label places between them too.
    ax.xaxis.set_minor_locator(NullLocator())


def own_error(ax: matplotlib.axes.Axes, level: float) -> None:
    """A dotted line at the solver's own error, with its words."""
    ax.axhline(level, **DOTTED)
    ax.annotate(
        "the solver's own error",
        (1, level),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=7,
    )


def ratio_bars(ax: matplotlib.axes.Axes, rows: list[dict], *, label: str, xlabel: str) -> None:
    """Bars of `rms_ratio` with their intervals, beside a dotted line at 1."""
    report.bar_ledger(
        ax,
        rows,
        label=label,
        value="rms_ratio",
        low="rms_low",
        high="rms_high",
        xlabel=xlabel,
    )
    ax.axvline(1, **DOTTED)
