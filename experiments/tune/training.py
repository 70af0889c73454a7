"""Training and validation starts for the questions that refine a table by themselves."""

import numpy as np

from experiments.tune.subject import Subject
from flowjax import tune

TOLERANCE = 1e-4  # of converged endpoints; the errors of the tables compared are larger


def split(
    noise: np.ndarray, exact: np.ndarray, labels: np.ndarray | None
) -> tuple[tune.Starts, tune.Starts]:
    """Two thirds that train and one that validates, as in `tune.tune` without its test starts.

    Args:
      noise, exact: (B, *D) starts and their converged endpoints.
      labels: (B,), or None.
    """
    cut = 2 * len(noise) // 3
    # Labels go round the classes, so both parts have all of them.
    return tuple(
        tune.Starts(noise[part], exact[part], None if labels is None else labels[part])
        for part in (slice(0, cut), slice(cut, None))
    )


def starts(made: Subject, seed: int, count: int) -> tuple[tune.Starts, tune.Starts]:
    """`split` of `count` starts of a model, with their endpoints integrated."""
    noise, labels = made.starts(seed, count), made.labels(count)
    found = tune.reference(made.velocity, noise, [1.0, 0.0], tolerance=TOLERANCE, condition=labels)
    return split(noise, found.states[-1], labels)
