"""How often order 3 pays in each family, and errors against evaluations field by field."""

import numpy as np

from experiments import report
from experiments.lab import own
from experiments.order import drawing
from experiments.order.nfe.numbers import VERDICTS, flat

# Seven curves at most; plans of one's own are added.
DRAWN = ("Euler", "DPM++ 2M", "DPM++ 3M published", "AB2", "AB3", "Heun", "DPM++ 3S")
COLOURS = {
    "better": report.GREEN,
    "tie": report.SKY,
    "undecided": report.GREY,
    "worse": report.RED,
}


def draw_families(table: list[dict], title: str) -> report.Picture:
    """Fractions of cells in which order 3 is better, tied, undecided and worse than order 2.

    Args:
      table: of `families`.
      title: the claim.
    """
    lines = [line for line in table if line["shift"] == "all"]
    fig, ax = report.canvas(width=9.6, height=0.36 * len(lines) + 1.0)
    # Each verdict's bars begin where those of the verdict before end.
    places = np.arange(len(lines))
    left = np.zeros(len(lines))
    for verdict in VERDICTS:
        fractions = np.array([line[verdict] / line["cells"] for line in lines])
        ax.barh(places, fractions, left=left, color=COLOURS[verdict], height=0.7, label=verdict)
        # The number of cells, where the bar has room for it.
        for place, start, fraction, line in zip(places, left, fractions, lines, strict=True):
            if fraction > 0.04:
                ax.text(
                    start + fraction / 2,
                    place,
                    str(line[verdict]),
                    ha="center",
                    va="center",
                    color="white",
                )
        left += fractions
    # Few evaluations and more are compared within a family, so they stand below each other.
    names = [f"{line['family']}, {line['NFE']}" for line in lines]
    ax.set_yticks(places, names)
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.set(xlabel="fraction of cells (field x shift x evaluations)", xlim=(0, 1))
    ax.xaxis.set_major_formatter(lambda at, _: f"{at:.0%}")
    drawing.legend_below(fig, ax, len(VERDICTS))
    said = "; ".join(
        f"{name}: " + ", ".join(f"{line[verdict]} {verdict}" for verdict in VERDICTS)
        for name, line in zip(names, lines, strict=True)
    )
    return report.picture(
        fig,
        f"Order 3 against order 2 in cells: {said}.",
        "Order 3 against order 2 of the same family by RMS error: better or worse where the whole "
        "95 % interval of the ratio lies beyond 2 %, a tie where it lies within, undecided else. "
        "Numbers are cells; at the left, the family and the number of evaluations.",
        title=title,
    )


def draw_field(rows: list[dict], field: str, shifts: list[float]) -> report.Picture:
    """Error against evaluations on one field, one panel a shift."""
    lines = [
        line
        for line in flat(rows, "solvers")
        if line["field"] == field
        and line["shift"] in shifts
        and (line["solver"] in DRAWN or own.is_own(line["solver"]))
    ]
    fig, axes = report.canvas(1, len(shifts), width=4.6 * len(shifts), height=3.9)
    best = []
    axes = np.atleast_1d(axes)
    for ax, shift in zip(axes, shifts, strict=True):
        drawn = [line for line in lines if line["shift"] == shift]
        report.log_log(ax, drawn, x="nfe", y="rms")
        ax.set_title(f"{field}, shift {shift:g}")
        # The claim names the lowest curve at the end.
        most = max(line["nfe"] for line in drawn)
        lowest = min((line for line in drawn if line["nfe"] == most), key=lambda line: line["rms"])
        best.append(f"{lowest['solver']}'s at shift {shift:g} ({report.sig(lowest['rms'])})")
    drawing.same_height(axes)
    return report.picture(
        fig,
        f"Relative RMS error against evaluations on {field}, one panel a shift.",
        f"Exact field: {field}. Errors are to the converged solution from the same noise.",
        title=f"On {field} the lowest error at {most} evaluations is {' and '.join(best)}",
    )
