"""Figures at phone size, in one style: solvers keep their colour and marker, medians their bands.

Importing this module sets matplotlib's style (rcParams).
"""

import itertools
import math
import numbers

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flowjax import records

INK, RULE = (
    "#1b1f24",
    "#d3d8de",
)  # become the page's own text and rule colours when a figure is put into it
# Okabe and Ito's colours: told apart with any colour vision, and visible on white and on black.
BLUE, RED, GREEN, PINK, SKY, AMBER, GREY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#e69f00",
    "#8a8f98",
)

# Colour is the family, the marker is the order; dashed and hollow is a published form beside our exact one.
SOLVERS = {
    "Euler": (INK, "o", "-"),
    "DDIM": (INK, "o", ":"),
    "Heun": (AMBER, "s", "-"),
    "RK4": (AMBER, "D", "-"),
    "AB2": (GREEN, "s", "-"),
    "AB3": (GREEN, "^", "-"),
    "DPM++ 2M": (BLUE, "s", "-"),
    "DPM++ 3M exact": (RED, "^", "-"),
    "DPM++ 3M published": (RED, "v", "--"),
    "DPM++ 2S": (PINK, "s", "-"),
    "DPM++ 3S": (PINK, "^", "-"),
    "UniPC2": (SKY, "s", "-"),
    "UniPC3": (SKY, "^", "-"),
    "DEIS2": (GREY, "s", "-."),
    "DEIS3": (GREY, "^", "-."),
}

matplotlib.rcParams.update(
    {
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
        ),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
        **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
        "axes.prop_cycle": matplotlib.cycler(color=[BLUE, RED, GREEN, PINK, SKY, AMBER, GREY]),
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.titlelocation": "left",
        "axes.titlesize": 9,
        "font.size": 9,
        "legend.fontsize": 8,
        "grid.color": RULE,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "svg.fonttype": "none",  # text stays text: small, selectable, in the page's font
        "svg.hashsalt": "flowjax",  # the same rows give the same bytes
    }
)


def sig(x, digits=2):
    """`x` with so many significant digits: 0.012, 3.1, 12000, 1.2e-5, inf; an int as it is, a text unchanged."""
    if isinstance(x, (bool, np.bool_)) or not isinstance(x, numbers.Number):
        return "–" if x is None else str(x)
    if isinstance(x, numbers.Integral) or not math.isfinite(x) or x == 0:
        return f"{x:d}" if isinstance(x, numbers.Integral) else f"{x:g}".replace("-0", "0")
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    if -4 < int(exponent) < 5:
        return f"{float(f'{mantissa}e{exponent}'):.{max(digits - 1 - int(exponent), 0)}f}"
    return f"{mantissa}e{int(exponent)}"


