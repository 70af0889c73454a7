"""When does a viewer see staleness? Labels and statistics of stale samples beside synchronous ones."""

from experiments.staleness.viewer.numbers import (
    MODES,
    QUESTION,
    SYNCHRONOUS,
    cells,
    check,
    is_seen,
    measure,
)

__all__ = ["MODES", "QUESTION", "SYNCHRONOUS", "cells", "check", "is_seen", "measure"]
