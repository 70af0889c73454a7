"""Exact sampling over a mesh is sampling on one device, with the collectives of the docstrings."""

import dataclasses
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments.benchmarks.pmap import sample_pmap
from flowjax import Linear, grids, models, parallel, plans
from flowjax.parallel import traffic
from flowjax.parallel.analysis.hlo import collectives
from flowjax.parallel.attention import exact
from flowjax.parallel.mesh import token_axes, token_shards
from tests.parallel.cases import LABEL, NOISE, alone, network


def counted(text):
    """{(operation, how often it runs)} with their number."""
    return Counter((c.operation, c.times) for c in collectives(text))


# -- the mesh


@pytest.mark.parametrize(
    "sizes", [{}, {"data": 2, "cfg": 2, "seq": 2}, {"seq": (2, 3)}, {"seq": 5}]
)
def test_mesh_takes_the_first_devices(sizes):
    mesh = parallel.make_mesh(**sizes)
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]
    assert token_shards(mesh) == np.prod(sizes.get("seq", 1))
    assert all(kind == jax.sharding.AxisType.Auto for kind in mesh.axis_types)


def test_a_mesh_that_splits_an_axis_of_the_torus_is_made_all_the_same(monkeypatch):
    """jax.make_mesh refuses it on TPU v5p, for example cfg=2 on 4 x 4 x 4 chips."""
    wanted = parallel.make_mesh(cfg=2, seq=4)

    def refuses(*args, **options):
        raise NotImplementedError("Failed to find assignment for logical_axis_index 2")

    monkeypatch.setattr(jax, "make_mesh", refuses)
    assert parallel.make_mesh(cfg=2, seq=4) == wanted


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"data": 2, "seq": 8}, "16 devices and 8 are here.*data at most 1 or seq at most 4"),
        ({"data": 16, "seq": 16}, "until their product is at most 8"),
        ({"cfg": 3}, "cfg=3"),
        ({"seq": 0}, "whole numbers"),
        ({"seq": 2.0}, "whole numbers"),
    ],
)
def test_mesh_that_does_not_fit_is_refused(sizes, words):
    with pytest.raises(ValueError, match=words):
        parallel.make_mesh(**sizes)


# -- exact attention


def softmax_attention(q, k, v):
    """The formula, in numpy."""
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)


def over_devices(attention, seq, tokens):
    """(q, k, v) -> out over a mesh, compiled."""
    mesh = parallel.make_mesh(seq=seq)
    local = exact(attention, mesh, tokens)
    spec = PartitionSpec(None, token_axes(mesh))

    def attend(q, k, v):
        return local(q, k, v)[0]

    return jax.jit(jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec))


# 21 and 9 tokens leave padding, and on 8 devices whole shards of nothing else.
@pytest.mark.parametrize(
    ("attention", "seq", "tokens"),
    [
        ("gather", 4, 24),
        ("gather", 8, 9),
        ("ulysses", 8, 21),
        ("ring", 1, 9),
        ("ring", 4, 24),
        ("ring", 8, 9),
        ("ulysses_ring", (2, 4), 21),
        ("ulysses_ring", (4, 2), 24),
    ],
)
def test_attention_over_devices_is_the_formula(attention, seq, tokens):
    qkv = np.random.default_rng(tokens).normal(size=(3, 2, tokens, 8, 2))  # (B, L, heads, d) each
    # A padding of 7 would show if a query saw it.
    padding = [(0, 0), (0, 0), (0, -tokens % int(np.prod(seq))), (0, 0), (0, 0)]
    found = over_devices(attention, seq, tokens)(*np.pad(qkv, padding, constant_values=7.0))
    np.testing.assert_allclose(found[:, :tokens], softmax_attention(*qkv), rtol=0, atol=1e-14)


