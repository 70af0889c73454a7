"""PipeFusion: the table of ticks, the emulation as a loop over patches, the mesh as emulated."""

import dataclasses
import functools
from collections import Counter

import jax
import numpy as np
import pytest

import flowjax
from flowjax import Linear, grids, guidance, models, parallel, plans
from flowjax.parallel import traffic
from flowjax.parallel.analysis import hlo, overlap
from flowjax.parallel.analysis.hlo import collectives
from flowjax.parallel.emulation.network import emulate_with, exchange
from flowjax.parallel.pipeline.ticks import schedule
from flowjax.parallel.stale import policies
from tests.parallel import cases
from tests.parallel.cases import CONFIG, LABEL, TOKENS, numpy_velocity, perturbed
from tests.parallel.cases import SQUARE_NOISE as NOISE

STEPS = 5
PLAN = plans.dpm_solver_pp(Linear(), grids.uniform(STEPS), 2)
COOL = policies.cool_down(STEPS, 1)


# -- the table of ticks


def stale_rows(*numbers, rows):
    """Which rows are synchronous: all except those of these numbers, (rows,) bool."""
    return ~np.isin(np.arange(rows), numbers)


# (stages, patches, ticks of a hop)
CASES = [
    (1, 1, 1),
    (1, 4, 1),
    (2, 4, 1),
    (3, 4, 1),
    (4, 2, 1),
    (4, 8, 1),
    (2, 4, 2),
    (2, 2, 2),
    (3, 8, 2),
]


@pytest.mark.parametrize(("stages", "patches", "hop"), CASES)
def test_every_patch_of_every_row_passes_every_place_once_and_in_order(stages, patches, hop):
    """A patch may not enter before the solver has taken its row before."""
    # Rows 0 and 5 are synchronous, rows 1 .. 4 stale.
    made = schedule(stale_rows(1, 2, 3, 4, rows=6), patches, stages, hop)
    when = [{} for _ in range(stages + 1)]  # for each place: {(row, patch): tick}
    for place in range(stages + 1):
        for tick in np.flatnonzero(made.busy[:, place] & ~made.synchronous):
            patch = made.row[tick, place], made.patch[tick, place]
            assert patch not in when[place]
            when[place][patch] = tick
        # One patch behind the other, at every place.
        wanted = [(i, m) for i in range(1, 5) for m in range(patches)]
        assert sorted(when[place], key=when[place].get) == wanted
    for (row, patch), entered in when[0].items():
        delays = [when[s][row, patch] - entered for s in range(stages)]
        assert delays == [hop * s for s in range(stages)]
        assert when[stages][row, patch] == entered + hop * stages - 1
        assert row == 1 or entered > when[stages][row - 1, patch]
    # The image passes before the pipeline fills, and when it has drained.
    last = len(made.synchronous) - 1
    assert np.flatnonzero(made.synchronous).tolist() == [0, last]
    assert made.row[made.synchronous, 0].tolist() == [0, 5]


@pytest.mark.parametrize(("stages", "patches", "hop"), CASES)
def test_ticks_and_utilisation_are_the_formula(stages, patches, hop):
    rows = 7
    made = schedule(np.zeros(rows, bool), patches, stages, hop)
    around = hop * stages  # ticks until a patch comes around
    ticks = patches * rows + around - 1 if patches >= around else around * rows + patches - 1
    assert made.synchronous.shape == (ticks,) and not made.synchronous.any()
    assert made.utilisation == pytest.approx(patches * rows / ticks)
    # The last row has all ticks in which the pipeline drains.
    each = max(patches, around)
    assert made.of_rows(rows).tolist() == [each] * (rows - 1) + [ticks - each * (rows - 1)]


def test_a_synchronous_run_is_one_tick_a_row():
    made = schedule(np.ones(4, bool), 4, 2)
    assert made.synchronous.all()
    assert made.row[:, 0].tolist() == [0, 1, 2, 3]
    assert np.isnan(made.utilisation)


# -- the emulation is a loop over patches


