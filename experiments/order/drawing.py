"""What the figures of several questions share: plain ticks, one height for all panels, a legend."""

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments import report


def plain_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks 0.2, 0.5, 1, 2, ... on a logarithmic axis that spans `values`, not powers of ten."""
    low, high = np.log10(min(values)), np.log10(max(values))
    # Fewer ticks a decade where there are more decades.
    mantissas = (1, 2, 5) if high - low < 2 else (1, 3) if high - low < 3 else (1,)
    decades = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = [mantissa * 10.0**decade for decade in decades for mantissa in mantissas]
    # A little beyond the values, so that the outermost ones have a tick beside them.
    ticks = [tick for tick in ticks if low - 0.05 <= np.log10(tick) <= high + 0.05]
    axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def same_height(axes: Iterable[Axes]) -> None:
    """Give all panels the y limits that hold the curves of each."""
    axes = list(axes)
    low, high = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(low), max(high))
        if ax.get_yscale() == "log":
            report.decade_ticks(ax.yaxis, (min(low), max(high)))


def legend_below(fig: Figure, ax: Axes, columns: int) -> None:
    """One legend for all panels, below them, with the curves of `ax`."""
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=columns)
