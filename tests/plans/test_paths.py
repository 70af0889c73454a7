"""A plan on another path gives the same states, times the ratio of the scales."""

import jax
import numpy as np
import pytest

from flowjax import fields, plans
from flowjax.sampling import sample
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear, straight
from tests.plans.problems import EXACT, GRID, every_plan

SOURCES = {"vp": VPLinear(), "discrete": VPDiscrete.linear(), "cosine": Cosine()}
every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


def field_of(schedule):
    """The same data on every path."""
    return fields.two_points(schedule, distance=4.0, std=0.3)


@jax.jit
def traced(field, noise, plan, key):
    return sample(field.velocity, noise, plan, key=key, save_path=True).path


def run(schedule, plan, noise, key=None):
    """Accepted states (steps+1, B, D) of the exact field on `schedule`."""
    # All plans in the length of the longest one, so that they share a program.
    path = traced(field_of(schedule), noise, plans.pad(plan, 4 * len(GRID)), key)
    return np.asarray(path)[: plan.steps + 1]


def scale_of(schedule, times):
    return (schedule.alpha(times) + schedule.sigma(times))[:, None, None]


@every_plan
@every_source
def test_states_are_those_of_the_other_path(make, source):
    """Substeps, correctors and histories included, since every row is converted exactly."""
    path = straight(source)
    noise = np.random.default_rng(0).normal(size=(4, 1))
    there = make(path, path.time_of_source(GRID))
    here = plans.on_path(there, path, source)
    np.testing.assert_allclose(here.grid, GRID, rtol=0, atol=1e-12)
    states = run(path, there, noise / scale_of(source, GRID[:1])[0])
    own = run(source, here, noise)
    np.testing.assert_allclose(states * scale_of(source, here.grid), own, rtol=0, atol=1e-11)


@every_plan
def test_a_plan_that_goes_there_and_back_is_the_same(make):
    source, path = SOURCES["discrete"], straight(SOURCES["discrete"])
    plan = make(path, path.time_of_source(GRID))
    back = plans.on_path(plans.on_path(plan, path, source), source, path)
    for column, expected in zip(back, plan, strict=True):
        np.testing.assert_allclose(np.asarray(column, float), np.asarray(expected, float), **EXACT)


@pytest.mark.parametrize("order", [1, 2, 3])
@every_source
def test_a_solver_that_is_exact_in_the_linear_part_is_the_same_on_both_paths(source, order):
    path = straight(source)
    own = plans.dpm_solver_pp(source, GRID, order)
    there = plans.dpm_solver_pp(path, path.time_of_source(GRID), order)
    noise = np.random.default_rng(0).normal(size=(4, 1))
    np.testing.assert_allclose(
        run(source, plans.on_path(there, path, source), noise), run(source, own, noise), **EXACT
    )


def test_fresh_noise_has_the_scale_of_the_other_path():
    source, path = SOURCES["vp"], straight(SOURCES["vp"])
    there = plans.ddim(path, path.time_of_source(GRID), eta=1.0)
    here = plans.on_path(there, path, source)
    noise, key = np.random.default_rng(0).normal(size=(4, 1)), jax.random.key(0)
    states = run(path, there, noise / scale_of(source, GRID[:1])[0], key)
    own = run(source, here, noise, key)
    np.testing.assert_allclose(states * scale_of(source, here.grid), own, rtol=0, atol=1e-11)


def test_padding_stays_padding():
    path = straight(Cosine())
    padded = plans.pad(plans.dpm_solver_pp(path, path.time_of_source(GRID), 2), 12)
    here = plans.on_path(padded, path, Cosine())
    assert here.nfe == len(GRID) - 1
    noise = np.random.default_rng(0).normal(size=(4, 1))
    short = plans.on_path(plans.dpm_solver_pp(path, path.time_of_source(GRID), 2), path, Cosine())
    ends = [run(Cosine(), plan, noise)[-1] for plan in (here, short)]
    np.testing.assert_allclose(*ends, rtol=0, atol=1e-13)


def test_label_times_of_their_own_are_refused():
    plan = plans.with_labels(plans.euler(GRID), np.round(GRID[:-1], 1))
    with pytest.raises(ValueError, match="call plans.with_labels after it"):
        plans.on_path(plan, Linear(), Cosine())


def test_a_time_that_the_other_path_does_not_have_is_refused():
    """A cosine path begins without data, a discrete one with some."""
    plan = plans.euler(np.array([1.0, 0.5, 0.1]))
    with pytest.raises(ValueError, match="no time of the target's path has it"):
        plans.on_path(plan, Cosine(), VPDiscrete.linear())


def test_a_row_without_finite_weights_there_is_refused():
    """The last stage of Runge-Kutta 4 is at t = 0, where dx/dt of the path is infinite."""
    plan = plans.rk4(np.array([0.9, 0.5, 0.0]))
    with pytest.raises(ValueError, match="plans.on_path: coefficient p of row 8"):
        plans.on_path(plan, VPLinear(), Linear())
