"""Policies: error against the number of synchronous steps."""

import matplotlib.axes
import matplotlib.figure

from experiments import report
from experiments.staleness import draw, subjects
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
    """A row of panels for held copies, and one for forecasts: a panel for each subject."""
    names = list(draw.by_subject(rows))
    fig, axes = draw.grid(len(FORECASTS), names, height=3.2)
    for line, forecast in zip(axes, FORECASTS, strict=True):
        for ax, name in zip(line, names, strict=True):
            own = [row for row in rows if (row["subject"], row["forecast"]) == (name, forecast)]
            _draw(ax, partly_stale(own))
            ax.set_title(f"{subjects.NAMES[name]}, {draw.FORECASTS[forecast]}")
        line[0].set_ylabel("distance to the synchronous run")
    draw.legend(fig, columns=4)
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict]) -> None:
    """The policies of one subject with one forecast."""
    for name in KINDS:
        _draw_kind(ax, own, name)
    draw.own_error(ax, own[0]["own_rms"])
    ax.set(yscale="log", xlabel=f"synchronous steps, of {own[0]['steps']}")
    draw.decades(ax)


def _draw_kind(ax: matplotlib.axes.Axes, own: list[dict], name: str) -> None:
    """The marks of one kind of policy, joined where they differ in one number."""
    rows = [row for row in own if kind(row) == name]
    # So that a curve goes from left to right.
    rows.sort(key=lambda row: (row["synced"], row["policy"]))
    ax.plot(
        [row["synced"] for row in rows],
        [row["sync_rms"] for row in rows],
        linestyle="-" if name in JOINED else "none",
        marker="o",
        color=COLOURS[name],
        linewidth=0.9,
        label=name,
    )
