"""Claims: for each kind of number a figure of its intervals, coloured by the verdict."""

import matplotlib.axes
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import draw
from experiments.staleness.claims import numbers, rule

COLOURS = {
    rule.HOLDS: report.GREEN,
    rule.IN_PART: report.AMBER,
    rule.FAILS: report.RED,
    rule.UNDECIDED: report.GREY,
}
# The axis ends here, and an arrow points to what lies beyond.
LEAST, MOST = 0.01, 20.0
# Inches of a line, and of the rest of a figure.
LINE, REST = 0.24, 0.9


def figure(table: list[dict]) -> matplotlib.figure.Figure:
    """The intervals of one kind of claim: a line for each subject, below the text of its claim.

    Args:
      table: rows of `numbers.judged`, all of one kind.
    """
    claims = dict.fromkeys(row["claim"] for row in table)
    height = LINE * (len(table) + len(claims)) + REST
    fig, ax = report.canvas(1, 1, width=9.5, height=height)
    places, names, used = [], [], []
    place = 0
    for claim in claims:
        places.append(place)
        names.append(claim)
        for row in (row for row in table if row["claim"] == claim):
            place += 1
            places.append(place)
            names.append(f"{row['subject']}   ")
            used.append(row["verdict"])
            _draw_row(ax, row, place)
        place += 1

    ax.set_yticks(places, names)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    _set_scale(ax, table)
    # After the limits: the axis points down.
    ax.set_ylim(place - 0.4, -0.6)
    for verdict in rule.VERDICTS:
        if verdict in used:
            ax.plot([], [], "o", color=COLOURS[verdict], label=verdict)
    ax.plot([], [], "|", color=report.INK, markersize=9, label="bound of the claim")
    fig.legend(loc="outside lower center", ncols=5)
    return fig


def _limits(row: dict) -> tuple[float, float]:
    """What the axis of a kind can show."""
    return (-np.inf, np.inf) if row["kind"] == numbers.VIEWER else (LEAST, MOST)


def _draw_row(ax: matplotlib.axes.Axes, row: dict, place: int) -> None:
    """One interval with its number, and the bound of its claim."""
    least, most = _limits(row)
    colour = COLOURS[row["verdict"]]
    value = float(np.clip(row["value"], least, most))
    if row["low"] is not None:
        ends = [float(np.clip(end, least, most)) for end in (row["low"], row["high"])]
        ax.plot(ends, [place] * 2, color=colour, linewidth=2.5)
        for end, measured, arrow in zip(ends, (row["low"], row["high"]), "<>", strict=True):
            if end != measured:
                ax.plot(end, place, arrow, color=colour, clip_on=False)
    if value == row["value"]:
        ax.plot(value, place, "o", color=colour)
    ax.plot(row["bound"], place, "|", color=report.INK, markersize=9)
    # The numbers stand beside the axis, in one column.
    ax.annotate(
        draw.with_interval(row["value"], row["low"], row["high"]),
        (1.01, place),
        xycoords=("axes fraction", "data"),
        va="center",
    )


def _set_scale(ax: matplotlib.axes.Axes, table: list[dict]) -> None:
    """A logarithmic axis for ratios; a plain one for differences."""
    ax.set_xlabel(table[0]["kind"])
    if table[0]["kind"] == numbers.VIEWER:
        return
    ends = [end for row in table for end in (row["low"], row["high"], row["value"], row["bound"])]
    ends = [float(np.clip(end, LEAST, MOST)) for end in ends if end is not None]
    limits = min(ends) / 1.15, max(ends) * 1.15
    ax.set(xscale="log", xlim=limits)
    report.decade_ticks(ax.xaxis, limits)
