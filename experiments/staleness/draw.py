"""Figures that several questions share: a panel a subject, lines with their intervals, and the words of a ratio."""

import numpy as np
from matplotlib.ticker import NullLocator

from experiments import report
from experiments.staleness import lab
from flowjax.records import table


def panels(rows, *, height=3.2, width=4.6):
    """(figure, [(axis, subject, its rows)]): a panel below the other for each subject."""
    own = {}
    for row in rows:
        own.setdefault(row["subject"], []).append(row)
    fig, axes = report.canvas(len(own), 1, height=height * len(own), width=width)
    for ax, subject in zip(np.atleast_1d(axes), own, strict=True):
        ax.set_title(lab.NAMES[subject])
    return fig, [(ax, *pair) for ax, pair in zip(np.atleast_1d(axes), own.items(), strict=True)]


def lines(ax, rows, *, x, y, by, band=True, **style):
    """A line of `y` against `x` for each value of `by`, with the interval from `y`_low to `y`_high."""
    for name in dict.fromkeys(row[by] for row in rows):
        own = sorted((row for row in rows if row[by] == name), key=lambda row: row[x])
        at = [row[x] for row in own]
        (drawn,) = ax.plot(at, [row[y] for row in own], marker="o", label=str(name), **style)
        if band:
            ends = ([row[f"{y}_{end}"] for row in own] for end in ("low", "high"))
            ax.fill_between(at, *ends, color=drawn.get_color(), alpha=0.15, linewidth=0)


def ticks(ax, places):
    """Marks at the places measured, of an axis that is logarithmic, and none between."""
    ax.set_xticks(places, map(str, places))
    ax.xaxis.set_minor_locator(NullLocator())


def ratio(row, kind="rms"):
    """ "0.61 (0.55 to 0.70)": the ratio of a row to its cell of comparison with its interval."""
    low, high = (report.sig(row[f"{kind}_{end}"]) for end in ("low", "high"))
    return f"**{report.sig(row[f'{kind}_ratio'])}** ({low} to {high})"


def columns(rows, names):
    """The rows with these columns, and what every row has of errors and ratios."""
    common = ("sync_rms", "sync_rms_low", "sync_rms_high", "own_rms", "exact_rms", "rms_ratio", "rms_low", "rms_high",
              "median_ratio", "total_rms_ratio", "misrouted", "staleness")  # fmt: skip
    return [{name: row[name] for name in (*names, *common)} for row in rows]


def converged(rows):
    """What the converged run of each subject is worth, as a sentence."""
    moved = table(rows, "subject", "doubling").items()
    said = ", ".join(f"{report.sig(max(values))} ({lab.NAMES[name]})" for name, values in moved)
    return f"When the steps of the converged run doubled it moved by {said}; a distance to it that is not larger is not measured."
