"""How bent a sampler's path is, and how fast successive solver orders disagree on it.

Two kinds of number. The geometry of an accurate path (length, straightness, acceleration, curvature, torsion, stiffness)
belongs to the field alone and knows nothing of a solver's steps. `order_increments` belongs to a run: it compares what
orders 1 to 4 would do from the same evaluations, so it sees the field and the steps together, and costs nothing.
Which of them predicts whether a higher order pays is an experiment (`experiments/order`), not a definition.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.plans.exponential import step_terms, step_weights


class PathGeometry(NamedTuple):
    """Numbers of one path a sample, each (B,).

    Attributes:
      length: int |x'| dt over the chord |x(1) - x(0)|; 1 on a straight line run in one direction. Blind to speed.
      straightness: int |(x(1) - x(0)) - x'|^2 dt over the squared chord (Liu et al. 2023, arXiv:2209.03003, eq. 6, for one
        path); 0 where one Euler step is exact. It contains first derivatives only: it bounds the error of Euler's method
        and cannot rank orders 2 and 3.
      acceleration: int |x''| dt over the chord: the leading error term of Euler's method in t, speed changes included.
      curvature: int kappa ds, the angle in radians through which the tangent turns. Blind to speed, so it misses the
        error that a straight path run at changing speed makes.
      torsion: int tau ds, the angle through which the plane of the curve turns: the third-derivative quantity of geometry.
        It does not depend on how the path is parametrised; a solver's error does. Exactly 0 in the plane.
    """

    length: np.ndarray
    straightness: np.ndarray
    acceleration: np.ndarray
    curvature: np.ndarray
    torsion: np.ndarray


def path_geometry(t, path, velocity):
    """Geometry of accurate paths, with derivatives of the velocity by second-order differences on the given times.

    Args:
      t: (M,) monotone times, fine enough that the velocity is smooth between them.
      path: (M, B, *D) states at `t`.
      velocity: (M, B, *D) velocities there.

    Returns:
      `PathGeometry`. Where a path does not bend, its torsion is undefined and counts as 0, as does rounding.
    """
    t, path, velocity = (np.asarray(a, np.float64) for a in (t, path, velocity))
    if path.shape != velocity.shape or path.ndim < 3 or len(path) != len(t) or len(t) < 5:
        raise ValueError(
            f"geometry.path_geometry: path {path.shape} and velocity {velocity.shape} at {len(t)} times; wanted (M, B, *D) for "
            "both, and five or more times."
        )
    path, velocity = (a.reshape(*a.shape[:2], -1) for a in (path, velocity))
    acceleration = np.gradient(velocity, t, axis=0, edge_order=2)
    jerk = np.gradient(acceleration, t, axis=0, edge_order=2)
    chord = (path[-1] - path[0]) / (t[-1] - t[0])
    size = np.linalg.norm(chord, axis=-1)

    def integral(y):
        return np.abs(np.trapezoid(y, t, axis=0))

    speed = np.linalg.norm(velocity, axis=-1)
    still = speed <= 1e-9 * np.max(
        speed, axis=0
    )  # as at t = 0 of a variance-preserving path: no tangent, no turning
    moving = np.where(still, 1.0, speed)
    tangent = velocity / moving[..., None]
    bend = _without(acceleration, tangent)
    bending = np.linalg.norm(bend, axis=-1)
    twist = np.linalg.norm(
        _without(_without(jerk, tangent), bend / np.maximum(bending, 1e-300)[..., None]), axis=-1
    )
    straight = bending <= 1e-9 * np.max(speed, axis=0)
    # a twist of rounding would be divided by a small bend
    flat = straight | still | (twist <= 1e-9 * np.linalg.norm(jerk, axis=-1))
    return PathGeometry(
        length=integral(speed) / size / np.abs(t[-1] - t[0]),
        straightness=integral(np.sum((chord - velocity) ** 2, -1)) / size**2,
        acceleration=integral(np.linalg.norm(acceleration, axis=-1)) / size,
        curvature=integral(np.where(still, 0.0, bending / moving)),
        torsion=integral(np.where(flat, 0.0, twist / np.where(flat, 1.0, bending))),
    )


def _without(vectors, direction):
    """The part of `vectors` orthogonal to the unit vectors `direction`."""
    return vectors - np.sum(vectors * direction, axis=-1, keepdims=True) * direction


def stiffness(velocity, x, t, *, key, iterations=30):
    """Largest magnitude of an eigenvalue of the velocity's Jacobian at (x, t), per sample, by power iteration.

    Times the step it says whether an explicit method in t is stable there. It does not see how fast the field changes
    along the path, so it cannot say how accurate a stable step is.

    Args:
      velocity: (x, t) -> (B, *D), each sample's from its own state alone. The Jacobian of a field whose noise is
        independent of its data is symmetric, so the iteration converges to the magnitude, from below.
      x: (B, *D) states; t: their time, a scalar or (B,).
      key: of the random start.
      iterations: products with the Jacobian.

    Returns:
      (B,).
    """
    axes = tuple(range(1, x.ndim))

    def norm(u):
        return jnp.sqrt(jnp.sum(u**2, axis=axes, keepdims=True))

    def step(_, state):
        direction, _ = state
        image = jax.jvp(lambda y: velocity(y, t), (x,), (direction,))[1]
        size = norm(image)
        return image / jnp.where(size == 0, 1.0, size), size

    start = jax.random.normal(key, x.shape, x.dtype)
    _, size = jax.lax.fori_loop(0, iterations, step, (start / norm(start), norm(start)))
    return size.reshape(x.shape[0])


def order_increments(schedule, grid, data, *, third_order="exact"):
    """Sizes |y_1 - y_0|, |y_2 - y_1|, |y_3 - y_2|, |y_4 - y_3| of what successive orders add, from one run's evaluations.

    y_k is the multistep update of DPM-Solver++ of order k from the same state and the same last k data predictions, y_0
    the step with no prediction at all. By Newton's form |y_{k+1} - y_k| estimates the local error of order k, so

        rho_k = |y_{k+1} - y_k| / |y_k - y_{k-1}|

    estimates the ratio of the local errors of orders k and k - 1. rho_2 below 1 says that order 2 beats order 1, and,
    if the series goes on as it began, that order 3 beats order 2; the direct witness of the latter is rho_3, one
    evaluation further back. None costs an evaluation. All are blind to a jump that no evaluation has seen, and say
    nothing of how errors travel from a step to the end. y_0 knows no prediction, so |y_1 - y_0| is a whole step and
    depends on where the data's origin lies: rho_1 has a scale of its own, not 1.

    Args:
      schedule: the path; grid: (N+1,) times.
      data: (N, B, *D) data predictions at grid[0..N-1].
      third_order: "exact" or "published" weights of y_3.

    Returns:
      (N, 4, B) float64: NaN where an order is undefined (too little history, or an infinite log-SNR).
    """
    grid, data = np.asarray(grid, np.float64), np.asarray(data, np.float64)
    steps = len(grid) - 1
    if len(data) != steps:
        raise ValueError(
            f"geometry.order_increments: {len(data)} data predictions for a grid of {steps} steps; wanted one for each step."
        )
    flat, lambdas = data.reshape(steps, data.shape[1], -1), schedule.log_snr(grid)
    sizes = np.full((steps, 4, data.shape[1]), np.nan)
    for i in range(steps):
        if not np.all(np.isfinite(lambdas[i : i + 2])):
            continue
        _, gain, argument, _ = step_terms(schedule, grid[i], grid[i + 1], "data")
        finite = [j for j in range(i, max(i - 4, -1), -1) if np.isfinite(lambdas[j])]
        update = np.zeros_like(flat[i])
        for order in range(1, len(finite) + 1):
            used = finite[:order]
            taus = (lambdas[used] - lambdas[i]) / (lambdas[i + 1] - lambdas[i])
            weights = gain * step_weights(argument, taus, third_order=third_order)
            following = np.tensordot(weights, flat[used], axes=1)
            sizes[i, order - 1] = np.linalg.norm(following - update, axis=-1)
            update = following
    return sizes


def rho(increments, order):
    """rho_k of whole runs: sum over steps of |y_{k+1} - y_k| over that of |y_k - y_{k-1}|, (B,), for `order` k = 1, 2 or 3.

    Summed before dividing, so that steps where nothing happens do not weigh; only steps where both are defined count.
    NaN where there are none.
    """
    above, below = increments[:, order], increments[:, order - 1]
    both = np.isfinite(above) & np.isfinite(below)
    total = np.sum(np.where(both, below, 0.0), axis=0)
    return np.sum(np.where(both, above, 0.0), axis=0) / np.where(total > 0, total, np.nan)


def log_snr_span(schedule, grid, order):
    """Log-SNR spanned by the stencil of order k at each step, its new point included: lambda_{i+1} - lambda_{i-k+1}.

    (N,), infinite at an infinite end. The Taylor premise of order k needs it below the distance to the nearest
    singularity of the data prediction, which is at least pi/2 for a Gaussian scale being resolved and for a two-mode
    decision.
    """
    lambdas = schedule.log_snr(np.asarray(grid, np.float64))
    first = np.maximum(np.arange(len(lambdas) - 1) - (order - 1), 0)
    return lambdas[1:] - lambdas[first]
