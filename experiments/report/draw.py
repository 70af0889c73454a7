"""Figures from rows: errors against evaluations, heat maps, ROC curves, bars with their numbers."""

import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from experiments.report.theme import BLUE, DOTTED, GREY, INK, RED, TEXT, rank, sig, style
from flowjax import records

LUMINANCE = (0.3, 0.6, 0.1)  # weights of red, green and blue
LEAST_GAP = 0.06  # of the axis, between two ticks with a number
LABELS = {  # of axes that show these fields
    "nfe": "evaluations (NFE)",
    "steps": "steps",
    "rms": "relative RMS error",
    "median": "relative median error",
}
LONG_NAME = 18  # characters: three columns of longer names do not fit into a narrow figure


# ---- lines with bands


def median_band(
    values: Iterable[float], *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(median, low, high): the median with its 95% interval, by resampling (bootstrap).

    A single value is its own interval. Infinite values take part: a solver that diverges on most
    seeds has an infinite median. NaN makes all three NaN.
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        return math.nan, math.nan, math.nan
    ordered = np.sort(values)
    lower = ordered[(len(values) - 1) // 2]
    upper = ordered[len(values) // 2]
    median = lower if upper == lower else (lower + upper) / 2

    # Medians of resamples are order statistics, not np.median: so there is no inf - inf, and the
    # ends of the interval are measured values.
    picks = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    middle = np.sort(picks, axis=1)[:, (len(values) - 1) // 2]
    medians = np.sort(ordered[middle])
    low, high = medians[[int(0.025 * resamples), int(0.975 * resamples) - 1]]
    return float(median), float(low), float(high)


def _shows(value: float) -> bool:
    """Whether a logarithmic axis can show `value`."""
    return 0 < value < math.inf


def log_log(
    ax: Axes,
    rows: Sequence[dict],
    *,
    x: str,
    y: str,
    by: str = "solver",
    xlabel: str | None = None,
    ylabel: str | None = None,
    guides: Sequence[int] = (),
) -> list[dict]:
    """Median of `y` against `x` for each value of `by`, with the band over rows that share a point.

    What a logarithm cannot show (inf, NaN, 0) is a cross on the upper edge.

    Args:
      ax: where to draw.
      rows: of an experiment.
      x, y, by: names of fields.
      xlabel, ylabel: of the axes; by default what `LABELS` has, or the names of the fields.
      guides: orders p of thin lines with slope -p.

    Returns:
      The points drawn, a list of dicts {by, x, median, low, high, rows}: the table behind the
      figure.
    """
    points = _points(rows, x, y, by)
    looks = []
    for name, group in itertools.groupby(points, key=lambda point: point[by]):
        look = style(name, looks)
        looks.append(look)
        _draw_line(ax, list(group), x, str(name), look)

    ax.set(
        xscale="log",
        yscale="log",
        xlabel=xlabel or LABELS.get(x, x),
        ylabel=ylabel or LABELS.get(y, y),
    )
    places = sorted({point[x] for point in points})
    measured_ticks(ax.xaxis, places)

    seen = [point["median"] for point in points if _shows(point["median"])]
    if seen and len(places) > 1:
        _draw_guides(ax, guides, places[0], places[-1], max(seen))
    # Panels that share an axis have one set of ticks, and so the limits of the first are enough.
    if seen:
        decade_ticks(ax.yaxis, ax.get_ylim())
    _merge_legends(ax.figure)
    return points


def measured_ticks(axis: Axis, values: Sequence[float]) -> None:
    """Ticks of a logarithmic axis at the values measured, with as many numbers as have room."""
    # Distances are those on the axis, as fractions of what was measured.
    values = sorted(set(values))
    logs = np.log(values)
    whole = max(logs[-1] - logs[0], 1e-9)
    # From the largest down, so that both ends of what was measured are read.
    numbered = [len(values) - 1]
    for i in range(len(values) - 2, 0, -1):
        is_clear = (logs[i] - logs[0]) / whole >= LEAST_GAP
        if is_clear and (logs[numbered[-1]] - logs[i]) / whole >= LEAST_GAP:
            numbered.append(i)
    numbered.append(0)
    labels = [sig(value) if i in numbered else "" for i, value in enumerate(values)]
    axis.set_ticks(values, labels)
    axis.set_minor_locator(NullLocator())


def decade_ticks(axis: Axis, limits: tuple[float, float]) -> None:
    """Plain numbers (0.01, 0.1, 1) on a logarithmic axis, and no powers of ten."""
    low, high = sorted(np.log10(limits))
    # Fewer ticks a decade where there are more decades.
    decades = high - low
    mantissas = (1, 2, 5) if decades < 1.5 else (1, 3) if decades < 3 else (1,)
    every = max(1, round(decades / 8))
    exponents = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    ticks = [m * 10.0**e for e in exponents if e % every == 0 for m in mantissas]
    ticks = [tick for tick in ticks if low - 1e-9 <= np.log10(tick) <= high + 1e-9]
    axis.set_ticks(ticks, [plain(tick) for tick in ticks])
    axis.set_minor_locator(NullLocator())


def plain(value: float) -> str:
    """A tick's number without zeros that say nothing: 0.01, 3, 1e-5."""
    return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")


def _points(rows: Sequence[dict], x: str, y: str, by: str) -> list[dict]:
    """The points of `log_log`: solvers in the order of the legend, `x` increasing."""
    cells = records.table(rows, (by, x), y)
    points = []
    for name, at in sorted(cells, key=lambda cell: (rank(cell[0]), cell[1])):
        values = cells[name, at]
        median, low, high = median_band(values)
        point = {by: name, x: at, "median": median, "low": low, "high": high, "rows": len(values)}
        points.append(point)
    return points


def _draw_line(ax: Axes, points: list[dict], x: str, label: str, look: dict) -> None:
    """One solver: its medians, its band, and crosses for what a logarithm cannot show."""
    shown = [point for point in points if _shows(point["median"])]
    at = [point[x] for point in shown]
    ax.plot(at, [point["median"] for point in shown], label=label, **look)

    if any(point["rows"] > 1 for point in shown):
        # An end that a logarithm cannot show is drawn at the median.
        low, high = (
            [point[end] if _shows(point[end]) else point["median"] for point in shown]
            for end in ("low", "high")
        )
        ax.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)

    lost = [point[x] for point in points if point not in shown]
    # An empty line that is not clipped would upset the layout.
    if lost:
        edge = {"transform": ax.get_xaxis_transform(), "clip_on": False}
        ax.plot(lost, [0.99] * len(lost), "x", color=look["color"], **edge)


def _draw_guides(ax: Axes, orders: Sequence[int], first: float, last: float, top: float) -> None:
    """Lines error ~ x^-p through (first, top), within the limits that the axes have now."""
    limits = ax.get_ylim()
    for order in orders:
        at = np.asarray([first, last], float)
        line = top * (at / first) ** -order
        ax.plot(at, line, color=GREY, linewidth=0.8, linestyle=DOTTED, zorder=1)

        # The name stands where the guide leaves the frame.
        end = min(last, first * (top / limits[0]) ** (1 / order))
        place = {"xytext": (7, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
        height = top * (end / first) ** -order
        ax.annotate(f"slope {order}", (end, height), color=GREY, fontsize=TEXT, **place)
    ax.set_ylim(limits)


def _merge_legends(fig: Figure) -> None:
    """One legend below all panels, in place of an earlier one, since panels have common solvers."""
    for earlier in list(fig.legends):
        earlier.remove()
    lines = {}
    for ax in fig.axes:
        for line, label in zip(*ax.get_legend_handles_labels(), strict=True):
            lines[label] = line
    names = sorted(lines, key=rank)
    is_narrow = fig.get_figwidth() < 7
    columns = 2 if is_narrow and max(map(len, names)) > LONG_NAME else 3
    fig.legend([lines[name] for name in names], names, loc="outside lower center", ncols=columns)


# ---- heat maps


def _levels(values: Iterable) -> list:
    """The distinct values: sorted when they are numbers, else in the order of appearance."""
    levels = list(dict.fromkeys(values))
    return sorted(levels) if all(isinstance(v, numbers.Number) for v in levels) else levels


def heatmap(
    ax: Axes,
    rows: Sequence[dict],
    *,
    x: str,
    y: str,
    value: str,
    log: bool = False,
    label: str | None = None,
    text: Callable[[float], str] = sig,
    centre: float | None = None,
    reach: float | None = None,
) -> list[dict]:
    """Median of `value` as a coloured cell with its number; no colour where it is not finite.

    Args:
      ax: where to draw.
      rows: of an experiment.
      x, y: the fields across and down.
      value: the field that is drawn.
      log: whether colours are of the logarithm.
      label: of the colour bar; the name of the field by default.
      text: the number's text.
      centre: the value without colour, for ratios and differences; blue lies below, red above.
      reach: how far colours go from the centre (a factor with `log`), for panels with one scale.

    Returns:
      The cells, a list of dicts {y, x, value}.
    """
    across = _levels(row[x] for row in rows)
    down = _levels(row[y] for row in rows)
    cells = {
        cell: median_band(values)[0] for cell, values in records.table(rows, (y, x), value).items()
    }
    grid = np.asarray([[cells.get((j, i), math.nan) for i in across] for j in down], float)
    without_colour = ~np.isfinite(grid) | (log & (grid <= 0))
    drawn = np.ma.masked_where(without_colour, grid)
    colours = "cividis" if centre is None else "RdBu_r"
    mesh = ax.pcolormesh(
        drawn, cmap=colours, norm=_norm(drawn, log, centre, reach), edgecolors="none"
    )

    for (j, i), number in np.ndenumerate(grid):
        if without_colour[j, i]:
            colour = INK
        else:
            # Where all cells are equal the scale gives an array of one number.
            shade = np.reshape(mesh.cmap(mesh.norm(number)), 4)
            is_dark = np.dot(shade[:3], LUMINANCE) < 0.5
            colour = "white" if is_dark else "black"
        # A missing cell and one that is not finite have no colour; only the second has a number.
        shown = text(float(number)) if (down[j], across[i]) in cells else "–"
        place = {"ha": "center", "va": "center", "fontsize": TEXT}
        ax.text(i + 0.5, j + 0.5, shown, color=colour, **place)

    ax.set_xticks(np.arange(len(across)) + 0.5, [sig(v) for v in across])
    ax.set_yticks(np.arange(len(down)) + 0.5, [sig(v) for v in down])
    ax.set(xlabel=LABELS.get(x, x), ylabel=LABELS.get(y, y))
    ax.invert_yaxis()
    ax.grid(False)
    bar = ax.figure.colorbar(mesh, ax=ax, label=label or LABELS.get(value, value))
    bar.outline.set_visible(False)
    if log and drawn.count():
        decade_ticks(bar.ax.yaxis, (mesh.norm.vmin, mesh.norm.vmax))
    return [{y: j, x: i, value: number} for (j, i), number in cells.items()]


def _norm(
    drawn: np.ma.MaskedArray, log: bool, centre: float | None, reach: float | None
) -> Normalize:
    """The scale of the colours; with a centre, as far below it as above."""
    if not drawn.count():
        return Normalize(0, 1)
    least, most = float(drawn.min()), float(drawn.max())
    if centre is not None and log:
        factor = reach or max(most / centre, centre / least, 1.01)
        return LogNorm(centre / factor, centre * factor)
    if centre is not None:
        reach = reach or max(most - centre, centre - least, 1e-9)
        return Normalize(centre - reach, centre + reach)
    return (LogNorm if log else Normalize)(least, most)


# ---- ROC curves


def roc(ax: Axes, rows: Sequence[dict], *, score: str, truth: str, by: str) -> list[dict]:
    """How well a score predicts a truth: true against false positives, for each value of `by`.

    Args:
      ax: where to draw.
      rows: of an experiment.
      score: the field with the score; larger predicts that the truth holds.
      truth: the field with the truth, a bool.
      by: the field of which each value has a curve.

    Returns:
      A list of dicts {by, auc, positives, negatives}; auc, the area under the curve, is NaN where
      all truths are equal.

    Raises:
      ValueError: a score is NaN.
    """
    found = []
    pairs = [{by: row[by], "pair": (row[score], row[truth])} for row in rows]
    for name, group in records.table(pairs, by, "pair").items():
        scores, truths = (np.asarray(column) for column in zip(*group, strict=True))
        truths = truths.astype(bool)
        if np.isnan(scores.astype(float)).any():
            raise ValueError(
                f"report.roc: a {score!r} of {name!r} is NaN, which ranks nowhere; "
                "leave those rows out."
            )
        positives, negatives = int(truths.sum()), int((~truths).sum())
        auc = math.nan
        if positives and negatives:
            hits, false = _positive_fractions(scores, truths)
            auc = float(np.trapezoid(hits, false))
            ax.plot(false, hits, label=f"{name} (AUC {sig(auc)})")
        found.append({by: name, "auc": auc, "positives": positives, "negatives": negatives})

    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=DOTTED)
    ax.set(xlabel="false positives", ylabel="true positives", xlim=(0, 1), ylim=(0, 1.01))
    ax.set_aspect("equal")
    ax.legend(*ax.get_legend_handles_labels(), loc="lower right")
    return found


def _positive_fractions(scores: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(true positives, false positives) as fractions, for every threshold from high to low."""
    # One point for each distinct score: no threshold separates rows of equal scores.
    thresholds = np.unique(scores)[::-1]
    hits = [0, *(np.sum(scores[truths] >= threshold) for threshold in thresholds)]
    false = [0, *(np.sum(scores[~truths] >= threshold) for threshold in thresholds)]
    hits, false = np.asarray(hits, float), np.asarray(false, float)
    return hits / hits[-1], false / false[-1]


# ---- bars


def bar_ledger(
    ax: Axes,
    rows: Sequence[dict],
    *,
    label: str,
    value: str,
    low: str | None = None,
    high: str | None = None,
    xlabel: str | None = None,
    text: Callable[[float], str] = sig,
    start: float = 0.0,
) -> None:
    """One horizontal bar a row, in the order given, with its number at its end.

    Args:
      ax: where to draw.
      rows: of an experiment.
      label: the field with the name of a bar.
      value: the field with its length.
      low, high: the fields with the ends of an interval.
      xlabel: of the axis; the name of `value` by default.
      text: the number's text, at the bars and on the axis.
      start: where bars begin: 0, or 1 for ratios.
    """
    places = np.arange(len(rows))
    values = [row[value] for row in rows]
    lengths = [v - start if math.isfinite(v) else 0 for v in values]
    colours = [BLUE if length >= 0 else RED for length in lengths]
    ax.barh(places, lengths, left=start, color=colours, height=0.62)

    # A number stands beyond its bar and beyond its interval.
    ends = [start + length for length in lengths]
    if low and high:
        lows = [row[low] for row in rows]
        highs = [row[high] for row in rows]
        ax.hlines(places, lows, highs, color=INK, linewidth=1)
        ends = [
            max(upper, start) if length >= 0 else min(lower, start)
            for length, lower, upper in zip(lengths, lows, highs, strict=True)
        ]
    for place, end, number in zip(places, ends, values, strict=True):
        side = 1 if end >= start else -1
        at = {"xytext": (4 * side, 0), "textcoords": "offset points", "va": "center"}
        align = "left" if side > 0 else "right"
        ax.annotate(text(number), (end, place), fontsize=TEXT, ha=align, **at)

    ax.set_yticks(places, [str(row[label]) for row in rows])
    ax.set(xlabel=xlabel or LABELS.get(value, value))
    # Room for the numbers beyond the bars.
    ax.margins(x=0.2)
    ax.axvline(start, color=INK, linewidth=0.8)
    ax.grid(False, axis="y")
    ax.invert_yaxis()
    # The axis has the form of the numbers: fractions with percent, ratios without.
    if text is not sig:
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.xaxis.set_major_formatter(lambda at, _: text(at))
