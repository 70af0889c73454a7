"""What do the defects of public code cost?

Every defect is reproduced on exact fields before and after, with one thing changed.
"""

from experiments.order.defects.numbers import QUESTION, cells, check, measure
from experiments.order.defects.words import section

__all__ = ["QUESTION", "cells", "check", "measure", "section"]
