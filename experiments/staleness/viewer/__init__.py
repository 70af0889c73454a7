"""When does a viewer see staleness? Labels and statistics beside synchronous samples."""

from experiments.staleness.viewer.numbers import (
    LITTLE,
    MODES,
    QUESTION,
    SYNCHRONOUS,
    cells,
    check,
    is_seen,
    measure,
    stale,
)
from experiments.staleness.viewer.words import section

__all__ = [
    "LITTLE",
    "MODES",
    "QUESTION",
    "SYNCHRONOUS",
    "cells",
    "check",
    "is_seen",
    "measure",
    "section",
    "stale",
]
