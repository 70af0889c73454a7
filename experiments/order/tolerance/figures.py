"""Error against evaluations of adaptive runs and fixed plans, and maps of the evaluations."""

import numpy as np
from matplotlib.axes import Axes

from experiments import report
from experiments.order import drawing
from experiments.order.tolerance.numbers import PUBLIC, front

COLOURS = {
    "order 2": (report.BLUE, "o"),
    "order 3": (report.RED, "o"),
    "Runge-Kutta 5": (report.AMBER, "D"),
}


# The plan that is most often the best, and the formulas of the adaptive methods.
DRAWN = ("AB3, uniform", "DPM++ 2S, log-SNR", "DPM++ 3S, log-SNR")


def _columns(points: list[dict]) -> tuple[list[float], list[float]]:
    return [p["nfe"] for p in points], [p["rms"] for p in points]


def _draw_fixed(ax: Axes, points: list[dict]) -> None:
    """Thin lines: one for each fixed plan, dotted on a log-SNR grid."""
    for plan in dict.fromkeys(p["plan"] for p in points):
        # Colour is the solver, the dash is the grid.
        look = report.style(plan)
        look |= {"linestyle": "-" if plan.endswith("uniform") else ":", "markersize": 3}
        own = [p for p in points if p["plan"] == plan]
        ax.plot(*_columns(own), label=plan, linewidth=1, **look, alpha=0.7)


def _draw_method(ax: Axes, row: dict) -> None:
    """A hollow point for each pair of tolerances, a thick line through the best, and a star."""
    colour, marker = COLOURS[row["method"]]
    ax.plot(
        *_columns(row["cells"]),
        marker,
        color=colour,
        markersize=3.5,
        markerfacecolor="none",
        linewidth=0,
    )
    ax.plot(
        *_columns(front(row["cells"])),
        "-",
        color=colour,
        linewidth=2.6,
        alpha=0.75,
        label=f"adaptive, {row['method']}",
    )
    # The star: what users get who leave the defaults.
    public = next(p for p in row["cells"] if (p["atol"], p["rtol"]) == PUBLIC)
    ax.plot(
        public["nfe"], public["rms"], "*", color=colour, markersize=12, markeredgecolor=report.INK
    )


def draw_work(rows: list[dict], title: str) -> report.Picture:
    """Error against mean evaluations, one panel a field; `title` is the claim.

    Of the fixed plans only the best is drawn, and the formulas of the adaptive methods.
    """
    names = list(dict.fromkeys(row["field"] for row in rows if row["part"] == "map"))
    # One panel alone is as wide as its legend.
    width = 3.7 * len(names) if len(names) > 1 else 5.4
    fig, axes = report.canvas(1, len(names), width=width, height=4.2)
    axes = np.atleast_1d(axes)
    for ax, name in zip(axes, names, strict=True):
        # Fixed plans and maps of one field.
        own = [row for row in rows if row["field"] == name]
        fixed = [p for row in own if row["part"] == "fixed" for p in row["fixed"]]
        fixed = [p for p in fixed if p["plan"] in DRAWN]
        maps = [row for row in own if row["part"] == "map"]
        _draw_fixed(ax, fixed)
        for row in maps:
            _draw_method(ax, row)
        ax.set(xscale="log", yscale="log", xlabel="mean evaluations (NFE)")
        shown = fixed + [p for row in maps for p in row["cells"]]
        drawing.plain_ticks(ax.xaxis, [p["nfe"] for p in shown])
        ax.set_title(name)
    axes[0].set_ylabel("relative RMS error")
    drawing.same_height(axes)
    drawing.legend_below(fig, axes[0], 3 if len(names) > 1 else 2)
    return report.picture(
        fig,
        f"Error against mean NFE on {', '.join(names)}: hollow points are tolerances, thick lines "
        "their best, thin lines fixed plans.",
        "Hollow: one pair of tolerances; thick: the best of them; thin: fixed plans (dotted on a "
        f"log-SNR grid). Stars: the public defaults, atol {PUBLIC[0]:g} and rtol {PUBLIC[1]:g}.",
        title=title,
    )


def draw_map(rows: list[dict]) -> report.Picture:
    """Mean evaluations for each atol and rtol on the first field, one panel a method."""
    # The maps of one field are enough for a page.
    maps = [row for row in rows if row["part"] == "map"]
    name = maps[0]["field"]
    own = [row for row in maps if row["field"] == name]
    # Seven tolerances across, with their numbers.
    fig, axes = report.canvas(1, len(own), width=3.7 * len(own), height=3.6)
    for ax, row in zip(np.atleast_1d(axes), own, strict=True):
        report.heatmap(
            ax,
            row["cells"],
            x="rtol",
            y="atol",
            value="nfe",
            log=True,
            label="mean evaluations (NFE)",
            text=lambda nfe: f"{nfe:.0f}",
        )
        ax.set_title(row["method"])
        ax.tick_params(axis="x", labelrotation=45)
    return report.picture(
        fig,
        f"Mean NFE for each atol and rtol on {name}, one panel a method.",
        "The larger of atol and rtol |x| is what a step may err, so a column stops changing once "
        "atol rules. The public "
        f"defaults are the row {PUBLIC[0]:g}, the column {PUBLIC[1]:g}. Field: {name}.",
        title=_cost_title(own),
    )


def _cost_title(maps: list[dict]) -> str:
    """What the tightest tolerance costs over the loosest, over all methods."""
    ratios = [
        max(p["nfe"] for p in row["cells"]) / min(p["nfe"] for p in row["cells"]) for row in maps
    ]
    least, most = report.sig(min(ratios)), report.sig(max(ratios))
    span = least if least == most else f"{least} to {most}"
    return f"From the loosest to the tightest tolerance evaluations grow {span} times"
