"""Weights of one step: every solver of this package integrates a polynomial through evaluations.

A step from t_0 to t_1 integrates some kernel times the network's prediction. Write tau in [0, 1]
for the place inside the step (in log-SNR, or in t). If the method replaces the prediction by the
polynomial through the evaluations at tau_1..tau_n, the weights w of the evaluations are those that
reproduce the moments:

    sum_j w_j tau_j^k = M_k,   M_k = int_0^1 kernel(tau) tau^k dtau,   k = 0..n-1.

A multistep method has tau <= 0, a singlestep method 0 <= tau < 1, a corrector uses tau = 1 as well.
DPM-Solver, DPM-Solver++, their SDE forms, UniPC and Adams-Bashforth differ in the moments, and
published variants of one order differ in a single moment.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from flowjax.schedules import array_module
from flowjax.types import Array

_SERIES = 18  # terms; at |h| = 1 the first neglected one is below 1e-16


def interpolation_weights(taus: Sequence[float] | np.ndarray, moments: Sequence[Array]) -> Array:
    """Weights w with sum_j w_j taus_j^k = moments_k, k = 0..n-1.

    Args:
      taus: (n,) nodes, known on the host.
      moments: n numbers, or n arrays of one shape, numpy or jax.numpy.

    Returns:
      (n, ...), of the moments' kind of array.
    """
    vandermonde = np.vander(np.asarray(taus, np.float64), increasing=True).T  # tau_j^k in (k, j)
    if array_module(*moments) is np:
        return np.linalg.solve(vandermonde, np.asarray(moments, np.float64))
    # Sums instead of a product of matrices, which accelerators round to about 10 bits.
    inverse = np.linalg.inv(vandermonde).tolist()
    return jnp.stack([sum(w * m for w, m in zip(row, moments)) for row in inverse])


def exponential_moments(h: float | Array, count: int) -> list[Array]:
    """Moments of the kernel of exponential integrators.

        M_k(h) = h int_0^1 exp(-h (1 - tau)) tau^k dtau,   k < count

    M_0 = 1 - exp(-h) and M_k = 1 - k M_{k-1}/h; near h = 0 the series
    sum_n (-1)^n k! h^(n+1)/(k+n+1)! replaces the recursion, which would cancel. In the symbols of
    DPM-Solver++ (arXiv:2211.01095), with phi_1 = exp(-h) - 1: M_0 = -phi_1, M_1 = phi_1/h + 1,
    M_2 = -2 (M_1/h - 1/2).

    Args:
      h: step in log-SNR (its negative for noise prediction, twice it for SDE steps); numpy or
        jax.numpy, any shape.
      count: number of moments.

    Returns:
      A list of `count` arrays shaped like `h`, finite for every h, all 1 at h = inf.
    """
    xp = array_module(h)
    h = np.asarray(h, np.float64) if xp is np else h
    small = xp.abs(h) < 1
    near = xp.where(small, h, 0.0)  # where the series is used
    far = xp.where(small, 1.0, h)  # where the recursion is used
    result = []
    recursion = None
    for k in range(count):
        # Horner from the last term: each pass multiplies by h and flips the sign of later terms.
        series = xp.zeros_like(near)
        for n in reversed(range(_SERIES)):
            series = near * (math.factorial(k) / math.factorial(k + n + 1) - series)
        recursion = -xp.expm1(-far) if k == 0 else 1 - k * recursion / far
        result.append(xp.where(small, series, recursion))
    return result
