"""Starts that no tuning has seen, with their converged endpoints: what all errors are taken on."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from configs.tune import Config
from experiments.lab import solvers, statistics, truth
from experiments.tune import subject as subject_module
from experiments.tune.subject import Subject
from flowjax import Plan, distances, grids, plans


class Unseen(NamedTuple):
    """Unseen starts of a subject.

    Attributes:
      field: has velocity(x, t), bound to the labels of the starts.
      noise: (B, *D).
      exact: (B, *D) the converged endpoints.
      doubling: by how much they moved when the Runge-Kutta steps were doubled.
    """

    field: Any
    noise: np.ndarray
    exact: np.ndarray
    doubling: float

    def errors(self, many: Sequence[Plan]) -> np.ndarray:
        """Errors (P, B) of plans, relative to the root mean square norm of the endpoints.

        An endpoint that is not finite has an infinite error.
        """
        ends = solvers.run_plans(self.field, self.noise, many)
        return self.errors_of(ends)

    def errors_of(self, ends: np.ndarray) -> np.ndarray:
        """Errors (P, B) of endpoints (P, B, *D)."""
        # A solver that diverged is as far away as can be, and never the best.
        away = np.stack([statistics.row_norms(np.float64(x) - self.exact) for x in ends])
        return np.where(np.isfinite(away), away, np.inf) / statistics.scale_of(self.exact)


def unseen(config: Config, subject: Subject) -> Unseen:
    """The unseen starts of a subject; the endpoints are integrated once."""
    _, count, steps = subject.starts_of(config)
    # The cache is keyed by what the endpoints depend on, not by the whole configuration.
    sizes = (config.unseen_seed, count, steps)
    about = (subject.name, subject.guidance, bool(config.float64), config.embeddings)
    return _unseen(about, *sizes)


@functools.lru_cache(maxsize=8)
def _unseen(about: tuple, seed: int, count: int, steps: int) -> Unseen:
    made = subject_module.of(*about)
    noise = made.starts(seed, count)
    field = made.bound(count)
    solved = _converged(made, field, noise, steps)
    return Unseen(field, noise, np.float64(solved.x), solved.doubling)


def _converged(made: Subject, field: Any, noise: np.ndarray, steps: int) -> truth.Reference:
    """Endpoints of RK4 at `steps` steps, and their change from half as many."""
    if not made.is_network:
        return truth.reference(field, noise, steps)
    # Networks have no modes narrower than their training resolved, so uniform times do; equal
    # steps in log-SNR would spend half of them where nothing moves.
    coarse, fine = (
        np.asarray(solvers.solve(field, noise, plans.rk4(grids.uniform(n))))
        for n in (steps // 2, steps)
    )
    moved = np.sqrt(np.mean(statistics.row_norms(coarse - fine) ** 2))
    return truth.Reference(fine, float(moved / statistics.scale_of(fine)))


def rms(errors: np.ndarray) -> float:
    """Root mean square of errors (B,)."""
    return float(distances.rms(errors))


def summary(errors: np.ndarray) -> dict[str, float]:
    """RMS, median and worst decile (the 90th percentile) of errors (B,)."""
    return {
        "rms": rms(errors),
        "median": float(np.median(errors)),
        "decile": float(np.quantile(errors, 0.9)),
    }


def compared(errors: np.ndarray, baseline: np.ndarray) -> dict[str, float | str]:
    """Ratio of the RMS errors and of the medians, each with interval and verdict.

    Args:
      errors, baseline: (B,), row i from the same start.
    """
    # Every start is its own seed.
    return statistics.paired(errors, baseline, np.arange(len(errors)))
