"""Words that several questions have in common: a ratio, the columns of a table, a caveat."""

from collections.abc import Sequence

from experiments import report
from experiments.staleness import draw, subjects
from flowjax.records import table


def ratio(row: dict, kind: str = "rms") -> str:
    """The ratio of a row to its cell of comparison, as "**0.61** (0.55 to 0.70)"."""
    value, interval = draw.with_interval(
        *(row[f"{kind}_{end}"] for end in ("ratio", "low", "high"))
    ).split(" ", 1)
    # The stars make the number bold on the page.
    return f"**{value}** {interval}"


def error(row: dict, kind: str = "sync") -> str:
    """The RMS error of a row with its interval; "sync" is to the synchronous run."""
    return draw.with_interval(*(row[f"{kind}_rms{end}"] for end in ("", "_low", "_high")))


def columns(rows: list[dict], names: Sequence[str]) -> list[dict]:
    """The rows of a comparison as the page lists them.

    Args:
      rows: of a question that compares.
      names: of the columns that come first; "copies" is the name of the forecast.
    """
    return [
        {name: row[name] for name in names}
        | {
            "error": error(row),
            "ratio of RMS": ratio(row).replace("**", ""),
            "ratio of medians": ratio(row, "median").replace("**", ""),
            "to the converged run": row["exact_rms"],
            "solver's own": row["own_rms"],
        }
        for row in rows
    ]


# What the page means by the words of its tables.
DEFINITIONS = {
    "error": "RMS distance to the synchronous run of the same solver and steps, over the norm of "
    "the converged samples; the column to the converged run has the distance to that one instead.",
    "interval": "In brackets, 95 %, by resampling seeds and then starts within them.",
    "ratio": "Of errors on the same starts, to the cell of comparison that the section names.",
    "solver's own": "Distance of the synchronous run to the converged one.",
    "held": "Copies that are the newest keys and values, without a forecast.",
    "tuned": "Copies that are extrapolated with a gain, which is fitted to the last row.",
}


def converged(rows: list[dict]) -> str:
    """How accurate the converged run of each subject is, as a sentence."""
    # Rows of one subject may have several converged runs; the worst one counts.
    moved = table(rows, "subject", "doubling").items()
    each = ", ".join(
        f"{report.sig(max(values))} ({subjects.NAMES[name]})" for name, values in moved
    )
    return f"The converged runs moved by {each} when their steps doubled."


def common(rows: list[dict]) -> str:
    """Solver and steps that all rows have, for captions: "DPM++ 2M, 20 steps"."""
    return f"{rows[0]['solver']}, {rows[0]['steps']} steps"


def span(values: Sequence[float]) -> str:
    """The least and the most of some values: "1.2 to 3.4", or one number."""
    low, high = report.sig(min(values)), report.sig(max(values))
    return low if low == high else f"{low} to {high}"
