"""How bent a sampler's path is, and how fast successive solver orders disagree on it.

There are two kinds of numbers. The geometry of an accurate path (length, straightness,
acceleration, curvature, torsion, stiffness) belongs to the field alone and does not depend on the
steps of a solver. `order_increments` belongs to a run: it compares what orders 1 to 4 would do from
the same evaluations, so it depends on the field and the steps together, and needs no further
evaluation. Which of these numbers predicts whether a higher order pays is the question of an
experiment (`experiments/order`); this module only defines them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.plans.exponential import step_terms, step_weights
from flowjax.schedules import Schedule
from flowjax.types import Array, Scalar, Velocity

# Numbers smaller than this fraction of the largest one of their kind are rounding, not geometry.
NEGLIGIBLE = 1e-9

MOST_ORDERS = 4  # that `order_increments` compares


class PathGeometry(NamedTuple):
    """Numbers of one path for each sample, each (B,).

    Attributes:
      length: int |x'| dt over the chord |x(1) - x(0)|. It is 1 on a straight line that is run in
        one direction, at any speed.
      straightness: int |(x(1) - x(0)) - x'|^2 dt over the squared chord (Liu et al. 2023,
        arXiv:2209.03003, eq. 6, for one path). It is 0 where one Euler step is exact. It contains
        first derivatives only: it bounds the error of Euler's method and cannot rank orders 2 and
        3.
      acceleration: int |x''| dt over the chord: the leading error term of Euler's method in t,
        with changes of speed.
      curvature: int kappa ds, the angle in radians through which the tangent turns. It does not
        depend on the speed, so it misses the error that a straight path makes when it is run at
        changing speed.
      torsion: int tau ds, the angle through which the plane of the curve turns: the quantity of
        geometry that needs the third derivative. It does not depend on how the path is
        parametrised, while a solver's error does. It is exactly 0 in the plane.
    """

    length: np.ndarray
    straightness: np.ndarray
    acceleration: np.ndarray
    curvature: np.ndarray
    torsion: np.ndarray


def path_geometry(t: Array, path: Array, velocity: Array) -> PathGeometry:
    """Geometry of accurate paths, from the velocity on the given times.

    Derivatives of the velocity are second-order differences.

    Args:
      t: (M,) monotone times, fine enough that the velocity is smooth between them.
      path: (M, B, *D) states at `t`.
      velocity: (M, B, *D) velocities there.

    Returns:
      `PathGeometry`. Where a path does not bend, its torsion is undefined and counts as 0; so does
      a torsion that is rounding.

    Raises:
      ValueError: shapes that do not agree, or fewer than five times.
    """
    t, path, velocity = (np.asarray(a, np.float64) for a in (t, path, velocity))
    if path.shape != velocity.shape or path.ndim < 3 or len(path) != len(t) or len(t) < 5:
        raise ValueError(
            f"geometry.path_geometry: path {path.shape} and velocity {velocity.shape} at {len(t)} "
            "times; wanted (M, B, *D) for both, and five or more times."
        )

    # Derivatives in t.
    path, velocity = (a.reshape(*a.shape[:2], -1) for a in (path, velocity))  # (M, B, F)
    acceleration = np.gradient(velocity, t, axis=0, edge_order=2)
    jerk = np.gradient(acceleration, t, axis=0, edge_order=2)
    duration = t[-1] - t[0]
    chord = (path[-1] - path[0]) / duration  # (B, F), a velocity
    size = np.linalg.norm(chord, axis=-1)

    # The tangent. A path that stands still has none, as at t = 0 of a variance-preserving path.
    speed = np.linalg.norm(velocity, axis=-1)  # (M, B)
    fastest = np.max(speed, axis=0)
    still = speed <= NEGLIGIBLE * fastest
    moving_speed = np.where(still, 1.0, speed)
    tangent = velocity / moving_speed[..., None]

    # kappa ds = bending/speed dt, with the part of x'' that is orthogonal to the tangent.
    bend = _orthogonal_part(acceleration, tangent)
    bending = np.linalg.norm(bend, axis=-1)

    # tau ds = twist/bending dt, with the part of x''' that is orthogonal to tangent and bend.
    normal = bend / np.maximum(bending, 1e-300)[..., None]
    twist = _orthogonal_part(_orthogonal_part(jerk, tangent), normal)
    twisting = np.linalg.norm(twist, axis=-1)

    # Where there is no torsion. A twist that is rounding would be divided by a small bend.
    straight = bending <= NEGLIGIBLE * fastest
    flat = straight | still | (twisting <= NEGLIGIBLE * np.linalg.norm(jerk, axis=-1))

    def integral(y):
        return np.abs(np.trapezoid(y, t, axis=0))

    return PathGeometry(
        length=integral(speed) / size / np.abs(duration),
        straightness=integral(np.sum((chord - velocity) ** 2, -1)) / size**2,
        acceleration=integral(np.linalg.norm(acceleration, axis=-1)) / size,
        curvature=integral(np.where(still, 0.0, bending / moving_speed)),
        torsion=integral(np.where(flat, 0.0, twisting / np.where(flat, 1.0, bending))),
    )


def _orthogonal_part(vectors, direction):
    """The part of `vectors` that is orthogonal to the unit vectors `direction`."""
    along = np.sum(vectors * direction, axis=-1, keepdims=True)
    return vectors - along * direction


def stiffness(
    velocity: Velocity, x: jax.Array, t: Scalar, *, key: jax.Array, iterations: int = 30
) -> jax.Array:
    """Largest magnitude of an eigenvalue of the velocity's Jacobian at (x, t), for each sample.

    Its product with the step says whether an explicit method in t is stable there. It does not
    depend on how fast the field changes along the path, so it cannot say how accurate a stable step
    is. The method is power iteration.

    Args:
      velocity: (x, t) -> (B, *D), each sample's from its own state alone. The Jacobian of a field
        whose noise is independent of its data is symmetric, so the iteration converges to the
        magnitude, from below.
      x: (B, *D) states.
      t: their time, a scalar or (B,).
      key: of the random start.
      iterations: products with the Jacobian.

    Returns:
      (B,).
    """
    sample_axes = tuple(range(1, x.ndim))

    def norm(u):
        return jnp.sqrt(jnp.sum(u**2, axis=sample_axes, keepdims=True))

    def at_time(y):
        return velocity(y, t)

    # One step of power iteration: direction <- J direction / |J direction|.
    def step(_, state):
        direction, _ = state
        image = jax.jvp(at_time, (x,), (direction,))[1]
        size = norm(image)
        return image / jnp.where(size == 0, 1.0, size), size

    start = jax.random.normal(key, x.shape, x.dtype)
    start_size = norm(start)
    _, size = jax.lax.fori_loop(0, iterations, step, (start / start_size, start_size))
    return size.reshape(x.shape[0])


def order_increments(
    schedule: Schedule, grid: Array, data: Array, *, third_order: str = "exact"
) -> np.ndarray:
    """What successive orders add: |y_1 - y_0|, |y_2 - y_1|, |y_3 - y_2|, |y_4 - y_3| at each step.

    y_k is the multistep update of DPM-Solver++ of order k, from the same state and the same last k
    data predictions; y_0 is the step with no prediction at all. By Newton's form |y_{k+1} - y_k|
    estimates the local error of order k, so

        rho_k = |y_{k+1} - y_k| / |y_k - y_{k-1}|

    estimates the ratio of the local errors of orders k and k - 1. A rho_2 below 1 says that order 2
    beats order 1 and, if the series goes on as it began, that order 3 beats order 2. Direct
    evidence for the latter is rho_3, which needs one earlier evaluation. None of them needs an
    additional evaluation.

    Limits: All are blind to a change that lies between evaluations, and say nothing about how
      errors
    travel from a step to the end. Because y_0 has no prediction, |y_1 - y_0| is as large as the
    step itself and depends on the origin of the data: rho_1 has a scale of its own, not 1.

    Args:
      schedule: the path.
      grid: (N+1,) times.
      data: (N, B, *D) data predictions at grid[0..N-1].
      third_order: "exact" or "published" weights of y_3.

    Returns:
      (N, 4, B) float64: NaN where an order is undefined, because the history is too short or
      log-SNR is infinite.

    Raises:
      ValueError: a number of data predictions that does not fit the grid.
    """
    grid, data = np.asarray(grid, np.float64), np.asarray(data, np.float64)
    steps = len(grid) - 1
    if len(data) != steps:
        raise ValueError(
            f"geometry.order_increments: {len(data)} data predictions for a grid of {steps} steps; "
            "wanted one for each step."
        )
    batch = data.shape[1]
    data = data.reshape(steps, batch, -1)  # (N, B, F)
    log_snr = schedule.log_snr(grid)
    sizes = np.full((steps, MOST_ORDERS, batch), np.nan)
    for i in range(steps):
        if not np.all(np.isfinite(log_snr[i : i + 2])):
            continue
        _, gain, argument, _ = step_terms(schedule, grid[i], grid[i + 1], "data")

        # The newest evaluations at finite log-SNR, the newest first.
        newest = range(i, max(i - MOST_ORDERS, -1), -1)
        history = [j for j in newest if np.isfinite(log_snr[j])]
        update = np.zeros_like(data[i])  # y_0, without the decay of the state that all share
        for order in range(1, len(history) + 1):
            used = history[:order]
            taus = (log_snr[used] - log_snr[i]) / (log_snr[i + 1] - log_snr[i])
            weights = gain * step_weights(argument, taus, third_order=third_order)
            next_update = np.tensordot(weights, data[used], axes=1)  # (B, F)
            sizes[i, order - 1] = np.linalg.norm(next_update - update, axis=-1)
            update = next_update
    return sizes


def rho(increments: np.ndarray, order: int) -> np.ndarray:
    """rho_k of complete runs, (B,), for `order` k = 1, 2 or 3.

        rho_k = sum over steps of |y_{k+1} - y_k| / sum over steps of |y_k - y_{k-1}|

    Each sum is taken before dividing, so that steps where nothing happens have no weight. Only
    steps where both increments are defined count; rho is NaN where there are none.

    Args:
      increments: (N, 4, B) of `order_increments`.
      order: k.
    """
    above, below = increments[:, order], increments[:, order - 1]
    both = np.isfinite(above) & np.isfinite(below)
    total_above = np.sum(np.where(both, above, 0.0), axis=0)
    total_below = np.sum(np.where(both, below, 0.0), axis=0)
    return total_above / np.where(total_below > 0, total_below, np.nan)


def log_snr_span(schedule: Schedule, grid: Array, order: int) -> np.ndarray:
    """Log-SNR that the stencil of order k spans at each step i, its new point included.

        lambda_{i+1} - lambda_{i-k+1}

    The Taylor expansion behind order k needs it to be below the distance to the nearest singularity
    of the data prediction. That distance is at least pi/2 for a Gaussian scale that is being
    resolved, and for a decision between two modes.

    Args:
      schedule: the path.
      grid: (N+1,) times.
      order: k.

    Returns:
      (N,), infinite at an infinite end.
    """
    log_snr = schedule.log_snr(np.asarray(grid, np.float64))
    steps = np.arange(len(log_snr) - 1)
    oldest = np.maximum(steps - (order - 1), 0)
    return log_snr[1:] - log_snr[oldest]
