"""(l) Does DPM-Solver++ bear staleness better than DDIM, by its distance to its own synchronous run, and in all?"""

from experiments import report
from experiments.staleness import draw, lab

QUESTION = "solvers"
DDIM = "Euler"  # which it is on the linear path


def cells(config):
    """One cell a subject, number of steps and solver."""
    return [
        {"question": QUESTION, "subject": subject, "steps": steps, "solver": solver}
        for subject in config.asked
        for steps in config.robust_steps
        for solver in config.solvers
    ]


def measure(config, todo):
    """Yield (key, values); ratios are to DDIM of as many steps."""
    return lab.measured(
        config,
        todo,
        lambda key: {"solver": key["solver"], "steps": key["steps"]},
        lambda key: key | {"solver": DDIM},
    )


def section(rows, command):
    """The section of the page."""
    fig, shown = draw.panels(rows, height=3.0)
    for ax, _, own in shown:
        bars = [
            {"name": f"{r['solver']}, {r['steps']} steps, {words}", "ratio": r[f"{kind}_ratio"]}
            | {end: r[f"{kind}_{end}"] for end in ("low", "high")}
            for r in own
            if r["solver"] != DDIM
            for kind, words in (("rms", "own"), ("total_rms", "in all"))
        ]
        report.bar_ledger(
            ax,
            bars,
            label="name",
            value="ratio",
            low="low",
            high="high",
            xlabel="error over that of DDIM",
        )
        ax.axvline(1, color=report.GREY, linestyle=(0, (1, 3)))
    return report.Section(
        question="Does DPM-Solver++ bear staleness better than DDIM?",
        expected="Not by its distance to its own synchronous run: held keys and values are wrong by O(h) whoever reads them. In all, its own error is "
        "smaller, so it stays ahead where staleness is not the larger part.",
        answer="\n".join(_said(subject, own) for _, subject, own in shown),
        figures=(
            report.picture(
                fig,
                "Bars: the error of DPM-Solver++ 2M and 3M over that of DDIM, both stale, to the own synchronous run and to the converged one.",
                f"{rows[0]['devices']} devices, one synchronous step. own: to its own synchronous run; in all: to the converged run.",
            ),
        ),
        table=draw.columns(rows, ("subject", "solver", "steps")),
        caveat="On this path DDIM is Euler's step. " + draw.converged(rows),
        command=command,
    )


def _said(subject, own):
    """What 2M makes of it; 3M stands in the figure and in the table."""
    parts = [
        f"{r['steps']} steps {draw.ratio(r)} to its own synchronous run, {draw.ratio(r, 'total_rms')} in all"
        for r in own
        if r["solver"] == "DPM++ 2M"
    ]
    return f"On {lab.NAMES[subject]}, error of DPM++ 2M over that of DDIM: {'; '.join(parts)}."
