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
    fig, axes = report.canvas(len(shown), len(pairs), width=9.4, height=3.0 * len(shown) + 0.4)
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
            ax.set(
                xscale="log", yscale="log", xlabel="evaluations (NFE)", ylabel="ratio of RMS errors"
            )
            drawing.plain_ticks(ax.xaxis, [nfe for nfe, _ in drawn])
            drawing.plain_ticks(ax.yaxis, [ratio for _, ratio in drawn])
            ax.set_title(f"{a.removeprefix('DPM++ ')} / {b.removeprefix('DPM++ ')}, {grid}")
    drawing.legend_below(fig, axes[0, 0], 6)
    return report.picture(
        fig,
        "Ratio of the errors of 2M and Euler, and of 3M exact and 2M, against NFE; a line a "
        "scale, a row a grid.",
        "Below the line the higher order wins. Geometric mean over the fields.",
        title=_worth(own, scales),
    )


def _worth(own: list[dict], scales: list[float]) -> str:
    """What 2M is worth over Euler at the least and the greatest scale, as a claim."""
    means = []
    for scale in (scales[0], scales[-1]):
        errors = [errors_of(row) for row in own if row["scale"] == scale]
        means.append(geometric_mean(e["DPM++ 2M"] / e["Euler"] for e in errors))
    least, most = map(report.sig, means)
    return (
        f"2M has {least} times the error of Euler at guidance {scales[0]:g} and {most} times at "
        f"{scales[-1]:g}"
    )


def draw_errors(rows: list[dict]) -> report.Picture:
    """Error against evaluations on the first field and grid, at the two ends of the scales."""
    own = [row for row in rows if row["part"] == "error"]
    name, grid = own[0]["field"], own[0]["grid"]
    scales = sorted({row["scale"] for row in own})
    # The least and the greatest scale side by side.
    ends = [scales[0], scales[-1]]
    fig, axes = report.canvas(1, 2, width=9.2, height=4.0)
    for ax, scale in zip(axes, ends, strict=True):
        cells = [r for r in own if (r["field"], r["grid"], r["scale"]) == (name, grid, scale)]
        drawn = [
            {"nfe": row["nfe"], **line}
            for row in cells
            for line in row["solvers"]
            if line["solver"] != "UniPC2"
        ]
        report.log_log(ax, drawn, x="nfe", y="rms")
        ax.set_title(f"{name}, {grid}, scale {scale:g}")
    return report.picture(
        fig,
        f"Error against NFE on the {name} at scales {ends[0]:g} and {ends[1]:g}.",
        "Relative to the size of the guided field's own endpoints.",
        title=_grown(own, name, grid, ends),
    )


def _grown(own: list[dict], field: str, grid: str, ends: list[float]) -> str:
    """By how much the error of 2M grows with guidance, on one field and grid, as a claim."""
    most = max(row["nfe"] for row in own)
    low, high = (
        next(
            errors_of(row)["DPM++ 2M"]
            for row in own
            if (row["field"], row["grid"], row["scale"], row["nfe"]) == (field, grid, scale, most)
        )
        for scale in ends
    )
    return (
        f"On the {field}, {grid}, 2M's error at {most} evaluations goes from {report.sig(low)} at "
        f"guidance {ends[0]:g} to {report.sig(high)} at {ends[1]:g}"
    )
