"""The derivatives of an endpoint by the numbers of its table."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.schedules import Linear
from flowjax.tune import numbers as numbering
from flowjax.tune.jacobian import (
    at_once_shape,
    endpoint_tangents,
    endpoints_and_jacobian,
    pushes,
)
from flowjax.tune.runner import Runner
from tests.tune.problems import HALF, RING, gaussian, noise_in, numpy_noise, second_order

GRID = grids.uniform(4, shift=1.5)
MAKERS = {
    "multistep": second_order,
    "with a corrector": functools.partial(plans.unipc, Linear(), order=2),
    "with substeps": plans.heun,
    "of data predictions": functools.partial(plans.dpm_solver_pp, Linear(), order=2),
}


def numbers_and_corrections(make):
    """All groups of numbers, away from the published plan, where a forgotten term would be 0."""
    numbers = numbering.numbers_of("test", make, GRID, numbering.FREE)
    corrections = 0.05 * np.random.default_rng(0).normal(size=numbers.count)
    corrections[np.array(numbers.column) == "t"] = 0
    return numbers, corrections


def by_differences(runner, numbers, corrections, noise):
    """The same derivatives from endpoints of moved tables alone: (P, b, *D)."""
    size = 1e-6
    columns = []
    for k, (name, j) in enumerate(zip(numbers.column, numbers.index)):
        ends = []
        for sign in (1, -1):
            grid, moved = GRID.copy(), corrections.copy()
            if name == "t":
                grid[j] += sign * size
            else:
                moved[k] += sign * size
            ends.append(runner.run(numbers.plan(grid, moved), noise))
        columns.append((ends[0] - ends[1]) / (2 * size))
    return np.stack(columns)


@pytest.mark.parametrize("kind", MAKERS)
def test_tangents_are_the_differences_of_endpoints(kind):
    numbers, corrections = numbers_and_corrections(MAKERS[kind])
    noise = numpy_noise(0, 4, dim=2)
    runner = Runner(RING.velocity)
    plan = numbers.plan(GRID, corrections)
    tangents = numbers.tangents(GRID, corrections)
    end, found = endpoint_tangents(runner, plan, tangents, noise)
    wanted = by_differences(runner, numbers, corrections, noise)
    np.testing.assert_allclose(end, runner.run(plan, noise), rtol=1e-12)
    # Each number by its own size, so that an error in a small column is seen. The scale of a
    # column is at least a thousandth of the largest, since differences have absolute errors.
    sizes = np.max(np.abs(wanted), axis=(1, 2), keepdims=True)
    scale = np.maximum(sizes, 1e-3 * np.max(sizes))
    assert {"t", "label_time", "a", "b"} <= set(numbers.column)
    assert np.max(np.abs(found - wanted) / scale) < 1e-5
    # This comparison would see a wrong sign in any number that moves the endpoint.
    acts = sizes > 1e-3 * np.max(sizes)
    assert np.all(np.max(np.abs(-found - wanted) / scale, axis=(1, 2))[acts.ravel()] > 1)


def test_substeps_and_correctors_have_numbers_of_their_own():
    for kind in ("with a corrector", "with substeps"):
        assert "d" in numbers_and_corrections(MAKERS[kind])[0].column
    assert "d" not in numbers_and_corrections(MAKERS["multistep"])[0].column


def test_black_box_differences_give_the_derivatives_of_jvp():
    numbers, corrections = numbers_and_corrections(second_order)
    plan, tangents = numbers.plan(GRID, corrections), numbers.tangents(GRID, corrections)
    noise = numpy_noise(1, 4)
    _, exact = endpoint_tangents(Runner(gaussian), plan, tangents, noise)
    _, found = endpoint_tangents(Runner(gaussian, "differences"), plan, tangents, noise)
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.max(np.abs(exact)))


@pytest.mark.parametrize("at_once", [1, 16, 48])
def test_the_memory_that_is_given_changes_no_number(at_once):
    numbers, corrections = numbers_and_corrections(second_order)
    plan, tangents = numbers.plan(GRID, corrections), numbers.tangents(GRID, corrections)
    noise = numpy_noise(2, 5)
    whole = endpoints_and_jacobian(Runner(gaussian), plan, tangents, noise, at_once=200)
    parts = endpoints_and_jacobian(Runner(gaussian), plan, tangents, noise, at_once=at_once)
    for a, b in zip(whole, parts):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.max(np.abs(a)))


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("derivatives", ["jvp", "differences"])
def test_starts_of_half_precision_give_the_jacobian_of_float32(dtype, derivatives):
    numbers, corrections = numbers_and_corrections(second_order)
    plan, tangents = numbers.plan(GRID, corrections), numbers.tangents(GRID, corrections)
    found, wanted = (
        endpoints_and_jacobian(Runner(gaussian, derivatives), plan, tangents, noise, at_once=200)
        for noise in noise_in(dtype, 2, 5)
    )
    for a, b in zip(found, wanted):
        np.testing.assert_array_equal(a, b)


def test_a_network_may_answer_in_another_type_than_the_states():
    def half(x, t):
        return jnp.asarray(gaussian(x, t), jnp.bfloat16)

    numbers, corrections = numbers_and_corrections(second_order)
    plan, tangents = numbers.plan(GRID, corrections), numbers.tangents(GRID, corrections)
    noise = jnp.asarray(numpy_noise(2, 5), jnp.float32)
    found, wanted = (
        endpoints_and_jacobian(Runner(model), plan, tangents, noise, at_once=200)
        for model in (half, gaussian)
    )
    # bfloat16 has eight digits in base two, and a run adds up some of its errors.
    for a, b in zip(found, wanted):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.05 * np.max(np.abs(b)))


def test_grids_and_logarithms_of_gaps_are_the_same_numbers():
    span = (1.0, 0.0)
    gaps = numbering.gaps_of(GRID)
    np.testing.assert_allclose(numbering.grid_of(gaps, span), GRID, atol=1e-15)
    size = 1e-6
    for k in range(len(gaps)):
        change = size * np.eye(len(gaps))[k]
        high = numbering.grid_of(gaps + change, span)
        low = numbering.grid_of(gaps - change, span)
        wanted = (high - low)[1:-1] / (2 * size)
        np.testing.assert_allclose(numbering.grid_by_gaps(GRID)[:, k], wanted, atol=1e-9)


def test_eulers_rows_have_size_one():
    np.testing.assert_allclose(numbering.l1_sizes(plans.euler(GRID)), 1, rtol=1e-14)
    # v + (v - v_before) / 2 on equal steps
    sizes = numbering.l1_sizes(second_order(grids.uniform(4)))
    np.testing.assert_allclose(sizes[1:], 2, rtol=1e-14)


def test_a_jacobian_takes_the_derivatives_that_it_says():
    numbers, corrections = numbers_and_corrections(second_order)
    plan, tangents = numbers.plan(GRID, corrections), numbers.tangents(GRID, corrections)
    runner = Runner(gaussian)
    # One number at a time, so that no chunk is filled up.
    endpoint_tangents(runner, plan, tangents, numpy_noise(2, 5), chunk=1)
    assert runner.evaluations == 5 * (plan.rows + pushes(tangents))


@pytest.mark.parametrize(("batch", "at_once"), [(1, None), (40, None), (40, 8), (3, 100)])
def test_no_more_evaluations_lie_in_memory_than_are_allowed(batch, at_once):
    starts, chunk = at_once_shape(batch, at_once)
    allowed = at_once or batch
    # Each start has its own evaluation beside its tangents.
    assert starts <= batch and starts * (chunk + 1) <= max(2, allowed)
