"""Forecasts: the section of the page."""

from experiments import report
from experiments.staleness import subjects, words
from experiments.staleness.forecasts import figures
from experiments.staleness.forecasts.names import kind_of, name_of
from experiments.staleness.forecasts.numbers import (
    FRACTIONS,
    USUAL,
    extrapolated,
    is_common,
    linear_corrected,
    not_corrected,
    usual_tuned,
)
from flowjax.parallel.stale.forecast import CORRECTION

# The aims: a fraction of hold's distance, and an error over that of the synchronous run.
NEAR, TOTAL = 0.25, 1.05


# -- the answer


def _on(rows: list[dict]) -> str:
    """The subjects of rows: "a, b", or "none"."""
    return ", ".join(map(name_of, rows)) or "none"


def _aims(tuned: list[dict], steps: int) -> str:
    """Where the aims are met, on the common number of devices with one synchronous step."""
    at = [row for row in tuned if is_common(row, steps)]
    near = [row for row in at if row["rms_ratio"] <= NEAR]
    in_all = [row for row in at if row["total"] <= TOTAL]
    # To three digits: the aim is within 5 %.
    totals = ", ".join(f"{report.sig(row['total'], 3)} on {name_of(row)}" for row in at)
    return (
        f"A quarter of held copies' distance is reached on **{len(near)} of {len(at)}** subjects "
        f"({_on(near)}); a distance to the converged run within 5 % of the synchronous run's "
        f"on **{len(in_all)}** ({_on(in_all)}; the ratios are {totals})."
    )


def _tuned(tuned: list[dict], steps: int) -> str:
    """The ratios of tuned forecasts in the common setting, and their span in all others."""
    common = [row for row in tuned if is_common(row, steps)]
    ratios = [f"{words.ratio(row)} on {name_of(row)}" for row in common]
    others = [row["rms_ratio"] for row in tuned if not is_common(row, steps)]
    text = f"Tuned and corrected, {subjects.DEVICES} devices, of held copies' distance: "
    text += f"{'; '.join(ratios)}."
    if others:
        text += (
            f" With other devices, steps and synchronous steps: {words.span(others)} "
            f"({len(others)} settings in the table)."
        )
    return text


def _bare(rows: list[dict]) -> list[str]:
    """What tuned forecasts are without their correction, as a sentence or none."""
    bare = [f"{words.ratio(row)} on {name_of(row)}" for row in not_corrected(rows)]
    return [f"Without its correction tuned has {'; '.join(bare)}."] if bare else []


def _extrapolated(rows: list[dict]) -> str:
    """Where plain extrapolation is worse than holding, and what a correction makes of it."""
    plain = extrapolated(rows)
    # By the ratio itself, not by its interval.
    worse = [row for row in plain if row["rms_ratio"] > 1]
    helped = [f"{name_of(row)} {words.ratio(row)}" for row in linear_corrected(rows)]
    return (
        "Plain extrapolation, linear or quadratic, is worse than held copies in "
        f"{len(worse)} of {len(plain)} cells"
        + (f"; linear and corrected: {'; '.join(helped)}." if helped else ".")
    )


# -- the section


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    steps = min(row["steps"] for row in rows)
    rows = sorted(rows, key=lambda r: (name_of(r), r["steps"], r["sync"], r["devices"]))
    tuned = usual_tuned(rows)
    return report.Section(
        question=(
            "What is a forecast of stale keys and values worth, and its correction by the receiver?"
        ),
        expected=(
            "Second order in the place of first, where it is stable. Plain extrapolation is not "
            "on many devices; a slope with a gain fitted to the row before, less what one's own "
            "forecasts are seen to miss, should be: the aim on 8 devices is a quarter of the "
            "distance of held copies, and a distance to the converged run within 5 % of the "
            "synchronous run's."
        ),
        answer="\n".join(
            [_aims(tuned, steps), _tuned(tuned, steps), *_bare(rows), _extrapolated(rows)]
        ),
        figures=_pictures(rows, steps),
        table={"Errors by forecast": _table(rows)},
        caveat=(
            "A sender forecasts before it sends, and a receiver corrects by what it has, so no "
            "byte more is moved. The shape of the tuned forecast and its correction were chosen "
            "on digits, digits-smooth, digits-ot and emoji, on 8 devices in 20 steps, from other "
            "starts; digits-reflow, other numbers of devices and 40 steps had no part in it. "
            f"A field has no attention to correct. {words.converged(rows)}"
        ),
        command=command,
    )


def _pictures(rows: list[dict], steps: int) -> tuple[report.Picture, ...]:
    """All forecasts; and the sweep of the correction's fraction where there is one."""
    found = [
        report.picture(
            figures.of_forecasts(rows, steps),
            "Points with intervals: the distance to the synchronous run with a forecast, over "
            "that of held keys and values, for each subject, number of devices and forecast.",
            f"{rows[0]['solver']}, {steps} steps unless said; the first step is always "
            f"synchronous. Tuned forecasts of networks are corrected by {CORRECTION}. Hollow: with "
            "another correction than the forecast's own.",
            title=_title(rows, steps),
        )
    ]
    swept = {name_of(row) for row in rows if row["correction"] in FRACTIONS}
    if swept:
        tuned = [row for row in rows if row["forecast"] == "tuned" and is_common(row, steps)]
        found.append(
            report.picture(
                figures.of_fractions([row for row in tuned if name_of(row) in swept]),
                "The distance to the synchronous run of tuned forecasts, over that of held keys "
                "and values, against the fraction of the correction.",
                f"{subjects.DEVICES} devices, {steps} steps, the first synchronous. Corrections by "
                f'{CORRECTION} are what "tuned" takes by itself; bands are 95 % intervals.',
                title=_swept_title([row for row in tuned if name_of(row) in swept]),
            )
        )
    return tuple(found)


def _title(rows: list[dict], steps: int) -> str:
    """What tuned forecasts leave on networks, as the claim of the figure."""
    common = [row for row in usual_tuned(rows) if is_common(row, steps)]
    networks = [row["rms_ratio"] for row in common if row["subject"] != "field"]
    if not networks:
        return ""
    return (
        f"On networks a tuned forecast leaves {words.span(networks)} of the distance of held "
        f"copies on {subjects.DEVICES} devices"
    )


def _swept_title(rows: list[dict]) -> str:
    """The best fraction of each subject, as the claim of the figure."""
    best = {}
    for row in sorted(rows, key=lambda row: -row["rms_ratio"]):
        fraction = CORRECTION if row["correction"] is USUAL else row["correction"]
        best[name_of(row)] = fraction
    parts = [f"{fraction} on {name}" for name, fraction in best.items()]
    return f"The best fraction that was tried: {', '.join(parts)}"


def _table(rows: list[dict]) -> list[dict]:
    """The rows as the page lists them."""
    named = [
        row | {"subject": name_of(row), "synchronous": row["sync"], "copies": kind_of(row)}
        for row in rows
    ]
    return words.columns(named, ("subject", "devices", "steps", "synchronous", "copies"))
