"""Does the answer on exact fields hold on networks?

The subjects are the shipped networks and two that were trained on coupled noise and data (optimal
transport, reflow). They run the same plans as the exact fields, and the error of a sample is the
distance to the network's own ODE, solved finely. Here that ODE is the truth: how good the network
is, is another question (`experiments/quality.py`). Networks run in float32, as users run them, and
the rows hold how far that moves endpoints.
"""

from experiments.order.learned.numbers import (
    QUESTION,
    cells,
    check,
    dial,
    measure,
    reference,
    run,
    slopes,
)
from experiments.order.learned.words import answer, section, steep

__all__ = [
    "QUESTION",
    "answer",
    "cells",
    "check",
    "dial",
    "measure",
    "reference",
    "run",
    "section",
    "slopes",
    "steep",
]
