"""One step of a method that solves the linear part of the ODE, or of the SDE, exactly.

With lambda = log_snr and h = lambda(t1) - lambda(t0), the exact solution over a step is
(DPM-Solver++, arXiv:2211.01095, eq. 8; DPM-Solver, arXiv:2206.00927, eq. 3.4; SDE forms,
arXiv:2211.01095, eq. 13 and 14)

    data:        x1 = sigma1/sigma0 x0          + alpha1   int_0^h exp(-(h-u))  data(u)  du
    noise:       x1 = alpha1/alpha0 x0          - sigma1   int_0^h exp(h-u)     noise(u) du
    data, SDE:   x1 = sigma1/sigma0 exp(-h) x0  + 2 alpha1 int_0^h exp(-2(h-u)) data(u)  du
                      + sigma1 sqrt(1-exp(-2h)) z
    noise, SDE:  x1 = alpha1/alpha0 x0          - 2 sigma1 int_0^h exp(h-u)     noise(u) du
                      + sigma1 sqrt(exp(2h)-1) z

so each is `decay x0 + gain sum_j w_j m_j + s z`, with w from the moments of its kernel:
`exponential_moments` at +h, -h, 2h and -h. Where log-SNR is infinite (t = 0, and t = 1 on paths
that reach pure noise) only order 1 is defined, and it is finite.
"""

from collections.abc import Sequence

import numpy as np

from flowjax.plans.builder import Builder
from flowjax.plans.moments import exponential_moments, interpolation_weights
from flowjax.schedules import Schedule
from flowjax.types import Array, Times

VARIANTS = ("midpoint", "taylor")
THIRD_ORDERS = ("exact", "published")
SDE_THIRD_ORDERS = (*THIRD_ORDERS, "diffusers")
DEFAULT_FRACTIONS = {1: (), 2: (1 / 2,), 3: (1 / 3, 2 / 3)}  # of the substeps, in log-SNR


def step_terms(
    schedule: Schedule, t0: Times, t1: Times, prediction: str, stochastic: bool = False
) -> tuple[Array, Array, Array, Array | float]:
    """The terms of the exact solution over a step whose ends have finite log-SNR.

    Args:
      schedule: supplies alpha, sigma, log_snr.
      t0: where the step begins, scalar or array.
      t1: where it ends, shaped like `t0`.
      prediction: "data" or "noise".
      stochastic: the SDE form.

    Returns:
      decay, gain, the argument of `exponential_moments`, and the weight of fresh noise.
    """
    h = schedule.log_snr(t1) - schedule.log_snr(t0)
    # x1 = decay x0 + gain sum_j w_j m_j, with the kernel exp(-(h-u)) of the data prediction
    if prediction == "data":
        decay = schedule.sigma(t1) / schedule.sigma(t0)
        gain = schedule.alpha(t1)
        if stochastic:
            noise = schedule.sigma(t1) * np.sqrt(-np.expm1(-2 * h))
            return decay * np.exp(-h), gain, 2 * h, noise
        return decay, gain, h, 0.0
    # exp(h-u) for the noise prediction: the argument is -h, which also gives the minus sign.
    decay = schedule.alpha(t1) / schedule.alpha(t0)
    gain = schedule.sigma(t1)
    if stochastic:
        noise = schedule.sigma(t1) * np.sqrt(np.expm1(2 * h))
        return decay, 2 * gain, -h, noise
    return decay, gain, -h, 0.0


def first_order_row(
    schedule: Schedule,
    t0: float,
    t1: float,
    prediction: str = "data",
    *,
    stochastic: bool = False,
) -> tuple[str, float, float, float]:
    """The step of order 1, finite where log-SNR is not.

    DPM-Solver++ of order 1 (arXiv:2211.01095, eq. 9), equal to DDIM (arXiv:2010.02502) and, on the
    linear path, to Euler's step on the velocity. The two forms are the same step:

        x1 = sigma1/sigma0 x0 + (alpha1 - alpha0 sigma1/sigma0) data
           = alpha1/alpha0 x0 + (sigma1 - sigma0 alpha1/alpha0) noise

    Args:
      schedule: supplies alpha and sigma.
      t0: where the step begins.
      t1: where it ends.
      prediction: the form, "data" or "noise". Data is used in any case from alpha0 = 0 (pure
        noise), and noise from sigma0 = 0 (inverting data).
      stochastic: the SDE form.

    Returns:
      The kind of the prediction, decay, the weight of the prediction, the weight of fresh noise.
    """
    alpha0, alpha1 = float(schedule.alpha(t0)), float(schedule.alpha(t1))
    sigma0, sigma1 = float(schedule.sigma(t0)), float(schedule.sigma(t1))
    # The SDE form; from sigma0 = 0 there is no noise to replace.
    if stochastic and sigma0 != 0:
        ratio = alpha0 * sigma1 / (sigma0 * alpha1)  # exp(-h), 0 at both infinite ends
        decay = sigma1 / sigma0 * ratio
        return "data", decay, alpha1 * (1 - ratio**2), sigma1 * np.sqrt(1 - ratio**2)
    # sigma0 = 0 forbids the first form, and alpha0 = 0 the second one.
    if sigma0 == 0 or (prediction == "noise" and alpha0 != 0):
        return "noise", alpha1 / alpha0, sigma1 - sigma0 * alpha1 / alpha0, 0.0
    return "data", sigma1 / sigma0, alpha1 - alpha0 * sigma1 / sigma0, 0.0


def add_first_order_step(
    rows: Builder, t0: float, t1: float, prediction: str = "data", stochastic: bool = False
) -> None:
    """Append the step of `first_order_row` to `rows`."""
    kind, decay, weight, noise = first_order_row(
        rows.schedule, t0, t1, prediction, stochastic=stochastic
    )
    rows.row(t0, t1, kind=kind, a=decay, b={len(rows): weight}, s=noise)


def places(log_snrs: Sequence[float], start: float, end: float) -> list[float]:
    """Places of evaluations in a step between two log-SNR: 0 at its start, 1 at its end."""
    return [(log_snr - start) / (end - start) for log_snr in log_snrs]


def step_weights(
    argument: Array,
    taus: Sequence[float],
    *,
    variant: str = "taylor",
    third_order: str = "exact",
) -> Array:
    """Weights of the evaluations at the places `taus` of a step, before the gain.

    Variants of the public codes differ in one moment.

    Args:
      argument: of `exponential_moments`; numpy or jax.numpy.
      taus: (n,) places of the evaluations. Their number is the order.
      variant: of order 2. "midpoint" (in public codes the solver_type "dpmsolver", "midpoint" or
        "bh2") gives the slope the weight M_0/2 where the integral is M_1 ("taylor", "heun"); "bh1"
        gives it h/2.
      third_order: "published" gives the second difference of order 3 half of its weight, which
        makes that method second order; "exact" is the integral. "diffusers" is what its SDE form of
        order 3 does: -1/2 where "published" has +1/2, a moment of -1 instead of 0 at h = 0.

    Returns:
      (n, ...), shaped like `argument` behind the first axis.
    """
    moments = exponential_moments(argument, len(taus))
    # Order 2: the weight of the slope
    if len(taus) == 2 and variant == "midpoint":
        moments[1] = moments[0] / 2
    if len(taus) == 2 and variant == "bh1":
        moments[1] = argument / 2
    # Order 3: the moment of the second difference
    if len(taus) == 3 and third_order != "exact":
        moments[2] = moments[2] / 2 - (third_order == "diffusers")
    return interpolation_weights(taus, moments)
