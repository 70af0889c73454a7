"""What stale keys and values will have become: extrapolation in time, from the sender's own last few.

In row i the others see, of a token, not its newest known keys and values K1 (of the row before) but a forecast from those of
the M rows before, K1, K2, ... KM, made by whoever computed them, before they are sent: no byte more is moved.

    hold        order 0     K1
    linear      order 1     K1 + g (K1 - K2),   g = h / h1
    quadratic   order 2     the parabola through K1, K2, K3
    tuned       K1 + sum_j g_j (h / h_j) (K_j - K_j+1), the gains fitted to how they would have done one row ago:
                    min over g of |(K1 - K2) - sum_j g_j (h1 / h_j+1) (K_j+1 - K_j+2)|^2

h is the step in the plan's time from K1's row to this one, h_j that from K_j+1's to K_j's. Plain extrapolation restores
the order that holding loses, where it is stable; where networks answer to what they see it may not be, and then a gain
that is fitted turns itself down. A forecast is data: weights (rows, M) of the history, or for `tuned` the ratios of steps that a
fit needs. A row with fewer rows behind it than M uses those.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FORECASTS = (0, 1, 2, "tuned")


class Tune(NamedTuple):
    """How gains are fitted.

    Attributes:
      ahead: (rows, M-2) h / h_j, 0 where K_j+1 does not exist: it makes of K_j - K_j+1 a difference over the row's step.
      ratio: (rows, M-2) h1 / h_j+1, 0 where K_j+2 does not exist.
      ridge: () what is added to the diagonal of the least squares, relative to its mean.
      lower, upper: () bounds of each gain.
    """

    ahead: np.ndarray
    ratio: np.ndarray
    ridge: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


class Forecast(NamedTuple):
    """A forecast of each row. A pytree of arrays.

    Attributes:
      weights: (rows, M) of K1, K2, ... KM.
      tune: None, or `Tune`: gains are fitted and come on top.
    """

    weights: np.ndarray
    tune: Tune | None


def _times(plan, stage, depth):
    """(rows, M) times of the row of the same stage 1, 2, ... M rows before; NaN where there is none."""
    behind = np.full((plan.rows, depth), np.nan)
    for s in np.unique(stage):
        rows = np.flatnonzero(stage == s)
        for j in range(1, depth + 1):
            behind[rows[j:], j - 1] = plan.t[rows[:-j]]
    return behind


def forecast(plan, stage, kind, *, gains=2, ridge=0.1, bounds=(-np.inf, np.inf)):
    """`Forecast` of a plan with known numbers.

    Args:
      plan: a `Plan`.
      stage: (rows,) which of its step's rows a row is: forecasts use rows of the same stage only.
      kind: 0, 1, 2 or "tuned".
      gains, ridge, bounds: of "tuned": how many gains, 1 or 2, and as in `Tune`.
    """
    if kind not in FORECASTS or isinstance(kind, bool):
        raise ValueError(f"parallel: forecast={kind!r}; wanted one of {FORECASTS}.")
    depth = gains + 2 if kind == "tuned" else kind + 1
    t, behind = np.asarray(plan.t, np.float64), _times(plan, stage, depth)
    if kind == "tuned":
        step = behind[:, :-1] - behind[:, 1:]
        with np.errstate(divide="ignore", invalid="ignore"):  # rows that pad a plan stand at one time
            ahead, ratio = (t - behind[:, 0])[:, None] / step[:, :-1], step[:, :1] / step[:, 1:]
        ahead, ratio = (np.where(np.isfinite(x), x, 0.0) for x in (ahead, ratio))
        tune = Tune(ahead, ratio, np.float64(ridge), *np.array(bounds, np.float64))
        return Forecast(np.eye(1, depth).repeat(plan.rows, 0), tune)
    weights = np.zeros((plan.rows, depth))
    for i, row in enumerate(behind):
        known = row[np.isfinite(row)]
        for j in np.unique(known, return_index=True)[1]:  # Lagrange's polynomials at t; of rows at one time the newest
            others = np.setdiff1d(known, known[j])
            weights[i, j] = np.prod((t[i] - others) / (known[j] - others))
    return Forecast(weights, None)


def predict(told, row, history, pool):
    """The forecast of a row.

    Args:
      told: `Forecast`.
      row: its number.
      history: pytree of (M, K, B, L, ...), values of K layers in the rows before, newest first. Its leaves, keys and values,
        share gains.
      pool: (K, B, L) -> (K, B, L), which adds up the sums of squares and products of those who share gains.

    Returns:
      pytree of (K, B, L, ...).
    """
    leaves = jax.tree.leaves(history)
    wide = jnp.promote_types(leaves[0].dtype, jnp.float32)
    weights = jnp.asarray(told.weights, wide)[row]
    if told.tune is not None:
        steps = [[h[m].astype(wide) - h[m + 1].astype(wide) for h in leaves] for m in range(len(weights) - 1)]
        gains = fitted(jax.tree.map(lambda x: jnp.asarray(x, wide), told.tune), row, steps, pool)

    def leaf(place, values):
        found = sum(weights[m] * values[m].astype(wide) for m in range(len(weights)))
        if told.tune is not None:
            for gain, step in zip(gains, steps, strict=False):
                found += gain.reshape(*gain.shape, *(1,) * (found.ndim - gain.ndim)) * step[place]
        return found.astype(values.dtype)

    return jax.tree.unflatten(jax.tree.structure(history), [leaf(*pair) for pair in enumerate(leaves)])


def fitted(tune, row, steps, pool):
    """What K1 - K2, and K2 - K3 where there are two gains, are to be multiplied by: one or two arrays (K, B, L).

    Ridge least squares of the last difference on those before it, each brought to the length of its step.
    """

    def product(one, other):
        return pool(sum(jnp.sum(a * b, axis=tuple(range(3, a.ndim))) for a, b in zip(one, other, strict=True)))

    ratio, ahead = tune.ratio[row], tune.ahead[row]
    count = len(ratio)
    gram = [[ratio[j] * ratio[k] * product(steps[j + 1], steps[k + 1]) for k in range(count)] for j in range(count)]
    right = [ratio[j] * product(steps[j + 1], steps[0]) for j in range(count)]
    added = tune.ridge * sum(gram[j][j] for j in range(count)) / count
    for j in range(count):  # a difference that there is not has a gain of 0
        gram[j][j] = jnp.where(gram[j][j] > 0, gram[j][j] + added, 1)
    if count == 1:
        found = [_over(right[0], gram[0][0])]
    else:  # Cramer's rule: a library's solver would call LAPACK for each token
        determinant = gram[0][0] * gram[1][1] - gram[0][1] ** 2
        found = [
            _over(right[0] * gram[1][1] - right[1] * gram[0][1], determinant),
            _over(right[1] * gram[0][0] - right[0] * gram[0][1], determinant),
        ]
    return [ahead[j] * jnp.clip(gain, tune.lower, tune.upper) for j, gain in enumerate(found)]


def _over(top, bottom):
    """top / bottom, 0 where nothing has changed."""
    return jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1), 0)
