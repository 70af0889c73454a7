"""Which optimizer finds the table? Adam, least squares and Levenberg-Marquardt on the same numbers.

All begin from the same published plan and see the same training starts. Adam gets a multiple of the
evaluations that Levenberg-Marquardt spent.
"""

from experiments.tune.optimizer.numbers import QUESTION, cells, check, measure
from experiments.tune.optimizer.words import section, summary

__all__ = ["QUESTION", "cells", "check", "measure", "section", "summary"]
