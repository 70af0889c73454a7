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
    kinds = list(dict.fromkeys(kind_of(row) for row in shown))
    fig, ax = report.canvas(1, 1, height=0.42 * len(runs) + 1.2, width=9.0)
    for kind in kinds:
        own = [row for row in shown if kind_of(row) == kind]
        look = _look(kind)
        # One line a run, several forecasts on it, each a little below the one before.
        places = [runs.index(row["run"]) + 0.11 * (kinds.index(kind) - 3) for row in own]
        ax.plot([row["rms_ratio"] for row in own], places, "o", label=kind, **look)
        ends = [[row[f"rms_{end}"] for row in own] for end in ("low", "high")]
        ax.hlines(places, *ends, color=look["color"])
    ax.axvline(1, **draw.DOTTED)
    ax.set_yticks(range(len(runs)), runs)
    ax.set(xscale="log", xlabel="RMS distance to the synchronous run over that of held copies")
    ax.set_ylim(len(runs) - 0.5, -0.5)
    report.decade_ticks(ax.xaxis, ax.get_xlim())
    fig.legend(loc="outside lower center", ncols=4)
    return fig


def _look(kind: str) -> dict[str, str]:
    """Colour by the forecast; hollow where the correction is not the forecast's own."""
    name, _, other = kind.partition(", ")
    colour = draw.COPIES[name]
    return {"color": colour, "markerfacecolor": "none" if other else colour}


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
    colours = {row["of"]: draw.NETWORKS.get(row["network"] or row["subject"]) for row in shown}
    draw.lines(ax, shown, x="fraction", y="rms_ratio", by="of", band=True, colours=colours)
    ax.set(
        xlabel="fraction of the own miss that is added",
        ylabel="RMS distance over that of held copies",
        ylim=(0, None),
    )
    ax.set_xticks(sorted({row["fraction"] for row in shown}))
    draw.legend(fig)
    return fig
