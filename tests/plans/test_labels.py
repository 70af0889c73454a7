"""Other times for the network, and another path for corrections, change nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.sampling import sample
from flowjax.schedules import Cosine, VPLinear, to_velocity
from tests.plans.problems import GRID, START, coordinates, every_plan


def test_path_of_a_velocity_plan_sets_its_data_prediction_and_nothing_else():
    plan, exponential = plans.euler(GRID), plans.ddim(Cosine(), GRID)
    moved = plans.with_path(plan, Cosine())
    np.testing.assert_array_equal(moved.data_x, exponential.data_x)
    np.testing.assert_array_equal(moved.data_v, exponential.data_v)
    for column in set(plan._fields) - {"data_x", "data_v"}:
        np.testing.assert_array_equal(getattr(moved, column), getattr(plan, column))


@every_plan
@pytest.mark.parametrize("network", ["velocity", "noise", "data", "v"])
def test_labels_at_the_true_times_change_nothing(make, network):
    plan = make(Cosine(), GRID)
    labelled = plans.with_labels(plan, plan.t, network=network, schedule=Cosine())
    for column, expected in zip(labelled, plan, strict=True):
        np.testing.assert_allclose(column, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", ["noise", "data", "v"])
def test_labels_of_a_padded_plan_are_those_of_the_plan(kind):
    """The rows that pad lie at t = 0, where a noise prediction does not tell the velocity."""
    plan = plans.dpm_solver_pp(VPLinear(), grids.uniform(4), 2)
    labels = plan.t - 0.01
    labelled = plans.with_labels(plan, labels, network=kind, schedule=VPLinear())
    wanted = plans.pad(labelled, 6)
    found = plans.with_labels(
        plans.pad(plan, 6), wanted.label_time, network=kind, schedule=VPLinear()
    )
    for name, ours, theirs in zip(found._fields, found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)


@pytest.mark.parametrize("kind", ["noise", "data", "v"])
def test_labels_of_a_wrapped_network_reach_the_network_and_nothing_else(kind):
    """DDIM by hand with other times for the network, against the plan with a wrapped network."""
    schedule = Cosine()
    labels = np.round(GRID[:-1] - 0.04, 1)

    def network(x, t):
        return jnp.cos(3 * x + t)

    # DDIM by hand
    x = START
    for t0, t1, label in zip(GRID[:-1], GRID[1:], labels, strict=True):
        alpha0, sigma0, _ = coordinates("cosine", t0)
        alpha1, sigma1, _ = coordinates("cosine", t1)
        output = np.asarray(network(x, label))
        # The noise that the prediction implies at the true time
        if kind == "noise":
            noise = output
        elif kind == "data":
            noise = (x - alpha0 * output) / sigma0
        else:
            noise = sigma0 * x + alpha0 * output
        x = alpha1 * (x - sigma0 * noise) / alpha0 + sigma1 * noise

    # The plan
    def model(x, t):
        return to_velocity(schedule, kind, network(x, t), x, t)

    plan = plans.with_labels(plans.ddim(schedule, GRID), labels, network=kind, schedule=schedule)
    end = jax.jit(lambda x, plan: sample(model, x, plan).x)(START, plan)
    np.testing.assert_allclose(end, x, rtol=1e-11, atol=1e-11)


def test_labels_snap_only_when_near_a_whole_number():
    labels = np.array([981.9995, 982.5, 3.0])
    np.testing.assert_array_equal(plans.snap_labels(labels, 1000), [0.982, 0.9825, 0.003])
