"""Loops: growth a row, and the error of complete runs, against the push."""

import matplotlib.axes
import matplotlib.figure

from experiments import report
from experiments.staleness import draw

# {column: its words}
COLUMNS = {"rate": "growth of an error in a row", "worse": "error of a run over held copies'"}


def figure(plain: list[dict], corrected: list[dict]) -> matplotlib.figure.Figure:
    """Two panels; filled without a correction, hollow with one."""
    fig, axes = report.canvas(1, 2, width=draw.PAGE * 0.9, height=3.8)
    for ax, (column, words) in zip(axes, COLUMNS.items(), strict=True):
        for network in dict.fromkeys(row["network"] for row in plain):
            filled, hollow = (
                [row for row in rows if row["network"] == network] for rows in (plain, corrected)
            )
            look = {"color": draw.NETWORKS.get(network, report.GREY)}
            _dots(ax, filled, column, label=network, **look)
            _dots(ax, hollow, column, label=f"{network}, corrected", markerfacecolor="none", **look)
        ax.axhline(1, **draw.DOTTED)
        ax.set(xlabel="push of the loop", ylabel=words)
    axes[1].set_yscale("log")
    draw.decades(axes[1])
    draw.legend(fig)
    return fig


def _dots(ax: matplotlib.axes.Axes, rows: list[dict], column: str, **style: str) -> None:
    """A mark for each row."""
    at = [row["push"] for row in rows]
    values = [row[column] for row in rows]
    ax.plot(at, values, marker="o", linestyle="", **style)
