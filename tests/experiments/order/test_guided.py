"""The question on guidance: its field is the formula, and crossovers move as their bounds say."""

import jax
import numpy as np
import pytest

from experiments.order.guided import numbers as guided
from flowjax import guidance

# ---- the field


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_the_guided_field_is_the_formula_of_guidance(scale, t):
    field = guided.make("ring", scale)
    x = np.random.default_rng(0).standard_normal((5, 2))
    all_, some = field.field.velocity(x, t), field.conditional.velocity(x, t)
    velocity = field.velocity(x, t)
    np.testing.assert_allclose(velocity, all_ + scale * (some - all_), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(field.data(x, t), x - t * velocity, rtol=1e-12, atol=1e-12)


def test_all_scales_share_a_program():
    traces = []

    @jax.jit
    def velocity(field, x):
        traces.append(1)
        return field.velocity(x, 0.5)

    x = np.ones((2, 2))
    found = [np.asarray(velocity(guided.make("ring", scale), x)) for scale in (1.0, 1.5, 7.0)]
    assert len(traces) == 1
    assert not np.allclose(found[0], found[2])


def test_scale_one_is_the_conditional_field():
    field = guided.make("mixture-2", 1.0)
    x = np.random.default_rng(0).standard_normal((5, 2))
    alone = guidance.combine(field.conditional.velocity, field.field.velocity, 1.0)(x, 0.3)
    np.testing.assert_array_equal(field.velocity(x, 0.3), alone)


# ---- crossovers


def found_at(scale, number, side="", grid="shift 1"):
    key = {"field": "ring", "grid": grid, "scale": scale, "pair": "a below b"}
    return {**key, "N*": number, "side": side}


def test_moves_count_bounds_as_what_they_say():
    # A number that grows, and a bound below that becomes a bound above: both move later.
    later = [
        found_at(1.0, 10),
        found_at(7.0, 20),
        found_at(1.0, 5, "below", "x"),
        found_at(7.0, 40, "above", "x"),
    ]
    assert guided.moved(later, 7.0, "a below b") == (2, 0, 0)
    # Two bounds of one kind are open; a number that shrinks moves earlier.
    mixed = [
        found_at(1.0, 40, "above"),
        found_at(7.0, 40, "above"),
        found_at(1.0, 9, "", "x"),
        found_at(7.0, 8, "", "x"),
    ]
    assert guided.moved(mixed, 7.0, "a below b") == (0, 1, 1)


def test_the_middle_of_bounds_and_numbers():
    found = [found_at(1.0, 40, "above"), found_at(1.0, 5, "below"), found_at(1.0, 12)]
    assert guided.middle(found) == (12, "")
    # Of four, the lower of the middle two.
    assert guided.middle(found[:1] * 2 + found[1:]) == (12, "")
