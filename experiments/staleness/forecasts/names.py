"""Forecasts: the names of subjects, forecasts and settings, which figures and words both need."""

from experiments.staleness import subjects
from experiments.staleness.forecasts.numbers import FIRST, FORECASTS, USUAL
from flowjax.parallel.stale.forecast import CORRECTION

# {correction: how it is named beside the forecast}
CORRECTIONS = {USUAL: "", CORRECTION: ", corrected", 0.0: ", not corrected"}


def name_of(row: dict) -> str:
    """The subject of a row."""
    return row["network"] or subjects.NAMES[row["subject"]]


def kind_of(row: dict) -> str:
    """The forecast in words, with its correction where that is not its own."""
    other = f", corrected by {row['correction']}"
    return FORECASTS[row["forecast"]] + CORRECTIONS.get(row["correction"], other)


def how(row: dict, steps: int) -> str:
    """Devices, steps and synchronous steps of a row, where the latter are not the common ones."""
    parts = [f"{row['devices']} devices"]
    if row["steps"] != steps:
        parts.append(f"{row['steps']} steps")
    if row["sync"] != FIRST:
        parts.append(f"{row['sync']} synchronous")
    return ", ".join(parts)
