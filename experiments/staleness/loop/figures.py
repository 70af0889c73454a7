"""Loops: growth a row, and the error of complete runs, against the push."""

import matplotlib.axes
import matplotlib.figure

from experiments import report
from experiments.staleness import draw

# {column: its words}
COLUMNS = {"rate": "growth a row", "worse": "error over that of holding"}


def figure(plain: list[dict], corrected: list[dict]) -> matplotlib.figure.Figure:
    """Two panels; filled without a correction, hollow with one."""
    fig, axes = report.canvas(1, 2)
    for ax, (column, words) in zip(axes, COLUMNS.items(), strict=True):
        for network in dict.fromkeys(row["network"] for row in plain):
            filled, hollow = (
                [row for row in rows if row["network"] == network] for rows in (plain, corrected)
            )
            colour = _dots(ax, filled, column, label=network)
            _dots(ax, hollow, column, color=colour, markerfacecolor="none")
        ax.axhline(1, **draw.DOTTED)
        ax.set(xlabel="push of the loop", ylabel=words)
    axes[1].set_yscale("log")
    axes[0].legend()
    return fig


def _dots(ax: matplotlib.axes.Axes, rows: list[dict], column: str, **style: str) -> str:
    """Draw the rows, and return their colour."""
    at = [row["push"] for row in rows]
    values = [row[column] for row in rows]
    (dots,) = ax.plot(at, values, marker="o", linestyle="", **style)
    return dots.get_color()
