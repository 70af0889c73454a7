"""What stale keys and values will have become: extrapolation in time, from the sender's own last few.

In row i the others see, of a token, not its newest known keys and values K1 (of the row before) but a forecast from those of
the M rows before, K1, K2, ... KM, made by whoever computed them, before they are sent: no byte more is moved.

    hold        order 0     K1
    linear      order 1     K1 + h (K1 - K2) / h1
    quadratic   order 2     the parabola through K1, K2, K3
    tuned       order 1     K1 + g S,  S = h (3/4 (K1 - K2) / h1 + 1/4 (K2 - K3) / h2),  0 <= g <= MOST, what would have been
                            best a row ago: g = argmin |(K1 - K2) - g S'|^2 with S' as S was then; 1 where only two rows are known

h is the step in the plan's time from K1's row to this one, h_j that from K_j+1's to K_j's. Extrapolation restores the order
that holding loses, where it is stable. What others see changes what a layer computes, so each layer forecasts anew what the
forecasts before it missed; of a wiggle z^-i a forecast W(z) misses |1 - W(z)|, with even steps at most

    hold 2              linear 4              quadratic 8              tuned at g = 1: 3

and n devices see (n-1)/n of it. That decides whether errors die or grow from row to row: on networks of six layers they grow
from about 2.5 on (experiments.staleness.loop). So a quarter of the slope is that of the step before, at 1.25 times the error of
the last step's alone; a gain that is fitted takes back what the last row did not bear out, so that an oscillation turns it off;
and tuned forecasts go with a correction by the receiver (`attention.corrected`): by a share c only the larger of (1 - c) (n-1)/n
and 1/n + c (n-1)/n is seen, 1/2 for any n at c = (n - 2)/(2 n - 2). CORRECTION is that of 6 devices. The quarter, CORRECTION,
MOST and the first gain were chosen on four networks on 8 devices at 20 steps of 2M, and are checked on others
(experiments.staleness.forecasts). A forecast is data; a row with fewer rows behind it than M uses those.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

FORECASTS = (0, 1, 2, "tuned")
MOST = 1.5  # of a gain; above 1 it follows what speeds up
CORRECTION = 0.4  # of "tuned", unless another is asked for


class Forecast(NamedTuple):
    """A forecast of each row: K = weights . (K1, ... KM) + g change . (K1 - K2, ... KM-1 - KM). A pytree of arrays.

    Attributes:
      weights: (rows, M).
      change: None, where there is no gain, or (rows, M - 1): the change S to expect.
      before: the same, of the row before: S', which was expected where K1 - K2 came.
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
    for j in np.unique(known, return_index=True)[
        1
    ]:  # of rows at one time, as those that pad a plan, the newest
        others = np.setdiff1d(known, known[j])
        weights[j] = np.prod((t - others) / (known[j] - others))
    return weights


def _slope(t, known):
    """Weights of the changes between values at the times `known`, newest first, in what their slope adds until `t`.

    The slope is 3/4 that of the last step and 1/4 that of the one before, where there is one.
    """
    steps = -np.diff(known)[:2]
    share = (steps != 0) * (0.75, 0.25)[
        : len(steps)
    ]  # rows at one time pad a plan: their step tells no slope
    return np.divide(
        share * (t - known[0]), steps * max(share.sum(), 0.25), out=0 * steps, where=steps != 0
    )


def correction_of(kind, correction):
    """The share of the correction by the receiver, or None for none, if `correction` was asked for with the forecast `kind`."""
    if correction is None:
        correction = CORRECTION if kind == "tuned" else 0
    if (
        isinstance(correction, bool)
        or not isinstance(correction, (int, float))
        or not 0 <= correction <= 1
    ):
        raise ValueError(
            f"parallel: correction={correction!r}; wanted a share from 0 to 1 of what a device's own values missed, or None."
        )
    return np.float64(correction) if correction else None


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
    weights, (change, before) = np.zeros((plan.rows, depth)), np.zeros((2, plan.rows, depth - 1))
    for i, row in enumerate(behind):
        known = row[np.isfinite(row)]
        count = len(known)
        gains = kind == "tuned" and count > 2
        weights[i, : 1 if gains else count] = _polynomial(t[i], known[:1] if gains else known)
        if gains:  # as many steps for the one slope as for the other, so that a gain means the same
            change[i, : count - 2] = _slope(t[i], known[:-1])
            before[i, 1 : count - 1] = _slope(known[0], known[1:])
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

    def mixed(table, terms):
        weights = jnp.asarray(table, wide)[row]
        return [sum(weights[m] * leaf[m] for m in range(len(weights))) for leaf in terms]

    known = [[leaf[m].astype(wide) for m in range(len(leaf))] for leaf in leaves]
    found = mixed(told.weights, known)
    if told.change is not None:
        # From differences, which are 0 where nothing moved: a gain fitted to rounding would be any number.
        steps = [[new - old for new, old in itertools.pairwise(leaf)] for leaf in known]
        gain = fitted(mixed(told.before, steps), [step[0] for step in steps], pool)
        over = lambda leaf: gain.reshape(*gain.shape, *(1,) * (leaf.ndim - gain.ndim))
        found = [
            leaf + over(leaf) * change
            for leaf, change in zip(found, mixed(told.change, steps), strict=True)
        ]
    return jax.tree.unflatten(
        tree, [new.astype(leaf.dtype) for new, leaf in zip(found, leaves, strict=True)]
    )


def fitted(expected, came, pool):
    """The gain (K, B, L) in [0, MOST] that brings `expected` nearest to `came`, lists of (K, B, L, ...); 0 if nothing was."""

    def product(one, other):
        return pool(
            sum(
                jnp.sum(a * b, axis=tuple(range(3, a.ndim)))
                for a, b in zip(one, other, strict=True)
            )
        )

    square = product(expected, expected)
    return jnp.where(
        square > 0, jnp.clip(product(expected, came) / jnp.where(square > 0, square, 1), 0, MOST), 0
    )
