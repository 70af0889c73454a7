"""Observed crossovers against the law, and ratios of errors against evaluations over the law."""

import numpy as np

from experiments import report
from experiments.order import drawing
from experiments.order.crossover.numbers import law

# The two readings of the end that are drawn, and their titles.
DRAWN = {"own": "the run as it is", "solved": "the end solved accurately"}
# Colour and marker of each pair.
MARKS = {
    "DPM++ 2M below Euler": (report.style("DPM++ 2M")["color"], "s"),
    "DPM++ 3M exact below DPM++ 2M": (report.style("DPM++ 3M exact")["color"], "^"),
    "DPM++ 3M published below DPM++ 2M": (report.style("DPM++ 3M published")["color"], "v"),
}
BINS = 9  # of evaluations over the law
COLOURS = (report.INK, report.GREEN, report.AMBER, report.PINK, report.SKY, report.GREY)


def draw_law(table: list[dict], reach: tuple[int, int], title: str) -> report.Picture:
    """Observed crossovers against the law; `reach` are the least and the most evaluations tried."""
    fig, axes = report.canvas(1, len(DRAWN), width=4.8 * len(DRAWN), height=4.0)
    for ax, end in zip(axes, DRAWN, strict=True):
        own = [r for r in table if r["end"] == end and r["statistic"] == "median"]
        for pair, (colour, marker) in MARKS.items():
            of_pair = [r for r in own if r["pair"] == pair]
            # Filled marks are crossovers within the range tried, hollow ones are bounds.
            crossovers = [r for r in of_pair if not r["side"]]
            bounds = [r for r in of_pair if r["side"]]
            for points, fill, label in ((crossovers, colour, pair), (bounds, "none", None)):
                ax.plot(
                    [r["law"] for r in points],
                    [r["N*"] for r in points],
                    marker,
                    color=colour,
                    markerfacecolor=fill,
                    label=label,
                )
        # On the diagonal the law is exact.
        ends = [min(r["law"] for r in own), max(r["law"] for r in own)]
        ax.plot(ends, ends, color=report.GREY, linewidth=0.8)
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="evaluations by the law",
            ylabel="evaluations observed",
            ylim=(reach[0] / 1.3, reach[1] * 1.3),
        )
        # Both axes span a few decades at most, so plain numbers are read faster.
        drawing.plain_ticks(ax.xaxis, ends)
        drawing.plain_ticks(ax.yaxis, reach)
        ax.set_title(DRAWN[end])
    drawing.legend_below(fig, axes[0], 3)
    return report.picture(
        fig,
        "Observed crossovers against the law, log-log, with the diagonal; one panel a reading of "
        "the end.",
        "From how many evaluations on the higher order is below the lower one for good, by median "
        "errors; a point a width and shift, the line is the law. Hollow marks are bounds: the "
        "crossover lies outside the range tried.",
        title=title,
    )


def _ratio(row: dict) -> float:
    return row["median"]["DPM++ 3M exact"] / row["median"]["DPM++ 2M"]


def _over_law(row: dict) -> float:
    return row["nfe"] / law(row["std"], row["shift"], 3)


def binned(rows: list[dict], edges: np.ndarray) -> list[dict]:
    """[{at, low, median, high}] of the ratio of errors over widths, by evaluations over the law."""
    at = np.digitize([_over_law(row) for row in rows], edges)
    points = []
    for i in range(1, len(edges)):
        ratios = [_ratio(row) for row, place in zip(rows, at, strict=True) if place == i]
        # A quarter of two is no quarter.
        if len(ratios) >= 4:
            low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            middle = float(np.sqrt(edges[i - 1] * edges[i]))
            points.append({"at": middle, "low": low, "median": median, "high": high})
    return points


def draw_collapse(rows: list[dict]) -> report.Picture:
    """Ratio of the errors of orders 3 and 2 against evaluations over the law, by shift."""
    fig, axes = report.canvas(1, len(DRAWN), width=4.8 * len(DRAWN), height=4.0)
    shifts = sorted({row["shift"] for row in rows})
    least, most = (f(_over_law(row) for row in rows) for f in (min, max))
    edges = np.geomspace(least * 0.999, most * 1.001, BINS + 1)
    for ax, end in zip(axes, DRAWN, strict=True):
        for shift, colour in zip(shifts, COLOURS, strict=False):
            own = [row for row in rows if (row["end"], row["shift"]) == (end, shift)]
            points = binned(own, edges)
            at = [point["at"] for point in points]
            ax.plot(
                at,
                [point["median"] for point in points],
                "o-",
                color=colour,
                markersize=3.5,
                label=f"shift {shift:g}",
            )
            low, high = ([point[end] for point in points] for end in ("low", "high"))
            ax.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        # Order 3 wins below the line; the law says that it does right of the dotted one.
        ax.axhline(1, color=report.INK, linewidth=0.8)
        ax.axvline(1, color=report.INK, linewidth=0.8, linestyle=":")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="evaluations over those by the law",
            ylabel="median error of 3M exact over that of 2M",
        )
        drawing.plain_ticks(ax.xaxis, (least, most))
        report.decade_ticks(ax.yaxis, ax.get_ylim())
        ax.set_title(DRAWN[end])
    drawing.same_height(axes)
    drawing.legend_below(fig, axes[0], 4)
    return report.picture(
        fig,
        "Ratio of median errors of orders 3 and 2 against evaluations over the law, by shift.",
        "Median over the widths and the middle half of them, by shift. If the law gives the scale, "
        "the curves fall on one another and cross 1 at the dotted line.",
        title=_collapse_title(rows),
    )


def _collapse_title(rows: list[dict]) -> str:
    """In how many cells beyond the law order 3 does win, by the run as it is."""
    own = [row for row in rows if row["end"] == "own" and _over_law(row) > 1]
    won = sum(_ratio(row) < 1 for row in own)
    return f"Beyond the law's evaluations order 3 has the lower error in {won} of {len(own)} runs"
