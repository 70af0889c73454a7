"""Forecasts: the distance to the synchronous run over that of held keys and values."""

import matplotlib.figure

from experiments import report
from experiments.staleness import draw
from experiments.staleness.forecasts.names import how, kind_of, name_of
from experiments.staleness.forecasts.numbers import USUAL
from flowjax.parallel.stale.forecast import CORRECTION


def of_forecasts(rows: list[dict], steps: int) -> matplotlib.figure.Figure:
    """All forecasts, a line for each subject and setting, without the sweep of fractions."""
    # Holding is the cell of comparison, at 1.
    rows = [row for row in rows if row["forecast"] != 0 or row["correction"] is not USUAL]
    rows = [row for row in rows if row["correction"] in (USUAL, CORRECTION, 0.0)]
    shown = [
        {**row, "run": f"{name_of(row).removeprefix('the ')}, {how(row, steps)}"} for row in rows
    ]
    runs = list(dict.fromkeys(row["run"] for row in shown))
    fig, ax = report.canvas(1, 1, height=0.25 * len(runs) + 1.1, width=5.6)
    for kind in dict.fromkeys(kind_of(row) for row in shown):
        own = [row for row in shown if kind_of(row) == kind]
        # One line a run, several forecasts on it.
        places = [runs.index(row["run"]) for row in own]
        (dots,) = ax.plot([row["rms_ratio"] for row in own], places, "o", label=kind)
        ax.hlines(
            places,
            [row["rms_low"] for row in own],
            [row["rms_high"] for row in own],
            color=dots.get_color(),
        )
    ax.axvline(1, **draw.DOTTED)
    ax.set_yticks(range(len(runs)), runs)
    ax.set(xscale="log", xlabel="distance over that of holding")
    ax.invert_yaxis()
    fig.legend(loc="outside lower center", ncols=3)
    return fig


def of_fractions(rows: list[dict]) -> matplotlib.figure.Figure:
    """Tuned forecasts against the fraction of the correction, a curve for each subject."""
    fig, ax = report.canvas(1, 1)
    shown = [
        {
            **row,
            "of": name_of(row),
            "fraction": CORRECTION if row["correction"] is USUAL else row["correction"],
        }
        for row in rows
    ]
    draw.lines(ax, shown, x="fraction", y="rms_ratio", by="of", band=False)
    ax.set(xlabel="share of the correction", ylabel="distance over that of holding", ylim=(0, None))
    ax.legend()
    return fig
