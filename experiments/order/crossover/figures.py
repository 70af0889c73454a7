"""Observed crossovers against the law, and ratios of errors against evaluations over the law."""

from experiments import report
from experiments.order import drawing
from experiments.order.crossover.numbers import law

# The two readings of the end that are drawn, and their titles.
DRAWN = {"own": "the run as it is", "solved": "the end solved accurately"}
# Colour and marker of each pair.
MARKS = {
    "DPM++ 2M below Euler": (report.BLUE, "s"),
    "DPM++ 3M exact below DPM++ 2M": (report.RED, "^"),
    "DPM++ 3M published below DPM++ 2M": (report.AMBER, "v"),
}
COLOURS = (report.BLUE, report.RED, report.GREEN, report.AMBER, report.PINK, report.SKY)


def draw_law(table: list[dict], reach: tuple[int, int]) -> report.Picture:
    """Observed crossovers against the law; `reach` are the least and the most evaluations tried."""
    fig, axes = report.canvas(len(DRAWN), 1, width=4.6, height=6.8)
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
            xlabel="N* by the law",
            ylabel="N* observed",
            ylim=(reach[0] / 1.3, reach[1] * 1.3),
        )
        # Both axes span a few decades at most, so plain numbers are read faster.
        drawing.plain_ticks(ax.xaxis, ends)
        drawing.plain_ticks(ax.yaxis, reach)
        ax.set_title(DRAWN[end])
    drawing.legend_below(fig, axes[0], 1)
    return report.picture(
        fig,
        "Observed crossovers against the law, log-log, with the diagonal; one panel a reading of "
        "the end.",
        "Median errors; a point a width and shift. Hollow marks are bounds: the crossover lies "
        "outside the range tried.",
    )


def _ratio(row: dict) -> float:
    return row["rms"]["DPM++ 3M exact"] / row["rms"]["DPM++ 2M"]


def _over_law(row: dict) -> float:
    return row["nfe"] / law(row["std"], row["shift"], 3)


def draw_collapse(rows: list[dict]) -> report.Picture:
    """Ratio of the errors of orders 3 and 2 against evaluations over the law."""
    fig, axes = report.canvas(len(DRAWN), 1, width=4.6, height=6.2)
    shifts = sorted({r["shift"] for r in rows})
    # A curve for each width and shift; its colour is the shift.
    widths = sorted({r["std"] for r in rows})
    for ax, end in zip(axes, DRAWN, strict=True):
        for std in widths:
            for shift, colour in zip(shifts, COLOURS, strict=False):
                own = [r for r in rows if (r["end"], r["std"], r["shift"]) == (end, std, shift)]
                # Rows may have been measured in any order.
                own.sort(key=lambda r: r["nfe"])
                # One entry of the legend for each shift.
                label = f"shift {shift:g}" if std == widths[0] else None
                ax.plot(
                    [_over_law(r) for r in own],
                    [_ratio(r) for r in own],
                    color=colour,
                    linewidth=1,
                    marker=".",
                    markersize=3,
                    label=label,
                )
        # Order 3 wins below the line; the law says that it does right of the dotted one.
        ax.axhline(1, color=report.INK, linewidth=0.8)
        ax.axvline(1, color=report.INK, linewidth=0.8, linestyle=":")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="NFE / N* by the law",
            ylabel="error of 3M exact / of 2M",
        )
        drawing.plain_ticks(ax.xaxis, [_over_law(r) for r in rows])
        drawing.plain_ticks(ax.yaxis, [_ratio(r) for r in rows if r["end"] == end])
        ax.set_title(DRAWN[end])
    drawing.legend_below(fig, axes[0], 4)
    return report.picture(
        fig,
        "Ratio of RMS errors of orders 3 and 2 against NFE over the law, a line a width and shift.",
        "If the law gives the scale, the lines fall on one another and cross 1 at the dotted "
        "line. RMS errors.",
    )
