"""Does guidance move the number of evaluations from which a higher order pays?

The guided field is conditional + (scale - 1)(conditional - all) of one mixture; the conditional is
some of its modes. It has no closed form and no distribution of its own to hit: its reference is its
own ODE, solved finely.
"""

from experiments.order.guided.numbers import (
    PAIRS,
    QUESTION,
    SHIFTS,
    SOLVERS,
    STARTS,
    by_scale,
    cells,
    measure,
    rms_verdicts,
)
from experiments.order.guided.words import section

__all__ = [
    "PAIRS",
    "QUESTION",
    "SHIFTS",
    "SOLVERS",
    "STARTS",
    "by_scale",
    "cells",
    "measure",
    "rms_verdicts",
    "section",
]
