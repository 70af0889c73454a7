"""Embedded pairs: two results of neighbouring order from one set of evaluations.

Their difference estimates the error of the step.

A step of a pair is a small table for each sample, in the form of `flowjax.plans.table`. It has one
row for each evaluation m_0..m_{S-1} of the step, and row i leads from the start x of the step to
place i:

    place_i = decay_i x + sum_{j<=i} weights_ij m_j,   at times_i
    error   = sum_j error_j m_j                        higher-order result minus lower-order result

The last place is the result of the higher order. The coefficients are those of `flowjax.plans`, but
they are computed inside the loop, where the steps are chosen, with one set for each sample.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.plans.exponential import DEFAULT_FRACTIONS, VARIANTS, step_terms, step_weights
from flowjax.schedules import Schedule

# The methods, and the orders of their higher results.
METHODS = {
    "dpm_solver_pp": (2, 3),
    "dpm_solver": (2, 3),
    "runge_kutta": (2, 3, 5),
}


class Steps(NamedTuple):
    """The table of one step for each sample, as the module docstring defines it.

    Attributes:
      times: (B, S) times of the places.
      decay: (B, S) weights of the state at the start of the step.
      weights: (B, S, S) weights of the evaluations.
      error: (B, S) weights of the evaluations in the error estimate.
    """

    times: jax.Array
    decay: jax.Array
    weights: jax.Array
    error: jax.Array


class Pair(NamedTuple):
    """A method with an error estimate.

    Attributes:
      order: of the higher result; the estimated error of a step goes as (step)^order.
      stages: S, the number of evaluations that a step uses.
      reuses_last: the last evaluation lies at the result of the step, so the next step starts with
        it.
      kind: the prediction that the m_j are: "data", "noise" or "velocity".
      steps: function (schedule, t0, t1) -> `Steps`, with step ends (B,).
      in_log_snr: steps are measured in log-SNR; otherwise in t.
    """

    order: int
    stages: int
    reuses_last: bool
    kind: str
    steps: Callable[[Schedule, jax.Array, jax.Array], Steps]
    in_log_snr: bool

    def coordinate(self, schedule: Schedule, t: jax.Array) -> jax.Array:
        """The coordinate in which steps are measured, at time `t`: log-SNR, or t itself."""
        return schedule.log_snr(t) if self.in_log_snr else t

    def time(self, schedule: Schedule, coordinate: jax.Array) -> jax.Array:
        """The time of a coordinate: the inverse of `coordinate`."""
        return schedule.time_of_log_snr(coordinate) if self.in_log_snr else coordinate


def pair(name: str, method: str, order: int, variant: str = "midpoint") -> Pair:
    """The pair of a method and an order.

    Args:
      name: the public function that an error message names.
      method: one of `METHODS`.
      order: of the higher result.
      variant: of the DPM-Solver updates, "midpoint" or "taylor".

    Raises:
      ValueError: a method or variant that does not exist, or an order that the method does not
        have.
    """
    check_choice(name, "method", method, tuple(METHODS))
    check_choice(name, "variant", variant, VARIANTS)
    orders = METHODS[method]
    if isinstance(order, bool) or not isinstance(order, (int, np.integer)):
        raise ValueError(
            f"{name}: order={order!r} has type {type(order).__name__}; wanted one of the whole "
            f"numbers {orders}, without quotes or a decimal point."
        )
    if order not in orders:
        raise ValueError(
            f"{name}: order={order!r} of method={method!r} has no error estimate; wanted one of "
            f"{orders}."
        )
    if method == "runge_kutta":
        return runge_kutta(order)
    kind = "data" if method == "dpm_solver_pp" else "noise"
    return dpm_solver(order, kind, variant)


# ---- DPM-Solver and DPM-Solver++


def dpm_solver(order: int, kind: str, variant: str = "midpoint") -> Pair:
    """Singlestep DPM-Solver(++) of orders (1, 2) or (2, 3) (arXiv:2206.00927, appendix C).

    Order 2 has its stage at 1/2 of the step in log-SNR. Order 3 has its stages at 1/3 and 2/3, and
    its lower result is order 2 with the stage at 1/3. The higher result is that of
    `plans.singlestep`.

    Args:
      order: 2 or 3.
      kind: "data" (DPM-Solver++) or "noise" (DPM-Solver).
      variant: "midpoint" or "taylor", as in `plans.dpm_solver_pp`.
    """
    steps = functools.partial(_dpm_solver_steps, order=order, kind=kind, variant=variant)
    return Pair(order, order, False, kind, steps, True)


class _Interpolation(NamedTuple):
    """The polynomial that leads to a place: its evaluations, and the variant of its weights."""

    evaluations: list
    variant: str


def _dpm_solver_interpolations(order, variant):
    """(interpolation of each place, that of the lower-order result), as in `plans.singlestep`."""
    first = _Interpolation([0], "taylor")
    if order == 2:
        return [first, _Interpolation([0, 1], variant)], _Interpolation([0], variant)
    second = _Interpolation([0, 1], "taylor")
    # The published midpoint form of order 3 leaves out the evaluation at 1/3.
    result = _Interpolation([0, 2] if variant == "midpoint" else [0, 1, 2], "taylor")
    return [first, second, result], _Interpolation([0, 1], variant)


def _dpm_solver_steps(schedule, t0, t1, *, order, kind, variant):
    """`Steps` from `t0` to `t1`, both (B,), with coefficients of `plans.exponential`."""
    fractions = np.array((0.0, *DEFAULT_FRACTIONS[order], 1.0))  # of the step, in log-SNR

    # The times of the places, and the terms of the exact solution from t0 to each of them.
    start = schedule.log_snr(t0)
    length = schedule.log_snr(t1) - start
    inner_fractions = fractions[1:-1, None].astype(t0.dtype)
    inner = start[None] + inner_fractions * length[None]  # (S-1, B)
    times = jnp.concatenate([schedule.time_of_log_snr(inner), t1[None]])  # (S, B)
    decay, gain, argument, _ = step_terms(schedule, t0[None], times, kind)  # (S, B)

    def row(k, interpolation):
        """Weights (B, S) of the evaluations that lead to place k."""
        evaluations, rule = interpolation
        taus = fractions[evaluations] / fractions[k + 1]
        weights = gain[None] * step_weights(argument, taus, variant=rule)  # (used, S, B)
        of_evaluation = {j: w[k] for j, w in zip(evaluations, weights, strict=True)}
        return evaluation_weights(order, of_evaluation, t0)

    interpolations, lower = _dpm_solver_interpolations(order, variant)
    rows = [row(k, interpolation) for k, interpolation in enumerate(interpolations)]
    error = rows[-1] - row(order - 1, lower)
    return Steps(times.T, decay.T, jnp.stack(rows, axis=1), error)


def evaluation_weights(stages: int, weights: dict[int, jax.Array], like: jax.Array) -> jax.Array:
    """Weights (B, S) of all evaluations of a step.

    Args:
      stages: S.
      weights: from the number of an evaluation to its weights (B,). Those left out are 0.
      like: (B,), for the dtype and shape of the zeros.
    """
    zero = jnp.zeros_like(like)
    return jnp.stack([weights.get(j, zero) for j in range(stages)], axis=1)


# ---- Runge-Kutta


class Tableau(NamedTuple):
    """Coefficients of an embedded Runge-Kutta pair (a Butcher tableau).

    Attributes:
      inner: one row for each stage after the first: the weights of the evaluations before it.
      result: weights of the evaluations in the higher-order result.
      error: weights in the higher-order result minus those in the lower-order result.
    """

    inner: Sequence[Sequence[float]]
    result: Sequence[float]
    error: Sequence[float]


# Where the last row of `inner` equals `result`, the last evaluation lies at the result of the step.
_TABLEAUS = {
    # Heun, with Euler as the lower order.
    2: Tableau(
        inner=[[1.0]],
        result=[1 / 2, 1 / 2],
        error=[-1 / 2, 1 / 2],
    ),
    # Bogacki & Shampine 1989, 3(2).
    3: Tableau(
        inner=[
            [1 / 2],
            [0, 3 / 4],
            [2 / 9, 1 / 3, 4 / 9],
        ],
        result=[2 / 9, 1 / 3, 4 / 9, 0],
        error=[2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8],
    ),
    # Dormand & Prince 1980, 5(4).
    5: Tableau(
        inner=[
            [1 / 5],
            [3 / 40, 9 / 40],
            [44 / 45, -56 / 15, 32 / 9],
            [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
            [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
            [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
        ],
        result=[35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
        error=[71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40],
    ),
}


def runge_kutta(order: int) -> Pair:
    """Runge-Kutta on the velocity in t: Heun-Euler, Bogacki-Shampine or Dormand-Prince."""
    stages = len(_TABLEAUS[order].result)
    steps = functools.partial(_runge_kutta_steps, order=order)
    return Pair(order, stages, order > 2, "velocity", steps, False)


def _runge_kutta_steps(schedule, t0, t1, *, order):
    """`Steps` from `t0` to `t1`, both (B,): place_i = x + h sum_j a_ij m_j.

    The schedule does not enter; all pairs take it.
    """
    tableau = _TABLEAUS[order]
    stages = len(tableau.result)
    rows = [[*row, *[0.0] * (stages - len(row))] for row in [*tableau.inner, tableau.result]]
    rows = np.array(rows)  # (S, S)
    fractions = np.append(rows[:-1].sum(1), 1.0)  # of the step, in t

    h = (t1 - t0)[:, None]  # (B, 1)

    def constant(table):
        return jnp.asarray(table, h.dtype)[None]

    # Places at the end of the step have exactly its time, without the rounding of t0 + h.
    ends = fractions[None] == 1
    times = jnp.where(ends, t1[:, None], t0[:, None] + h * constant(fractions))
    weights = h[:, :, None] * constant(rows)
    return Steps(times, jnp.ones_like(times), weights, h * constant(tableau.error))