def numpy_pipeline(params, x, label, plan, patches, synced):
    """One sample, x (L, 1): each patch in turn through the network and the row of the plan.

    All patches write their keys and values into one buffer, and read it.
    """
    buffer = np.zeros((CONFIG.depth, 2, TOKENS, CONFIG.heads, CONFIG.width // CONFIG.heads))
    base, history = x.copy(), np.zeros((4, *x.shape))
    x = x.copy()

    def attend(layer, q, k, v):
        # Patches before this one have written this row's keys and values.
        buffer[layer, :, tokens] = np.stack([k, v], 1)
        keys, values = buffer[layer]
        scores = np.einsum("qhd,khd->hqk", q, keys) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return np.einsum("hqk,khd->qhd", weights / weights.sum(-1, keepdims=True), values)

    for i in range(plan.rows):
        for tokens in [np.arange(TOKENS)] if synced[i] else np.split(np.arange(TOKENS), patches):
            velocity = numpy_velocity(params, x[tokens], plan.label_time[i], label, attend, tokens)
            history[:, tokens] = np.stack(
                [plan.p[i] * x[tokens] + plan.q[i] * velocity, *history[:-1, tokens]]
            )
            base[tokens] = plan.a[i] * base[tokens] + np.tensordot(plan.b[i], history[:, tokens], 1)
            x[tokens] = plan.c[i] * base[tokens] + np.tensordot(plan.d[i], history[:, tokens], 1)
    return x


@pytest.mark.parametrize(("patches", "which"), [(4, [0]), (16, [0, 1]), (2, [0, 3]), (1, [0])])
def test_the_emulation_is_the_naive_loop_over_patches(patches, which):
    model = cases.square_network()
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(cases.ROWS), 3)
    policy = policies.at(plan.steps, which)
    emulated = exchange(plan, TOKENS, patches, attention="pipefusion", policy=policy, slots=TOKENS)
    ends = np.asarray(cases.run(model.params, plan, emulated).x).reshape(2, TOKENS, 1)
    params = jax.tree.map(np.asarray, model.params)
    for sample in range(2):
        start = np.asarray(NOISE[sample]).reshape(TOKENS, 1)
        wanted = numpy_pipeline(params, start, LABEL[sample], plan, patches, policy < 0)
        np.testing.assert_allclose(ends[sample], wanted, rtol=0, atol=1e-12)


# -- the mesh is the emulation


@functools.cache
def network():
    """Four layers with the clock 1 - t, and no zero weights."""
    model = models.init(dataclasses.replace(CONFIG, depth=4), jax.random.key(0), clock="1 - t")
    return model._replace(params=perturbed(model.params))


def piped(stages, patches, plan=PLAN, sizes=(), **options):
    mesh = parallel.make_mesh(**{"pipe": stages} | dict(sizes))
    return parallel.sample(
        network(), NOISE, LABEL, plan, mesh, attention="pipefusion", patches=patches, **options
    )


@functools.cache
def emulation(scale):
    """(params, plan, exchange, key) -> solution, compiled."""
    model = network()

    def run(params, plan, exchange, key):
        given = model._replace(params=params), NOISE, LABEL, plan, exchange
        return emulate_with(*given, guidance=scale, key=key)

    return jax.jit(run)


def emulated(patches, plan=PLAN, scale=1.0, key=None, **options):
    made = exchange(plan, TOKENS, patches, attention="pipefusion", slots=TOKENS, **options)
    return emulation(scale)(network().params, plan, made, key)


def agree(found, wanted):
    np.testing.assert_allclose(found.x, wanted.x, rtol=0, atol=1e-12)
    for name in ("nfe", "accepted", "rejected", "synced", "staleness", "layers", "worst"):
        pair = getattr(found.stats, name), getattr(wanted.stats, name)
        np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-14)


@functools.cache
def synchronous(scale=1.0):
    """The synchronous run on one device."""
    model = network()

    def run(params, plan):
        apply = functools.partial(model.apply, params)
        guided = guidance.classifier_free(apply, LABEL, CONFIG.classes, scale)
        return flowjax.sample(guided, NOISE, plan).x

    return jax.jit(run)(model.params, PLAN)


def test_two_stages_are_the_emulation():
    """One program serves solvers and policies of equally many ticks, and no buffer survives."""
    # A multistep plan with a policy of fixed steps.
    first = piped(2, 4, policy=COOL)
    agree(first, emulated(4, policy=COOL))
    assert first.stats.synced.tolist() == [True, False, False, False, True]
    # Another solver, and as many synchronous steps in other places.
    euler = plans.euler(grids.uniform(STEPS))
    agree(piped(2, 4, euler, warmup=2), emulated(4, euler, warmup=2))
    third = plans.dpm_solver_pp(Linear(), grids.uniform(STEPS), 3)
    agree(piped(2, 4, third, policy=COOL), emulated(4, third, policy=COOL))
    again = piped(2, 4, policy=COOL)
    assert np.array_equal(first.x, again.x)
    assert np.array_equal(first.stats.staleness, again.stats.staleness)
    assert np.abs(first.x - synchronous()).max() > 1e-4

    run, args, _ = program(2, 4, PLAN, policy=COOL)
    other_run, other_args, _ = program(2, 4, euler, warmup=2)
    assert run is other_run
    shapes, other_shapes = (
        [leaf.shape for leaf in jax.tree.leaves(each)] for each in (args, other_args)
    )
    assert shapes == other_shapes


