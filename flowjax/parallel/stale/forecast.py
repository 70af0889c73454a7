"""Forecasts of keys and values: extrapolation in time from the last few rows.

In row i the other devices see, of a token, a forecast from the keys and values K1, K2, ... KR of
the R rows before (K1 is the newest). The device that computed them makes the forecast before it
sends, so a forecast needs no more communication than K1 itself.

    hold        order 0     K1
    linear      order 1     K1 + h (K1 - K2) / h1
    quadratic   order 2     the parabola through K1, K2, K3
    tuned       order 1     K1 + g S,    S = h (3/4 (K1 - K2) / h1 + 1/4 (K2 - K3) / h2)

Here h is the step in the plan's time from the row of K1 to this row, and h_j the step from the row
of K_j+1 to that of K_j. The gain g of the tuned forecast is the best one of a row ago,

    g = argmin |(K1 - K2) - g S'|^2,    0 <= g <= MOST,

where S' is S as it was then, and g = 1 where only two rows are known.

Extrapolation restores the order that holding loses, where it is stable. What other devices see
changes what a layer computes, so each layer's forecast contains the errors of earlier forecasts.
For an oscillation z^-i with |z| = 1 the relative error of a forecast with weights W is |1 - W(z)|,
and with even steps at most

    hold 2              linear 4              quadratic 8              tuned with g = 1: 3

Each of n devices sees (n-1)/n of this error. Where the product is large, errors grow from row to
row (docs/findings.md has the measured bound, from `experiments.staleness.loop`). Three choices keep
it small. A quarter of the slope is that of the step before, at the price of 1.25 times the
error of the last step's slope alone. The fitted gain takes back what the last row did not confirm,
so an oscillation turns it off. And tuned forecasts are used with a correction by the receiver
(`attention.corrected`): with a fraction c, only the larger of (1 - c) (n-1)/n and 1/n + c (n-1)/n
of the error is seen, which is 1/2 for any n at c = (n - 2)/(2 n - 2). CORRECTION is that of 6
devices. docs/findings.md says on which networks these numbers were chosen and checked.

A forecast is data, not code. A row with fewer than R rows behind it uses those that there are.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.plans.table import Plan
from flowjax.types import Array, PyTree

FORECASTS = (0, 1, 2, "tuned")
MOST = 1.5  # the greatest gain; above 1 a forecast can follow a change that speeds up
CORRECTION = 0.4  # of "tuned", unless another one is given


class Forecast(NamedTuple):
    """The forecasts of all rows: K = weights . (K1, ... KR) + g change . (K1 - K2, ... KR-1 - KR).

    A pytree of arrays.

    Attributes:
      weights: (N, R).
      change: (N, R - 1), the weights of the expected change S. None: there is no gain.
      before: (N, R - 1), the weights of S', the change that was expected where K1 - K2 came.
    """

    weights: Array
    change: Array | None
    before: Array | None


def forecast(plan: Plan, substep: np.ndarray, kind: "int | str | Forecast") -> Forecast:
    """The `Forecast` of a plan with known numbers.

    Args:
      plan: a `Plan`.
      substep: (N,) which row of its step a row is; a forecast uses rows of its own substep only.
      kind: 0, 1, 2 or "tuned". A `Forecast` for these rows is returned as it is.
    """
    if isinstance(kind, Forecast):
        return kind
    check("parallel.forecast", kind, plan.rows)
    tuned = kind == "tuned"
    rows_used = 4 if tuned else kind + 1  # R
    t = np.asarray(plan.t, np.float64)
    weights = np.zeros((plan.rows, rows_used))
    change = np.zeros((plan.rows, rows_used - 1))
    before = np.zeros((plan.rows, rows_used - 1))
    for i, earlier in enumerate(_earlier_times(plan, substep, rows_used)):
        known = earlier[np.isfinite(earlier)]  # newest first
        count = len(known)
        if tuned and count > 2:
            weights[i, :1] = _polynomial(t[i], known[:1])  # K1 itself
            # Both slopes use equally many steps, so that a gain means the same in both.
            change[i, : count - 2] = _slope(t[i], known[:-1])
            before[i, 1 : count - 1] = _slope(known[0], known[1:])
        else:
            # Two known rows of "tuned" are a straight line: a gain of 1.
            weights[i, :count] = _polynomial(t[i], known)
    return Forecast(weights, change, before) if tuned else Forecast(weights, None, None)


def check(name: str, given: "int | str | Forecast", rows: int) -> None:
    """Refuse what is neither one of `FORECASTS` nor a `Forecast` for a plan of so many rows.

    Raises:
      ValueError: in the name of `name`.
    """
    if not isinstance(given, Forecast):
        if isinstance(given, bool):  # True == 1
            raise ValueError(f"{name}: forecast={given!r}; wanted one of {FORECASTS}.")
        check_choice(name, "forecast", given, FORECASTS)
        return
    weights = np.shape(given.weights)
    if len(weights) != 2 or weights[0] != rows or weights[1] < 1:
        raise ValueError(
            f"{name}: a forecast with weights of shape {weights} for a plan of {rows} rows; wanted "
            f"({rows}, R), the weights of the last R rows in each."
        )
    changes = [None if part is None else np.shape(part) for part in (given.change, given.before)]
    if changes != [None, None] and changes != [(rows, weights[1] - 1)] * 2:
        raise ValueError(
            f"{name}: a forecast with change and before of shapes {changes[0]} and {changes[1]}; "
            f"wanted both None, or both {(rows, weights[1] - 1)}."
        )
    for part in given:
        if part is not None and not np.all(np.isfinite(part)):
            raise ValueError(f"{name}: a forecast with weights that are not finite.")


def correction_of(
    kind: "int | str | Forecast", correction: "float | Sequence[float] | None", plan: Plan
) -> np.ndarray | None:
    """(N,) the fractions of the receiver's correction in the rows; None where all are 0.

    Args:
      kind: 0, 1, 2, "tuned" or a `Forecast`.
      correction: a fraction, (steps,) fractions, or None: `CORRECTION` for "tuned", else 0.
      plan: a `Plan` with known numbers.
    """
    if correction is None:
        is_tuned = isinstance(kind, str) and kind == "tuned"
        correction = CORRECTION if is_tuned else 0
    if not np.any(correction):
        return None
    # Rows have the fraction of their step; padding follows the last step.
    step = np.minimum(plan.steps_before, plan.steps - 1)
    return np.broadcast_to(np.asarray(correction, np.float64), (plan.steps,))[step]


def predict(
    forecasts: Forecast,
    row: int | jax.Array,
    history: PyTree,
    pool: Callable[[jax.Array], jax.Array],
) -> PyTree:
    """The forecast of keys and values in a row.

    Args:
      forecasts: a `Forecast`.
      row: the row's number.
      history: a pytree of (R, K, B, L, ...), the values of K layers in the rows before, newest
        first. Its leaves, keys and values, have a gain in common.
      pool: (K, B, L) -> (K, B, L), which adds up products and squares over the tokens that have a
        gain in common.

    Returns:
      a pytree of (K, B, L, ...).
    """
    leaves, tree = jax.tree.flatten(history)
    # Sums are in float32 at least, and the result is in the dtype of the values.
    wide = jnp.promote_types(leaves[0].dtype, jnp.float32)
    known = [[leaf[j].astype(wide) for j in range(len(leaf))] for leaf in leaves]
    found = _weighted(forecasts.weights, row, known)
    if forecasts.change is not None:
        # Differences are exactly 0 where nothing moved: a gain fitted to rounding errors would be
        # an arbitrary number.
        changes = [[new - old for new, old in itertools.pairwise(leaf)] for leaf in known]
        newest = [leaf[0] for leaf in changes]
        gain = fitted(_weighted(forecasts.before, row, changes), newest, pool)
        expected = _weighted(forecasts.change, row, changes)
        found = [
            value + _like(gain, value) * change
            for value, change in zip(found, expected, strict=True)
        ]
    found = [value.astype(leaf.dtype) for value, leaf in zip(found, leaves, strict=True)]
    return jax.tree.unflatten(tree, found)


def fitted(
    expected: Sequence[jax.Array],
    came: Sequence[jax.Array],
    pool: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """The gain (K, B, L) in [0, MOST] that brings the expected change nearest to the one that came.

    It is 0 where no change was expected.

    Args:
      expected, came: lists of (K, B, L, ...).
      pool: as in `predict`.
    """
    square = _product(expected, expected, pool)
    ratio = _product(expected, came, pool) / jnp.where(square > 0, square, 1)
    return jnp.where(square > 0, jnp.clip(ratio, 0, MOST), 0)


def _product(one, other, pool):
    """(K, B, L) the inner product over all axes after the tokens, pooled."""
    parts = [jnp.sum(a * b, axis=tuple(range(3, a.ndim))) for a, b in zip(one, other, strict=True)]
    return pool(sum(parts))


def _weighted(table, row, leaves):
    """For each leaf, a list of arrays, their sum with the weights of the row."""
    weights = jnp.asarray(table, leaves[0][0].dtype)[row]
    return [sum(weights[j] * leaf[j] for j in range(len(weights))) for leaf in leaves]


def _like(gain, array):
    """(K, B, L) shaped to multiply (K, B, L, ...)."""
    return gain.reshape(*gain.shape, *(1,) * (array.ndim - gain.ndim))


def _earlier_times(plan, substep, rows_used):
    """(N, R) times of the row of the same substep 1, 2, ... R rows before; NaN if there is none."""
    earlier = np.full((plan.rows, rows_used), np.nan)
    for number in np.unique(substep):
        rows = np.flatnonzero(substep == number)
        for j in range(1, rows_used + 1):
            earlier[rows[j:], j - 1] = plan.t[rows[:-j]]
    return earlier


def _polynomial(t, known):
    """Weights of the values at the times `known`, newest first, in their polynomial at `t`."""
    weights = np.zeros(len(known))
    # Rows that pad a plan lie at one time; of those at one time, only the newest has a weight.
    newest_of_each_time = np.unique(known, return_index=True)[1]
    for j in newest_of_each_time:
        others = np.setdiff1d(known, known[j])
        weights[j] = np.prod((t - others) / (known[j] - others))
    return weights


def _slope(t, known):
    """Weights of the changes between values at the times `known`, newest first, in S until `t`.

    The slope is 3/4 that of the last step and 1/4 that of the step before, if there is one.
    """
    steps = -np.diff(known)[:2]
    # Rows that pad a plan lie at one time: a step of length 0 has no slope.
    moves = steps != 0
    parts = moves * (0.75, 0.25)[: len(steps)]
    ahead = t - known[0]
    return np.divide(
        parts * ahead, steps * max(parts.sum(), 0.25), out=np.zeros_like(steps), where=moves
    )