def test_ring_adds_up_in_float32():
    qkv = np.random.default_rng(0).normal(size=(3, 1, 64, 1, 4)).astype(jnp.bfloat16)
    found = over_devices("ring", 8, 64)(*qkv)
    assert found.dtype == jnp.bfloat16
    wanted = softmax_attention(*qkv.astype(np.float64))
    # The weights are rounded to bfloat16 before they meet the values, and so is the result.
    two_roundings = 2 * 2**-9 * np.abs(wanted).max()
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=0, atol=two_roundings)


# -- the sampler


def test_guided_run_on_a_mesh_is_that_of_one_device():
    """Both branches of guidance on devices of their own."""
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(4), 2)
    mesh = parallel.make_mesh(cfg=2, seq=4)
    found = parallel.sample(network(), NOISE, LABEL, plan, mesh, guidance=1.7)
    wanted = alone(1.7)(network().params, plan, None)
    np.testing.assert_allclose(found.x, wanted, rtol=0, atol=1e-12)
    assert found.stats.synced.all()
    assert np.all(np.asarray(found.status) == 0)
    assert np.all(np.asarray(found.stats.nfe) == 4)

    run, args, _ = parallel.program(network(), NOISE, LABEL, plan, mesh, guidance=1.7)
    text = run.lower(*args).compile().as_text()
    assert counted(text) == {
        ("all-gather", 4 * 3): 1,  # keys and values, in each of 3 layers and 4 rows
        ("all-reduce", 4): 1,  # the guided velocity
        ("all-gather", 1): 1,  # the images
        ("all-reduce", 1): 1,  # the status
    }
    layer = next(c for c in collectives(text) if c.times == 12)
    assert 3 * layer.received == found.stats.bytes[0]


def test_program_is_compiled_once_for_all_numbers_of_a_plan():
    mesh = parallel.make_mesh(seq=2)
    one, other = (plans.euler(grids.uniform(4, shift=s)) for s in (1, 3))
    run = parallel.program(network(), NOISE, LABEL, one, mesh)[0]
    other_run = parallel.program(network(), NOISE, 1, other, mesh)[0]
    assert run is other_run


@pytest.mark.slow
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize(
    ("attention", "sizes"),
    [("gather", {"seq": n}) for n in (1, 2, 5, 8)]
    + [("ulysses", {"seq": 2}), ("ulysses", {"seq": 8}), ("ring", {"seq": 5}), ("ring", {"seq": 8})]
    + [
        ("ulysses_ring", {"seq": (2, 2)}),
        ("gather", {"data": 2, "seq": 3}),
        ("gather", {"data": 2}),
    ],
)
def test_samples_do_not_depend_on_the_mesh(attention, sizes, guided):
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(4), 2)
    scale = 1.7 if guided else 1.0
    mesh = parallel.make_mesh(**sizes)
    options = {"attention": attention, "guidance": scale}
    found = parallel.sample(network(), NOISE, LABEL, plan, mesh, **options)
    wanted = alone(scale)(network().params, plan, None)
    np.testing.assert_allclose(found.x, wanted, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "seq", "layer"),
    [
        ("ulysses", 4, {("all-to-all", 12): 2}),
        ("ring", 4, {("collective-permute", 12): 3}),
        ("ulysses_ring", (2, 2), {("all-to-all", 12): 2, ("collective-permute", 12): 1}),
    ],
)
def test_program_holds_the_collectives_that_are_named(attention, seq, layer):
    plan, mesh = plans.euler(grids.uniform(4)), parallel.make_mesh(seq=seq)
    run, args, _ = parallel.program(network(), NOISE, LABEL, plan, mesh, attention=attention)
    text = run.lower(*args).compile().as_text()
    assert counted(text) == layer | {("all-gather", 1): 1, ("all-reduce", 1): 1}
    received = sum(c.received for c in collectives(text) if c.times == 12)
    config = network().card.config
    formula = traffic.received(config, NOISE.shape, mesh, attention, 1.0, NOISE.dtype)
    assert received == formula


