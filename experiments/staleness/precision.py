"""How few bits do keys and values need in a message, as they are and as residuals of a forecast?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.axes
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.cli.run import check_names
from experiments.staleness import comparison, draw, subjects, words

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "precision"
# {form of a message: whether it is a residual}
FORMS = {"plain": False, "residual": True}
# {devices: forecasts}; the linear one is not stable on 8.
FORECASTS = {2: (0, 1, "tuned"), 8: (0, "tuned")}
# {forecast: its name on the page}
NAMES = {0: "held", 1: "linear", 2: "quadratic", "tuned": "tuned"}
# Bits of a number that is sent as it is.
FULL = 32
# What `flowjax.parallel.stale.precision.rounded` knows: integers, bfloat16, and as it is.
BITS = (*range(2, 17), FULL)
# The bits in the answer.
NAMED = (8, 4, 2)


# -- the measurement


def check(config: "Config") -> None:
    """Refuse subjects, networks and numbers of bits that there are not."""
    check_names("precision_subjects", config.precision_subjects, subjects.NETWORKS)
    check_names("one_solver", config.one_solver, subjects.ONE_ROW_SOLVERS)
    check_names("bits", map(str, config.bits), map(str, BITS))
    subjects.check_network(config, config.precision_subjects)


def cells(config: "Config") -> list[dict]:
    """One cell a subject, number of devices, forecast, form and number of bits."""
    return [
        {
            "question": QUESTION,
            "subject": subject,
            "devices": devices,
            "forecast": forecast,
            "form": form,
            "bits": bits,
        }
        for subject in config.precision_subjects
        for devices, forecasts in FORECASTS.items()
        for forecast in forecasts
        for form in FORMS
        for bits in config.bits
        # In full precision both forms are the same.
        if bits != FULL or form == "plain"
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to full precision with the same forecast."""

    def setup(key):
        return {
            "devices": key["devices"],
            "forecast": key["forecast"],
            # The emulation also takes a number of bits that no mesh has.
            "comm_dtype": None if key["bits"] == FULL else key["bits"],
            "residual": FORMS[key["form"]],
        }

    def base(key):
        return key | {"bits": FULL, "form": "plain"}

    return comparison.measured(config, todo, setup, base)


# -- numbers


def groups(rows: list[dict]) -> dict[tuple[str, int], list[dict]]:
    """{(subject, devices): its rows}."""
    found = {}
    for row in rows:
        found.setdefault((row["subject"], row["devices"]), []).append(row)
    return found


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Distance to the synchronous run against bits: a panel for each subject and devices."""
    own = groups(rows)
    fig, axes = report.canvas(len(own), 1, height=3.2 * len(own))
    for ax, ((subject, devices), mine) in zip(np.atleast_1d(axes), own.items(), strict=True):
        _draw(ax, mine)
        ax.set_title(f"{subjects.NAMES[subject]}, {devices} devices")
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict]) -> None:
    """A curve for each forecast and form; both forms begin at full precision."""
    full = [{**row, "form": form} for row in own if row["bits"] == FULL for form in FORMS]
    fewer = [row for row in own if row["bits"] != FULL]
    shown = [
        {**row, "curve": f"{NAMES[row['forecast']]}, {row['form']}"} for row in [*full, *fewer]
    ]
    draw.lines(ax, shown, x="bits", y="sync_rms", by="curve", band=False)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="bits of a number",
        ylabel="RMS distance to the synchronous run",
    )
    draw.ticks(ax, sorted({row["bits"] for row in own}))
    ax.legend(fontsize=7)


# -- words


def _answer(own: list[dict], subject: str, devices: int) -> str:
    """What fewer bits cost on one subject: plain and residual, for each forecast."""
    parts = []
    for forecast in dict.fromkeys(row["forecast"] for row in own):
        at = {(row["form"], row["bits"]): row for row in own if row["forecast"] == forecast}
        ratios = ", ".join(
            f"{bits} bits {form} {words.ratio(at[form, bits])}"
            for bits in NAMED
            for form in FORMS
            if (form, bits) in at
        )
        parts.append(f"{NAMES[forecast]}: {ratios}")
    return (
        f"On {subjects.NAMES[subject]} with {devices} devices, error over that of full precision, "
        f"{'; '.join(parts)}."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    picture = report.picture(
        _figure(rows),
        "Distance to the synchronous run against bits of a number, plain and residual, for each "
        "forecast.",
        f"{words.common(rows)}, one synchronous, whose messages are whole. {FULL} bits are sent "
        "as they are; 16 are bfloat16, the others integers with one scale a head and token.",
    )
    return report.Section(
        question="How few bits do keys and values need on their way?",
        expected=(
            "8 are free. Rounding is a noise that a forecast multiplies, so plainly sent in 4 "
            "bits it costs a forecast its advantage; what the forecast missed is small, and sent "
            "with error feedback it needs 3 or 4 bits."
        ),
        answer="\n".join(_answer(own, *group) for group, own in groups(rows).items()),
        figures=(picture,),
        table=words.columns(rows, ("subject", "devices", "forecast", "form", "bits")),
        caveat=(
            "The residual wants that both sides keep what was told, everyone's keys and values. "
            f"{words.converged(rows)}"
        ),
        command=command,
    )
