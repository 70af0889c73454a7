"""What the tests of plans share: paths written out, a velocity, problems with exact steps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from flowjax import plans
from flowjax.sampling import sample
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear, to_velocity

SCHEDULES = {"linear": Linear(), "cosine": Cosine()}
ENDS = {
    "linear": Linear(),
    "cosine": Cosine(),
    "vp": VPLinear(),
    "discrete": VPDiscrete.linear(),
    "discrete-cosine": VPDiscrete.cosine(),
}

# Unequal steps, away from the ends; 8 of them, so that most plans here share one compiled program.
GRID = np.array([0.95, 0.87, 0.74, 0.66, 0.5, 0.41, 0.29, 0.2, 0.07])
START = np.random.default_rng(0).normal(size=(3, 2))
# Values are of order one and a step adds a few roundings.
EXACT = {"rtol": 0, "atol": 1e-12}

both_paths = pytest.mark.parametrize("path", SCHEDULES)
both_predictions = pytest.mark.parametrize("prediction", ["data", "noise"])
both_variants = pytest.mark.parametrize("variant", ["midpoint", "taylor"])

# One plan of every kind, as a function of (schedule, grid)
ALL = {
    "euler": lambda s, g: plans.euler(g),
    "heun": lambda s, g: plans.heun(g),
    "rk4": lambda s, g: plans.rk4(g),
    "ab4": lambda s, g: plans.adams_bashforth(g, 4, start="heun"),
    "ddim": lambda s, g: plans.ddim(s, g),
    "3M": lambda s, g: plans.dpm_solver_pp(s, g, 3),
    "3M warm": lambda s, g: plans.dpm_solver_pp(s, g, 3, start="singlestep"),
    "3S": lambda s, g: plans.dpm_solver_pp(s, g, 3, method="singlestep"),
    "UniPC 3": lambda s, g: plans.unipc(s, g, 3),
    "UniPC 3 noise": lambda s, g: plans.unipc(s, g, 3, prediction="noise"),
    "DEIS 4": lambda s, g: plans.deis(s, g, 4),
    "DEIS 4 rho": lambda s, g: plans.deis(s, g, 4, variable="rho"),
}
every_plan = pytest.mark.parametrize("make", ALL.values(), ids=ALL)


# A model, and its solution by a plan


def velocity(x, t):
    """Some smooth velocity: identities between solvers hold whatever the model is."""
    return np.pi / 3 * (1 + t) * (jnp.sin(2 * x) + jnp.roll(x, 1, axis=-1)) - t**2


@jax.jit
def traced_path(x, plan, noise=None):
    return sample(velocity, x, plan, key=noise, save_path=True).path


def path_of(plan, x=START, noise=None):
    """Accepted states, (steps+1, B, D)."""
    path = np.asarray(traced_path(x, plan, noise))
    return path[: plan.steps + 1]


# The two paths, written out


def coordinates(path, t):
    """(alpha, sigma, log-SNR)."""
    if path == "linear":
        alpha, sigma = 1 - t, t
    else:
        alpha, sigma = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    return alpha, sigma, np.log(alpha / sigma)


def time_at(path, log_snr):
    """The inverse of log-SNR."""
    if path == "linear":
        return 1 / (1 + np.exp(log_snr))
    return 2 / np.pi * np.arctan(np.exp(-log_snr))


def predictions(path, x, t):
    """(data, noise) from the velocity."""
    v = np.asarray(velocity(x, t))
    if path == "linear":
        return x - t * v, x + (1 - t) * v
    c, s = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    return c * x - s * v * 2 / np.pi, s * x + c * v * 2 / np.pi


# Problems whose steps are known: the prediction is a polynomial of the place in time

POLYNOMIAL = [0.7, -0.4, 0.3, 0.2]  # lowest power first
PLACES = {
    "log-SNR": lambda schedule, t: schedule.log_snr(t),
    "t": lambda schedule, t: t,
    "rho": lambda schedule, t: schedule.sigma(t) / schedule.alpha(t) / 100,
}


def polynomial(terms):
    """The polynomial of so many terms, as a function."""

    def value(y):
        return sum(c * y**k for k, c in enumerate(POLYNOMIAL[:terms]))

    return value


@functools.partial(jax.jit, static_argnames=("path", "prediction", "place"))
def polynomial_path(x, plan, coefficients, *, path, prediction, place):
    """Accepted states where the prediction is a polynomial of the place, whatever the state is."""
    schedule = SCHEDULES[path]

    def model(x, t):
        value = jnp.polyval(coefficients[::-1], PLACES[place](schedule, t))
        value = jnp.full_like(x, value)
        if prediction == "velocity":
            return value
        return to_velocity(schedule, prediction, value, x, t)

    noise = jnp.zeros((plan.rows, *x.shape))  # the stochastic plans without their noise
    return sample(model, x, plan, key=noise, save_path=True).path


def worst_step(plan, terms, exact_step, first, *, path="linear", prediction="velocity", place="t"):
    """Largest error, against 1 + |state|, of the steps from `first` on, each from its own start."""
    coefficients = np.pad(POLYNOMIAL[:terms], (0, 4 - terms))
    states = np.asarray(
        polynomial_path(START, plan, coefficients, path=path, prediction=prediction, place=place)
    )
    errors = []
    for i in range(first, plan.steps):
        exact = exact_step(states[i], plan.grid[i], plan.grid[i + 1])
        size = 1 + np.abs(states[i]) + np.abs(exact)
        errors.append(np.max(np.abs(states[i + 1] - exact) / size))
    return max(errors)


def log_snr_step(path, prediction, terms, speed=1):
    """Exact step where the prediction is the polynomial in log-SNR; speed=2 is the SDE's mean."""
    p = polynomial(terms)
    rate = speed if prediction == "data" else -1

    def exact_step(x, t0, t1):
        alpha0, sigma0, start = coordinates(path, t0)
        alpha1, sigma1, end = coordinates(path, t1)
        h = end - start

        def integrand(u):
            return np.exp(-rate * (h - u)) * p(start + u)

        integral = integrate.quad(integrand, 0, h, epsabs=1e-14, epsrel=1e-13)[0]
        if prediction == "data":
            decay = sigma1 / sigma0 * np.exp(-(speed - 1) * h)
            return decay * x + speed * alpha1 * integral
        return alpha1 / alpha0 * x - speed * sigma1 * integral

    return exact_step


def worst_log_snr_step(plan, path, prediction, terms, first, speed=1):
    exact_step = log_snr_step(path, prediction, terms, speed)
    return worst_step(
        plan, terms, exact_step, first, path=path, prediction=prediction, place="log-SNR"
    )
