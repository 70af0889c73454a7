"""Rows by linear least squares: exact where the step lies in the span of state and outputs."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, sample, tune
from flowjax.tune.truth import change
from tests.tune.problems import (
    EIGENVALUES,
    HALF,
    MEAN,
    RING,
    gaussian,
    gaussian_end,
    noise_in,
    numpy_noise,
)


def largest_error(variances, mean, steps):
    """On starts that were not used, relative to the size of the end."""

    def model(x, t):
        return gaussian(x, t, mean=mean, variances=variances)

    grid = grids.uniform(steps)
    plan = tune.least_squares(model, numpy_noise(0, 16), grid, tolerance=1e-8)
    unseen = numpy_noise(1, 16)
    wanted = gaussian_end(unseen, mean=mean, variances=variances)
    return np.max(np.abs(sample(model, unseen, plan).x - wanted)) / np.max(np.abs(wanted))


@pytest.mark.parametrize("mean", [np.zeros((1, 3)), MEAN])
def test_one_row_solves_an_isotropic_gaussian(mean):
    # x(0) = mean + std x(1), and v(1) = x(1) - mean: two weights. The tolerance is that of the
    # reference.
    assert largest_error(np.full((1, 3), 0.3), mean, 1) < 1e-7


def test_three_rows_solve_three_eigenvalues():
    # The state and the outputs of three rows span the three eigenspaces.
    assert largest_error(EIGENVALUES, np.zeros((1, 3)), 3) < 1e-5
    assert largest_error(EIGENVALUES, np.zeros((1, 3)), 2) > 1e-3  # two rows do not


def test_a_reference_that_is_given_is_used():
    grid = grids.uniform(3)
    noise = numpy_noise(0, 8, dim=2)
    found = tune.reference(RING.velocity, noise, grid, tolerance=1e-3)
    given = tune.least_squares(RING.velocity, noise, grid, reference=found)
    computed = tune.least_squares(RING.velocity, noise, grid, tolerance=1e-3)
    for a, b in zip(given, computed):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="at other times than the grid"):
        tune.least_squares(RING.velocity, noise, grids.uniform(3, shift=2.0), reference=found)


def test_a_reference_of_another_shape_is_refused():
    grid = grids.uniform(3)
    noise = numpy_noise(0, 8, dim=2)
    found = tune.reference(RING.velocity, noise, [1.0, 0.0], tolerance=1e-3)
    with pytest.raises(ValueError, match="at other times than the grid"):
        tune.least_squares(RING.velocity, noise, grid, reference=found)
    found = tune.reference(RING.velocity, noise, grid, tolerance=1e-3)
    with pytest.raises(ValueError, match=r"states .* \(4, 8, 2\); wanted .* = \(4, 6, 2\)"):
        tune.least_squares(RING.velocity, noise[:6], grid, reference=found)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("derivatives", ["jvp", "differences"])
def test_rows_for_starts_of_half_precision_are_those_in_float32(dtype, derivatives):
    tables = [
        tune.least_squares(
            gaussian, noise, grids.uniform(3), tolerance=1e-5, derivatives=derivatives
        )
        for noise in noise_in(dtype, 0, 16)
    ]
    for a, b in zip(*tables):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("depth", [0, 5, 2.0])
def test_depth_out_of_range_is_refused(depth):
    with pytest.raises(ValueError, match="depth=.*wanted a whole number from 1 to 4"):
        tune.least_squares(RING.velocity, numpy_noise(0, 8, dim=2), grids.uniform(3), depth=depth)


def test_a_reference_converges_to_the_flow_in_closed_form():
    noise = numpy_noise(3, 6)
    found = tune.reference(gaussian, noise, [1.0, 0.5, 0.0], tolerance=1e-7)
    np.testing.assert_allclose(found.states[-1], gaussian_end(noise), atol=1e-6)
    assert found.states.shape == (3, 6, 3) and found.error <= 1e-7


@pytest.mark.parametrize("dtype", [jnp.float32, *HALF])
@pytest.mark.parametrize("derivatives", ["jvp", "differences"])
def test_a_reference_is_as_exact_from_starts_of_half_precision(dtype, derivatives):
    noise, _ = noise_in(dtype, 3, 6)
    found = tune.reference(
        gaussian, noise, [1.0, 0.5, 0.0], tolerance=1e-5, derivatives=derivatives
    )
    exact = gaussian_end(np.asarray(noise, np.float64))
    assert found.states.dtype == np.float32 and found.error <= 1e-5
    assert change(found.states[-1], exact) < 2e-5


def test_times_that_are_no_grid_are_refused():
    def never(x, t):
        raise AssertionError("the model was called")

    for times, words in (
        ([1.0], "wanted a vector of two or more times"),
        ([1.0, 0.0, 0.5], "not strictly monotone"),
        ([1.0, 0.5, 0.5], "not strictly monotone"),
    ):
        with pytest.raises(ValueError, match=f"^tune.reference: .*{words}"):
            tune.reference(never, numpy_noise(0, 4), times, tolerance=1e-3)


@pytest.mark.parametrize("count", [7, 9])
def test_a_condition_of_another_length_is_refused(count):
    def never(x, t, condition):
        raise AssertionError("the model was called")

    # One leaf is right, and the other is not.
    condition = {"label": jnp.zeros(8, int), "text": jnp.zeros((count, 2))}
    words = rf"condition .* shape \({count}, 2\) for 8 starts"
    with pytest.raises(ValueError, match=f"^tune.reference: .*{words}"):
        tune.reference(never, numpy_noise(0, 8), [1.0, 0.0], tolerance=1, condition=condition)
    with pytest.raises(ValueError, match=f"^tune.least_squares: .*{words}"):
        tune.least_squares(never, numpy_noise(0, 8), [1.0, 0.0], condition=condition)


def test_a_reference_that_does_not_converge_tells_what_remains():
    def rough(x, t):
        return np.sign(np.sin(900 * t)) * x

    with pytest.raises(ValueError, match=r"still moves by [\d.e-]+ of its size when 40 .* 80"):
        tune.reference(
            rough,
            numpy_noise(0, 4),
            [1.0, 0.0],
            tolerance=1e-9,
            most_steps=80,
            derivatives="differences",
        )


def test_a_model_that_is_not_finite_is_refused_with_its_place():
    def broken(x, t):
        return x / (0 if t < 0.4 else 1)

    with (
        np.errstate(divide="ignore", invalid="ignore"),
        pytest.raises(ValueError, match="not finite between t = 0.5 and t = 0"),
    ):
        tune.reference(
            broken,
            numpy_noise(0, 4),
            [1.0, 0.5, 0.0],
            tolerance=1e-3,
            derivatives="differences",
        )
