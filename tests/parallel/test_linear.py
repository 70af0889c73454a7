"""A network with linear attention over a mesh: one device's numbers, its bytes, and stale sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import Linear, grids, guidance, models, parallel, plans
from flowjax.models import Condition, SanaConfig
from flowjax.parallel import traffic
from flowjax.parallel.analysis.hlo import collectives

# Six rows of four tokens: four devices hold 2, 2, 2 and 0 rows, so padding occurs.
CONFIG = SanaConfig(
    (6, 4), channels=2, patch=1, width=16, depth=3, heads=2, cross_heads=2, caption=5
)
STEPS = 5
PLAN = plans.dpm_solver_pp(Linear(), grids.uniform(STEPS, shift=3.0), 2)
RANDOM = np.random.default_rng(0)
NOISE = RANDOM.standard_normal((2, 6, 4, 2))
CONDITION = Condition(
    RANDOM.standard_normal((2, 3, 5)),
    np.array([[1, 1, 1], [1, 1, 0]]),
    RANDOM.standard_normal((2, 2, 5)),
    np.array([[1, 1], [1, 0]]),
)


@functools.cache
def network(dtype="float64"):
    """A tiny SANA none of whose weights is zero."""
    model = models.init(CONFIG, jax.random.key(0))
    random = np.random.default_rng(1)

    def moved(leaf):
        return jnp.asarray(leaf + 0.2 * random.normal(size=leaf.shape), dtype)

    return model._replace(params=jax.tree.map(moved, model.params))


@functools.cache
def alone(scale, dtype="float64"):
    """The samples of one device."""
    model = network(dtype)

    @jax.jit
    def run(params, noise, condition):
        apply = functools.partial(model.apply, params)
        guided = guidance.classifier_free(apply, *model.card.branches(condition), scale)
        return flowjax.sample(guided, noise, PLAN).x

    return np.asarray(run(model.params, NOISE.astype(dtype), CONDITION))


def sampled(mesh, dtype="float64", **options):
    mesh = parallel.make_mesh(**mesh)
    return parallel.sample(network(dtype), NOISE.astype(dtype), CONDITION, PLAN, mesh, **options)


@pytest.mark.parametrize(
    ("mesh", "scale"),
    [
        ({"data": 2, "cfg": 2, "seq": 2}, 3.0),
        pytest.param({"seq": 4}, 1.0, marks=pytest.mark.slow),
        pytest.param({"seq": (2, 3)}, 3.0, marks=pytest.mark.slow),
    ],
)
def test_exact_sampling_over_a_mesh_is_sampling_on_one_device(mesh, scale):
    found = sampled(mesh, guidance=scale)
    np.testing.assert_allclose(found.x, alone(scale), rtol=0, atol=1e-12)
    assert np.all(found.stats.synced)


@pytest.mark.slow
def test_exact_sampling_in_float32_differs_by_rounding_only():
    found = sampled({"seq": 3}, "float32")
    np.testing.assert_allclose(found.x, alone(1.0, "float32"), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup": 2, "guidance": 3.0},
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"refresh": 2}, marks=pytest.mark.slow),
    ],
)
def test_stale_sums_on_a_mesh_are_those_of_the_emulation(options):
    found = sampled({"seq": 4}, attention="stale", **options)
    wanted = parallel.emulate(
        network(), NOISE, CONDITION, PLAN, devices=4, attention="stale", **options
    )
    np.testing.assert_allclose(found.x, wanted.x, rtol=0, atol=1e-12)
    for name in ("synced", "staleness", "layers"):
        mine, theirs = getattr(found.stats, name), getattr(wanted.stats, name)
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-15)
    # They are stale: the samples are not those of the exact run.
    assert np.max(np.abs(found.x - alone(options.get("guidance", 1.0)))) > 1e-6


@pytest.mark.slow
def test_stale_sums_in_synchronous_rows_are_exact():
    found = parallel.emulate(
        network(), NOISE, CONDITION, PLAN, devices=3, attention="stale", warmup=STEPS
    )
    np.testing.assert_allclose(found.x, alone(1.0), rtol=0, atol=1e-12)


def test_a_tolerance_decides_which_rows_are_synchronous():
    policy = parallel.policies.tolerance(STEPS, 1e-9)
    found = sampled({"seq": 2}, attention="stale", policy=policy)
    assert np.all(found.stats.synced)
    np.testing.assert_allclose(found.x, alone(1.0), rtol=0, atol=1e-12)


@pytest.mark.slow
def test_on_one_device_stale_sums_are_exact():
    found = sampled({"seq": 1}, attention="stale")
    np.testing.assert_allclose(found.x, alone(1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("mesh", "scale"),
    [({"seq": 4}, 1.0), pytest.param({"data": 2, "seq": 2}, 3.0, marks=pytest.mark.slow)],
)
def test_program_has_the_collectives_and_bytes_of_the_formula(mesh, scale):
    mesh = parallel.make_mesh(**mesh)
    run, arguments, _ = parallel.program(
        network("float32"), NOISE.astype(np.float32), CONDITION, PLAN, mesh, guidance=scale
    )
    found = collectives(run.lower(*arguments).compile().as_text())
    layers = [c for c in found if c.times == STEPS * CONFIG.depth]
    kinds = sorted(c.operation for c in layers)
    assert kinds == ["all-reduce", "collective-permute", "collective-permute"]
    received = sum(c.received for c in layers) * CONFIG.depth
    formula = traffic.linear_rows(
        CONFIG, NOISE.shape, mesh, scale, np.float32, np.ones(STEPS, bool)
    )
    assert formula.tolist() == [[received, received]] * STEPS


def test_bytes_of_a_stale_row_without_exchange_are_those_of_its_rows():
    found = sampled({"seq": 2}, attention="stale", refresh=3)
    exchange, hold = found.stats.bytes[3], found.stats.bytes[1]
    sums = CONFIG.heads * 8 * 9 * 2 * 8  # (heads, d, d + 1) of two samples in float64
    assert exchange - hold == CONFIG.depth * sums


@pytest.mark.parametrize(
    ("mesh", "options", "words"),
    [
        ({"seq": 8}, {}, "8 devices share an image of 6 rows of tokens.*seq at most 6"),
        ({"seq": 2}, {"attention": "ulysses"}, "the attention of this network is linear"),
        ({"seq": 2}, {"attention": "ring"}, "the attention of this network is linear"),
        ({"pipe": 3}, {"attention": "pipefusion", "patches": 4}, "is linear"),
        ({"pipe": 3}, {}, "pipe=3.*does not split the layers"),
        ({"seq": 2}, {"attention": "stale", "forecast": 1}, "forecast=1.*exchange sums over keys"),
        ({"seq": 2}, {"attention": "stale", "comm_dtype": "int8"}, "comm_dtype='int8'"),
    ],
)
def test_what_linear_attention_does_not_have_is_refused(mesh, options, words):
    with pytest.raises(ValueError, match=words):
        sampled(mesh, **options)


@pytest.mark.parametrize(
    ("condition", "options", "words"),
    [
        (None, {}, "the condition is None"),
        (CONDITION._replace(mask=None), {}, "no mask for the embeddings"),
        (CONDITION._replace(embeddings=np.zeros((2, 3, 6))), {}, r"wanted \(B, T, 5\)"),
        (CONDITION[:2], {"guidance": 2.0}, "guidance needs a condition with negative"),
        (jax.tree.map(lambda a: a[:1], CONDITION), {}, "1 texts for 2 samples"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(condition, options, words):
    mesh = parallel.make_mesh(seq=2)
    with pytest.raises(ValueError, match=words):
        parallel.sample(network(), NOISE, condition, PLAN, mesh, **options)


def test_emulation_refuses_more_devices_than_rows_and_other_kinds_of_attention():
    with pytest.raises(ValueError, match="split by rows: 7 devices for 6 tokens"):
        parallel.emulate(network(), NOISE, CONDITION, PLAN, devices=7)
    with pytest.raises(ValueError, match="is linear"):
        parallel.emulate(network(), NOISE, CONDITION, PLAN, devices=2, attention="ring")


def test_a_mesh_with_two_branches_needs_guidance():
    with pytest.raises(ValueError, match="cfg=2.*guidance=1 has one branch"):
        sampled({"cfg": 2, "seq": 2}, guidance=1.0)


def test_a_network_drawn_for_labels_takes_its_null_label_on_a_mesh_too():
    config = SanaConfig(
        (4, 4), channels=1, patch=1, width=16, depth=2, heads=2, cross_heads=2, classes=3
    )
    model = models.init(config, jax.random.key(0))
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.2 * random.normal(size=leaf.shape), model.params)
    model = model._replace(params=params)
    noise, label = RANDOM.standard_normal((3, 4, 4, 1)), np.arange(3)
    found = [
        parallel.sample(model, noise, label, PLAN, parallel.make_mesh(**mesh), guidance=2.0).x
        for mesh in ({}, {"seq": 2}, {"seq": 2, "cfg": 2})
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-12)
    null = parallel.sample(model, noise, None, PLAN, parallel.make_mesh()).x
    assert np.max(np.abs(null - found[0])) > 1e-3
    with pytest.raises(ValueError, match="integers from 0 to 2, or 3, the null label"):
        model.apply(model.params, noise, 0.5, np.array([0, 1, 4]))
