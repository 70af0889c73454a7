"""Options and modes: every option is checked once, for all functions that take it."""

import jax
import numpy as np
import pytest

from flowjax import Linear, grids, parallel, plans
from flowjax.parallel import options, traffic
from flowjax.parallel.attention import exact
from flowjax.parallel.modes import MODES
from flowjax.parallel.options import Options
from tests.parallel.cases import LABEL, NOISE, network

PLAN = plans.euler(grids.uniform(4))


def test_every_kind_of_attention_has_its_options_and_its_functions():
    assert tuple(MODES) == options.ATTENTIONS


@pytest.mark.parametrize("attention", options.ATTENTIONS)
def test_the_defaults_are_accepted_by_every_kind_of_attention(attention):
    options.check("here", Options(attention=attention), PLAN)


def test_every_option_has_a_meaning_in_the_docstring():
    for name in Options._fields:
        assert f"      {name}: " in Options.__doc__


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("late", {}),
        ("early", {"gather": "early"}),
        ("early", {"refresh": 2}),
        ("early", {"refresh": None}),
        ("residual", {"residual": True}),
    ],
)
def test_the_method_of_exchange_follows_from_the_options(method, given):
    assert Options(attention="stale", **given).exchange_method == method


@pytest.mark.parametrize("function", ["sample", "program"])
def test_an_unknown_option_is_refused_in_the_name_of_the_function(function):
    run = getattr(parallel, function)
    # A misspelt name.
    with pytest.raises(ValueError, match=rf"parallel.{function}: the option='warmups'.*'warmup'"):
        run(network(), NOISE, LABEL, PLAN, parallel.make_mesh(), warmups=2)


@pytest.mark.parametrize("function", ["sample", "program"])
def test_a_refusal_speaks_in_the_name_of_the_function(function):
    run = getattr(parallel, function)
    with pytest.raises(ValueError, match=rf"parallel.{function}: warmup=9 of 4 steps"):
        run(network(), NOISE, LABEL, PLAN, parallel.make_mesh(), attention="stale", warmup=9)


def test_forecast_true_is_no_order():
    with pytest.raises(ValueError, match="here: forecast=True; wanted one of"):
        options.check("here", Options(attention="stale", forecast=True), PLAN)


@pytest.mark.parametrize("attention", ["gather", "ulysses", "ring", "ulysses_ring"])
@pytest.mark.parametrize(
    "given", [{"warmup": 99}, {"refresh": 5}, {"gather": "late"}, {"gains_per": "token"}]
)
def test_exact_attention_refuses_options_of_copies(attention, given):
    (option,) = given
    with pytest.raises(ValueError, match=f"here: {option}=.* with attention='{attention}', which"):
        options.check("here", Options(attention=attention, **given), PLAN)


@pytest.mark.parametrize("key", [0, np.int32(3)])
def test_a_number_is_no_key(key):
    plan = plans.dpm_solver_sde(Linear(), grids.uniform(4), 2)
    with pytest.raises(ValueError, match=r"parallel.sample: key=.* is not a key; pass key=jax"):
        parallel.sample(network(), NOISE, LABEL, plan, parallel.make_mesh(), key=key)


def test_an_unknown_attention_has_no_function_and_no_formula():
    mesh = parallel.make_mesh(seq=2)
    # Stale attention has a name, but it is not exact.
    for unknown in ("gathers", "stale"):
        with pytest.raises(ValueError, match=f"attention.exact: attention='{unknown}'"):
            exact(unknown, mesh, 24)
    config = network().card.config
    # A pipeline moves hidden states, and no bytes in a layer.
    for unknown in ("gathers", "pipefusion"):
        with pytest.raises(ValueError, match=f"traffic.received: attention='{unknown}'"):
            traffic.received(config, NOISE.shape, mesh, unknown, 1.0, NOISE.dtype)


def test_the_modules_and_functions_of_the_package_are_there():
    # Some of them are imported here, on their first use.
    for name in parallel.__all__:
        assert hasattr(parallel, name)
    assert parallel.policies.warm_up(4, 2).shape == (4,)
    with pytest.raises(AttributeError, match="no attribute 'polices'"):
        _ = parallel.polices


def test_one_key_is_split_over_the_samples_as_in_flowjax_sample():
    """The same helper makes keys of a key, of old-style keys and of keys for each sample."""
    plan = plans.dpm_solver_sde(Linear(), grids.uniform(4), 2)
    one = jax.random.key(3)
    # Sample i of one key has the key fold_in(key, i).
    each = jax.vmap(jax.random.fold_in, (None, 0))(one, np.arange(2))
    ends = [
        np.asarray(parallel.sample(network(), NOISE, LABEL, plan, parallel.make_mesh(), key=key).x)
        for key in (one, each, jax.random.key_data(one))
    ]
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
