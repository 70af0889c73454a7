"""What the figures of this experiment share: the look of tuned tables, and curves of errors."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from experiments import report

# Pink stars are no published solver's look, see `report.SOLVERS`.
TUNED = {"color": report.PINK, "marker": "*", "linestyle": "-", "markersize": 9}


def look(name: str, beside: Sequence[dict] = ()) -> dict:
    """Line2D options of a solver, or of the tuned table."""
    return TUNED if name.startswith("tuned") else report.style(name, beside)


def curves(
    ax: Axes,
    lines: dict[str, list[tuple[float, float]]],
    *,
    xlabel: str,
    ylabel: str,
) -> None:
    """One curve a name through its points (x, y), on logarithmic axes with a number at each x."""
    drawn = []
    for name, points in lines.items():
        options = look(name, drawn)
        drawn.append(options)
        at, values = zip(*sorted(points), strict=True)
        ax.plot(at, values, label=name, **options)
    # Numbers of evaluations, not powers of ten.
    places = sorted({x for points in lines.values() for x, _ in points})
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.set_xticks(places, [report.sig(place) for place in places])
    ax.xaxis.set_minor_locator(NullLocator())


def legend_below(ax: Axes, columns: int = 3) -> None:
    """One legend for the figure of `ax`, below all its panels."""
    handles, labels = ax.get_legend_handles_labels()
    ax.figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def title_of(model: str, guidance: float) -> str:
    """A model and its guidance scale in words."""
    return model if guidance == 1 else f"{model}, guidance {guidance:g}"
