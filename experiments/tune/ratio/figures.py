"""Errors against evaluations, and the table itself beside the published one."""

from itertools import pairwise

from matplotlib.axes import Axes

from experiments import report
from experiments.tune import drawing
from experiments.tune.ratio.numbers import TUNED

DRAWN = 6  # published solvers in a panel, beside the tuned table
HIDDEN = ("DPM++ 2S", "DPM++ 3S")  # they have the colour of the tuned table
LAGS = 3  # of the last outputs whose weights are drawn
PANELS = 2  # in a row, so that text stays readable on a phone


def subjects_of(rows: list[dict]) -> list[tuple[str, float]]:
    """(model, guidance) in the order of the rows."""
    return list(dict.fromkeys((row["model"], row["guidance"]) for row in rows))


def errors(rows: list[dict], subject: tuple[str, float]) -> report.Picture:
    """RMS and median error against evaluations for one model."""
    own = [row for row in rows if (row["model"], row["guidance"]) == subject]
    name = drawing.title_of(*subject)
    fig, axes = report.canvas(1, 2, width=7.2, height=3.8)
    for ax, measure, word in zip(axes, ("rms", "median"), ("RMS", "median"), strict=True):
        drawing.curves(
            ax,
            _lines(own, measure),
            xlabel="evaluations of the network (NFE)",
            ylabel=f"relative {word} error",
        )
        ax.set_title(f"{word} error")
    drawing.legend_below(axes[0], columns=4)
    # The title holds the largest gain.
    best = min(own, key=lambda row: row["rms_ratio"])
    claim = (
        f"On {name} the tuned table has {report.sig(best['rms_ratio'])} times the RMS error of "
        f"the best published solver at {best['steps']} evaluations."
    )
    drawing.claim(fig, claim)
    return report.picture(
        fig, claim, f"**{name}**: {own[0]['best']} and others, each on its best grid."
    )


def _lines(own: list[dict], measure: str) -> dict[str, list[tuple[float, float]]]:
    """{solver: points}: the solvers that come nearest, and the tuned table."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in own:
        for line in row["solvers"]:
            lines.setdefault(line["solver"], []).append((row["steps"], line[measure]))
    # Best first, by the least error that a solver reaches.
    seen = [name for name in lines if not name.startswith(HIDDEN)]
    order = sorted(seen, key=lambda name: min(error for _, error in lines[name]))
    shown = {name: lines[name] for name in sorted(order[:DRAWN], key=list(lines).index)}
    return shown | {TUNED: [(row["steps"], row["tuned"][measure]) for row in own]}


def table(row: dict) -> report.Picture:
    """The times and the weights of a tuned table beside those of the published plan."""
    fig, (left, right) = report.canvas(1, 2, width=7.2, height=3.6)
    _times(left, row)
    _weights(right, row)
    drawing.legend_below(right)
    name = drawing.title_of(row["model"], row["guidance"])
    first, last = _end_gaps(row["table"]["times"])
    claim = (
        f"The table of {name} at {row['steps']} evaluations: its first step is "
        f"{report.sig(first)} long and its last {report.sig(last)}."
    )
    drawing.claim(fig, claim)
    caption = (
        f"Begun from {row['published']}. Weights are in units of the step: Euler's method has 1 "
        "for the newest output."
    )
    return report.picture(fig, claim, caption)


def _end_gaps(times: list[float]) -> tuple[float, float]:
    """Lengths of the first and the last step."""
    gaps = [a - b for a, b in pairwise(times)]
    return gaps[0], gaps[-1]


def _times(ax: Axes, row: dict) -> None:
    """Time against the number of steps done, for both tables."""
    # The published grid below, so that the tuned one is seen where they agree.
    for key, label in (("beside", "published"), ("table", TUNED)):
        times = row[key]["times"]
        options = drawing.TUNED if label == TUNED else {"color": report.INK, "marker": "o"}
        ax.plot(range(len(times)), times, **options)
    ax.set(xlabel="steps done", ylabel="time t (1 is noise)")
    ax.set_title("times")


def _weights(ax: Axes, row: dict) -> None:
    """Weights of the last outputs, row by row."""
    # The colour is the lag; dotted lines are the published table.
    colours = (report.BLUE, report.GREEN, report.AMBER)
    for lag, colour in zip(range(LAGS), colours, strict=True):
        word = "newest output" if lag == 0 else f"{lag} before it"
        for key, line in (("table", "-"), ("beside", ":")):
            weights = [outputs[lag] for outputs in row[key]["outputs"]]
            shown = range(lag + 1, len(weights) + 1)  # rows that have this output
            label = f"{word}{'' if key == 'table' else ', published'}"
            ax.plot(shown, weights[lag:], color=colour, linestyle=line, label=label, marker=".")
    ax.set(xlabel="row", ylabel="weight over the step")
    ax.set_title("weights of the outputs")
