"""The last steps of a plan: exact where nothing reaches back, and refused elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import grids, plans
from flowjax.schedules import Linear, VPLinear

GRID = grids.uniform(10, shift=3.0)
X = np.random.default_rng(0).normal(size=(3, 2))


def model(x, t):
    return jnp.cos(2 * t) * x + t


@pytest.mark.parametrize(
    "plan",
    [
        plans.euler(GRID),
        plans.heun(GRID),
        plans.rk4(GRID),
        plans.ddim(VPLinear(), GRID, 0.5),
        plans.dpm_solver_pp(Linear(), GRID, 3, method="singlestep"),
        plans.dpm_solver_pp(Linear(), GRID, 1),
        plans.adams_bashforth(GRID, 1),
    ],
)
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_head_and_tail_make_the_plan(plan, steps):
    tail = plans.tail(plan, steps)
    np.testing.assert_array_equal(tail.grid, plan.grid[-steps - 1 :])
    head = plans.Plan(*(column[: plan.rows - tail.rows] for column in plan))
    if steps == 10:
        assert head.rows == 0
        return
    joined = plans.concat(head, tail)
    for ours, theirs in zip(joined, plan, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_tail_continues_from_the_state_of_the_plan():
    plan = plans.dpm_solver_pp(Linear(), GRID, 2, method="singlestep")
    solution = flowjax.sample(model, X, plan, save_path=True)
    middle = solution.path[6]
    end = flowjax.sample(model, middle, plans.tail(plan, 4)).x
    np.testing.assert_allclose(end, solution.x, atol=1e-12)


@pytest.mark.parametrize(
    "plan",
    [
        plans.dpm_solver_pp(Linear(), GRID, 2),
        plans.adams_bashforth(GRID, 2),
        plans.unipc(Linear(), GRID, 1),
        plans.unipc(Linear(), GRID, 2),
        plans.deis(Linear(), GRID, 2),
    ],
)
def test_tail_that_needs_a_history_is_refused_with_the_way_out(plan):
    with pytest.raises(ValueError, match=r"plan.grid\[-5:\]"):
        plans.tail(plan, 4)


@pytest.mark.parametrize("steps", [0, -1, 11, 2.0, "3", None])
def test_number_of_steps_is_checked(steps):
    with pytest.raises(ValueError, match="steps="):
        plans.tail(plans.euler(GRID), steps)


@pytest.mark.parametrize("key", [slice(3, None), slice(None, 2), slice(None)])
def test_slice_of_a_plan_is_refused(key):
    with pytest.raises(ValueError, match="plans.tail"):
        plans.euler(GRID)[key]


def test_plan_is_still_a_tuple_and_a_pytree():
    plan = plans.euler(GRID)
    assert plan[0] is plan.t and plan[-1] is plan.counted
    first, *_ = plan
    assert first is plan.t
    copied = jax.tree.map(np.asarray, plan)
    assert isinstance(copied, plans.Plan)
    np.testing.assert_array_equal(plan._replace(t=plan.t).t, plan.t)
