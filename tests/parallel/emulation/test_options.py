"""`parallel.emulate` takes the options of `parallel.sample` and refuses them in the same cases."""

import jax
import numpy as np
import pytest

from flowjax import parallel, plans
from flowjax.parallel.emulation.network import exchange
from flowjax.parallel.stale import policies
from tests.parallel.cases import LABEL, PLAN, ROWS, TOKENS
from tests.parallel.cases import SQUARE_NOISE as NOISE
from tests.parallel.cases import square_network as network
from tests.parallel.emulation.test_network import exact

STALE = {"attention": "stale"}
PIPE = {"attention": "pipefusion", "patches": 4}


def emulated(devices=2, **options):
    return parallel.emulate(network(), NOISE, LABEL, PLAN, devices=devices, **options)


def over_devices(sizes, **options):
    return parallel.sample(network(), NOISE, LABEL, PLAN, parallel.make_mesh(**sizes), **options)


def assert_equal_exchanges(found, wanted):
    for one, other in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("attention", ["gather", "ulysses", "ring", "ulysses_ring"])
def test_every_exact_attention_gives_the_exact_result(attention):
    found = emulated(attention=attention)
    np.testing.assert_allclose(found.x, exact(), rtol=0, atol=1e-13)
    assert found.stats.synced.all() and not found.stats.staleness.any()


@pytest.mark.parametrize("gather", ["late", "early"])
def test_when_a_device_gathers_changes_no_number(gather):
    wanted = exchange(PLAN, TOKENS, 4, warmup=2)
    assert_equal_exchanges(exchange(PLAN, TOKENS, 4, warmup=2, gather=gather), wanted)


# 64 stages are more than the tokens, which they do not split.
@pytest.mark.parametrize("stages", [1, 2, 4, 64])
def test_the_number_of_stages_changes_no_number(stages):
    found = exchange(PLAN, TOKENS, stages, warmup=2, **PIPE)
    wanted = exchange(PLAN, TOKENS, 4, attention="pipefusion", warmup=2)
    assert_equal_exchanges(found, wanted)


def test_a_pipeline_of_patches_is_the_same_call_on_a_mesh_and_emulated():
    found, wanted = over_devices({"pipe": 2}, **PIPE), emulated(**PIPE)
    np.testing.assert_allclose(found.x, wanted.x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.stats.staleness, wanted.stats.staleness, rtol=5e-10)
    assert wanted.stats.staleness.any()


@pytest.mark.parametrize(
    "options",
    [
        # names
        {"attention": "stal"},
        {"warm_up": 2},
        {"share": "token"},
        {"guidance": None},
        # stale options of exact attention
        {"attention": "ring", "policy": policies.warm_up(ROWS, 2)},
        {"attention": "gather", "forecast": 1},
        {"attention": "ulysses", "correction": 0.5},
        {"attention": "ulysses", "comm_dtype": "int8"},
        {"attention": "ulysses", "comm_dtype": 8},
        {"attention": "gather", "residual": True},
        {"attention": "gather", "patches": 4},
        {"attention": "gather", "warmup": 2},
        {"attention": "ring", "refresh": None},
        # values, and options that exclude each other
        STALE | {"warmup": 2, "policy": policies.warm_up(ROWS, 2)},
        STALE | {"warmup": 0},
        STALE | {"warmup": ROWS + 1},
        STALE | {"policy": policies.warm_up(ROWS + 1, 2)},
        STALE | {"refresh": 0},
        STALE | {"refresh": 2, "forecast": 1},
        STALE | {"refresh": 2, "gather": "late"},
        STALE | {"residual": True, "gather": "late"},
        STALE | {"gather": "eager"},
        STALE | {"forecast": 3},
        STALE | {"correction": 2},
        STALE | {"comm_dtype": "int5"},
        STALE | {"comm_dtype": 5},
        STALE | {"gains_per": "layer"},
        STALE | {"patches": 4},
        # a pipeline
        PIPE | {"patches": 5},
        PIPE | {"patches": 0},
        PIPE | {"gather": "late"},
        PIPE | {"refresh": 2},
        PIPE | {"residual": True},
        PIPE | {"policy": policies.tolerance(ROWS, 0.1)},
    ],
    ids=", ".join,
)
def test_what_a_mesh_refuses_is_refused_in_the_same_words(options):
    sizes = {"pipe": 2} if options.get("attention") == "pipefusion" else {"seq": 2}
    with pytest.raises(ValueError) as on_mesh:
        over_devices(sizes, **options)
    with pytest.raises(ValueError) as here:
        emulated(**options)
    assert str(here.value) == str(on_mesh.value).replace("parallel.sample", "parallel.emulate")


@pytest.mark.parametrize("devices", [0, 17, 2.5, True])
def test_a_number_of_devices_that_cannot_be_is_refused(devices):
    with pytest.raises(ValueError, match=f"{devices} devices for 16 tokens"):
        emulated(devices)


def test_a_number_of_stages_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="devices=0; wanted a number of stages"):
        emulated(0, **PIPE)


def test_an_exchange_refuses_an_unknown_option_by_name():
    with pytest.raises(ValueError, match="'refesh' is not known; did you mean 'refresh'"):
        exchange(plans.euler(np.linspace(1, 0, 4)), TOKENS, 2, refesh=2)
