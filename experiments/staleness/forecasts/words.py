"""Forecasts: the section of the page."""

from experiments import report
from experiments.staleness import subjects, words
from experiments.staleness.forecasts import figures
from experiments.staleness.forecasts.names import how, kind_of, name_of
from experiments.staleness.forecasts.numbers import (
    FRACTIONS,
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
    """The subjects of rows: "on a, b", or "nowhere"."""
    return f"on {', '.join(map(name_of, rows))}" if rows else "nowhere"


def _aims(tuned: list[dict], steps: int) -> str:
    """Where the aims are met, on the common number of devices with one synchronous step."""
    at = [row for row in tuned if is_common(row, steps)]
    near = [row for row in at if row["rms_ratio"] <= NEAR]
    in_all = [row for row in at if row["total"] <= TOTAL]
    # To three digits: the aim is within 5 %.
    totals = ", ".join(f"{report.sig(row['total'], 3)} on {name_of(row)}" for row in at)
    return (
        f"Of {len(at)} subjects a quarter of hold's distance is reached {_on(near)}, an error in "
        f"all within 5 % {_on(in_all)} (error over the synchronous run's: {totals})."
    )


def _tuned(tuned: list[dict], steps: int) -> str:
    """The ratios of tuned forecasts in every setting."""
    ratios = [
        f"{name_of(row)}, {how(row, steps)}: {words.ratio(row)} of hold's distance" for row in tuned
    ]
    return f"Tuned and corrected: {'; '.join(ratios)}."


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
        "Plain extrapolation, linear or quadratic, is worse than holding in "
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
            "forecasts are seen to miss, should be: the aim on 8 devices is a quarter of hold's "
            "distance, and an error in all within 5 % of the synchronous run's."
        ),
        answer="\n".join(
            [_aims(tuned, steps), _tuned(tuned, steps), *_bare(rows), _extrapolated(rows)]
        ),
        figures=_pictures(rows, steps),
        table=_table(rows),
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
            f"synchronous. Tuned forecasts of networks are corrected by {CORRECTION}.",
        )
    ]
    swept = {name_of(row) for row in rows if row["correction"] in FRACTIONS}
    if swept:
        tuned = [row for row in rows if row["forecast"] == "tuned" and is_common(row, steps)]
        found.append(
            report.picture(
                figures.of_fractions([row for row in tuned if name_of(row) in swept]),
                "The distance to the synchronous run of tuned forecasts, over that of held keys "
                "and values, against the share of the correction: least in the middle.",
                f"{subjects.DEVICES} devices, {steps} steps, the first synchronous. Corrections by "
                '0.4 are what "tuned" takes by itself.',
            )
        )
    return tuple(found)


def _table(rows: list[dict]) -> list[dict]:
    """The rows as the page lists them."""
    table = []
    for row in rows:
        named = {
            "of": name_of(row),
            "devices": row["devices"],
            "steps": row["steps"],
            "sync": row["sync"],
            "forecast": kind_of(row),
            "total": row["total"],
        }
        (common,) = words.columns([row], ())
        table.append(named | common)
    return table
