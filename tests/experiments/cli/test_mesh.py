"""Policies that a configuration writes as text."""

import numpy as np
import pytest

from experiments.cli import mesh
from flowjax import grids, plans
from flowjax.parallel.stale import policies

PLAN = plans.euler(grids.uniform(10))


@pytest.mark.parametrize("name", mesh.POLICIES)
def test_the_form_that_a_message_names_is_understood(name):
    assert mesh.policy(mesh.POLICIES[name], PLAN, 4).shape == (10,)


@pytest.mark.parametrize("number", ["1E-2", "1e-2", "0.01"])
def test_a_number_may_have_an_exponent(number):
    found = mesh.policy(f"tolerance={number}", PLAN, 4)
    np.testing.assert_array_equal(found, policies.tolerance(10, 0.01))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("window=0.5", "wanted numbers as in 'window=0.7:0.3'"),
        ("every=4:2", "wanted numbers as in 'every=4'"),
        ("warm_up", "wanted numbers as in 'warm_up=4'"),
        ("tolerance=small", "wanted numbers as in 'tolerance=0.05'"),
        ("warm_up=2.5", "count=2.5; wanted a whole number from 1 to 10"),
    ],
)
def test_a_policy_that_is_not_understood_is_refused_with_its_form(text, words):
    with pytest.raises(ValueError, match=f"^policy='{text}': '{text}' does not fit.*{words}"):
        mesh.policy(text, PLAN, 4)
