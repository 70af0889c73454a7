"""Rows by linear least squares: exact where the step lies in the span of state and outputs."""

import numpy as np
import pytest

from flowjax import grids, sample, tune
from tests.tune.problems import EIGENVALUES, MEAN, RING, gaussian, gaussian_end, numpy_noise


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


@pytest.mark.parametrize("depth", [0, 5, 2.0])
def test_depth_out_of_range_is_refused(depth):
    with pytest.raises(ValueError, match="depth=.*wanted a whole number from 1 to 4"):
        tune.least_squares(RING.velocity, numpy_noise(0, 8, dim=2), grids.uniform(3), depth=depth)


def test_a_reference_converges_to_the_flow_in_closed_form():
    noise = numpy_noise(3, 6)
    found = tune.reference(gaussian, noise, [1.0, 0.5, 0.0], tolerance=1e-7)
    np.testing.assert_allclose(found.states[-1], gaussian_end(noise), atol=1e-6)
    assert found.states.shape == (3, 6, 3) and found.error <= 1e-7


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
