"""The ratio of errors with a defect and without it, as bars."""

import numpy as np

from experiments import report

MOST = 12  # bars: the largest effects, up or down
# One phrase a defect; the names are those of the rows.
MEANINGS = (
    "**wrong inverse**: the time of a log-SNR is taken as sigma/alpha; **not lowered**: orders 2 "
    "and 3 up to the last time; **stages uniform in t**: "
    "of singlestep order 3, whose update needs them at 1/3 and 2/3 of the step in log-SNR; **half "
    "weight**: of the second difference of 3M; "
    "**labels cut**: to whole thousandths; **sigma shifted twice**: the least time of "
    "FlowMatchEuler, against shifting it once, or against N steps to 0; "
    "**order 3 before the jump**: diffusers lowers the last step alone from 15 steps on, "
    "NVlabs/Sana two. "
    "Data formed through the noise: (x - sigma noise)/alpha against x - t velocity, coefficients "
    "and operations rounded."
)


def draw_ratios(lines: list[dict], fields: int) -> report.Picture:
    """One bar a defect, solver and number of evaluations, the worst first.

    Args:
      lines: of `by_case`, those that have a ratio.
      fields: how many fields there are, for the caption.
    """
    # The worst defect first.
    ranked = sorted(lines, key=lambda line: -line["ratio"])
    largest = sorted(lines, key=lambda line: -abs(np.log(line["ratio"])))[:MOST]
    bars = [
        line | {"what": f"{line['defect']}: {line['solver'].removeprefix('DPM++ ')}, {line['nfe']}"}
        for line in ranked
        if line in largest
    ]
    fig, ax = report.canvas(width=5.4, height=0.9 + 0.22 * len(bars))
    places = np.arange(len(bars))
    ratios = np.array([bar["ratio"] for bar in bars])
    # Equal effects up and down have equal lengths on a logarithmic axis.
    colours = [report.RED if ratio >= 1 else report.BLUE for ratio in ratios]
    ax.barh(places, ratios - 1, left=1, color=colours, height=0.62)
    for place, ratio in zip(places, ratios, strict=True):
        side = 1 if ratio >= 1 else -1
        at = {"xytext": (4 * side, 0), "textcoords": "offset points", "va": "center"}
        ax.annotate(report.sig(ratio), (ratio, place), ha="left" if side > 0 else "right", **at)
    ax.set_xscale("log")
    ax.set_xlim(0.4 * ratios.min(), 2.2 * ratios.max())
    report.decade_ticks(ax.xaxis, ax.get_xlim())
    ax.set_yticks(places, [bar["what"] for bar in bars])
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    ax.axvline(1, color=report.INK, linewidth=0.8)
    ax.set(xlabel="error with the defect over error without")
    worst = ranked[0]
    return report.picture(
        fig,
        f"One bar a defect; the worst is {worst['defect']}, {report.sig(worst['ratio'])} times.",
        "Relative RMS error at t = 0 with the defect over that without, same noise, geometric "
        f"mean over {fields} fields, the {len(bars)} largest effects; "
        f"the number after the solver is NFE. {MEANINGS}",
        title=f"The worst defect that runs at all multiplies the error by "
        f"{report.sig(worst['ratio'])}: {worst['defect']}",
    )
