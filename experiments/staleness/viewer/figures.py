"""The viewer: loss of label accuracy and Frechet distance against the number of steps."""

import matplotlib.axes
import matplotlib.figure

from experiments.staleness import draw
from experiments.staleness.viewer.numbers import MODES, stale

# {column: its words}
COLUMNS = {
    "accuracy_lost": "label accuracy lost (fraction)",
    "frechet_more": "additional Frechet distance",
}


def figure(rows: list[dict], devices: int) -> matplotlib.figure.Figure:
    """A row of panels for each column, a panel for each network, a curve for each mode."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    titles = [f"{network}, {devices} devices" for network in networks]
    fig, axes = draw.grid(len(COLUMNS), titles, height=3.0)
    for line, (column, meaning) in zip(axes, COLUMNS.items(), strict=True):
        for ax, network in zip(line, networks, strict=True):
            own = [row for row in stale(rows) if row["network"] == network]
            _draw(ax, [row for row in own if row["devices"] == devices], column)
        line[0].set_ylabel(meaning)
    draw.legend(fig)
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict], column: str) -> None:
    """The modes of one network, each a little beside the others so that intervals are told."""
    for place, mode in enumerate(MODES):
        mine = sorted((row for row in own if row["mode"] == mode), key=lambda row: row["steps"])
        at = [row["steps"] * (1 + 0.03 * (place - 1.5)) for row in mine]
        values = [row[column] for row in mine]
        ends = [[row[f"{column}_{end}"] for row in mine] for end in ("low", "high")]
        ax.vlines(at, *ends, color=draw.COPIES[mode])
        ax.plot(at, values, "o", color=draw.COPIES[mode], label=mode)
    ax.axhline(0, **draw.DOTTED)
    ax.set(xscale="log", xlabel="steps")
    draw.ticks(ax, [row["steps"] for row in own])
