"""Which number tells beforehand, or for free while sampling, whether a higher order will pay?

The bend of a path is a dial: the width of the ring's modes, the coupling of noise and data, the
schedule. A score is good if cells where the higher order loses have the higher score. The area
under its ROC curve (AUC) is the chance that a losing cell scores above a winning one: 0.5 is a
coin, and below 0.5 the score points the wrong way.
"""

from experiments.order.curvature.numbers import (
    QUESTION,
    area_of,
    cells,
    check,
    kinds,
    measure,
    ranking,
)
from experiments.order.curvature.words import section

__all__ = ["QUESTION", "area_of", "cells", "check", "kinds", "measure", "ranking", "section"]
