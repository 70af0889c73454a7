"""Claims: for each kind of number a figure of its intervals, coloured by the verdict."""

import math

import matplotlib.axes
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.lab.claims import FAILS, HOLDS, IN_PART, UNDECIDED, VERDICTS, Part
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
LINE, REST = 0.26, 0.9
# Of the first and the second statistic: lines below the middle, whether filled, width.
LOOKS = ((-0.12, True, 2.5), (0.2, False, 1.2))


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
    """The intervals of one subject, the number of the first, and the bound of the claim."""
    limits = (-math.inf, math.inf) if reading.claim.kind == VIEWER else (LEAST, MOST)
    colour = COLOURS[reading.verdict]
    for part, (offset, fill, width) in zip(reading.parts, LOOKS, strict=False):
        _draw_part(ax, part, place + offset, limits, color=colour, linewidth=width, fill=fill)
    first = reading.parts[0]
    ax.plot(first.bound, place, "|", color=report.INK, markersize=11)
    # The numbers stand beside the axis, in one column.
    ax.annotate(
        draw.with_interval(first.value, first.low, first.high),
        (1.01, place),
        xycoords=("axes fraction", "data"),
        va="center",
    )


def _draw_part(
    ax: matplotlib.axes.Axes,
    part: Part,
    place: float,
    limits: tuple[float, float],
    *,
    color: str,
    linewidth: float,
    fill: bool,
) -> None:
    """One interval; an arrow where it goes on beyond the limits."""
    if not math.isnan(part.low):
        ends = [float(np.clip(end, *limits)) for end in (part.low, part.high)]
        ax.plot(ends, [place] * 2, color=color, linewidth=linewidth)
        for end, measured, arrow in zip(ends, (part.low, part.high), "<>", strict=True):
            if end != measured:
                ax.plot(end, place, arrow, color=color, clip_on=False)
    if limits[0] <= part.value <= limits[1]:
        ax.plot(part.value, place, "o", color=color, markerfacecolor=color if fill else "none")


def _set_scale(ax: matplotlib.axes.Axes, found: list[Reading]) -> None:
    """A logarithmic axis for ratios; a plain one for differences."""
    kind = found[0].claim.kind
    ax.set_xlabel(kind)
    if kind == VIEWER:
        return
    parts = [part for reading in found for part in reading.parts]
    ends = [end for part in parts for end in (part.low, part.high, part.value, part.bound)]
    ends = [float(np.clip(end, LEAST, MOST)) for end in ends if np.isfinite(end)]
    draw.ratio_axis(ax, ends)
