"""Policies of thresholds, and messages of fewer bits: laws of both, without any network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.precision import bytes_of, decoded, encoded, rounded

PLAN = plans.euler(grids.uniform(10))


def steps_of(policy):
    """The steps that are synchronous whatever the meter says."""
    assert set(np.unique(policy)) <= {policies.ALWAYS, policies.NEVER}
    return np.flatnonzero(policy < 0).tolist()


def test_fixed_policies_are_the_steps_that_they_name():
    assert steps_of(policies.warm_up(10, 3)) == [0, 1, 2]
    assert steps_of(policies.cool_down(10, 3)) == [0, 7, 8, 9]
    assert steps_of(policies.cool_down(10, 0)) == [0]
    assert steps_of(policies.every(10, 4)) == [0, 4, 8]
    assert steps_of(policies.at(10, [3, 5])) == [0, 3, 5]
    assert steps_of(policies.at(10, np.arange(10) == 9)) == [0, 9]
    # Steps begin at 1, .9, .8, ... .1
    assert steps_of(policies.window(PLAN, 0.55, 0.25)) == [0, 5, 6, 7]
    # Both ends belong to a window.
    eighths = plans.euler(grids.uniform(8))
    assert steps_of(policies.window(eighths, 0.5, 0.25)) == [0, 4, 5, 6]
    assert steps_of(policies.window(eighths, 1, 0)) == list(range(8))


def test_a_window_counts_steps_and_not_rows():
    heun = plans.heun(grids.uniform(10))
    assert heun.rows > heun.steps
    assert np.array_equal(policies.window(heun, 0.55, 0.25), policies.window(PLAN, 0.55, 0.25))
    # Rows that only pad begin no step.
    padded = plans.pad(PLAN, 13)
    assert np.array_equal(policies.window(padded, 0.55, 0.25), policies.window(PLAN, 0.55, 0.25))
    # From data to noise steps begin at 0, .1, .2, ...
    upwards = plans.euler(grids.uniform(10)[::-1])
    assert steps_of(policies.window(upwards, 0.55, 0.25)) == [0, 3, 4, 5]


@pytest.mark.parametrize(
    ("base", "devices", "count"), [(2, 1, 2), (2, 4, 4), (2, 8, 6), (5, 100, 10), (0.1, 2, 1)]
)
def test_the_sqrt_rule_is_a_warm_up_rounded_up_and_at_most_all(base, devices, count):
    assert np.array_equal(policies.sqrt_rule(10, base, devices), policies.warm_up(10, count))


def test_the_least_of_two_policies_is_synchronous_where_either_is():
    both = np.minimum(policies.tolerance(10, 0.1), policies.cool_down(10, 2))
    assert both.tolist() == [policies.ALWAYS, *[0.1] * 7, policies.ALWAYS, policies.ALWAYS]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: policies.tolerance(10, 0.0), "tol=0.0; wanted a relative staleness above 0"),
        (lambda: policies.tolerance(10, -1), "tol=-1"),
        (lambda: policies.tolerance(10, np.nan), "tol=nan"),
        (lambda: policies.window(PLAN, 1.2, 0.5), "from 1.2 to 0.5; wanted 1 >= start >= end >= 0"),
        (lambda: policies.window(PLAN, 0.3, 0.5), "from 0.3 to 0.5"),
        (
            lambda: policies.window(plans.euler(grids.uniform(5, end=0.2)), 0.5, 0.1),
            ">= 0.2, the plan's span",
        ),
        (lambda: policies.warm_up(10, 11), "count=11; wanted a whole number from 1 to 10"),
        (lambda: policies.warm_up(10, 0), "count=0"),
        (lambda: policies.cool_down(10, 2.5), "count=2.5"),
        (lambda: policies.every(10, 0), "period=0"),
        (lambda: policies.sqrt_rule(10, 0, 4), "base=0; wanted a number of steps above 0"),
        (lambda: policies.at(10, [10]), "no steps of 10; wanted whole numbers from 0 to 9"),
        (lambda: policies.at(10, [-1]), r"\[-1\] are no steps of 10"),
        (lambda: policies.at(10, [1.9]), r"\[1.9\] are no steps of 10"),
        (lambda: policies.at(10, [True] * 9), r"or a mask of shape \(10,\)"),
        (
            lambda: policies.check("here", policies.warm_up(9, 1), 10),
            r"here: policy has shape \(9,\) for a plan of 10",
        ),
        (
            lambda: policies.check("here", np.full(10, policies.NEVER), 10),
            "the first step has nothing stale to use",
        ),
    ],
)
def test_arguments_that_make_no_policy_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# An odd d: the last byte of int4 is half empty.
VALUES = jax.random.normal(jax.random.key(0), (3, 5, 7))


@pytest.mark.parametrize("comm_dtype", [None, "bfloat16", "int8", "int4"])
def test_a_message_has_the_rounded_numbers_in_the_bytes_that_are_counted(comm_dtype):
    bits = {None: 0, "bfloat16": 16, "int8": 8, "int4": 4}[comm_dtype]
    message = encoded(VALUES, comm_dtype)
    size = message[0, 0].size * message.dtype.itemsize
    assert size == bytes_of(7, comm_dtype, VALUES.dtype.itemsize)
    np.testing.assert_array_equal(decoded(message, comm_dtype, VALUES), rounded(VALUES, bits))


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 12])
def test_rounding_moves_no_number_by_more_than_half_a_step_and_keeps_the_largest(bits):
    found = rounded(VALUES, bits)
    largest = jnp.max(jnp.abs(VALUES), axis=-1, keepdims=True)
    step = largest / (2 ** (bits - 1) - 1)  # between neighbouring numbers
    assert jnp.all(jnp.abs(found - VALUES) <= 0.5001 * step)
    np.testing.assert_allclose(jnp.max(jnp.abs(found), axis=-1, keepdims=True), largest, rtol=1e-6)
    # A number that has arrived arrives again.
    np.testing.assert_allclose(rounded(found, bits), found, rtol=1e-6)
    assert not jnp.any(rounded(jnp.zeros((2, 4)), bits))


def test_numbers_that_are_not_finite_do_not_arrive_as_numbers():
    broken = VALUES.at[0, 0, 3].set(jnp.nan).at[1, 1, 2].set(jnp.inf)
    for comm_dtype in ("bfloat16", "int8", "int4"):
        found = decoded(encoded(broken, comm_dtype), comm_dtype, broken)
        assert not jnp.isfinite(found[0, 0, 3]) and not jnp.isfinite(found[1, 1, 2])
        assert jnp.isfinite(found[2]).all()  # the scales of others are their own
