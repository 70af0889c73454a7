"""Policies: error against the number of synchronous steps."""

import matplotlib.axes
import matplotlib.figure

from experiments import report
from experiments.staleness import draw
from experiments.staleness.pareto.numbers import FORECASTS, KINDS, kind, partly_stale

COLOURS = {
    "warm-up": report.BLUE,
    "sqrt rule": report.SKY,
    "cool-down": report.GREEN,
    "window": report.PINK,
    "every": report.AMBER,
    "tolerance": report.RED,
}
# The kinds whose rows differ in one number, so that a curve through them means something.
JOINED = ("tolerance", "warm-up", "cool-down")


def figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """A panel for each subject."""
    fig, shown = draw.panels(rows, height=3.6)
    for ax, _, own in shown:
        _draw(ax, partly_stale(own))
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict]) -> None:
    """The policies of one subject: filled where keys and values are held, hollow where forecast."""
    for forecast in FORECASTS:
        for name in KINDS:
            _draw_kind(ax, own, forecast, name)
    ax.set(
        yscale="log",
        xlabel=f"synchronous steps, of {own[0]['steps']}",
        ylabel="RMS distance to the synchronous run",
    )
    draw.own_error(ax, own[0]["own_rms"])
    ax.legend(fontsize=7, ncols=2)


def _draw_kind(ax: matplotlib.axes.Axes, own: list[dict], forecast: int | str, name: str) -> None:
    """The marks of one kind of policy with one forecast."""
    rows = [row for row in own if (row["forecast"], kind(row)) == (forecast, name)]
    # So that a curve goes from left to right.
    rows.sort(key=lambda row: (row["synced"], row["policy"]))
    is_held = forecast == 0
    line = "none"
    if name in JOINED:
        line = "-" if is_held else "--"
    ax.plot(
        [row["synced"] for row in rows],
        [row["sync_rms"] for row in rows],
        linestyle=line,
        marker="o",
        color=COLOURS[name],
        linewidth=0.9,
        markerfacecolor=COLOURS[name] if is_held else "none",
        label=name if is_held else None,
    )