@pytest.mark.slow
def test_pmap_and_the_data_axis_agree():
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(4), 2)
    found = sample_pmap(network(), NOISE, LABEL, plan, devices=2, guidance=1.7)
    np.testing.assert_allclose(found, alone(1.7)(network().params, plan, None), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes", [{"seq": 5}, {"data": 2, "seq": 3}, {"data": 2, "cfg": 2, "seq": 2}]
)
@pytest.mark.parametrize("kind", ["key", "keys", "noise"])
def test_noise_of_the_steps_does_not_depend_on_the_mesh(kind, sizes):
    plan, key = plans.dpm_solver_sde(Linear(), grids.uniform(4), 2), jax.random.key(3)
    given = {
        "key": key,
        "keys": jax.random.split(key, 2),
        "noise": jax.random.normal(key, (4, *NOISE.shape)),
    }[kind]
    found = parallel.sample(network(), NOISE, LABEL, plan, parallel.make_mesh(**sizes), key=given)
    np.testing.assert_allclose(found.x, alone()(network().params, plan, given), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_benchmark_counts_the_bytes_of_the_formulas(tmp_path):
    from configs.bench_parallel import get_config
    from experiments.benchmarks import parallel as benchmark

    rows = benchmark.run(get_config("quick"), tmp_path)
    assert len(rows) == 12
    assert all(row["bytes"] == row["formula"] for row in rows)
    benchmark.table(tmp_path)


def test_the_null_branch_of_a_mesh_needs_a_null_label():
    plan, mesh = plans.euler(grids.uniform(2)), parallel.make_mesh(cfg=2, seq=2)
    with pytest.raises(ValueError, match="cfg=2.*guidance=1 has one branch"):
        parallel.sample(network(has_null=False), NOISE, LABEL, plan, mesh)


# -- refusals


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ({"data": 3}, {}, "batch of 2 does not divide into data=3.*batch of 3, or data=1"),
        ({"seq": 3}, {"attention": "ulysses"}, "8 heads do not divide into 3 parts; take 1 or 2"),
        ({"seq": (3, 2)}, {"attention": "ulysses_ring"}, "8 heads do not divide"),
        ({"seq": 2}, {"attention": "ulysses_ring"}, r"make_mesh\(seq=\(2, 2\)\)"),
        ({"pipe": 2}, {}, "pipe=2"),
        ({}, {"attention": "rings"}, "did you mean 'ring'"),
        ({}, {"guidance": None}, "guidance=None"),
        ({}, {"label": [0, 9]}, r"labels \[0, 9\]"),
        ({}, {"label": [0, 1, 2]}, "2 integers"),
        ({}, {"noise": NOISE[..., 0]}, "wanted floating"),
        ({}, {"plan": plans.dpm_solver_sde(Linear(), grids.uniform(4), 1)}, "key is None"),
        ({}, {"attention": "stale", "warmup": 0}, "warmup=0 of 4 steps"),
        ({}, {"attention": "stale", "warmup": 5}, "warmup=5 of 4 steps"),
        ({}, {"attention": "stale", "refresh": 0}, "refresh=0"),
        ({}, {"attention": "stale", "refresh": 2, "gather": "late"}, "take gather='early'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(sizes, options, words):
    given = {"noise": NOISE, "label": LABEL, "plan": plans.euler(grids.uniform(4))} | options
    with pytest.raises(ValueError, match=words):
        parallel.program(network(), mesh=parallel.make_mesh(**sizes), **given)


def test_more_devices_than_tokens_are_refused():
    # An image of three tokens.
    card = network().card
    model = models.model(
        dataclasses.replace(card, config=dataclasses.replace(card.config, size=(1, 3))), None
    )
    with pytest.raises(ValueError, match="4 devices share 3 tokens; take seq at most 3"):
        parallel.program(
            model, NOISE[:, :1, :3], LABEL, plans.euler(grids.uniform(4)), parallel.make_mesh(seq=4)
        )
