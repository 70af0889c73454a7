"""Identities between methods: two plans that are one solver, whatever the model is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.sampling import sample
from flowjax.schedules import Cosine, Linear, VPLinear, to_velocity
from tests.plans.problems import EXACT, GRID, SCHEDULES, START, both_paths, path_of


def pp(schedule, order, **options):
    return plans.dpm_solver_pp(schedule, GRID, order, **options)


def single(schedule, order, grid=GRID, **options):
    return plans.dpm_solver_pp(schedule, grid, order, method="singlestep", **options)


def unip(schedule, order):
    return plans.unipc(schedule, GRID, order, corrector=False)


def halves(make):
    """The plan of each half of GRID, joined."""
    return plans.concat(make(GRID[:4]), make(GRID[3:]))


ONES, TWOS = (1,) * 8, (2,) * 8  # caps of the orders of all steps
IDENTITIES = {  # name: function of the schedule that gives two plans
    # Order 1
    "DPM-Solver++ 1 is DDIM": lambda s: (pp(s, 1), plans.ddim(s, GRID)),
    "DPM-Solver 1 is DPM-Solver++ 1": lambda s: (pp(s, 1, prediction="noise"), pp(s, 1)),
    "singlestep 1 is multistep 1": lambda s: (single(s, 1), pp(s, 1)),
    "UniP 1 is DDIM": lambda s: (unip(s, 1), plans.ddim(s, GRID)),
    "DEIS 1 is DDIM": lambda s: (plans.deis(s, GRID, 1), plans.ddim(s, GRID)),
    "DEIS 1 in rho is DDIM": lambda s: (
        plans.deis(s, GRID, 1, variable="rho"),
        plans.ddim(s, GRID),
    ),
    # Higher orders
    "UniP 2 is 2M": lambda s: (unip(s, 2), pp(s, 2)),
    "UniP 3 is the exact 3M": lambda s: (unip(s, 3), pp(s, 3)),
    # Capped orders
    "order 3 capped to 1 is order 1": lambda s: (pp(s, 3, final=ONES), pp(s, 1)),
    "order 3 capped to 2 is order 2": lambda s: (pp(s, 3, final=list(TWOS)), pp(s, 2)),
    "UniPC 3 capped to 2 is UniPC 2": lambda s: (
        plans.unipc(s, GRID, 3, final=TWOS),
        plans.unipc(s, GRID, 2),
    ),
    "DEIS 3 capped to 1 is DDIM": lambda s: (
        plans.deis(s, GRID, 3, final=ONES),
        plans.ddim(s, GRID),
    ),
    "singlestep 3 capped to 1 is order 1": lambda s: (single(s, 3, final=ONES), pp(s, 1)),
    # Joined plans, of methods that use no history of another step
    "halves of order 1 make the whole": lambda s: (
        halves(lambda grid: plans.dpm_solver_pp(s, grid, 1)),
        pp(s, 1),
    ),
    "halves of singlestep 3 make the whole": lambda s: (
        halves(lambda grid: single(s, 3, grid)),
        single(s, 3),
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
    """The end where data = F(x/sigma, log-SNR)."""

    def model(x, t):
        log_snr = schedule.log_snr(t)
        data = jnp.tanh(x / schedule.sigma(t) * jnp.exp(log_snr)) + 0.1 * log_snr
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
        # The noise is of x/sigma too, and zero for plans that draw none.
        drawn = noise if np.any(plan.s) else 0 * noise
        end = path_free_end(START * schedule.sigma(grid[0]), plan, drawn, schedule)
        ends.append(end / schedule.sigma(grid[-1]))
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-10)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("linear", lambda s, g: plans.euler(g)),  # exact on straight paths only
        ("linear", plans.ddim),
        ("cosine", plans.ddim),
    ],
    ids=["linear-euler", "linear-ddim", "cosine-ddim"],
)
def test_one_step_solves_a_single_point(path, make):
    schedule, point = SCHEDULES[path], np.array([0.3, -1.7])

    def model(x, t):
        return to_velocity(schedule, "data", jnp.broadcast_to(point, x.shape), x, t)

    end = sample(model, START, make(schedule, [1.0, 0.0])).x
    np.testing.assert_allclose(end, np.broadcast_to(point, START.shape), rtol=0, atol=1e-15)
