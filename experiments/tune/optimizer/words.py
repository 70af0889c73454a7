"""The figures and the section of the page."""

import numpy as np

from experiments import report
from experiments.lab import statistics
from experiments.tune import drawing
from experiments.tune.optimizer.numbers import (
    AFTER_FIT,
    LEAST_SQUARES,
    LEVENBERG_MARQUARDT,
    QUESTION,
    best_adam,
    ratio_of,
    spent_ratio,
)


def _figure(row: dict) -> report.Picture:
    """Validation error against evaluations spent."""
    fig, ax = report.canvas(width=5.6, height=3.8)
    name, adam_run = best_adam(row)
    runs = row["optimizers"]
    # Of Adam the best rate only.
    shown = {
        LEVENBERG_MARQUARDT: (runs[LEVENBERG_MARQUARDT], report.BLUE),
        AFTER_FIT: (runs[AFTER_FIT], report.PINK),
        name: (adam_run, report.AMBER),
    }
    for label, (run, colour) in shown.items():
        # The error so far: an optimizer returns its best table.
        least = np.minimum.accumulate(run["validation"])
        ax.plot(np.maximum(run["spent"], 1), least, color=colour, label=label, marker=".")
    fitted = runs[LEAST_SQUARES]
    ax.plot(fitted["spent"], fitted["validation"], "D", color=report.GREEN, label=LEAST_SQUARES)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="evaluations spent, for each training start",
        ylabel="relative RMS error, validation starts",
    )
    drawing.legend_below(ax, columns=2)
    claim = f"{row['model']}, {row['steps']} evaluations: {_claim(row)}"
    drawing.claim(fig, claim)
    return report.picture(fig, claim)


def _claim(row: dict) -> str:
    ratio = ratio_of(row)
    if ratio > 1:
        return f"Adam ends at {report.sig(ratio)} times the error of Levenberg-Marquardt."
    return f"Adam ends below Levenberg-Marquardt, at {report.sig(ratio)} times its error."


def summary(rows: list[dict]) -> str:
    """The answer in one sentence."""
    own = [row for row in rows if row["question"] == QUESTION]
    if not own:
        return ""
    ratio = statistics.geometric_mean(ratio_of(row) for row in own)
    relation = "larger than" if ratio > 1 else "smaller than"
    budget = statistics.geometric_mean(spent_ratio(row) for row in own)
    return (
        f"Adam ends at an error **{report.sig(max(ratio, 1 / ratio))} times {relation}** that of "
        f"Levenberg-Marquardt, with its best learning rate and {report.sig(budget)} times the "
        "evaluations."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    own = [row for row in rows if row["question"] == QUESTION]
    # A line an optimizer, with every rate of Adam.
    lines = [
        {
            "model": row["model"],
            "evaluations": row["steps"],
            "optimizer": name,
            "spent": run["spent"][-1],
            "rms": run["rms"],
            "over published": run["rms"] / row["published_rms"],
            "median": run["median"],
        }
        for row in own
        for name, run in row["optimizers"].items()
    ]
    return report.Section(
        question="Which optimizer finds the table?",
        expected="Levenberg-Marquardt: there are fewer than 120 numbers, and first-order methods "
        "stall in flat valleys. Least squares gives half of the gain for one run.",
        answer=summary(rows),
        figures=[_figure(row) for row in own],
        table=lines,
        caveat="Adam uses all training starts in every iteration, and its rate falls along a "
        "cosine; the best rate is chosen on unseen starts, which favours it. The reference is "
        "not counted, since all need it.",
        command=command,
    )