def program(stages, patches, plan=PLAN, sizes=(), **options):
    mesh = parallel.make_mesh(**{"pipe": stages} | dict(sizes))
    return parallel.program(
        network(), NOISE, LABEL, plan, mesh, attention="pipefusion", patches=patches, **options
    )


# -- communication


def counted(stages, patches, **options):
    """{(operation, how often): number} of the compiled program, its collectives, and the ticks."""
    run, args, table = program(stages, patches, **options)
    found = collectives(run.lower(*args).compile().as_text())
    return Counter((c.operation, c.times) for c in found), found, table.ticks


def test_a_message_a_tick_needs_no_product_of_its_tick():
    """Four patches of two stages: the message on its way is that of the tick before."""
    counts, found, ticks = counted(2, 4, warmup=2)
    total = len(ticks.synchronous)
    # Two synchronous rows, and three rows of four patches with the filling of the pipeline.
    assert total == 2 + 4 * 3 + 2 * 2 - 1
    assert counts == {
        ("collective-permute", total): 1,
        ("collective-permute", 2 * total): 1,
        ("all-reduce", 1): 3,
    }
    hop, image = sorted(
        (c for c in found if c.operation == "collective-permute"), key=lambda c: c.times
    )
    # The patches' hop is in one branch of the tick, and the image's in the other.
    assert hop.branch != image.branch
    assert not hop.waits
    assert image.waits
    received = (
        ~ticks.synchronous
    ).sum() * hop.received + 2 * ticks.synchronous.sum() * image.received
    assert piped(2, 4, warmup=2).stats.bytes.sum() == received


@pytest.mark.slow
@pytest.mark.parametrize(("patches", "least", "most"), [(8, 0.99, 1), (4, 0, 0.1)])
def test_a_message_travels_while_a_stage_works_where_patches_are_twice_the_stages(
    patches, least, most
):
    """The fraction of a tick's products between the start and the end of the hop, on four TPUs."""
    pytest.importorskip("libtpu", reason="the compiler for TPU comes with the extra certificate")
    mesh = parallel.make_mesh(pipe=4, devices=overlap.topology("tpu", "v5e:2x2"))
    config = models.DiTConfig(
        (32, 32), channels=4, patch=1, width=256, depth=4, heads=4, classes=3, dtype="bfloat16"
    )
    with jax.enable_x64(False):
        program = overlap.compiled(config, 1, PLAN, mesh, attention="pipefusion", patches=patches)
    found = overlap.overlaps(program.as_text(), max)
    message = traffic.message(config, (1, 32, 32, 4), mesh, 1.0, "float32", patches)
    (hop,) = (c for c in found if (c.operation, c.bytes) == ("collective-permute", message))
    assert least <= hop.share <= most


def test_a_choice_counts_as_its_cheapest_or_its_dearest_branch():
    def chosen(which, x):
        return jax.lax.cond(which, lambda x: x @ x, lambda x: x, x)

    bodies, entry = hlo.computations(
        jax.jit(chosen).lower(True, np.ones((8, 8))).compile().as_text()
    )
    assert [overlap.Products(bodies, choice).of(entry) for choice in (min, max)] == [0, 2 * 8**3]


@pytest.mark.slow
def test_two_patches_wait_for_their_messages_and_guidance_is_one_sum_a_tick():
    counts, found, ticks = counted(2, 2, sizes={"cfg": 2, "data": 2}, guidance=1.7)
    total = len(ticks.synchronous)
    # Of the patches' velocity, and of the image's, in the two branches of a tick.
    sums = {("all-reduce", total): 2}
    assert counts == sums | {
        ("collective-permute", total): 1,
        ("collective-permute", 2 * total): 1,
        ("all-reduce", 1): 3,
    }
    assert all(c.waits for c in found if c.operation == "collective-permute")


def test_keys_and_values_are_kept_on_their_stage():
    """With twice the stages a device keeps half, and each stage holds the weights of its layers."""
    config = network().card.config
    meshes = [parallel.make_mesh(pipe=n) for n in (1, 2)]
    sizes = [traffic.pipeline_buffer(config, NOISE.shape, mesh, 1.0, np.float64) for mesh in meshes]
    # Keys and values, of the stage's layers, 16 tokens, width 16, 2 samples, 8 bytes.
    assert sizes == [2 * 4 * 16 * 16 * 2 * 8, 2 * 2 * 16 * 16 * 2 * 8]
    placed = parallel.place(network(), parallel.make_mesh(pipe=4)).params
    weights = placed["blocks"]["query"]["kernel"]
    assert weights.shape == (4, 16, 16)
    assert {shard.data.shape for shard in weights.addressable_shards} == {(1, 16, 16)}


# -- everything else that must hold


@pytest.mark.slow
@pytest.mark.parametrize("patches", [2, 4, 8])
def test_samples_do_not_depend_on_the_number_of_stages(patches):
    wanted = emulated(patches)
    for stages in (1, 2, 4):
        agree(piped(stages, patches), wanted)


