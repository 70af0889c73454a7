"""Embedded pairs: two results of neighbouring order from the same evaluations, so that their difference is an error.

A step of a pair is written as a small table for each sample, in the form of `flowjax.plans.table`, with one row for each
evaluation m_0..m_{S-1} of the step:

    place_i = decay_i x + sum_{j<=i} weights_ij m_j,   at times_i     the last place is the result of the higher order
    error   = sum_j error_j m_j                                       higher order minus lower order

The coefficients are those of the plans, evaluated where the steps are chosen: inside the loop, a set for each sample.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.plans.exponential import DEFAULT_FRACTIONS, VARIANTS, step_terms, step_weights

METHODS = {
    "dpm_solver_pp": (2, 3),
    "dpm_solver": (2, 3),
    "runge_kutta": (2, 3, 5),
}  # and their orders


class Steps(NamedTuple):
    """One step for each sample: times (B, S), decay (B, S), weights (B, S, S), error (B, S)."""

    times: jax.Array
    decay: jax.Array
    weights: jax.Array
    error: jax.Array


class Pair(NamedTuple):
    """A method with an error estimate.

    Attributes:
      order: of the higher result; the error of a step goes as (step)^order.
      stages: evaluations S that a step uses.
      reuses_last: the last evaluation lies at the accepted state, so the next step starts with it.
      kind: what the m_j are, "data", "noise" or "velocity".
      steps: (schedule, t0, t1) -> `Steps`.
      in_log_snr: steps are measured in log-SNR, else in t.
    """

    order: int
    stages: int
    reuses_last: bool
    kind: str
    steps: Callable
    in_log_snr: bool

    def place(self, schedule, t):
        """`t` in the variable of the steps."""
        return schedule.log_snr(t) if self.in_log_snr else t

    def time(self, schedule, place):
        """Inverse of `place`."""
        return schedule.time_of_log_snr(place) if self.in_log_snr else place


def pair(name, method, order, variant="midpoint"):
    """The pair of this method and order; `name` is the public function that a refusal speaks for."""
    check_choice(name, "method", method, tuple(METHODS))
    check_choice(name, "variant", variant, VARIANTS)
    if order not in METHODS[method]:
        raise ValueError(
            f"{name}: order={order!r} of method={method!r} has no error estimate; wanted one of {METHODS[method]}."
        )
    if method == "runge_kutta":
        return runge_kutta(order)
    return dpm_solver(order, {"dpm_solver_pp": "data", "dpm_solver": "noise"}[method], variant)


def dpm_solver(order, kind, variant="midpoint"):
    """Singlestep DPM-Solver(++) of orders (1, 2) or (2, 3) on the same evaluations (arXiv:2206.00927, appendix C).

    Order 2 has its stage at 1/2 of the step in log-SNR, order 3 at 1/3 and 2/3, and its lower result is order 2 with the
    stage at 1/3. The higher result is that of `plans.singlestep`.

    Args:
      order: 2 or 3.
      kind: "data" (DPM-Solver++) or "noise" (DPM-Solver).
      variant: "midpoint" or "taylor", as in `plans.dpm_solver_pp`.
    """
    fractions = np.array((0.0, *DEFAULT_FRACTIONS[order], 1.0))
    # Of each place: the evaluations it uses (the newest stage and the start) and their rule, as in plans.singlestep.
    places = (
        [([0], "taylor"), ([0, 1], variant)]
        if order == 2
        else [([0], "taylor"), ([0, 1], "taylor")]
    )
    if order == 3:
        places.append(([0, 2] if variant == "midpoint" else [0, 1, 2], "taylor"))
    lower = ([0], variant) if order == 2 else ([0, 1], variant)

    def steps(schedule, t0, t1):
        start = schedule.log_snr(t0)
        inner = (
            start[None]
            + fractions[1:-1, None].astype(t0.dtype) * (schedule.log_snr(t1) - start)[None]
        )
        times = jnp.concatenate([schedule.time_of_log_snr(inner), t1[None]])  # (S, B)
        decay, gain, argument, _ = step_terms(schedule, t0[None], times, kind)

        def row(k, used, rule):
            weights = gain[None] * step_weights(
                argument, fractions[used] / fractions[k + 1], variant=rule
            )
            return _row(order, {j: w[k] for j, w in zip(used, weights, strict=True)}, t0)

        rows = [row(k, *place) for k, place in enumerate(places)]
        return Steps(times.T, decay.T, jnp.stack(rows, axis=1), rows[-1] - row(order - 1, *lower))

    return Pair(order, order, False, kind, steps, True)


def _row(size, weights, like):
    return jnp.stack([weights.get(j, jnp.zeros_like(like)) for j in range(size)], axis=1)


# (stages, weights of the higher result, its difference to the lower one); where the last stage is the result itself,
# its evaluation starts the next step.
_TABLEAUS = {
    # Heun, with Euler.
    2: ([[1.0]], [1 / 2, 1 / 2], [-1 / 2, 1 / 2]),
    # Bogacki & Shampine 1989, 3(2).
    3: (
        [[1 / 2], [0, 3 / 4], [2 / 9, 1 / 3, 4 / 9]],
        [2 / 9, 1 / 3, 4 / 9, 0],
        [2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8],
    ),
    # Dormand & Prince 1980, 5(4).
    5: (
        [
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
            [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
        ],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
        [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40],
    ),
}  # fmt: skip


def runge_kutta(order):
    """Runge-Kutta on the velocity in t: Heun-Euler 2(1), Bogacki-Shampine 3(2) or Dormand-Prince 5(4)."""
    inner, final, error = _TABLEAUS[order]
    size = len(final)
    rows = np.array([row + [0.0] * (size - len(row)) for row in [*inner, final]])
    places = np.append(rows[:-1].sum(1), 1.0)

    def steps(schedule, t0, t1):
        h = (t1 - t0)[:, None]
        like = lambda table: jnp.asarray(table, h.dtype)[None]
        times = jnp.where(places[None] == 1, t1[:, None], t0[:, None] + h * like(places))
        return Steps(times, jnp.ones_like(times), h[:, :, None] * like(rows), h * like(error))

    return Pair(order, size, order > 2, "velocity", steps, False)


def leap_out(schedule, stages, decreasing, t0, t1):
    """The step away from an end where log-SNR is infinite: order 1, judged by the evaluation that the next step needs.

    In r = alpha/sigma (from pure noise; sigma/alpha from data) the solution is a plain integral of the data (noise)
    prediction, and order 1 is Euler's rule for it:

        x1 = sigma1/sigma0 x0 + alpha1 m_0,     error = alpha1 (m_1 - m_0)/2,

    the distance to the trapezoidal rule. Its second row repeats the place, so m_1 is also the next step's m_0.

    Args:
      schedule: the path.
      stages: of the pair that shares the table, at least 2.
      decreasing: True from t = 1, False from t = 0, where alpha and sigma, data and noise change places.
      t0, t1: (B,) ends.
    """
    grows, falls = sides(schedule, decreasing)
    like = jnp.zeros_like(t1)
    place = _row(stages, {0: grows(t1)}, like)
    decay = falls(t1) / falls(t0)
    return Steps(
        jnp.stack([t1] * stages, axis=1),
        jnp.stack([decay] * stages, axis=1),
        jnp.stack([place] * stages, axis=1),
        _row(stages, {0: -grows(t1) / 2, 1: grows(t1) / 2}, like),
    )


def sides(schedule, decreasing):
    """(alpha, sigma) towards data, (sigma, alpha) towards noise: the part that grows and the part that falls."""
    return (schedule.alpha, schedule.sigma) if decreasing else (schedule.sigma, schedule.alpha)
