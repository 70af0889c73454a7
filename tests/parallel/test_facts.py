"""Options of stale sampling as facts of a plan: what is stored comes back, the rest is refused."""

import numpy as np
import pytest

from flowjax import grids, parallel, plans
from flowjax.parallel.stale import policies

PLAN = plans.euler(grids.uniform(6))


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, [0]),
        ({"warmup": 3}, [0, 1, 2]),
        ({"policy": policies.at(6, [2, 5])}, [0, 2, 5]),
        ({"policy": np.arange(6) % 3 == 0}, [0, 3]),
    ],
)
def test_synchronous_steps_come_back_as_a_policy(given, steps):
    facts = parallel.stale_facts({"attention": "stale", "forecast": 1, "comm_dtype": None} | given)
    found = parallel.stale_options(facts, PLAN, "here")
    np.testing.assert_array_equal(found["policy"], policies.at(6, steps))
    assert (found["forecast"], found["correction"]) == (1, None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": policies.tolerance(6, 0.1)}, "policy has the threshold 0.1"),
        ({"policy": policies.at(6, [2]), "warmup": 2}, "warmup=2 and a policy"),
        ({"warmup": 0}, "warmup=0"),
        ({"comm_dtype": "int8"}, "comm_dtype='int8' is not stored .* warmup, policy, forecast"),
        ({"residual": True}, "residual=True is not stored"),
        ({"refresh": None}, "refresh=None is not stored"),
        ({"guidance": 1.5}, "guidance=1.5 is not stored"),
        ({"attention": "pipefusion"}, "attention='pipefusion'"),
        ({"forcast": 1}, "did you mean 'forecast'"),
    ],
)
def test_an_option_that_is_not_stored_is_refused_by_name(options, words):
    with pytest.raises(ValueError, match=f"parallel.stale_facts: .*{words}"):
        parallel.stale_facts(options)


@pytest.mark.parametrize("steps", [[-1], [0, 2.7], ["1"], None, [6]])
def test_steps_that_the_plan_does_not_have_are_refused(steps):
    stored = {"synchronous_steps": steps, "forecast": 0}
    with pytest.raises(ValueError, match="here: the facts on stale attention .* no steps of 6"):
        parallel.stale_options({"stale": stored}, PLAN, "here")
