"""Ratios of successive orders against evaluations, and errors at the two ends of the scales."""

import numpy as np

from experiments import report
from experiments.lab.statistics import geometric_mean
from experiments.order import drawing
from experiments.order.guided.numbers import PAIRS, errors_of

COLOURS = (report.BLUE, report.GREEN, report.AMBER, report.RED, report.PINK, report.SKY)


# One point for each number of evaluations.
def _ratios(cells: list[dict], a: str, b: str) -> list[tuple[int, float]]:
    """[(nfe, geometric mean of the ratio of the errors of a and b)]."""
    points = []
    for nfe in sorted({row["nfe"] for row in cells}):
        errors = [errors_of(row) for row in cells if row["nfe"] == nfe]
        points.append((nfe, geometric_mean(e[a] / e[b] for e in errors if a in e and b in e)))
    return points


def draw_ratios(rows: list[dict]) -> report.Picture:
    """Ratio of errors against evaluations: a curve a scale, a row of panels a grid."""
    own = [row for row in rows if row["part"] == "error"]
    shown = list(dict.fromkeys(row["grid"] for row in own))
    scales = sorted({row["scale"] for row in own})
    # Order 2 over Euler on the left, order 3 over order 2 on the right.
    pairs = (PAIRS[2], PAIRS[0])
    fig, axes = report.canvas(len(shown), len(pairs), width=6.2, height=2.5 * len(shown) + 0.5)
    axes = np.atleast_2d(axes)
    for panels, grid in zip(axes, shown, strict=True):
        for ax, (a, b) in zip(panels, pairs, strict=True):
            drawn = []
            for i, scale in enumerate(scales):
                cells = [row for row in own if (row["grid"], row["scale"]) == (grid, scale)]
                points = _ratios(cells, a, b)
                drawn += points
                ax.plot(
                    *zip(*points, strict=True),
                    "o-",
                    color=COLOURS[i % len(COLOURS)],
                    markersize=3.5,
                    label=f"scale {scale:g}",
                )
            # Below this line the higher order wins.
            ax.axhline(1, color=report.INK, linewidth=0.8)
            ax.set(xscale="log", yscale="log", xlabel="NFE", ylabel="ratio of RMS errors")
            drawing.plain_ticks(ax.xaxis, [nfe for nfe, _ in drawn])
            drawing.plain_ticks(ax.yaxis, [ratio for _, ratio in drawn])
            ax.set_title(f"{a.removeprefix('DPM++ ')} / {b.removeprefix('DPM++ ')}, {grid}")
    drawing.legend_below(fig, axes[0, 0], 4)
    return report.picture(
        fig,
        "Ratio of the errors of 2M and Euler, and of 3M exact and 2M, against NFE; a line a "
        "scale, a row a grid.",
        "Below the line the higher order wins. Geometric mean over the fields.",
    )


def draw_errors(rows: list[dict]) -> report.Picture:
    """Error against evaluations on the first field and grid, at the two ends of the scales."""
    own = [row for row in rows if row["part"] == "error"]
    name, grid = own[0]["field"], own[0]["grid"]
    scales = sorted({row["scale"] for row in own})
    # The least and the greatest scale side by side.
    ends = [scales[0], scales[-1]]
    fig, axes = report.canvas(1, 2, width=6.6, height=3.8)
    for ax, scale in zip(axes, ends, strict=True):
        cells = [r for r in own if (r["field"], r["grid"], r["scale"]) == (name, grid, scale)]
        drawn = [
            {"nfe": row["nfe"], **line}
            for row in cells
            for line in row["solvers"]
            if line["solver"] != "UniPC2"
        ]
        report.log_log(ax, drawn, x="nfe", y="rms", ylabel="relative RMS error", xlabel="NFE")
        ax.set_title(f"{name}, {grid}, scale {scale:g}")
    return report.picture(
        fig,
        f"Error against NFE on the {name} at scales {ends[0]:g} and {ends[1]:g}.",
        "Relative to the size of the guided field's own endpoints.",
    )
