"""Words that several questions have in common: a ratio, the columns of a table, a caveat."""

from collections.abc import Sequence

from experiments import report
from experiments.staleness import subjects
from flowjax.records import table

# What the row of every comparison has of errors and ratios.
COMPARISON = (
    "sync_rms",
    "sync_rms_low",
    "sync_rms_high",
    "own_rms",
    "exact_rms",
    "rms_ratio",
    "rms_low",
    "rms_high",
    "median_ratio",
    "total_rms_ratio",
    "misrouted",
    "staleness",
)


def ratio(row: dict, kind: str = "rms") -> str:
    """The ratio of a row to its cell of comparison, as "**0.61** (0.55 to 0.70)"."""
    # The stars make the number bold on the page.
    low, high = (report.sig(row[f"{kind}_{end}"]) for end in ("low", "high"))
    return f"**{report.sig(row[f'{kind}_ratio'])}** ({low} to {high})"


def columns(rows: list[dict], names: Sequence[str]) -> list[dict]:
    """The rows with these columns, and those of every comparison."""
    return [{name: row[name] for name in (*names, *COMPARISON)} for row in rows]


def converged(rows: list[dict]) -> str:
    """How accurate the converged run of each subject is, as a sentence."""
    # Rows of one subject may have several converged runs; the worst one counts.
    moved = table(rows, "subject", "doubling").items()
    each = ", ".join(
        f"{report.sig(max(values))} ({subjects.NAMES[name]})" for name, values in moved
    )
    return (
        f"When the steps of the converged run doubled it moved by {each}; "
        "a distance to it that is not larger is not measured."
    )


def common(rows: list[dict]) -> str:
    """Solver and steps that all rows have, for captions: "DPM++ 2M, 20 steps"."""
    return f"{rows[0]['solver']}, {rows[0]['steps']} steps"
