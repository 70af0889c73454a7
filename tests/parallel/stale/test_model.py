"""Stale attention over a mesh: what it is equal to, what it costs, and at which order it errs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import flowjax
from flowjax import Linear, grids, models, parallel, plans
from flowjax.parallel import traffic
from flowjax.parallel.analysis.hlo import collectives
from flowjax.parallel.emulation.network import emulate_with, exchange
from tests.parallel.cases import LABEL, NOISE, network

PLAN = plans.dpm_solver_pp(Linear(), grids.uniform(5), 2)


def sample(model=None, plan=PLAN, seq=4, attention="stale", **options):
    found = parallel.sample(
        model or network(),
        NOISE,
        LABEL,
        plan,
        parallel.make_mesh(seq=seq),
        attention=attention,
        **options,
    )
    return np.asarray(found.x)


@functools.cache
def exact():
    return sample(attention="gather")


@functools.cache
def emulation(scale=1.0):
    """(params, plan, exchange) -> x on one device."""
    model = network()

    def run(params, plan, exchange):
        given = model._replace(params=params), NOISE, LABEL, plan, exchange
        return emulate_with(*given, guidance=scale).x

    return jax.jit(run)


def changed(change):
    """The network with change(name, leaf) in place of each leaf, such as "blocks.out.kernel"."""
    model = network()

    def new(path, leaf):
        return change(".".join(str(part.key) for part in path), leaf)

    return model._replace(params=jax.tree_util.tree_map_with_path(new, model.params))


# -- what it is equal to


@pytest.mark.parametrize("warmup", [1, 2])
def test_gather_late_is_gather_early_bit_for_bit(warmup):
    np.testing.assert_array_equal(sample(warmup=warmup), sample(warmup=warmup, gather="early"))


@pytest.mark.parametrize("gather", ["late", "early"])
def test_warmup_of_all_steps_is_synchronous(gather):
    np.testing.assert_array_equal(sample(warmup=PLAN.steps, gather=gather), exact())


@pytest.mark.parametrize("warmup", [1, 3])
def test_program_on_a_mesh_is_the_emulation_on_one_device(warmup):
    wanted = emulation()(network().params, PLAN, exchange(PLAN, 24, 4, warmup=warmup))
    np.testing.assert_allclose(sample(warmup=warmup), wanted, rtol=0, atol=1e-12)
    # There is staleness to get wrong.
    assert np.abs(sample(warmup=warmup) - exact()).max() > 1e-3


def test_no_buffer_survives_a_call():
    first = sample()
    # Other parameters run in the same program.
    sample(changed(lambda name, leaf: -leaf))
    np.testing.assert_array_equal(sample(), first)


def test_attention_that_adds_nothing_cannot_be_stale():
    # The projection after attention is 0.
    model = changed(lambda name, leaf: 0 * leaf if "blocks.out" in name else leaf)
    np.testing.assert_array_equal(sample(model), sample(model, attention="gather"))


def test_keys_and_values_that_stand_still_cannot_be_stale():
    """The network sees neither the state nor the time: the same keys and values in every row."""
    model = changed(
        lambda name, leaf: 0 * leaf if name.startswith(("patches.kernel", "time2")) else leaf
    )
    np.testing.assert_array_equal(sample(model), sample(model, attention="gather"))


# -- what it costs


@pytest.mark.parametrize("gather", ["late", "early"])
def test_program_gathers_once_a_layer_and_late_waits_for_no_product(gather):
    mesh = parallel.make_mesh(seq=4)
    run, args, _ = parallel.program(
        network(), NOISE, LABEL, PLAN, mesh, attention="stale", gather=gather
    )
    found = collectives(run.lower(*args).compile().as_text())
    # The two branches of the switch: synchronous rows, and rows that exchange.
    layers = [c for c in found if c.branch is not None]
    assert [(c.operation, c.times, c.branch) for c in layers] == [
        ("all-gather", 5 * 3, 0),
        ("all-gather", 5 * 3, 1),
    ]
    others = sorted((c.operation, c.times) for c in found if c.branch is None)
    # The images; the status; the meter in each row.
    assert others == [("all-gather", 1), ("all-reduce", 1), ("all-reduce", 5)]
    received = traffic.received(network().card.config, NOISE.shape, mesh, "stale", 1.0, NOISE.dtype)
    assert all(c.received == received for c in layers)
    # A synchronous row gathers what the layer has just computed; "late" gathers earlier values.
    assert [c.waits for c in layers] == [True, gather == "early"]


@pytest.mark.slow
def test_rows_that_hold_send_nothing():
    """Without an exchange after the warm-up, the branch of stale rows has no collective."""
    mesh = parallel.make_mesh(seq=4)
    run, args, _ = parallel.program(
        network(), NOISE, LABEL, PLAN, mesh, attention="stale", refresh=None
    )
    assert {c.branch for c in collectives(run.lower(*args).compile().as_text())} == {0, None}


# -- slow: more devices, more plans, orders


@pytest.mark.slow
def test_one_device_is_never_stale():
    np.testing.assert_array_equal(sample(seq=1), sample(seq=1, attention="gather"))


@pytest.mark.slow
@pytest.mark.parametrize("refresh", [1, 2, None])
@pytest.mark.parametrize("seq", [2, 5])  # 24 tokens on 5 devices: the last has one of padding
@pytest.mark.parametrize(
    "plan",
    [
        plans.heun(grids.uniform(4)),
        plans.dpm_solver_pp(Linear(), grids.uniform(4), 2, method="singlestep"),
        plans.dpm_solver_pp(Linear(), grids.uniform(5), 3, start="singlestep"),
    ],
    ids=["heun", "2S", "3M"],
)
def test_every_plan_is_as_emulated(plan, seq, refresh):
    found = sample(None, plan, seq, refresh=refresh, guidance=1.7)
    emulated = exchange(plan, 24, seq, refresh=refresh)
    wanted = emulation(1.7)(network().params, plan, emulated)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("gather", ["late", "early"])
def test_network_of_one_layer_is_as_emulated(gather):
    model = network(depth=1)
    found = parallel.sample(
        model, NOISE, LABEL, PLAN, parallel.make_mesh(seq=4), attention="stale", gather=gather
    ).x
    wanted = emulate_with(model, NOISE, LABEL, PLAN, exchange(PLAN, 24, 4)).x
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_guidance_by_devices_is_guidance_by_batch():
    meshes = [
        parallel.make_mesh(**sizes)
        for sizes in ({"seq": 2}, {"cfg": 2, "seq": 2}, {"data": 2, "cfg": 2, "seq": 2})
    ]
    found = [
        np.asarray(
            parallel.sample(network(), NOISE, LABEL, PLAN, mesh, attention="stale", guidance=1.7).x
        )
        for mesh in meshes
    ]
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found[2], found[0], rtol=0, atol=1e-12)


@functools.cache
def smooth():
    """The network with the clock 1 - t.

    With the clock 1000 t an untrained network oscillates with t, and no step is small enough.
    """
    model = network()
    return models.model(dataclasses.replace(model.card, clock="1 - t"), model.params)


ROWS = 64


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "warmup", "slope"), [(1, "all", 1), (1, 1, 1), (2, "all", 2), (2, 1, 1)]
)
def test_staleness_makes_every_solver_first_order(order, warmup, slope):
    """With all steps synchronous the order is the solver's own."""
    errors = []
    # Both lengths in one compiled program.
    for n in (32, 64):
        plan = plans.pad(plans.adams_bashforth(grids.uniform(n), order), ROWS)
        found = sample(smooth(), plan, seq=2, warmup=n if warmup == "all" else warmup)
        errors.append(np.linalg.norm(found - fine()))
    found = np.log2(errors[0] / errors[1])
    assert abs(found - slope) < 0.1, (errors, found)


@functools.cache
def fine():
    """The end of the smooth network's path, by a finer grid of another method on one device."""
    model, plan = smooth(), plans.rk4(grids.uniform(128))

    @jax.jit
    def run(params, plan):
        def velocity(x, t):
            return model.apply(params, x, t, LABEL)

        return flowjax.sample(velocity, NOISE, plan).x

    return np.asarray(run(model.params, plan))


@pytest.mark.slow
def test_staleness_grows_with_the_fraction_of_context_that_is_stale():
    """At most C (n - 1)/n, the fraction of keys of other devices, with the C of two devices."""
    model, plan = smooth(), plans.pad(plans.adams_bashforth(grids.uniform(32), 2), ROWS)
    sync = sample(model, plan, seq=2, warmup=32)
    errors = np.array([np.linalg.norm(sample(model, plan, seq=n) - sync) for n in (2, 4, 8)])
    assert np.all(np.diff(errors) > 0)
    ratios = errors / np.array([1 / 2, 3 / 4, 7 / 8])  # (n - 1)/n
    assert np.all(ratios <= 1.15 * ratios[0]), ratios
