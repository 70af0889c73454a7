"""(m) Does it matter which tokens are together, when each device has as many?"""

import numpy as np

from experiments import report
from experiments.staleness import draw, lab

QUESTION = "geometry"
DEVICES, SIDE = 4, 8  # an image of 8 x 8 tokens over four devices: each has 16
PARTS = {
    "rows": lambda row, column: row // 2,
    "columns": lambda row, column: column // 2,
    "blocks": lambda row, column: row // 4 * 2 + column // 4,
    "scattered": lambda row, column: row % 2 * 2 + column % 2,
}


def shards(part):
    """(64,) the device of each token."""
    row, column = np.divmod(np.arange(SIDE * SIDE), SIDE)
    return PARTS[part](row, column)


def cells(config):
    """One cell a subject and way to cut its images."""
    return [
        {"question": QUESTION, "subject": subject, "part": part}
        for subject in config.asked
        for part in PARTS
    ]


def measure(config, todo):
    """Yield (key, values); ratios are to rows."""
    return lab.measured(
        config,
        todo,
        lambda key: {"devices": DEVICES, "shards": shards(key["part"])},
        lambda key: key | {"part": "rows"},
    )


def section(rows, command):
    """The section of the page."""
    fig, shown = draw.panels(rows, height=1.8)
    for ax, _, own in shown:
        label = "error, over that of rows"
        bars = [r for r in own if r["part"] != "rows"]
        report.bar_ledger(
            ax, bars, label="part", value="rms_ratio", low="rms_low", high="rms_high", xlabel=label
        )
        ax.axvline(1, color=report.GREY, linestyle=(0, (1, 3)))
    said = [
        f"On {lab.NAMES[subject]}, error over that of rows: "
        + ", ".join(f"{r['part']} {draw.ratio(r)}" for r in own if r["part"] != "rows")
        + "."
        for _, subject, own in shown
    ]
    return report.Section(
        question="Does it matter which tokens a device has, when it has as many?",
        expected="The stale share is 3/4 in each case, so a theory of shares says no. If a token attends to its neighbours, parts that keep neighbours together "
        "(blocks) bear it better than those that part them all (scattered).",
        answer="\n".join(said),
        figures=(
            report.picture(
                fig,
                "Bars: distance to the synchronous run for columns, blocks and scattered tokens over that for rows.",
                f"{rows[0]['solver']}, {rows[0]['steps']} steps, {DEVICES} devices with 16 of 64 tokens each: two rows, two columns, a quarter, or every second "
                "of every second row.",
            ),
        ),
        table=draw.columns(rows, ("subject", "part")),
        caveat=draw.converged(rows),
        command=command,
    )  # fmt: skip
