"""How much smaller is the error of a tuned table than that of the best published solver?"""

from experiments.tune.ratio.numbers import (
    QUESTION,
    TUNED,
    by_steps,
    cells,
    check,
    geometric,
    measure,
    measured,
    weights_of,
)
from experiments.tune.ratio.words import findings, section, summary

__all__ = [
    "QUESTION",
    "TUNED",
    "by_steps",
    "cells",
    "check",
    "findings",
    "geometric",
    "measure",
    "measured",
    "section",
    "summary",
    "weights_of",
]
