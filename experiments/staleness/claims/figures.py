"""Claims: for each kind of number a figure of its intervals, coloured by the verdict."""

import math

import matplotlib.axes
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.lab.claims import FAILS, HOLDS, IN_PART, UNDECIDED, VERDICTS
from experiments.staleness import draw
from experiments.staleness.claims.asked import VIEWER
from experiments.staleness.claims.numbers import Reading, of_claims

COLOURS = {
    HOLDS: report.GREEN,
    IN_PART: report.AMBER,
    FAILS: report.RED,
    UNDECIDED: report.GREY,
}
# The axis ends here, and an arrow points to what lies beyond.
LEAST, MOST = 0.01, 20.0
# Inches of a line, and of the rest of a figure.
LINE, REST = 0.24, 0.9


def figure(found: list[Reading]) -> matplotlib.figure.Figure:
    """The intervals of one kind of claim: a line for each subject, below the text of its claim.

    Args:
      found: readings of claims of one kind.
    """
    claims = of_claims(found)
    fig, ax = report.canvas(1, 1, width=10.5, height=LINE * (len(found) + len(claims)) + REST)
    names = []
    for text, own in claims.items():
        names.append(text)
        for reading in own:
            _draw(ax, reading, place=len(names))
            names.append(f"{reading.subject}   ")
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")
    _set_scale(ax, found)
    # After the limits: the axis points down.
    ax.set_ylim(len(names) - 0.4, -0.6)

    used = {reading.verdict for reading in found}
    for verdict in (verdict for verdict in VERDICTS if verdict in used):
        ax.plot([], [], "o", color=COLOURS[verdict], label=verdict)
    ax.plot([], [], "|", color=report.INK, markersize=9, linestyle="none", label="bound")
    fig.legend(loc="outside lower center", ncols=5)
    return fig


def _draw(ax: matplotlib.axes.Axes, reading: Reading, place: int) -> None:
    """The interval of the first statistic with its number, and the bound of its claim."""
    part = reading.parts[0]
    least, most = (-math.inf, math.inf) if reading.claim.kind == VIEWER else (LEAST, MOST)
    colour = COLOURS[reading.verdict]
    if not math.isnan(part.low):
        ends = [float(np.clip(end, least, most)) for end in (part.low, part.high)]
        ax.plot(ends, [place] * 2, color=colour, linewidth=2.5)
        for end, measured, arrow in zip(ends, (part.low, part.high), "<>", strict=True):
            if end != measured:
                ax.plot(end, place, arrow, color=colour, clip_on=False)
    if least <= part.value <= most:
        ax.plot(part.value, place, "o", color=colour)
    ax.plot(part.bound, place, "|", color=report.INK, markersize=9)
    # The numbers stand beside the axis, in one column.
    ax.annotate(
        draw.with_interval(part.value, part.low, part.high),
        (1.01, place),
        xycoords=("axes fraction", "data"),
        va="center",
    )


def _set_scale(ax: matplotlib.axes.Axes, found: list[Reading]) -> None:
    """A logarithmic axis for ratios; a plain one for differences."""
    kind = found[0].claim.kind
    ax.set_xlabel(kind)
    if kind == VIEWER:
        return
    parts = [reading.parts[0] for reading in found]
    ends = [end for part in parts for end in (part.low, part.high, part.value, part.bound)]
    ends = [float(np.clip(end, LEAST, MOST)) for end in ends if np.isfinite(end)]
    draw.ratio_axis(ax, ends)
