"""Errors on a network beside the exact field of its data, and ratios of successive orders."""

import numpy as np

from experiments import report
from experiments.order import drawing
from experiments.order.learned.numbers import PAIRS, tally


def draw_errors(rows: list[dict], exact: list[dict], claim: str) -> report.Picture:
    """Error against evaluations: the exact field of the digits beside the network of them."""
    first = rows[0]["model"]
    shift = max(row["shift"] for row in rows)
    seen = {row["nfe"] for row in rows}
    panels = {}
    # The exact field of the same data has the name of the network.
    twin = [r for r in exact if (r["field"], r["shift"]) == (first, shift) and r["nfe"] in seen]
    if twin:
        panels[f"{first}, exact field"] = twin
    panels[f"{first}, network"] = [
        r for r in rows if (r["model"], r["scale"], r["shift"]) == (first, 1.0, shift)
    ]

    fig, axes = report.canvas(1, len(panels), width=4.6 * len(panels), height=4.0)
    axes = np.atleast_1d(axes)
    # UniPC2 is left out, so that the curves can be told apart.
    shown = {line["solver"] for row in rows for line in row["solvers"]} - {"UniPC2"}
    for ax, (title, own) in zip(axes, panels.items(), strict=True):
        drawn = [
            {"nfe": row["nfe"], **line}
            for row in own
            for line in row["solvers"]
            if line["solver"] in shown
        ]
        report.log_log(ax, drawn, x="nfe", y="rms")
        ax.set_title(f"{title}, shift {shift:g}")
    drawing.same_height(axes)
    return report.picture(
        fig,
        f"Relative RMS error against NFE: {' and '.join(panels)}.",
        "Without guidance.",
        title=claim,
    )


def draw_ratios(rows: list[dict]) -> report.Picture:
    """Ratios of orders against NFE: a curve a network, and a curve a scale of the first network."""
    first, pairs = rows[0]["model"], (PAIRS[2], PAIRS[0])
    names = list(dict.fromkeys(row["model"] for row in rows))
    scales = sorted({row["scale"] for row in rows})
    seen = sorted({row["nfe"] for row in rows})

    def subject(name: str, scale: float) -> list[dict]:
        return [row for row in rows if (row["model"], row["scale"]) == (name, scale)]

    # The upper panels compare networks, the lower ones guidance scales.
    groups = [{name: subject(name, 1.0) for name in names}]
    if len(scales) > 1:
        groups.append({f"{first}, scale {s:g}": subject(first, s) for s in scales})
    fig, axes = report.canvas(len(groups), len(pairs), width=9.4, height=3.1 * len(groups) + 0.3)
    for panels, group in zip(np.atleast_2d(axes), groups, strict=True):
        for ax, pair in zip(panels, pairs, strict=True):
            for label, own in group.items():
                ratios = [
                    (n, tally([r for r in own if r["nfe"] == n], pair)["ratio"]) for n in seen
                ]
                # The smallest numbers of evaluations lack the higher order.
                points = [(n, ratio) for n, ratio in ratios if np.isfinite(ratio)]
                ax.plot(*zip(*points, strict=True), "o-", markersize=3.5, label=label)
            # Below this line the higher order wins.
            ax.axhline(1, color=report.INK, linewidth=0.8)
            ax.set(
                xscale="log",
                xlabel="evaluations (NFE)",
                ylabel="ratio of RMS errors",
                ylim=(0, None),
            )
            report.measured_ticks(ax.xaxis, seen)
            higher, lower = (name.removeprefix("DPM++ ") for name in pair)
            ax.set_title(f"{higher} / {lower}")
        panels[0].legend()
    return report.picture(
        fig,
        "Ratio of the errors of 2M and Euler, and of 3M exact and 2M, against NFE, a line a "
        "network and a line a scale.",
        "Below the line the higher order wins. Geometric mean over the shifts.",
        title=_ratio_title(rows, names),
    )


def _ratio_title(rows: list[dict], names: list[str]) -> str:
    """What 3M exact is worth over 2M on the networks without guidance."""
    plain = [row for row in rows if row["scale"] == 1.0]
    each = [
        tally([row for row in plain if row["model"] == name], PAIRS[0])["ratio"] for name in names
    ]
    least, most = report.sig(min(each)), report.sig(max(each))
    span = least if least == most else f"{least} to {most}"
    return f"Without guidance 3M exact has {span} times the error of 2M on networks"
