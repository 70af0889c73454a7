"""What is a forecast of stale keys and values worth, with and without a correction?

And which forecast is stable?
"""

from experiments.staleness.forecasts.numbers import (
    FIRST,
    QUESTION,
    USUAL,
    WARM,
    cells,
    check,
    is_common,
    measure,
    usual_tuned,
)
from experiments.staleness.forecasts.words import name_of, section

__all__ = [
    "FIRST",
    "QUESTION",
    "USUAL",
    "WARM",
    "cells",
    "check",
    "is_common",
    "measure",
    "name_of",
    "section",
    "usual_tuned",
]
