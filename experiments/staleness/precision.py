"""How few bits do keys and values need in a message, as they are and as residuals of a forecast?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.axes
import matplotlib.figure

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
    titles = [f"{subjects.NAMES[name]}, {devices} devices" for name, devices in own]
    fig, axes = draw.side_by_side(titles, height=3.8)
    for ax, mine in zip(axes, own.values(), strict=True):
        _draw(ax, mine)
    axes[0].set_ylabel("distance to the synchronous run")
    draw.legend(fig, columns=3)
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict]) -> None:
    """A curve for each forecast and form: full where sent as it is, dashed where as a residual."""
    for forecast in dict.fromkeys(row["forecast"] for row in own):
        for form in FORMS:
            # Both forms begin at full precision.
            mine = [
                row
                for row in own
                if row["forecast"] == forecast and (row["form"] == form or row["bits"] == FULL)
            ]
            mine.sort(key=lambda row: row["bits"])
            name = draw.FORECASTS[forecast]
            is_plain = form == "plain"
            ax.plot(
                [row["bits"] for row in mine],
                [row["sync_rms"] for row in mine],
                "-" if is_plain else "--",
                marker="o",
                color=draw.COPIES[name],
                markerfacecolor=draw.COPIES[name] if is_plain else "none",
                label=f"{name}, {form}",
            )
    ax.set(xscale="log", yscale="log", xlabel="bits of a number")
    draw.ticks(ax, [row["bits"] for row in own])
    draw.decades(ax)


# -- words


def few_bits(rows: list[dict], form: str, bits: int) -> list[dict]:
    """The rows of held copies on the common number of devices with so many bits."""
    return [
        row
        for row in rows
        if (row["devices"], row["forecast"]) == (subjects.DEVICES, 0)
        and (row["form"], row["bits"]) == (form, bits)
    ]


def _answer(rows: list[dict]) -> list[str]:
    """What `NAMED` bits cost held copies and tuned forecasts, a sentence a number of bits."""
    lines = []
    for bits in NAMED:
        parts = []
        for forecast in (0, "tuned"):
            for form in FORMS:
                own = [
                    row
                    for row in rows
                    if (row["forecast"], row["form"], row["bits"]) == (forecast, form, bits)
                    and row["devices"] == subjects.DEVICES
                ]
                if own:
                    each = ", ".join(
                        f"{words.ratio(row)} on {subjects.NAMES[row['subject']]}" for row in own
                    )
                    parts.append(f"{draw.FORECASTS[forecast]}, {form}: {each}")
        if parts:
            lines.append(
                f"With {bits} bits, error over that of full precision on {subjects.DEVICES} "
                f"devices: {'; '.join(parts)}."
            )
    return lines


def _title(rows: list[dict]) -> str:
    """What four bits cost as they are and as residuals, as the claim of the figure."""
    parts = []
    for form in FORMS:
        own = few_bits(rows, form, 4)
        if own:
            parts.append(f"{words.span([row['rms_ratio'] for row in own])} times ({form})")
    if not parts:
        return ""
    return f"With 4 bits held copies have the error of full precision {', '.join(parts)}"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    picture = report.picture(
        _figure(rows),
        "Distance to the synchronous run against bits of a number, plain and residual, for each "
        "forecast.",
        f"{words.common(rows)}, one synchronous, whose messages are not rounded. {FULL} bits are "
        "sent as they are; 16 are bfloat16, the others integers with one scale a head and token.",
        title=_title(rows),
    )
    named = [row | {"copies": draw.FORECASTS[row["forecast"]]} for row in rows]
    columns = ("subject", "devices", "copies", "form", "bits")
    return report.Section(
        question="How few bits do keys and values need in a message?",
        expected=(
            "8 are enough. Rounding is a noise that a forecast multiplies, so plainly sent in 4 "
            "bits it costs a forecast its advantage; what the forecast missed is small, and sent "
            "with error feedback it needs 3 or 4 bits."
        ),
        answer="\n".join(_answer(rows)),
        figures=(picture,),
        table={"Errors by bits": words.columns(named, columns)},
        caveat=(
            "A residual requires that both sides keep the buffers of everyone's keys and values. "
            f"{words.converged(rows)}"
        ),
        command=command,
    )
