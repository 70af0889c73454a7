"""Plans against loops in numpy written from the papers, against each other, and against problems they solve exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from flowjax import grids, plans
from flowjax.plans.moments import exponential_moments
from flowjax.sampling import sample
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear, to_velocity

SCHEDULES = {"linear": Linear(), "cosine": Cosine()}
both_paths = pytest.mark.parametrize("path", SCHEDULES)

# Unequal steps, away from the ends; 8 of them, so that most plans here share one compiled program.
GRID = np.array([0.95, 0.87, 0.74, 0.66, 0.5, 0.41, 0.29, 0.2, 0.07])
START = np.random.default_rng(0).normal(size=(3, 2))
# Values are of order one and a step adds a few roundings.
EXACT = {"rtol": 0, "atol": 1e-12}


def velocity(x, t):
    """Some smooth velocity: identities between solvers hold whatever the model is."""
    return np.pi / 3 * (1 + t) * (jnp.sin(2 * x) + jnp.roll(x, 1, axis=-1)) - t**2


@jax.jit
def traced_path(x, plan, noise=None):
    return sample(velocity, x, plan, key=noise, save_path=True).path


def path_of(plan, x=START, noise=None):
    """Accepted states (steps+1, B, D)."""
    return np.asarray(traced_path(x, plan, noise))[: plan.steps + 1]


def predictions(path, x, t):
    """(data, noise) from the velocity, by the formulas of the two paths written out."""
    v = np.asarray(velocity(x, t))
    if path == "linear":
        return x - t * v, x + (1 - t) * v
    c, s = np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)
    return c * x - s * v * 2 / np.pi, s * x + c * v * 2 / np.pi


def coordinates(path, t):
    """(alpha, sigma, lambda)."""
    alpha, sigma = (
        (1 - t, t) if path == "linear" else (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2))
    )
    return alpha, sigma, np.log(alpha / sigma)


def time_at(path, lam):
    return 1 / (1 + np.exp(lam)) if path == "linear" else 2 / np.pi * np.arctan(np.exp(-lam))


# Loops in numpy, in the papers' own symbols: phi functions and divided differences, not moments


def phis(h, data):
    """phi_1, phi_2, phi_3 of DPM-Solver (arXiv:2206.00927, appendix B.3), with -h for the data prediction."""
    phi1 = np.expm1(-h) if data else np.expm1(h)
    phi2 = phi1 / h + 1 if data else phi1 / h - 1
    return phi1, phi2, phi2 / h - 1 / 2


class Loop:
    """What the loops share: first-order terms and signs of the data (++) and noise forms."""

    def __init__(self, path, prediction):
        self.path, self.data = path, prediction == "data"

    def evaluate(self, x, t):
        return predictions(self.path, x, t)[0 if self.data else 1]

    def step(self, t0, t1):
        """(decay, gain, h): x1 = decay x0 - gain phi_1 m for order 1."""
        (alpha0, sigma0, lam0), (alpha1, sigma1, lam1) = (
            coordinates(self.path, t0),
            coordinates(self.path, t1),
        )
        return (
            (sigma1 / sigma0, alpha1, lam1 - lam0)
            if self.data
            else (alpha1 / alpha0, sigma1, lam1 - lam0)
        )

    def first(self, x, m, t0, t1):
        decay, gain, h = self.step(t0, t1)
        return decay * x - gain * phis(h, self.data)[0] * m

    def second(self, x, m, slope, t0, t1, variant):
        """Second-order update from the slope D (per step) of the prediction."""
        _, gain, h = self.step(t0, t1)
        phi1, phi2, _ = phis(h, self.data)
        if variant == "midpoint":
            return self.first(x, m, t0, t1) - gain * phi1 * slope / 2
        return self.first(x, m, t0, t1) + (gain if self.data else -gain) * phi2 * slope

    def third(self, x, m, slope, bend, t0, t1):
        _, gain, h = self.step(t0, t1)
        _, phi2, phi3 = phis(h, self.data)
        return (
            self.first(x, m, t0, t1)
            + (gain if self.data else -gain) * phi2 * slope
            - gain * phi3 * bend
        )


def multistep_loop(path, prediction, grid, order, variant, third_order):
    """DPM-Solver++ 2M (arXiv:2211.01095, algorithm 2) and 3M; kappa is 1 in every public code and 2 where it is right."""
    loop, kappa = Loop(path, prediction), {"published": 1, "exact": 2}[third_order]
    lam = coordinates(path, grid)[2]
    x, ms, states = START, [], [START]
    for i in range(len(grid) - 1):
        t0, t1, h = grid[i], grid[i + 1], lam[i + 1] - lam[i]
        ms.append(loop.evaluate(x, t0))
        reached = min(order, i + 1)
        if reached == 1:
            x = loop.first(x, ms[-1], t0, t1)
        else:
            r0 = (lam[i] - lam[i - 1]) / h
            a = (ms[-1] - ms[-2]) / r0
            if reached == 2:
                x = loop.second(x, ms[-1], a, t0, t1, variant)
            else:
                r1 = (lam[i - 1] - lam[i - 2]) / h
                b = (ms[-2] - ms[-3]) / r1
                x = loop.third(
                    x, ms[-1], a + r0 / (r0 + r1) * (a - b), kappa * (a - b) / (r0 + r1), t0, t1
                )
        states.append(x)
    return np.array(states)


def singlestep_loop(path, prediction, grid, order, variant):
    """DPM-Solver++ 2S (arXiv:2211.01095, algorithm 1) and DPM-Solver-3 (arXiv:2206.00927, algorithm 2), r = 1/2; 1/3, 2/3."""
    loop, x, states = Loop(path, prediction), START, [START]
    sign = 1 if loop.data else -1
    for t0, t1 in zip(grid[:-1], grid[1:], strict=True):
        lam0, h = coordinates(path, t0)[2], loop.step(t0, t1)[2]
        m0 = loop.evaluate(x, t0)
        if order == 1:
            x = loop.first(x, m0, t0, t1)
        elif order == 2:
            s = time_at(path, lam0 + h / 2)
            m1 = loop.evaluate(loop.first(x, m0, t0, s), s)
            x = loop.second(x, m0, (m1 - m0) / (1 / 2), t0, t1, variant)
        else:
            r1, r2 = 1 / 3, 2 / 3
            s1, s2 = time_at(path, lam0 + r1 * h), time_at(path, lam0 + r2 * h)
            m1 = loop.evaluate(loop.first(x, m0, t0, s1), s1)
            _, gain, inner = loop.step(t0, s2)
            _, phi2, _ = phis(inner, loop.data)
            m2 = loop.evaluate(
                loop.first(x, m0, t0, s2) + sign * r2 / r1 * gain * phi2 * (m1 - m0), s2
            )
            d1, d2 = (m1 - m0) / r1, (m2 - m0) / r2
            if variant == "midpoint":
                x = loop.second(x, m0, d2, t0, t1, "taylor")
            else:
                x = loop.third(
                    x, m0, (r2 * d1 - r1 * d2) / (r2 - r1), 2 * (d2 - d1) / (r2 - r1), t0, t1
                )
        states.append(x)
    return np.array(states)


def unipc_loop(path, prediction, grid, order, variant, corrector):
    """UniPC (arXiv:2302.04867, algorithms 1 and 2) with its B(h) and its linear system; the states where it evaluates."""
    loop = Loop(path, prediction)
    lam = coordinates(path, grid)[2]
    x, states, ms = START, [START], [loop.evaluate(START, grid[0])]
    for i in range(len(grid) - 1):
        p = min(order, i + 1)
        decay, gain, h = loop.step(grid[i], grid[i + 1])
        hh = -h if loop.data else h
        scale = hh if variant == "bh1" else np.expm1(hh)
        r = np.array([(lam[i - k] - lam[i]) / h for k in range(1, p)] + [1.0])
        phi, factorial, rows, b = np.expm1(hh) / hh - 1, 1, [], []
        for k in range(1, p + 1):
            rows.append(r ** (k - 1))
            b.append(phi * factorial / scale)
            factorial *= k + 1
            phi = phi / hh - 1 / factorial
        rows, b = np.array(rows), np.array(b)
        differences = [(ms[-1 - k] - ms[-1]) / r[k - 1] for k in range(1, p)]
        rho = [0.5] if p == 2 else np.linalg.solve(rows[:-1, :-1], b[:-1])
        linear = decay * x - gain * np.expm1(hh) * ms[-1]
        predicted = linear - gain * scale * sum(
            w * d for w, d in zip(rho, differences, strict=True)
        )
        states.append(predicted)
        ms.append(loop.evaluate(predicted, grid[i + 1]))
        rho = [0.5] if p == 1 else np.linalg.solve(rows, b)
        differences.append(ms[-1] - ms[-2])
        corrected = linear - gain * scale * sum(
            w * d for w, d in zip(rho, differences, strict=True)
        )
        x = corrected if corrector else predicted
    return np.array(states)


def sde_loop(path, prediction, grid, order, variant, noise):
    """SDE-DPM-Solver(++) of orders 1 and 2 (arXiv:2211.01095, appendix B.1)."""
    loop = Loop(path, prediction)
    lam = coordinates(path, grid)[2]
    x, ms, states = START, [], [START]
    for i, (t0, t1) in enumerate(zip(grid[:-1], grid[1:], strict=True)):
        decay, gain, h = loop.step(t0, t1)
        ms.append(loop.evaluate(x, t0))
        slope = (ms[-1] - ms[-2]) / ((lam[i] - lam[i - 1]) / h) if order == 2 and i else 0
        if loop.data:
            weight = {
                "midpoint": (1 - np.exp(-2 * h)) / 2,
                "taylor": (1 - np.exp(-2 * h)) / (-2 * h) + 1,
            }[variant]
            x = (
                decay * np.exp(-h) * x
                + gain * (1 - np.exp(-2 * h)) * ms[-1]
                + gain * weight * slope
            )
            x = x + coordinates(path, t1)[1] * np.sqrt(1 - np.exp(-2 * h)) * noise[i]
        else:
            weight = {"midpoint": np.expm1(h), "taylor": 2 * (np.expm1(h) / h - 1)}[variant]
            x = decay * x - 2 * gain * np.expm1(h) * ms[-1] - gain * weight * slope
            x = x + gain * np.sqrt(np.expm1(2 * h)) * noise[i]
        states.append(x)
    return np.array(states)


both_predictions = pytest.mark.parametrize("prediction", ["data", "noise"])
both_variants = pytest.mark.parametrize("variant", ["midpoint", "taylor"])


@both_paths
@both_predictions
@both_variants
@pytest.mark.parametrize(
    ("order", "third_order"), [(1, "exact"), (2, "exact"), (3, "exact"), (3, "published")]
)
def test_multistep_is_the_loop_of_the_papers(path, prediction, variant, order, third_order):
    plan = plans.dpm_solver_pp(
        SCHEDULES[path],
        GRID,
        order,
        variant=variant,
        prediction=prediction,
        third_order=third_order,
    )
    expected = multistep_loop(path, prediction, GRID, order, variant, third_order)
    np.testing.assert_allclose(path_of(plan), expected, **EXACT)


@both_paths
@both_predictions
@both_variants
@pytest.mark.parametrize("order", [1, 2, 3])
def test_singlestep_is_the_loop_of_the_papers(path, prediction, variant, order):
    plan = plans.dpm_solver_pp(
        SCHEDULES[path], GRID, order, method="singlestep", variant=variant, prediction=prediction
    )
    np.testing.assert_allclose(
        path_of(plan), singlestep_loop(path, prediction, GRID, order, variant), **EXACT
    )


@both_paths
@both_predictions
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [True, False])
def test_unipc_is_the_loop_of_the_paper(path, prediction, variant, order, corrector):
    plan = plans.unipc(
        SCHEDULES[path], GRID, order, corrector=corrector, variant=variant, prediction=prediction
    )
    expected = unipc_loop(path, prediction, GRID, order, variant, corrector)
    np.testing.assert_allclose(path_of(plan), expected, **EXACT)


@both_paths
@both_predictions
@both_variants
@pytest.mark.parametrize("order", [1, 2])
def test_sde_is_the_loop_of_the_paper(path, prediction, variant, order):
    noise = np.random.default_rng(1).normal(size=(8, *START.shape))
    plan = plans.dpm_solver_sde(
        SCHEDULES[path], GRID, order, variant=variant, prediction=prediction
    )
    expected = sde_loop(path, prediction, GRID, order, variant, noise)
    # The noise form multiplies by alpha1/alpha0, 16 over this grid, and expm1(2h).
    np.testing.assert_allclose(path_of(plan, noise=noise), expected, rtol=1e-12, atol=2e-12)


@both_paths
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_equation_12_of_the_paper(path, eta):
    noise = np.random.default_rng(1).normal(size=(8, *START.shape))
    x, states = START, [START]
    for i, (t0, t1) in enumerate(zip(GRID[:-1], GRID[1:], strict=True)):
        (alpha0, sigma0, _), (alpha1, sigma1, _) = coordinates(path, t0), coordinates(path, t1)
        data, predicted = predictions(path, x, t0)
        # Eq. 16 with abar = alpha^2/(alpha^2 + sigma^2), for a path that need not preserve variance.
        std = eta * sigma1 / sigma0 * np.sqrt(sigma0**2 - (alpha0 / alpha1 * sigma1) ** 2)
        x = alpha1 * data + np.sqrt(sigma1**2 - std**2) * predicted + std * noise[i]
        states.append(x)
    plan = plans.ddim(SCHEDULES[path], GRID, eta)
    np.testing.assert_allclose(path_of(plan, noise=noise), states, **EXACT)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_adams_bashforth_has_the_textbook_weights_on_equal_steps(order):
    weights = {
        1: [1],
        2: [3 / 2, -1 / 2],
        3: [23 / 12, -16 / 12, 5 / 12],
        4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    }
    last = plans.adams_bashforth(grids.uniform(10), order).b[-1] / -0.1
    np.testing.assert_allclose(last, np.pad(weights[order], (0, 4 - order)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["heun", "rk4"])
def test_runge_kutta_is_the_textbook_loop(method):
    x, states = START, [START]
    for t, t1 in zip(GRID[:-1], GRID[1:], strict=True):
        h = t1 - t
        k1 = velocity(x, t)
        if method == "heun":
            x = x + h / 2 * (k1 + velocity(x + h * k1, t1))
        else:
            k2 = velocity(x + h / 2 * k1, t + h / 2)
            k3 = velocity(x + h / 2 * k2, t + h / 2)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(x + h * k3, t1))
        states.append(np.asarray(x))
    np.testing.assert_allclose(path_of(getattr(plans, method)(GRID)), states, **EXACT)


def test_heun_ends_at_zero_with_an_euler_step():
    plan = plans.heun([1.0, 0.5, 0.0])
    assert plan.nfe == 3 and np.all(plan.t > 0)


# Identities between methods


def pp(schedule, order, **options):
    return plans.dpm_solver_pp(schedule, GRID, order, **options)


IDENTITIES = {
    "DPM-Solver++ 1 is DDIM": lambda s: (pp(s, 1), plans.ddim(s, GRID)),
    "DPM-Solver 1 is DPM-Solver++ 1": lambda s: (pp(s, 1, prediction="noise"), pp(s, 1)),
    "singlestep 1 is multistep 1": lambda s: (pp(s, 1, method="singlestep"), pp(s, 1)),
    "UniP 1 is DDIM": lambda s: (plans.unipc(s, GRID, 1, corrector=False), plans.ddim(s, GRID)),
    "DEIS 1 is DDIM": lambda s: (plans.deis(s, GRID, 1), plans.ddim(s, GRID)),
    "DEIS 1 in rho is DDIM": lambda s: (
        plans.deis(s, GRID, 1, variable="rho"),
        plans.ddim(s, GRID),
    ),
    "UniP 2 is 2M": lambda s: (plans.unipc(s, GRID, 2, corrector=False), pp(s, 2)),
    "UniP 3 is the exact 3M": lambda s: (plans.unipc(s, GRID, 3, corrector=False), pp(s, 3)),
    "order 3 capped to 1 is order 1": lambda s: (pp(s, 3, final=(1,) * 8), pp(s, 1)),
    "order 3 capped to 2 is order 2": lambda s: (pp(s, 3, final=[2] * 8), pp(s, 2)),
    "UniPC 3 capped to 2 is UniPC 2": lambda s: (
        plans.unipc(s, GRID, 3, final=(2,) * 8),
        plans.unipc(s, GRID, 2),
    ),
    "DEIS 3 capped to 1 is DDIM": lambda s: (
        plans.deis(s, GRID, 3, final=(1,) * 8),
        plans.ddim(s, GRID),
    ),
    "singlestep 3 capped to 1 is order 1": lambda s: (
        pp(s, 3, method="singlestep", final=(1,) * 8),
        pp(s, 1),
    ),
    "halves of order 1 make the whole": lambda s: (
        plans.concat(plans.dpm_solver_pp(s, GRID[:4], 1), plans.dpm_solver_pp(s, GRID[3:], 1)),
        pp(s, 1),
    ),
    "halves of singlestep 3 make the whole": lambda s: (
        plans.concat(
            plans.dpm_solver_pp(s, GRID[:4], 3, method="singlestep"),
            plans.dpm_solver_pp(s, GRID[3:], 3, method="singlestep"),
        ),
        pp(s, 3, method="singlestep"),
    ),
    "AB 1 is Euler": lambda s: (plans.adams_bashforth(GRID, 1), plans.euler(GRID)),
}


@both_paths
@pytest.mark.parametrize(
    "identity", IDENTITIES.values(), ids=[name.replace(" ", "-") for name in IDENTITIES]
)
def test_identity(path, identity):
    left, right = identity(SCHEDULES[path])
    np.testing.assert_allclose(path_of(left), path_of(right), **EXACT)


@pytest.mark.parametrize(
    "grid", [GRID, GRID[::-1], grids.uniform(8, shift=3.0), grids.uniform(8)[::-1]]
)
def test_first_order_is_euler_on_the_linear_path(grid):
    expected = path_of(plans.euler(grid))
    np.testing.assert_allclose(path_of(plans.dpm_solver_pp(Linear(), grid, 1)), expected, **EXACT)
    np.testing.assert_allclose(path_of(plans.ddim(Linear(), grid)), expected, **EXACT)


@both_paths
def test_ancestral_ddim_is_the_first_order_sde(path):
    noise = np.random.default_rng(1).normal(size=(8, *START.shape))
    ddim, sde = (
        plans.ddim(SCHEDULES[path], GRID, 1.0),
        plans.dpm_solver_sde(SCHEDULES[path], GRID, 1),
    )
    np.testing.assert_allclose(path_of(ddim, noise=noise), path_of(sde, noise=noise), **EXACT)


def test_higher_orders_differ_from_the_first():
    """The identities above would hold for a table that never leaves order 1."""
    first = path_of(pp(Linear(), 1))[-1]
    for order in (2, 3):
        assert np.abs(path_of(pp(Linear(), order))[-1] - first).max() > 1e-3


PATH_FREE = {
    "2M": lambda s, g: plans.dpm_solver_pp(s, g, 2),
    "3M": lambda s, g: plans.dpm_solver_pp(s, g, 3),
    "UniPC": lambda s, g: plans.unipc(s, g, 3),
    "SDE 2M": lambda s, g: plans.dpm_solver_sde(s, g, 2),
}


@functools.partial(jax.jit, static_argnums=3)
def path_free_end(x, plan, noise, schedule):
    def model(x, t):
        data = jnp.tanh(
            x / schedule.sigma(t) * jnp.exp(schedule.log_snr(t))
        ) + 0.1 * schedule.log_snr(t)
        return to_velocity(schedule, "data", data, x, t)

    return sample(model, x, plan, key=noise).x


@pytest.mark.parametrize("make", PATH_FREE.values(), ids=PATH_FREE)
def test_data_predicting_solvers_know_the_path_only_by_its_log_snr(make):
    """With data = F(x/sigma, log-SNR), x/sigma at equal log-SNR is the same on every path."""
    log_snr = np.array([-2.0, -1.3, -0.9, -0.1, 0.3, 1.2, 1.9, 2.2, 3.0])
    noise = np.random.default_rng(1).normal(size=(8, *START.shape))
    ends = []
    for schedule in (Linear(), Cosine(), VPLinear()):
        grid = schedule.time_of_log_snr(log_snr)
        plan = make(schedule, grid)
        end = path_free_end(
            START * schedule.sigma(grid[0]), plan, noise if np.any(plan.s) else 0 * noise, schedule
        )
        ends.append(end / schedule.sigma(grid[-1]))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-10)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-10)


# Problems with an exact answer


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize(
    "make", [lambda s, g: plans.euler(g), lambda s, g: plans.ddim(s, g)], ids=["euler", "ddim"]
)
def test_one_step_solves_a_single_point(path, make):
    schedule, point = SCHEDULES[path], np.array([0.3, -1.7])
    if path == "cosine":
        make = lambda s, g: plans.ddim(s, g)  # Euler is exact on straight paths only
    model = lambda x, t: to_velocity(schedule, "data", jnp.broadcast_to(point, x.shape), x, t)
    end = sample(model, START, make(schedule, [1.0, 0.0])).x
    np.testing.assert_allclose(end, np.broadcast_to(point, START.shape), rtol=0, atol=1e-15)


POLYNOMIAL = [0.7, -0.4, 0.3, 0.2]  # lowest power first


def polynomial(terms):
    return lambda y: sum(c * y**k for k, c in enumerate(POLYNOMIAL[:terms]))


PLACES = {
    "log-SNR": lambda schedule, t: schedule.log_snr(t),
    "t": lambda schedule, t: t,
    "rho": lambda schedule, t: schedule.sigma(t) / schedule.alpha(t) / 100,
}


@functools.partial(jax.jit, static_argnames=("path", "prediction", "place"))
def polynomial_path(x, plan, coefficients, *, path, prediction, place):
    """Accepted states where the prediction is a polynomial of the place in time, whatever the state is."""
    schedule = SCHEDULES[path]

    def model(x, t):
        value = jnp.polyval(coefficients[::-1], PLACES[place](schedule, t))
        value = jnp.full_like(x, value)
        return value if prediction == "velocity" else to_velocity(schedule, prediction, value, x, t)

    return sample(model, x, plan, key=jnp.zeros((plan.rows, *x.shape)), save_path=True).path


def worst_step(plan, terms, exact_step, first, *, path="linear", prediction="velocity", place="t"):
    """Largest error, against 1 + |state|, of the steps from `first` on, each from where the solver was."""
    coefficients = np.pad(POLYNOMIAL[:terms], (0, 4 - terms))
    states = np.asarray(
        polynomial_path(START, plan, coefficients, path=path, prediction=prediction, place=place)
    )
    errors = []
    for i in range(first, plan.steps):
        exact = exact_step(states[i], plan.grid[i], plan.grid[i + 1])
        errors.append(
            np.max(np.abs(states[i + 1] - exact) / (1 + np.abs(states[i]) + np.abs(exact)))
        )
    return max(errors)


EXPONENTIAL = {  # plan, order, first step of that order
    "2M taylor": (lambda s, **o: plans.dpm_solver_pp(s, GRID, 2, variant="taylor", **o), 2, 1),
    "2M taylor, warm": (
        lambda s, **o: plans.dpm_solver_pp(s, GRID, 2, variant="taylor", start="singlestep", **o),
        2,
        0,
    ),
    "3M exact": (lambda s, **o: plans.dpm_solver_pp(s, GRID, 3, **o), 3, 2),
    "2S taylor": (
        lambda s, **o: plans.dpm_solver_pp(s, GRID, 2, method="singlestep", variant="taylor", **o),
        2,
        0,
    ),
    "3S taylor": (
        lambda s, **o: plans.dpm_solver_pp(s, GRID, 3, method="singlestep", variant="taylor", **o),
        3,
        0,
    ),
    "UniP 3": (lambda s, **o: plans.unipc(s, GRID, 3, corrector=False, **o), 3, 2),
}


def log_snr_step(path, prediction, terms, speed=1):
    """Exact step where the prediction is the polynomial in log-SNR; speed=2 is the SDE without its noise."""
    p = polynomial(terms)

    def exact_step(x, t0, t1):
        (alpha0, sigma0, lam0), (alpha1, sigma1, lam1) = (
            coordinates(path, t0),
            coordinates(path, t1),
        )
        h, rate = lam1 - lam0, speed if prediction == "data" else -1
        integral = integrate.quad(
            lambda u: np.exp(-rate * (h - u)) * p(lam0 + u), 0, h, epsabs=1e-14, epsrel=1e-13
        )[0]
        if prediction == "data":
            return sigma1 / sigma0 * np.exp(-(speed - 1) * h) * x + speed * alpha1 * integral
        return alpha1 / alpha0 * x - speed * sigma1 * integral

    return exact_step


def worst_log_snr_step(plan, path, prediction, terms, first, speed=1):
    exact_step = log_snr_step(path, prediction, terms, speed)
    return worst_step(
        plan, terms, exact_step, first, path=path, prediction=prediction, place="log-SNR"
    )


@both_paths
@both_predictions
@pytest.mark.parametrize("name", EXPONENTIAL)
def test_polynomial_in_log_snr_of_the_order_is_integrated_exactly(path, prediction, name):
    make, order, first = EXPONENTIAL[name]
    plan = make(SCHEDULES[path], prediction=prediction)
    assert worst_log_snr_step(plan, path, prediction, order, first) < 1e-12
    assert worst_log_snr_step(plan, path, prediction, order + 1, first) > 1e-4


@both_paths
@both_predictions
@pytest.mark.parametrize("order", [1, 2, 3])
def test_sde_integrates_a_polynomial_in_log_snr_exactly(path, prediction, order):
    plan = plans.dpm_solver_sde(
        SCHEDULES[path], GRID, order, variant="taylor", prediction=prediction
    )
    assert worst_log_snr_step(plan, path, prediction, order, order - 1, speed=2) < 1e-12


def test_published_third_order_does_not_integrate_a_parabola():
    plan = pp(Linear(), 3, third_order="published")
    assert worst_log_snr_step(plan, "linear", "data", 3, 2) > 1e-4
    assert worst_log_snr_step(plan, "linear", "data", 2, 2) < 1e-12


VELOCITY = {
    "euler": (lambda: plans.euler(GRID), 1, 0),
    "heun": (lambda: plans.heun(GRID), 2, 0),
    "rk4": (lambda: plans.rk4(GRID), 4, 0),
    **{f"ab{p}": (lambda p=p: plans.adams_bashforth(GRID, p), p, p - 1) for p in (2, 3, 4)},
    "ab4 heun": (lambda: plans.adams_bashforth(GRID, 4, start="heun"), 4, 4),
}


@pytest.mark.parametrize("name", VELOCITY)
def test_polynomial_velocity_of_the_order_is_integrated_exactly(name):
    make, order, first = VELOCITY[name]
    p = polynomial(order)
    exact_step = lambda x, t0, t1: x + integrate.quad(p, t0, t1, epsabs=1e-15)[0]
    assert worst_step(make(), order, exact_step, first) < 1e-13


DEIS_GRIDS = {  # rho = sigma/alpha has its pole just beyond the second and third
    "interior": GRID,
    "near noise": np.array([0.9999, 0.9998, 0.999, 0.8, 0.6, 0.4, 0.2, 0.1, 0.01]),
    "inversion to noise": np.array([0.0, 0.1, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9999]),
}


@both_paths
@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("variable", ["t", "rho"])
@pytest.mark.parametrize("grid", DEIS_GRIDS)
def test_deis_integrates_a_polynomial_in_its_variable_exactly(path, order, variable, grid):
    schedule, p = SCHEDULES[path], polynomial(order)

    def exact_step(x, t0, t1):
        (alpha0, _, _), (alpha1, _, _) = coordinates(path, t0), coordinates(path, t1)
        slope = lambda t: (
            1 / (1 - t) ** 2 if path == "linear" else np.pi / 2 / np.cos(np.pi * t / 2) ** 2
        )
        value = lambda t: p(PLACES[variable](schedule, t)) * slope(t)
        return (
            alpha1 / alpha0 * x
            + alpha1 * integrate.quad(value, t0, t1, epsabs=0, epsrel=1e-12, limit=500)[0]
        )

    plan = plans.deis(schedule, DEIS_GRIDS[grid], order, variable=variable)
    # cos(pi t/2) keeps 12 digits at t = 0.9999, and four nodes in rho are extrapolated there by a factor of a thousand.
    worst = worst_step(
        plan, order, exact_step, order - 1, path=path, prediction="noise", place=variable
    )
    assert worst < (1e-12 if grid == "interior" else 1e-9)


@pytest.mark.parametrize(
    "h", [1e-12, 1e-6, 0.1, 0.5, 0.999, 1.001, 3.0, 20.0, -1e-6, -0.5, -0.999, -1.001, -4.0]
)
def test_moments_are_the_integrals(h):
    for k, moment in enumerate(exponential_moments(h, 4)):
        integral = (
            h
            * integrate.quad(lambda u: np.exp(-h * (1 - u)) * u**k, 0, 1, epsabs=0, epsrel=1e-13)[0]
        )
        np.testing.assert_allclose(
            moment, integral, rtol=3e-15 if abs(h) < 1 else 1e-13, err_msg=f"moment {k}"
        )
        np.testing.assert_allclose(exponential_moments(jnp.asarray(h), 4)[k], moment, rtol=1e-13)


def test_moments_of_an_infinite_step_are_one():
    assert np.array_equal(exponential_moments(np.inf, 4), np.ones(4))


# The table


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
ENDS = {
    "linear": Linear(),
    "cosine": Cosine(),
    "vp": VPLinear(),
    "discrete": VPDiscrete.linear(),
    "discrete-cosine": VPDiscrete.cosine(),
}


@every_plan
@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    "grid", [grids.uniform(7), grids.uniform(7)[::-1], [1.0, 0.6, 0.3, 1.5e-4, 1e-4, 0.0]]
)
def test_tables_are_finite_from_end_to_end(make, schedule, grid):
    """The last grid has two times at which the discrete linear schedule holds alpha = 1, so that log-SNR is infinite."""
    plan = make(schedule, grid)
    assert all(np.all(np.isfinite(column)) for column in plan)
    np.testing.assert_array_equal(plan.grid, grid)


@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("grid", [grids.uniform(7), [1.0, 0.6, 0.3, 1.5e-4, 1e-4, 0.0]])
def test_tables_of_stochastic_plans_are_finite_from_end_to_end(schedule, grid):
    for plan in (
        plans.ddim(schedule, grid, 1.0),
        plans.dpm_solver_sde(schedule, grid, 3),
        plans.dpm_solver_sde(schedule, grid, 3, prediction="noise"),
    ):
        assert (
            all(np.all(np.isfinite(column)) for column in plan)
            and plan.s[-1] == 0
            and plan.s[0] > 0
        )


def test_evaluations_are_counted():
    s, grid = Linear(), grids.uniform(6, start=0.9, end=0.1)
    counts = {
        "euler": 6, "heun": 12, "rk4": 24, "ab4": 7, "ddim": 6, "3M": 6, "3M warm": 7, "3S": 18, "UniPC 3": 6,
        "UniPC 3 noise": 6, "DEIS 4": 6, "DEIS 4 rho": 6,
    }  # fmt: skip
    assert {name: make(s, grid).nfe for name, make in ALL.items()} == counts
    assert all(make(s, grid).steps == 6 for make in ALL.values())


def test_a_step_that_touches_an_infinite_end_is_one_evaluation():
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(5), 3, method="singlestep")
    assert plan.nfe == 1 + 3 * 3 + 1 and plan.steps == 5


def orders(plan):
    """Evaluations that each row of a multistep plan uses."""
    return np.count_nonzero(plan.b, axis=1).tolist()


FINALS = {
    "auto, interior": ("auto", 12, 0.1, [1, 2] + [3] * 10),
    "auto": ("auto", 12, 0.0, [1, 2] + [3] * 9 + [1]),
    "none": ("none", 12, 0.1, [1, 2] + [3] * 10),
    "sana": ("sana", 30, 0.0, [1, 2] + [3] * 26 + [2, 1]),
    "upstream below 10": ("upstream", 9, 0.1, [1, 2] + [3] * 5 + [2, 1]),
    "upstream from 10": ("upstream", 10, 0.1, [1, 2] + [3] * 8),
    "diffusers below 15": ("diffusers", 14, 0.1, [1, 2] + [3] * 10 + [2, 1]),
    "diffusers from 15": ("diffusers", 15, 0.1, [1, 2] + [3] * 13),
    "diffusers from 15 to zero": ("diffusers", 15, 0.0, [1, 2] + [3] * 12 + [1]),
    "tuple": ((3, 1, 2), 8, 0.1, [1, 2, 3, 3, 3, 3, 1, 2]),
}


@pytest.mark.parametrize(("final", "steps", "end", "expected"), FINALS.values(), ids=FINALS)
def test_final_rule_sets_the_orders_of_the_last_steps(final, steps, end, expected):
    grid = grids.uniform(steps, start=0.9, end=end)
    assert orders(plans.dpm_solver_pp(Linear(), grid, 3, final=final)) == expected
    assert orders(plans.unipc(Linear(), grid, 3, final=final, corrector=False)) == expected


@jax.jit
def end_without_asking_below(last, plan):
    return sample(lambda x, t: jnp.where(t < last, jnp.nan, velocity(x, t)), START, plan).x


@every_plan
def test_padding_changes_no_bit_and_is_not_counted(make):
    plan = make(Linear(), grids.uniform(8))
    padded = plans.pad(plan, 40)
    assert (padded.rows, padded.nfe, padded.steps) == (40, plan.nfe, plan.steps)
    np.testing.assert_array_equal(padded.grid, plan.grid)
    # A model that fails below the last time where the plan evaluates: padding must not ask it there.
    last = plan.t.min()
    np.testing.assert_array_equal(
        end_without_asking_below(last, padded), end_without_asking_below(last, plan)
    )


def test_concat_of_plans_keeps_counts_and_grid():
    there, back = plans.rk4(grids.uniform(3)[::-1]), plans.heun(grids.uniform(4))
    both = plans.concat(there, back)
    assert (both.nfe, both.steps) == (there.nfe + back.nfe, 7)
    np.testing.assert_array_equal(both.grid, [*there.grid, *back.grid[1:]])


def test_concat_of_a_padded_plan_is_concat():
    first, second = plans.heun(GRID[:4]), plans.adams_bashforth(GRID[3:], 3)
    whole = path_of(plans.concat(first, second))
    np.testing.assert_array_equal(path_of(plans.concat(plans.pad(first, 9), second)), whole)


def test_path_of_a_velocity_plan_sets_its_data_prediction_and_nothing_else():
    plan, exponential = plans.euler(GRID), plans.ddim(Cosine(), GRID)
    told = plans.with_path(plan, Cosine())
    np.testing.assert_array_equal(
        (told.data_x, told.data_v), (exponential.data_x, exponential.data_v)
    )
    for column in set(plan._fields) - {"data_x", "data_v"}:
        np.testing.assert_array_equal(getattr(told, column), getattr(plan, column))


@every_plan
@pytest.mark.parametrize("network", ["velocity", "noise", "data", "v"])
def test_labels_at_the_true_times_change_nothing(make, network):
    plan = make(Cosine(), GRID)
    told = plans.with_labels(plan, plan.t, network=network, schedule=Cosine())
    for column, expected in zip(told, plan, strict=True):
        np.testing.assert_allclose(column, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["noise", "data", "v"])
def test_labels_of_a_wrapped_network_reach_the_network_and_nothing_else(kind):
    """DDIM by hand with the network told other times, against the plan with a wrapped network."""
    schedule = Cosine()
    network = lambda x, t: jnp.cos(3 * x + t)
    labels = np.round(GRID[:-1] - 0.04, 1)
    x = START
    for t0, t1, label in zip(GRID[:-1], GRID[1:], labels, strict=True):
        (alpha0, sigma0, _), (alpha1, sigma1, _) = (
            coordinates("cosine", t0),
            coordinates("cosine", t1),
        )
        told = np.asarray(network(x, label))
        noise = {
            "noise": told,
            "data": (x - alpha0 * told) / sigma0,
            "v": sigma0 * x + alpha0 * told,
        }[kind]
        x = alpha1 * (x - sigma0 * noise) / alpha0 + sigma1 * noise
    model = lambda x, t: to_velocity(schedule, kind, network(x, t), x, t)
    plan = plans.with_labels(plans.ddim(schedule, GRID), labels, network=kind, schedule=schedule)
    np.testing.assert_allclose(
        jax.jit(lambda x, plan: sample(model, x, plan).x)(START, plan), x, rtol=1e-11, atol=1e-11
    )


def test_labels_snap_only_when_near_a_whole_number():
    np.testing.assert_array_equal(
        plans.snap_labels(np.array([981.9995, 982.5, 3.0]), 1000), [0.982, 0.9825, 0.003]
    )


# Mistakes, refused before anything compiles

L, G = Linear(), grids.uniform(6)
MISTAKES = {
    "not monotone": (lambda: plans.euler([1, 0.5, 0.6]), r"plans\.euler: .*not strictly monotone"),
    "labels as times": (lambda: plans.heun([999, 500, 0]), r"plans\.heun: .*999, outside \[0, 1\]"),
    "one time": (lambda: plans.rk4([1.0]), r"plans\.rk4: .*two or more times"),
    "ab order": (
        lambda: plans.adams_bashforth(G, 5),
        r"plans\.adams_bashforth: order=5; .*from 1 to 4",
    ),
    "ab steps": (
        lambda: plans.adams_bashforth([1, 0], 2),
        r"plans\.adams_bashforth: 1 step.*too few.*order=1",
    ),
    "ab start": (
        lambda: plans.adams_bashforth(G, 2, start="huen"),
        r"start='huen'.*did you mean 'heun'",
    ),
    "order": (
        lambda: plans.dpm_solver_pp(L, G, 4),
        r"plans\.dpm_solver_pp: order=4; wanted .*1 to 3",
    ),
    "order zero": (lambda: plans.unipc(L, G, 0), r"plans\.unipc: order=0"),
    "order as a fraction": (
        lambda: plans.dpm_solver_pp(L, G, 2.0),
        r"plans\.dpm_solver_pp: order=2\.0; wanted a whole",
    ),
    "too few steps": (
        lambda: plans.dpm_solver_pp(L, [1, 0.5, 0], 3),
        r"plans\.dpm_solver_pp: 2 step.*too few.*order=2",
    ),
    "method": (
        lambda: plans.dpm_solver_pp(L, G, 2, method="multi"),
        r"method='multi'.*did you mean 'multistep'",
    ),
    "variant": (
        lambda: plans.dpm_solver_pp(L, G, 2, variant="tailor"),
        r"variant='tailor'.*mean 'taylor'",
    ),
    "prediction": (
        lambda: plans.unipc(L, G, 2, prediction="nose"),
        r"plans\.unipc: prediction='nose'.*mean 'noise'",
    ),
    "final": (
        lambda: plans.dpm_solver_pp(L, G, 2, final="diffuser"),
        r"final='diffuser'.*mean 'diffusers'",
    ),
    "third": (
        lambda: plans.dpm_solver_pp(L, G, 3, third_order="publish"),
        r"third_order='publish'.*mean 'published'",
    ),
    "bh": (lambda: plans.unipc(L, G, 2, variant="b2"), r"plans\.unipc: variant='b2'.*mean 'bh2'"),
    "deis variable": (
        lambda: plans.deis(L, G, 2, variable="time"),
        r"plans\.deis: variable='time' is not known; the choices are 't', 'rho'",
    ),
    "caps": (
        lambda: plans.dpm_solver_pp(L, G, 2, final=(1,) * 7),
        r"final=.* for 6 steps; wanted at most 6 caps",
    ),
    "cap": (lambda: plans.dpm_solver_pp(L, G, 2, final=(0,)), r"final=\(0,\).*each 1, 2 or 3"),
    "end": (
        lambda: plans.dpm_solver_pp(L, G, 2, final="none"),
        r"step 6 of 6 ends at t = 0.*order 2 .*final='auto'",
    ),
    "end, upstream": (
        lambda: plans.dpm_solver_pp(L, grids.uniform(10), 3, final="upstream"),
        r"step 10 of 10 ends at t = 0, .*final='upstream'\); keep final='auto', or end the grid above 0",
    ),
    "end, unipc": (
        lambda: plans.unipc(L, G, 3, final="none"),
        r"plans\.unipc: step 6 of 6 ends at t = 0",
    ),
    "end, sde": (
        lambda: plans.dpm_solver_sde(L, G, 2, final="none"),
        r"plans\.dpm_solver_sde: step 6 of 6 ends",
    ),
    "end, singlestep": (
        lambda: plans.dpm_solver_pp(L, [0.5, 0.0], 2, method="singlestep", final="none"),
        r"plans\.dpm_solver_pp: step 1 of 1 ends at t = 0.*order 2",
    ),
    "inversion to noise": (
        lambda: plans.dpm_solver_pp(L, G[::-1], 2, final="none"),
        r"step 6 of 6 ends at t = 1, where log-SNR is infinite",
    ),
    "sde backwards": (
        lambda: plans.dpm_solver_sde(L, G[::-1], 1),
        r"dpm_solver_sde: the grid increases .*\[::-1\]",
    ),
    "ddim backwards": (lambda: plans.ddim(L, G[::-1], 0.5), r"plans\.ddim: the grid increases"),
    "eta": (lambda: plans.ddim(L, G, 1.5), r"plans\.ddim: eta=1\.5; wanted .*ancestral"),
    "heun in rho from noise": (
        lambda: plans.heun(G, schedule=L),
        r"plans\.heun: alpha = 0 .*start below t = 1",
    ),
    "block of five": (
        lambda: plans.singlestep(L, [(0.9, 0.8, 0.7, 0.6, 0.5)]),
        r"plans\.singlestep: a block of 5 times",
    ),
    "blocks apart": (
        lambda: plans.singlestep(L, [(0.9, 0.8), (0.7, 0.6)]),
        r"begins at t = 0\.7 .* ends at t = 0\.8",
    ),
    "block at the end": (
        lambda: plans.singlestep(L, [(0.5, 0.2, 0)]),
        r"plans\.singlestep: .*order 2 touches t = 0",
    ),
    "block at the start": (
        lambda: plans.singlestep(L, [(1.0, 0.9, 0.8)]),
        r"order 2 touches t = 1.*no stages",
    ),
    "pad": (
        lambda: plans.pad(plans.euler(G), 5),
        r"plans\.pad: the plan has 6 rows, more than rows=5; give at least 6",
    ),
    "concat": (
        lambda: plans.concat(plans.euler([1, 0.5]), plans.euler([0.6, 0])),
        r"plans\.concat: .*0\.5 .*0\.6; .*meet",
    ),
    "labels": (
        lambda: plans.with_labels(plans.euler(G), G),
        r"plans\.with_labels: \(7,\) labels for 6 rows",
    ),
    "label range": (
        lambda: plans.with_labels(plans.euler(G), 1000 * G[:-1]),
        r"plans\.with_labels: the label 1000 .*scale",
    ),
    "label kind": (
        lambda: plans.with_labels(plans.euler(G), G[:-1], network="eps", schedule=L),
        r"network='eps' is not known; the choices are 'velocity', 'data', 'noise'",
    ),
    "label schedule": (
        lambda: plans.with_labels(plans.euler(G), G[:-1], network="noise"),
        r"needs its schedule; pass",
    ),
    "label undetermined": (
        lambda: plans.with_labels(plans.euler(G[::-1]), G[::-1][1:], network="data", schedule=L),
        r"plans\.with_labels: coefficient \w+ of row 1.*not finite",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_refused_by_name_with_a_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
