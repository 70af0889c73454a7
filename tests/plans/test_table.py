"""The table: finite from end to end, its rows counted, padded and joined without a change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.sampling import sample
from flowjax.schedules import Linear
from tests.plans.problems import ALL, ENDS, EXACT, GRID, START, every_plan, path_of, velocity


@every_plan
@pytest.mark.parametrize("schedule", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    "grid", [grids.uniform(7), grids.uniform(7)[::-1], [1.0, 0.6, 0.3, 1.5e-4, 1e-4, 0.0]]
)
def test_tables_are_finite_from_end_to_end(make, schedule, grid):
    """At the last times of the last grid the discrete linear schedule holds alpha = 1."""
    plan = make(schedule, grid)
    assert all(np.all(np.isfinite(column)) for column in plan)
    np.testing.assert_array_equal(plan.grid, grid)


def test_evaluations_are_counted():
    # Both ends have finite log-SNR, so that every step has all its evaluations.
    s, grid = Linear(), grids.uniform(6, start=0.9, end=0.1)
    counts = {
        "euler": 6,
        "heun": 12,
        "rk4": 24,
        "ab4": 7,
        "ddim": 6,
        "3M": 6,
        "3M warm": 7,
        "3S": 18,
        "UniPC 3": 6,
        "UniPC 3 noise": 6,
        "DEIS 4": 6,
        "DEIS 4 rho": 6,
    }
    assert {name: make(s, grid).nfe for name, make in ALL.items()} == counts
    assert all(make(s, grid).steps == 6 for make in ALL.values())


@jax.jit
def end_that_fails_below(last, plan):
    """The end for a model that is not finite below the time `last`."""

    def model(x, t):
        return jnp.where(t < last, jnp.nan, velocity(x, t))

    return sample(model, START, plan).x


@every_plan
def test_padding_changes_no_bit_and_is_not_counted(make):
    plan = make(Linear(), grids.uniform(8))
    padded = plans.pad(plan, 40)
    assert (padded.rows, padded.nfe, padded.steps) == (40, plan.nfe, plan.steps)
    np.testing.assert_array_equal(padded.grid, plan.grid)
    # Padding uses no evaluation below the last time of the plan, not even one that is not finite.
    last = plan.t.min()
    np.testing.assert_array_equal(
        end_that_fails_below(last, padded), end_that_fails_below(last, plan)
    )


def test_concat_of_plans_keeps_counts_and_grid():
    there, back = plans.rk4(grids.uniform(3)[::-1]), plans.heun(grids.uniform(4))
    both = plans.concat(there, back)
    assert both.nfe == there.nfe + back.nfe
    assert both.steps == 7
    np.testing.assert_array_equal(both.grid, [*there.grid, *back.grid[1:]])


def test_concat_of_a_padded_plan_is_concat():
    first, second = plans.heun(GRID[:4]), plans.adams_bashforth(GRID[3:], 3)
    joined = path_of(plans.concat(first, second))
    np.testing.assert_array_equal(path_of(plans.concat(plans.pad(first, 9), second)), joined)


def plan_that_ends_away_from_its_base():
    """Two steps; the last one leaves the base where it was scaled, and moves the state alone."""
    rows = plans.Builder("away")
    rows.row(1.0, 0.6, b={0: -0.4})
    rows.row(0.6, 0.2, a=0.8, b={1: -0.1}, c=1.25, d={0: 0.05, 1: -0.325})
    return rows.build()


def test_a_plan_that_ends_away_from_its_base_can_be_padded_and_joined():
    plan, rest = plan_that_ends_away_from_its_base(), plans.heun([0.2, 0.1, 0.0])
    path = path_of(plan)
    np.testing.assert_allclose(path_of(plans.pad(plan, 6)), path, **EXACT)
    both = [*path, *path_of(rest, path[-1])[1:]]
    np.testing.assert_allclose(path_of(plans.concat(plan, rest)), both, **EXACT)
    # The given plan stays as it was, and so does one that is not made longer.
    assert plans.pad(plan, 2).c[-1] == plan.c[-1] == 1.25


def test_noise_of_a_last_row_is_that_of_the_state():
    plan = plans.euler([1.0, 0.5, 0.0])
    plan = plan._replace(s=np.array([0.0, 0.3]), c=np.array([1.0, 2.0]))
    noise = np.random.default_rng(1).normal(size=(3, *START.shape))
    found = path_of(plans.pad(plan, 3), noise=noise)
    np.testing.assert_allclose(found, path_of(plan, noise=noise[:2]), **EXACT)
