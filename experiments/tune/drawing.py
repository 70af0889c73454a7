"""What the figures of this experiment share: the look of tuned tables, and curves of errors."""

import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments import report

# Pink stars are no published solver's look, see `report.SOLVERS`.
WORDS = {
    "published": {"color": report.INK, "marker": "o", "linestyle": "-"},
    "converged": {"color": report.GREEN, "marker": "s", "linestyle": "--"},
    "data": {"color": report.GREY, "marker": "", "linestyle": ":"},
}
LETTERS = 15  # of a title that fit into an inch
TUNED = {"color": report.PINK, "marker": "*", "linestyle": "-", "markersize": 9}


def look(name: str, beside: Sequence[dict] = ()) -> dict:
    """Line2D options of a solver, of the tuned table, or of what stands beside it."""
    if name.startswith("tuned"):
        return TUNED
    return WORDS.get(name) or report.style(name, beside)


def claim(fig: Figure, text: str) -> str:
    """Set the claim of a figure as its title, in lines that fit, and return it."""
    lines = textwrap.fill(text, int(LETTERS * fig.get_figwidth()))
    fig.suptitle(lines, fontsize=9, x=0.02, ha="left")
    return text


def curves(
    ax: Axes,
    lines: dict[str, list[tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    yscale: str = "log",
) -> None:
    """One curve a name through its points (x, y), with a number at each x of a logarithmic axis."""
    drawn = []
    for name, points in lines.items():
        options = look(name, drawn)
        drawn.append(options)
        at, values = zip(*sorted(points), strict=True)
        ax.plot(at, values, label=name, **options)
    # Numbers of evaluations, not powers of ten.
    places = sorted({x for points in lines.values() for x, _ in points})
    ax.set(xscale="log", yscale=yscale, xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(places, [report.sig(place) for place in places])
    ax.xaxis.set_minor_locator(NullLocator())


def legend_below(ax: Axes, columns: int = 3) -> None:
    """One legend for the figure of `ax`, below all its panels."""
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def title_of(model: str, guidance: float) -> str:
    """A model and its guidance scale in words."""
    return model if guidance == 1 else f"{model}, guidance {guidance:g}"
