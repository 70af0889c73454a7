"""Error control at equal error: what is counted, and which tolerance is chosen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from experiments.benchmarks import adaptive
from flowjax import Linear, fields


def test_evaluations_of_an_explicit_solver_are_six_a_step_and_one():
    pytest.importorskip("diffrax")
    solve, field = adaptive._theirs("Tsit5"), fields.ring(Linear())
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(2), (2,))
    at = jnp.asarray(1e-2)
    _, counts = solve(field, noise, at)
    assert adaptive.evaluations(solve, field, noise, at) == np.mean(counts)


def test_the_loosest_tolerance_that_is_good_enough_is_taken():
    def solve(field, x, tolerance):
        """An error of 1.5 tolerances."""
        return x * (1 + 1.5 * tolerance), jnp.ones(3)

    found = adaptive.calibrate(solve, None, jnp.ones((3, 2)), np.ones((3, 2)))
    good = [t for t in adaptive.LADDER if 1.5 * t < adaptive.GOAL]
    assert found.tolerance == good[0]
    assert found.error == pytest.approx(1.5 * good[0])