def canvas(rows=1, columns=1, *, width=4.6, height=3.4):
    """(figure, axes) at phone size: 9 point text on 4.6 inch is read at 400 pixels, and is not huge at 600."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns)


def _known(name):
    """The longest name in SOLVERS that `name` begins with, or None."""
    return max((known for known in SOLVERS if str(name).startswith(known)), key=len, default=None)


def style(name, beside=()):
    """Line2D options of a solver: by its name in SOLVERS, or by the longest one it begins with; else grey.

    Colour and marker are fixed. `beside` holds the options of lines drawn already: a variant ("DPM++ 2M, shift 3") that
    would look like one of them gets another dash.
    """
    colour, marker, line = SOLVERS.get(_known(name), (GREY, "x", "-"))
    taken = [
        look["linestyle"] for look in beside if (look["color"], look["marker"]) == (colour, marker)
    ]
    line = next((dash for dash in (line, "-", "--", ":", "-.") if dash not in taken), line)
    fill = {"markerfacecolor": "none"} if line == "--" else {}
    return {"color": colour, "marker": marker, "linestyle": line, **fill}


def median_band(values, *, resamples=1000, seed=0):
    """(median, low, high): the 95% bootstrap interval of the median; a single value is its own interval.

    Infinite values take part (a solver that diverges on most seeds has an infinite median); NaN makes all three NaN.
    """
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        return math.nan, math.nan, math.nan
    pick = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    ordered = np.sort(values)
    # an order statistic instead of np.median: no inf - inf, and the interval's ends are measured values
    middle = ordered[np.sort(pick, axis=1)[:, (len(values) - 1) // 2]]
    low, high = np.sort(middle)[[int(0.025 * resamples), int(0.975 * resamples) - 1]]
    upper, lower = ordered[len(values) // 2], ordered[(len(values) - 1) // 2]
    return float(lower if upper == lower else (lower + upper) / 2), float(low), float(high)


def log_log(ax, rows, *, x, y, by="solver", xlabel=None, ylabel=None, guides=()):
    """Median of `y` against `x` for each value of `by`, with its bootstrap band over the rows that share a point.

    What a logarithm cannot show (inf, NaN, 0) is a cross on the upper edge. `guides` are thin lines of slope -p.

    Returns:
      the points drawn, a list of dicts {by, x, median, low, high, rows}: the table behind the figure.
    """
    points = []
    for (name, at), values in sorted(
        records.table(rows, (by, x), y).items(), key=lambda item: (_rank(item[0][0]), item[0][1])
    ):
        median, low, high = median_band(values)
        points.append(
            {by: name, x: at, "median": median, "low": low, "high": high, "rows": len(values)}
        )
    looks = []
    for name, group in itertools.groupby(points, key=lambda point: point[by]):
        group = list(group)
        shown = [p for p in group if 0 < p["median"] < math.inf]
        lost = [p[x] for p in group if p not in shown]
        looks.append(look := style(name, looks))
        at = [p[x] for p in shown]
        ax.plot(at, [p["median"] for p in shown], label=str(name), **look)
        if any(p["rows"] > 1 for p in shown):
            low, high = (
                [p[end] if 0 < p[end] < math.inf else p["median"] for p in shown]
                for end in ("low", "high")
            )
            ax.fill_between(at, low, high, color=look["color"], alpha=0.18, linewidth=0)
        if lost:  # an empty line that is not clipped upsets the layout
            ax.plot(
                lost,
                [0.99] * len(lost),
                "x",
                color=look["color"],
                transform=ax.get_xaxis_transform(),
                clip_on=False,
            )
    ax.set(xscale="log", yscale="log", xlabel=xlabel or x, ylabel=ylabel or y)
    places = sorted({p[x] for p in points})
    if len(places) <= 10:
        ax.set_xticks(places, [sig(place) for place in places])
        ax.xaxis.set_minor_locator(NullLocator())
    seen = [p for p in points if 0 < p["median"] < math.inf]
    if seen and len(places) > 1:
        _draw_guides(ax, guides, places[0], places[-1], max(p["median"] for p in seen))
    _share_legend(ax.figure)
    return points


def _share_legend(fig):
    """One legend below the whole figure, in place of an earlier one: panels share their solvers."""
    for earlier in list(fig.legends):
        earlier.remove()
    lines = {
        label: line
        for ax in fig.axes
        for line, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    names = sorted(lines, key=_rank)
    columns = (
        2 if max(map(len, names)) > 18 and fig.get_figwidth() < 7 else 3
    )  # what the figure's width holds
    fig.legend([lines[name] for name in names], names, loc="outside lower center", ncols=columns)


def _rank(name):
    """Solvers in the order of SOLVERS, variants after their solver, all others after them by name."""
    known = _known(name)
    return (list(SOLVERS).index(known) if known else len(SOLVERS), str(name))


def _draw_guides(ax, orders, first, last, top):
    limits = ax.get_ylim()
    for order in orders:
        at = np.asarray([first, last], float)
        ax.plot(
            at,
            top * (at / first) ** -order,
            color=GREY,
            linewidth=0.8,
            linestyle=(0, (1, 3)),
            zorder=1,
        )
        end = min(
            last, first * (top / limits[0]) ** (1 / order)
        )  # where the guide leaves the frame
        place = {"xytext": (7, 0), "textcoords": "offset points", "ha": "left", "va": "center"}
        ax.annotate(
            f"slope {order}", (end, top * (end / first) ** -order), color=GREY, fontsize=7, **place
        )
    ax.set_ylim(limits)


def _levels(values):
    """The distinct values: in order when they are numbers, else as they come."""
    levels = list(dict.fromkeys(values))
    return sorted(levels) if all(isinstance(v, numbers.Number) for v in levels) else levels


def heatmap(ax, rows, *, x, y, value, log=False, label=None, text=sig):
    """Median of `value` as a coloured cell with its number, `x` across and `y` down; no colour where nothing finite is.

    Returns:
      the cells, a list of dicts {y, x, value}.
    """
    across, down = _levels(row[x] for row in rows), _levels(row[y] for row in rows)
    cells = {
        cell: median_band(values)[0] for cell, values in records.table(rows, (y, x), value).items()
    }
    grid = np.asarray([[cells.get((j, i), math.nan) for i in across] for j in down], float)
    drawn = np.ma.masked_where(~np.isfinite(grid) | (log & (grid <= 0)), grid)
    mesh = ax.pcolormesh(drawn, cmap="cividis", norm="log" if log else "linear", edgecolors="none")
    for (j, i), number in np.ndenumerate(grid):
        hidden = np.ma.getmaskarray(drawn)[j, i]
        dark = not hidden and np.dot(mesh.cmap(mesh.norm(number))[:3], (0.3, 0.6, 0.1)) < 0.5
        colour = INK if hidden else "white" if dark else "black"
        shown = text(float(number)) if (down[j], across[i]) in cells else "–"
        ax.text(i + 0.5, j + 0.5, shown, ha="center", va="center", fontsize=7, color=colour)
    ax.set_xticks(np.arange(len(across)) + 0.5, [sig(v) for v in across])
    ax.set_yticks(np.arange(len(down)) + 0.5, [sig(v) for v in down])
    ax.set(xlabel=x, ylabel=y)
    ax.invert_yaxis()
    ax.grid(False)
    ax.figure.colorbar(mesh, ax=ax, label=label or value).outline.set_visible(False)
    return [{y: j, x: i, value: number} for (j, i), number in cells.items()]


def roc(ax, rows, *, score, truth, by):
    """How well a `score` tells the rows where `truth` holds: true against false positives, for each value of `by`.

    Returns:
      list of dicts {by, auc, positives, negatives}; auc is nan where one of the two kinds is missing.
    """
    found = []
    for name, pairs in records.table(
        [{**row, "pair": (row[score], row[truth])} for row in rows], by, "pair"
    ).items():
        scores, truths = (np.asarray(column) for column in zip(*pairs, strict=True))
        truths = truths.astype(bool)
        if np.isnan(scores.astype(float)).any():
            raise ValueError(
                f"report.roc: a {score!r} of {name!r} is NaN, which ranks nowhere; leave those rows out."
            )
        # one point a distinct score: rows of equal score are told apart by nobody
        cuts = np.unique(scores)[::-1]
        hit = np.asarray([0, *(np.sum(scores[truths] >= cut) for cut in cuts)], float)
        false = np.asarray([0, *(np.sum(scores[~truths] >= cut) for cut in cuts)], float)
        auc = math.nan
        if hit[-1] and false[-1]:
            hit, false = hit / hit[-1], false / false[-1]
            auc = float(np.trapezoid(hit, false))
            ax.plot(false, hit, label=f"{name} (AUC {sig(auc)})")
        found.append(
            {
                by: name,
                "auc": auc,
                "positives": int(truths.sum()),
                "negatives": int((~truths).sum()),
            }
        )
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=(0, (1, 3)))
    ax.set(
        xlabel="false positives",
        ylabel="true positives",
        xlim=(0, 1),
        ylim=(0, 1.01),
        aspect="equal",
    )
    ax.legend(*ax.get_legend_handles_labels(), loc="lower right")
    return found


def bar_ledger(ax, rows, *, label, value, low=None, high=None, xlabel=None, text=sig):
    """One horizontal bar a row, in the order given, with its number at its end; `low`, `high` name an interval's ends."""
    places, values = np.arange(len(rows)), [row[value] for row in rows]
    finite = [v if math.isfinite(v) else 0 for v in values]
    ax.barh(places, finite, color=[BLUE if v >= 0 else RED for v in finite], height=0.62)
    ends = list(finite)
    if low and high:
        ax.hlines(
            places, [row[low] for row in rows], [row[high] for row in rows], color=INK, linewidth=1
        )
        ends = [
            max(row[high], 0) if v >= 0 else min(row[low], 0)
            for row, v in zip(rows, finite, strict=True)
        ]
    for place, end, number in zip(places, ends, values, strict=True):
        side = 1 if end >= 0 else -1
        at = {
            "xytext": (4 * side, 0),
            "textcoords": "offset points",
            "va": "center",
            "ha": "left" if side > 0 else "right",
        }
        ax.annotate(text(number), (end, place), fontsize=8, **at)
    ax.set_yticks(places, [str(row[label]) for row in rows])
    ax.set(xlabel=xlabel or value)
    ax.margins(x=0.16)
    ax.axvline(0, color=INK, linewidth=0.8)
    ax.grid(False, axis="y")
    ax.invert_yaxis()