@pytest.mark.slow
def test_one_patch_and_a_warm_up_of_all_steps_are_synchronous():
    np.testing.assert_allclose(piped(4, 1).x, synchronous(), rtol=0, atol=1e-12)
    found = piped(2, 4, warmup=STEPS)
    np.testing.assert_allclose(found.x, synchronous(), rtol=0, atol=1e-12)
    assert found.stats.synced.all() and not np.any(found.stats.staleness)
    assert np.array_equal(found.x, piped(2, 8, warmup=STEPS).x)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [{"pipe": 2}, {"pipe": 2, "cfg": 2}, {"pipe": 2, "data": 2}, {"pipe": 2, "cfg": 2, "data": 2}],
)
def test_guidance_and_the_batch_over_devices_change_nothing(sizes):
    agree(piped(2, 4, sizes=sizes, guidance=1.7, policy=COOL), emulated(4, scale=1.7, policy=COOL))


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{"pipe": 4}, {"pipe": 2, "data": 2}])
def test_noise_of_the_steps_is_that_of_its_sample_and_row(sizes):
    plan, key = plans.dpm_solver_sde(Linear(), grids.uniform(STEPS), 2), jax.random.key(5)
    agree(piped(2, 4, plan, sizes, key=key), emulated(4, plan, key=key))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heun", "singlestep", "padded"])
def test_several_rows_a_step_keep_their_substeps_apart(name):
    grid = grids.uniform(4)
    plan = {
        "heun": plans.heun(grid),
        "singlestep": plans.dpm_solver_pp(Linear(), grid, 2, method="singlestep"),
        "padded": plans.pad(plans.euler(grid), 6),
    }[name]
    agree(piped(2, 4, plan), emulated(4, plan))


SLOWLY = (
    {"forecast": 1},
    {"forecast": "tuned", "gains_per": "token"},
    {"correction": 0.8},
    {"correction": np.linspace(0.2, 1, STEPS)},
)


@pytest.mark.parametrize(
    "options", [{"forecast": "tuned"}, *(pytest.param(o, marks=pytest.mark.slow) for o in SLOWLY)]
)
def test_forecasts_are_those_of_the_emulation(options):
    found = piped(2, 4, policy=COOL, **options)
    agree(found, emulated(4, policy=COOL, **options))
    assert np.abs(found.x - emulated(4, policy=COOL).x).max() > 1e-6


@pytest.mark.slow
def test_half_precision_keys_and_values_keep_the_state_in_float32():
    half = models.init(
        dataclasses.replace(CONFIG, depth=4, dtype="bfloat16"), jax.random.key(0), clock="1 - t"
    )
    params = jax.tree.map(lambda p: np.asarray(p, np.float32), network().params)
    mesh, noise = parallel.make_mesh(pipe=2), NOISE.astype(np.float32)
    found = parallel.sample(
        half._replace(params=params),
        noise,
        LABEL,
        PLAN,
        mesh,
        attention="pipefusion",
        patches=4,
        policy=COOL,
    ).x
    true = emulated(4, policy=COOL).x
    assert found.dtype == np.float32
    assert np.abs(found - true).max() < 0.1 * np.abs(true).max()


# -- refusals


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ({"pipe": 3}, {}, "4 layers do not divide into pipe=3 stages; take pipe=1 or 2 or 4"),
        ({"pipe": 2}, {"patches": 3}, r"patches=3 of 16 tokens; wanted one of \[1, 2, 4, 8, 16\]"),
        ({"pipe": 2}, {"patches": None}, "patches=None of 16 tokens"),
        ({"pipe": 2, "seq": 2}, {}, "take seq=1"),
        ({"pipe": 2}, {"policy": policies.tolerance(STEPS, 0.1)}, "policy by tolerance"),
        ({"pipe": 2}, {"policy": COOL, "warmup": 2}, "warmup=2 and a policy"),
        ({"pipe": 2}, {"warmup": 0}, "warmup=0"),
        ({"pipe": 2}, {"refresh": 2}, "refresh=2"),
        ({"pipe": 2}, {"comm_dtype": "int8"}, "comm_dtype='int8'"),
        ({"pipe": 2}, {"gather": "late"}, "gather='late'"),
        (
            {"pipe": 2},
            {"attention": "stale", "patches": None},
            "pipe=2, but attention='stale'.*or attention='pipefusion'",
        ),
        ({"pipe": 1}, {"attention": "gather"}, "patches=4 with attention='gather'"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(sizes, options, words):
    given = {"attention": "pipefusion", "patches": 4} | options
    with pytest.raises(ValueError, match=words):
        parallel.program(network(), NOISE, LABEL, PLAN, parallel.make_mesh(**sizes), **given)
