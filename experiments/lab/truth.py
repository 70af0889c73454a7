"""Converged solutions, against which errors are measured, and the starts of a cell."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.lab.solvers import solve
from experiments.lab.statistics import row_norms, scale_of
from experiments.lab.subjects import sample_shape
from flowjax import plans
from flowjax.schedules import Schedule


def fine_grid(
    schedule: Schedule,
    steps: int,
    *,
    start: float = 1.0,
    end: float = 0.0,
    low: float = -7.0,
    high: float = 9.0,
) -> np.ndarray:
    """Times of a reference: uniform in log-SNR from `low` to `high`, between `start` and `end`."""
    # Equal steps in log-SNR resolve narrow modes, wherever they are.
    inner = schedule.time_of_log_snr(np.linspace(low, high, steps - 1))
    inside = (inner < start - 1e-9) & (inner > end + 1e-9)
    return np.concatenate([[start], inner[inside], [end]])


class Reference(NamedTuple):
    """A converged solution.

    Attributes:
      x: (B, *D) endpoints of RK4 with fine steps in log-SNR.
      doubling: how far doubling the steps moved them (RMS, relative).
    """

    x: np.ndarray
    doubling: float


def reference(field: Any, noise: np.ndarray, steps: int = 200, start: float = 1.0) -> Reference:
    """`Reference` of the probability-flow ODE from `noise` (B, *D) at time `start` to t = 0."""
    # Halving the step of RK4 divides its error by 16, so the change is the coarse error.
    coarse, fine = (
        np.asarray(solve(field, noise, plans.rk4(fine_grid(field.schedule, n, start=start))))
        for n in (steps // 2, steps)
    )
    moved = np.sqrt(np.mean(row_norms(coarse - fine) ** 2))
    # RMS over samples, relative to the size of an endpoint.
    return Reference(fine, float(moved / scale_of(fine)))


class Cell(NamedTuple):
    """A field with the starts of all seeds and their converged endpoints.

    Attributes:
      field: has `velocity(x, t)`, `schedule` and `nearest(x)`.
      noise: (B, *D) the starts.
      exact: (B, *D) the endpoints of the reference.
      seed: (B,) the seed that each start was drawn from.
      doubling: of the reference.
    """

    field: Any
    noise: np.ndarray
    exact: np.ndarray
    seed: np.ndarray
    doubling: float

    def errors(self, endpoints: np.ndarray) -> np.ndarray:
        """Relative errors (P, B) of endpoints (P, B, *D)."""
        return np.stack([row_norms(x - self.exact) for x in endpoints]) / scale_of(self.exact)

    def misrouted(self, endpoints: np.ndarray) -> np.ndarray:
        """Fraction (P,) of samples whose nearest mode or datum is not the exact endpoint's."""
        # Noise and exact endpoint fix the mode that a sample should end in.
        true = np.asarray(self.field.nearest(jnp.asarray(self.exact)))
        return np.array(
            [np.mean(np.asarray(self.field.nearest(jnp.asarray(x))) != true) for x in endpoints]
        )


def make_cell(field: Any, seeds: int, samples: int, *, steps: int = 200) -> Cell:
    """The `Cell` of a field: `samples` starts for each of `seeds` seeds, and their endpoints."""
    # One key a seed: a smaller run has the first starts of a larger one.
    shape = sample_shape(field)
    # (samples, *D) for each seed.
    drawn = [
        flowjax.draw_noise(jax.random.key(seed), np.arange(samples), shape) for seed in range(seeds)
    ]
    noise = np.concatenate(drawn).astype(np.float64)
    solved = reference(field, noise, steps)
    return Cell(field, noise, solved.x, np.repeat(np.arange(seeds), samples), solved.doubling)
