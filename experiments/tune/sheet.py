"""Samples of several plans side by side, from the same noise."""

from collections.abc import Sequence

import numpy as np

from experiments.lab import solvers
from experiments.tune.subject import Subject
from flowjax import Plan

COLUMNS = 10  # samples a row, a class each
SEED = 100  # of the noise, which no tuning has seen


def sheet(made: Subject, many: Sequence[Plan], seed: int = SEED) -> np.ndarray:
    """Samples (P COLUMNS, H, W, C) of P plans from one noise: a row of COLUMNS for each plan."""
    noise = made.starts(seed, COLUMNS)
    field = made.bound(COLUMNS)
    return np.concatenate([np.asarray(solvers.solve(field, noise, plan)) for plan in many])
