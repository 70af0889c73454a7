"""ROC curves of the main scores, and the ratio of errors against one of them."""

import numpy as np

from experiments import report
from experiments.order import drawing
from experiments.order.curvature.numbers import MAIN, compared, decided, kind_of

# Two scores of the path, one of path and grid, and two that a run gives for free.
DRAWN = ("straightness", "acceleration x step", "stiffness x step", "rho_2", "rho_3")
# Colour is the family of the field, the marker is how it was bent.
FAMILIES = {
    "ring": (report.BLUE, "o"),
    "ring, coupled": (report.SKY, "s"),
    "ring, cosine": (report.GREEN, "^"),
    "mixture": (report.RED, "o"),
    "mixture, coupled": (report.AMBER, "s"),
    "other": (report.GREY, "x"),
}
KIND_IN_WORDS = {"uniform t": "uniform in t and shifted", "log-SNR": "uniform in log-SNR"}


def family_of(row: dict) -> str:
    """The name in FAMILIES of a row's field."""
    base = row["field"].partition("-")[0]
    if base not in ("ring", "mixture"):
        return "other"
    if row["path"] == "cosine":
        return f"{base}, cosine"
    return f"{base}, coupled" if row["coupling"] > 0 else base


def draw_roc(rows: list[dict], title: str) -> report.Picture:
    """ROC curves of DRAWN, one panel a kind of grid; `title` is the claim."""
    kinds = list(dict.fromkeys(kind_of(row) for row in rows))
    fig, axes = report.canvas(1, len(kinds), width=4.8 * len(kinds), height=4.9)
    for ax, kind in zip(np.atleast_1d(axes), kinds, strict=True):
        own = [row for row in compared(rows, MAIN, "rms") if kind_of(row) == kind]
        # Ties have no side, so they are not drawn.
        points = [
            {"score": name, "value": row["scores"][name], "lost": row["verdict"] == "worse"}
            for name in DRAWN
            for row in decided(own, name)
        ]
        report.roc(ax, points, score="value", truth="lost", by="score")
        # Five long names do not fit into the panel.
        ax.legend(*ax.get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, -0.13))
        ax.set_title(f"grids: {KIND_IN_WORDS[kind]}")
    return report.picture(
        fig,
        f"ROC curves of {', '.join(DRAWN)} for whether {MAIN[0]} loses to {MAIN[1]}, one panel a "
        "kind of grid.",
        f"Ranking the cells where {MAIN[0]} loses to {MAIN[1]} (RMS error) before those where it "
        "wins; ties and undecided cells are left out.",
        title=title,
    )


def draw_scatter(rows: list[dict]) -> report.Picture:
    """Ratio of errors against rho_3, a point a cell, one panel a kind of grid."""
    kinds = list(dict.fromkeys(kind_of(row) for row in rows))
    fig, axes = report.canvas(1, len(kinds), width=4.8 * len(kinds), height=3.9)
    axes = np.atleast_1d(axes)
    for ax, kind in zip(axes, kinds, strict=True):
        own = [row for row in compared(rows, MAIN, "rms") if kind_of(row) == kind]
        # Short runs have no rho_3.
        own = [row for row in own if np.isfinite(row["scores"]["rho_3"])]
        for family, (colour, marker) in FAMILIES.items():
            members = [row for row in own if family_of(row) == family]
            rho = [row["scores"]["rho_3"] for row in members]
            ratio = [row["ratio"] for row in members]
            ax.plot(rho, ratio, marker, color=colour, markersize=3.5, alpha=0.8, label=family)
        # Left of the dotted line rho_3 says that order 3 pays; below the other line it does.
        ax.axhline(1, color=report.INK, linewidth=0.8)
        ax.axvline(1, color=report.INK, linewidth=0.8, linestyle=":")
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="rho_3 of the 2M run",
            ylabel="RMS error of 3M exact over that of 2M",
        )
        drawing.plain_ticks(ax.xaxis, [row["scores"]["rho_3"] for row in own])
        drawing.plain_ticks(ax.yaxis, [row["ratio"] for row in own])
        ax.set_title(f"grids: {KIND_IN_WORDS[kind]}")
    drawing.legend_below(fig, axes[0], 3)
    return report.picture(
        fig,
        "Ratio of the errors of orders 3 and 2 against rho_3, a point a cell, coloured by the "
        "family of its field.",
        "A point a cell. Above the line order 3 loses. If rho_3 were a law, all points would lie "
        "in the lower left and the upper right quarter.",
        title=f"rho_3 is on the right side of 1 in {_right(rows)} of the decided cells",
    )


def _right(rows: list[dict]) -> str:
    """In what fraction of the decided cells rho_3 < 1 says rightly whether order 3 wins."""
    own = decided(compared(rows, MAIN, "rms"), "rho_3")
    right = [(row["scores"]["rho_3"] > 1) == (row["verdict"] == "worse") for row in own]
    return f"{np.mean(right):.0%}" if right else "none"
