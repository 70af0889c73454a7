"""What stale keys and values will have become: extrapolation in time, from the sender's own last few.

In row i the others see, of a token, not its newest known keys and values K1 (of the row before) but a forecast from those of
the M rows before, K1, K2, ... KM, made by whoever computed them, before they are sent: no byte more is moved.

    hold        order 0     K1
    linear      order 1     K1 + h (K1 - K2) / h1
    quadratic   order 2     the parabola through K1, K2, K3
    tuned       order 1     K1 + g h (K1 - K3) / (h1 + h2),     0 <= g <= MOST, what would have been best a row ago:
                            g = argmin |(K1 - K2) - g h1 (K2 - K4) / (h2 + h3)|^2

h is the step in the plan's time from K1's row to this one, h_j that from K_j+1's to K_j's. Extrapolation restores the order
that holding loses, where it is stable. What others see changes what a layer computes, so each layer forecasts anew what the
forecasts before it missed; of a wiggle z^-i a forecast W(z) misses |1 - W(z)|, with even steps at most

    hold 2              linear 4              quadratic 8              tuned at g = 1: |1 - z|^2 |1 + z/2| <= 3 sqrt(3)/2 = 2.6

which through six layers is 64, 4096, 3e5 and 308 times what layers pass on. That decides whether errors die or grow from row to
row: of 30 loops on two networks of six layers those grow, and all of them, in which n devices see (n-1)/n of that and it is
above 2.3 to 2.6 (experiments.staleness.loop). So the slope is taken over two steps, at 1.5 times the error of the slope over one,
and a gain that is fitted takes back what the last row did not bear out: an oscillation turns it off. A forecast is data; a row
with fewer rows behind it than M uses those.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FORECASTS = (0, 1, 2, "tuned")
MOST = 1.5  # of a gain; above 1 it follows what speeds up


class Forecast(NamedTuple):
    """A forecast of each row: K = weights . (K1, ... KM) + g change . (K1, ... KM). A pytree of arrays.

    Attributes:
      weights: (rows, M).
      change: None, where there is no gain, or (rows, M): the change to expect, h (K1 - K3) / (h1 + h2).
      before: the same, of the row before: h1 (K2 - K4) / (h2 + h3) was expected where K1 - K2 came.
    """

    weights: np.ndarray
    change: np.ndarray | None
    before: np.ndarray | None


def _times(plan, stage, depth):
    """(rows, M) times of the row of the same stage 1, 2, ... M rows before; NaN where there is none."""
    behind = np.full((plan.rows, depth), np.nan)
    for s in np.unique(stage):
        rows = np.flatnonzero(stage == s)
        for j in range(1, depth + 1):
            behind[rows[j:], j - 1] = plan.t[rows[:-j]]
    return behind


def _polynomial(t, known):
    """Weights of the values at the times `known`, newest first, in their polynomial's value at `t`."""
    weights = np.zeros(len(known))
    for j in np.unique(known, return_index=True)[1]:  # of rows at one time, as those that pad a plan, the newest
        others = np.setdiff1d(known, known[j])
        weights[j] = np.prod((t - others) / (known[j] - others))
    return weights


def _slope(t, known):
    """Weights of the values at the times `known`, newest first, in what their slope over two steps, or one, adds until `t`."""
    weights, last = np.zeros(len(known)), min(len(known), 3) - 1
    if last > 0 and known[0] != known[last]:
        weights[[0, last]] = np.array([1, -1]) * (t - known[0]) / (known[0] - known[last])
    return weights


def forecast(plan, stage, kind):
    """`Forecast` of a plan with known numbers.

    Args:
      plan: a `Plan`.
      stage: (rows,) which of its step's rows a row is: forecasts use rows of the same stage only.
      kind: 0, 1, 2 or "tuned".
    """
    if kind not in FORECASTS or isinstance(kind, bool):
        raise ValueError(f"parallel: forecast={kind!r}; wanted one of {FORECASTS}.")
    depth = 4 if kind == "tuned" else kind + 1
    t, behind = np.asarray(plan.t, np.float64), _times(plan, stage, depth)
    weights, change, before = np.zeros((3, plan.rows, depth))
    for i, row in enumerate(behind):
        known = row[np.isfinite(row)]
        count = len(known)
        if kind != "tuned":
            weights[i, :count] = _polynomial(t[i], known)
            continue
        weights[i, :1] = count > 0
        if count > 2:  # as many steps for the one slope as for the other, so that a gain means the same
            change[i, : count - 1] = _slope(t[i], known[:-1])
            before[i, 1:count] = _slope(known[0], known[1:])
    return Forecast(weights, change, before) if kind == "tuned" else Forecast(weights, None, None)


def predict(told, row, history, pool):
    """The forecast of a row.

    Args:
      told: `Forecast`.
      row: its number.
      history: pytree of (M, K, B, L, ...), values of K layers in the rows before, newest first. Its leaves, keys and values,
        share a gain.
      pool: (K, B, L) -> (K, B, L), which adds up the products and the squares of those tokens that share a gain.

    Returns:
      pytree of (K, B, L, ...).
    """
    leaves, tree = jax.tree.flatten(history)
    wide = jnp.promote_types(leaves[0].dtype, jnp.float32)

    def mixed(table):
        weights = jnp.asarray(table, wide)[row]
        return [sum(weights[m] * leaf[m].astype(wide) for m in range(len(weights))) for leaf in leaves]

    found = mixed(told.weights)
    if told.change is not None:
        came = [leaf[0].astype(wide) - leaf[1].astype(wide) for leaf in leaves]
        gain = fitted(mixed(told.before), came, pool)
        over = lambda leaf: gain.reshape(*gain.shape, *(1,) * (leaf.ndim - gain.ndim))
        found = [leaf + over(leaf) * change for leaf, change in zip(found, mixed(told.change), strict=True)]
    return jax.tree.unflatten(tree, [new.astype(leaf.dtype) for new, leaf in zip(found, leaves, strict=True)])


def fitted(expected, came, pool):
    """The gain (K, B, L) in [0, MOST] that brings `expected` nearest to `came`, lists of (K, B, L, ...); 0 if nothing was."""

    def product(one, other):
        return pool(sum(jnp.sum(a * b, axis=tuple(range(3, a.ndim))) for a, b in zip(one, other, strict=True)))

    square = product(expected, expected)
    return jnp.where(square > 0, jnp.clip(product(expected, came) / jnp.where(square > 0, square, 1), 0, MOST), 0)
