"""What does error control buy?

Maps over (atol, rtol) are compared with fixed plans of equal cost. A second part counts what a
batch costs whose samples advance in lockstep.
"""

from experiments.order.tolerance.numbers import (
    PUBLIC,
    QUESTION,
    at_public,
    cells,
    check,
    measure,
    over_own_formulas,
)
from experiments.order.tolerance.words import section

__all__ = [
    "PUBLIC",
    "QUESTION",
    "at_public",
    "cells",
    "check",
    "measure",
    "over_own_formulas",
    "section",
]
