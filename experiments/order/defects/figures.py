"""The ratio of errors with a defect and without it, as bars."""

import numpy as np

from experiments import report

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
    # Equal effects up and down have equal lengths on a logarithmic axis.
    bars = [
        {
            "what": f"{line['defect']}: {line['solver'].removeprefix('DPM++ ')}, {line['nfe']}",
            "log": float(np.log10(line["ratio"])),
        }
        for line in ranked
    ]
    fig, ax = report.canvas(width=5.4, height=0.6 + 0.21 * len(bars))
    report.bar_ledger(
        ax,
        bars,
        label="what",
        value="log",
        xlabel="log10 of the ratio of errors",
        text=lambda log: f"{report.sig(10**log)}x",
    )
    worst = ranked[0]
    return report.picture(
        fig,
        f"One bar a defect; the worst is {worst['defect']}, {report.sig(worst['ratio'])} times.",
        "Relative RMS error at t = 0 with the defect over that without, same noise, geometric "
        f"mean over {fields} fields; "
        f"the number after the solver is NFE. {MEANINGS}",
    )
