"""Which order is best at how many evaluations? Solvers x fields x shifts, all on the same noise."""

from experiments.order.nfe.numbers import (
    FAMILIES,
    FEW,
    QUESTION,
    RANGES,
    VERDICTS,
    WARM,
    cells,
    check,
    compared,
    count_opposite,
    counts,
    families,
    flat,
    measure,
    tally,
    verdicts,
    winners,
)
from experiments.order.nfe.words import pays, section

__all__ = [
    "FAMILIES",
    "FEW",
    "QUESTION",
    "RANGES",
    "VERDICTS",
    "WARM",
    "cells",
    "check",
    "compared",
    "count_opposite",
    "counts",
    "families",
    "flat",
    "measure",
    "pays",
    "section",
    "tally",
    "verdicts",
    "winners",
]
