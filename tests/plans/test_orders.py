"""Measured orders of convergence, within 0.15 of the claim, in float64.

An order is the slope of log error on log step between the last two numbers of steps. The problem is
a mixture of three Gaussians in the plane between t = 0.9 and t = 0.1, its velocity written out here
for any path; the reference is scipy's DOP853 at a relative tolerance of 1e-12. A plan of every
method is padded to a common number of rows, so that one program a path runs them all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from flowjax import grids, plans
from flowjax.sampling import sample
from flowjax.schedules import Cosine, Linear, VPLinear

SCHEDULES = {"linear": Linear(), "cosine": Cosine(), "vp": VPLinear()}
SPANS = {"linear": (0.9, 0.1), "cosine": (0.9, 0.1), "vp": (0.6, 0.1)}

# The mixture: K = 3 components in D = 2
WEIGHTS = np.array([0.3, 0.5, 0.2])
MEANS = np.array([[1.0, 0.5], [-0.8, 0.2], [0.1, -1.1]])
STD = np.array([0.5, 0.6, 0.7])
START = np.random.default_rng(0).normal(size=(6, 2))

# RK4 on 80 steps, a singlestep method on 104, a multistep method on 320 and its warm start
ROWS = 324


# The problem and its reference


def data(xp, alpha, sigma, x):
    """E[data | x] of the mixture: responsibilities times the posterior means of the components."""
    variance = alpha**2 * STD**2 + sigma**2  # (K,)
    offset = x[:, None, :] - alpha * MEANS[None]  # (B, K, D)
    distance = xp.sum(offset**2, axis=2) / (2 * variance)[None]
    log_joint = xp.log(WEIGHTS / variance)[None] - distance  # (B, K)
    joint = xp.exp(log_joint - xp.max(log_joint, axis=1, keepdims=True))
    responsibility = joint / xp.sum(joint, axis=1, keepdims=True)
    posterior = MEANS[None] + (alpha * STD**2 / variance)[None, :, None] * offset
    return xp.sum(responsibility[:, :, None] * posterior, axis=1)


def coordinates(path, xp, t):
    """alpha, sigma and their derivatives, written out."""
    if path == "linear":
        return 1 - t, t, -1.0, 1.0
    if path == "cosine":
        c, s = xp.cos(np.pi / 2 * t), xp.sin(np.pi / 2 * t)
        return c, s, -np.pi / 2 * s, np.pi / 2 * c
    alpha = xp.exp(-(t**2) * 19.9 / 4 - t * 0.05)
    alpha_dot = -alpha * (19.9 * t + 0.1) / 2
    sigma = xp.sqrt(1 - alpha**2)
    return alpha, sigma, alpha_dot, -alpha * alpha_dot / sigma


def velocity(path, xp, x, t):
    """alpha' data + sigma' noise, noise = (x - alpha data)/sigma."""
    alpha, sigma, alpha_dot, sigma_dot = coordinates(path, xp, t)
    mean = data(xp, alpha, sigma, x)
    return alpha_dot * mean + sigma_dot * (x - alpha * mean) / sigma


@functools.cache
def reference(path, inverted):
    span = SPANS[path][::-1] if inverted else SPANS[path]

    def rate(t, y):
        return velocity(path, np, y.reshape(START.shape), t).ravel()

    solution = integrate.solve_ivp(
        rate, span, START.ravel(), method="DOP853", rtol=1e-12, atol=1e-13
    )
    return solution.y[:, -1]


# Its solution by plans


@functools.partial(jax.jit, static_argnums=0)
def ends(path, stacked):
    """Ends of a stack of plans; one program serves all methods."""

    def model(x, t):
        return velocity(path, jnp, x, t)

    return jax.lax.map(lambda plan: sample(model, START, plan).x, stacked)


def slopes(path, make, counts, inverted=False, log_snr=False):
    """Slopes between successive counts of steps, on grids uniform in t or in log-SNR."""
    schedule, (start, end) = SCHEDULES[path], SPANS[path]
    tables = []
    for steps in counts:
        grid = grids.uniform(steps, start=start, end=end)
        if log_snr:
            grid = grids.log_snr(schedule, steps, start=start, end=end)
        plan = make(schedule, grid[::-1] if inverted else grid)
        tables.append(plans.pad(plan, ROWS))
    stacked = jax.tree.map(lambda *columns: np.stack(columns), *tables)
    found = np.asarray(ends(path, stacked)).reshape(len(counts), -1)
    errors = np.sqrt(np.mean((found - reference(path, inverted)) ** 2, axis=1))
    assert errors[-1] > 1e-11, "the reference is no better than the solver"
    return np.diff(np.log(errors)) / -np.diff(np.log(counts))


LONG, MIDDLE, SHORT = (80, 160, 320), (26, 52, 104), (20, 40, 80)  # numbers of steps


def pp(order, **options):
    return lambda s, g: plans.dpm_solver_pp(s, g, order, **options)


def single(order, **options):
    return pp(order, method="singlestep", **options)


def unipc(order, **options):
    return lambda s, g: plans.unipc(s, g, order, **options)


def deis(order, **options):
    return lambda s, g: plans.deis(s, g, order, **options)


def bashforth(order, **options):
    return lambda s, g: plans.adams_bashforth(g, order, **options)


ORDERS = {  # name: (plan, order that its documentation claims, numbers of steps)
    "Euler": (lambda s, g: plans.euler(g), 1, LONG),
    "DDIM": (lambda s, g: plans.ddim(s, g), 1, LONG),
    "DPM 1 noise": (pp(1, prediction="noise"), 1, LONG),
    "Heun": (lambda s, g: plans.heun(g), 2, MIDDLE),
    "Heun rho": (lambda s, g: plans.heun(g, schedule=s), 2, MIDDLE),
    "RK4": (lambda s, g: plans.rk4(g), 4, SHORT),
    "AB 2": (bashforth(2), 2, LONG),
    "AB 2 warm": (bashforth(2, start="heun"), 2, LONG),
    "AB 3 warm": (bashforth(3, start="heun"), 3, LONG),
    "AB 4 warm": (bashforth(4, start="heun"), 3, LONG),  # its second step has order 2
    "2M midpoint": (pp(2), 2, LONG),
    "2M taylor": (pp(2, variant="taylor"), 2, LONG),
    "2M noise": (pp(2, prediction="noise"), 2, LONG),
    "2M warm": (pp(2, start="singlestep"), 2, LONG),
    "3M exact warm": (pp(3, start="singlestep"), 3, LONG),
    "3M exact warm noise": (pp(3, start="singlestep", prediction="noise"), 3, LONG),
    "2S midpoint": (single(2), 2, MIDDLE),
    "2S taylor": (single(2, variant="taylor"), 2, MIDDLE),
    "2S noise": (single(2, prediction="noise"), 2, MIDDLE),
    "3S midpoint": (single(3), 3, MIDDLE),
    "3S taylor": (single(3, variant="taylor"), 3, MIDDLE),
    "3S noise": (single(3, prediction="noise"), 3, MIDDLE),
    "UniP 1": (unipc(1, corrector=False), 1, LONG),
    "UniP 2": (unipc(2, corrector=False), 2, LONG),
    "UniPC 1": (unipc(1), 2, LONG),
    "UniPC 2": (unipc(2), 3, LONG),
    "UniPC 2 bh1": (unipc(2, variant="bh1"), 3, LONG),
    "UniPC 2 noise": (unipc(2, prediction="noise"), 3, LONG),
    "DEIS 2 t": (deis(2), 2, LONG),
    "DEIS 2 rho": (deis(2, variable="rho"), 2, LONG),
}
# One step of order 1 starts these, so that their global order tends to 2 at most, whatever their
# own is.
COLD = {
    "AB 3": bashforth(3),
    "AB 4": bashforth(4),
    "3M exact": pp(3),
    "3M published": pp(3, third_order="published"),
    "UniP 3": unipc(3, corrector=False),
    "DEIS 3 t": deis(3),
    "DEIS 3 rho": deis(3, variable="rho"),
    "DEIS 4 t": deis(4),
}
RUNS = [("linear", "sampling"), ("cosine", "sampling"), ("vp", "inversion")]
every_run = pytest.mark.parametrize(
    ("path", "direction"), RUNS, ids=["-".join(names) for names in RUNS]
)


def test_the_problem_is_on_the_path_of_the_schedule():
    """The problem's own coefficients are the schedules', so the plans suit the path they solve."""
    for path, schedule in SCHEDULES.items():
        alpha, sigma, alpha_dot, sigma_dot = coordinates(path, np, 0.37)
        expected = (schedule.alpha(0.37), schedule.sigma(0.37), schedule.alpha_dot(0.37))
        np.testing.assert_allclose((alpha, sigma, alpha_dot), expected, rtol=1e-12)
        np.testing.assert_allclose(sigma * sigma_dot, schedule.sigma_sigma_dot(0.37), rtol=1e-12)


@every_run
@pytest.mark.parametrize("name", ORDERS)
def test_order(path, direction, name):
    make, order, counts = ORDERS[name]
    slope = slopes(path, make, counts, inverted=direction == "inversion")[-1]
    assert slope == pytest.approx(order, abs=0.15)


@every_run
@pytest.mark.parametrize("name", COLD)
def test_cold_start_leaves_order_two(path, direction, name):
    # The first step's h^2 takes over slowly: at 320 steps the slope is still up to 0.35 above 2.
    slope = slopes(path, COLD[name], LONG, inverted=direction == "inversion")[-1]
    assert 1.85 < slope < 2.45


@pytest.mark.parametrize("path", SCHEDULES)
def test_published_third_order_is_second_order_and_the_exact_one_third(path):
    """Both start with order 2, so that only the weight of the second difference differs."""
    published = pp(3, start="singlestep", third_order="published")
    exact = pp(3, start="singlestep")
    assert slopes(path, published, LONG, log_snr=True)[-1] == pytest.approx(2, abs=0.15)
    assert slopes(path, exact, LONG, log_snr=True)[-1] == pytest.approx(3, abs=0.15)


def test_unipc_three_is_third_order_from_a_cold_start():
    """The corrector makes the first step second order.

    The other steps, of order 4, show until the first takes over.
    """
    assert slopes("vp", unipc(3), LONG, inverted=True)[-1] == pytest.approx(3, abs=0.15)
    assert slopes("linear", unipc(3), LONG)[-1] > 2.85
