"""PipeFusion: the table of ticks, the emulation against a loop over patches, and the mesh against the emulation."""

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
from tests.parallel.emulation import test_network as test_emulate
from tests.parallel.emulation.test_network import (
    CONFIG,
    LABEL,
    NOISE,
    TOKENS,
    numpy_velocity,
    perturbed,
)

STEPS = 5
PLAN = plans.dpm_solver_pp(Linear(), grids.uniform(STEPS), 2)
COOL = policies.cool_down(STEPS, 1)


# -- the table of ticks


def stale_rows(*numbers, rows):
    """Rows are synchronous but for those of these numbers."""
    return ~np.isin(np.arange(rows), numbers)


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
    """Rows 0 and 5 are synchronous, rows 1 .. 4 stale; a patch may not enter before the solver has its last row."""
    made = schedule(stale_rows(1, 2, 3, 4, rows=6), patches, stages, hop)
    when = [{} for _ in range(stages + 1)]
    for place in range(stages + 1):
        for tick in np.flatnonzero(made.busy[:, place] & ~made.whole):
            patch = made.row[tick, place], made.patch[tick, place]
            assert patch not in when[place]
            when[place][patch] = tick
        wanted = [(i, m) for i in range(1, 5) for m in range(patches)]
        assert (
            sorted(when[place], key=when[place].get) == wanted
        )  # one behind the other, at every place
    for (row, patch), entered in when[0].items():
        assert [when[s][row, patch] - entered for s in range(stages)] == [
            hop * s for s in range(stages)
        ]
        assert when[stages][row, patch] == entered + hop * stages - 1
        assert row == 1 or entered > when[stages][row - 1, patch]
    assert np.flatnonzero(made.whole).tolist() == [
        0,
        len(made.whole) - 1,
    ]  # before it fills, when it has drained
    assert made.row[made.whole, 0].tolist() == [0, 5]


@pytest.mark.parametrize(("stages", "patches", "hop"), CASES)
def test_ticks_and_utilisation_are_the_formula(stages, patches, hop):
    rows = 7
    made = schedule(np.zeros(rows, bool), patches, stages, hop)
    around = hop * stages
    ticks = patches * rows + around - 1 if patches >= around else around * rows + patches - 1
    assert made.whole.shape == (ticks,) and not made.whole.any()
    assert made.utilisation == pytest.approx(patches * rows / ticks)
    assert made.of_rows(rows).tolist() == [max(patches, around)] * (rows - 1) + [
        ticks - max(patches, around) * (rows - 1)
    ]


def test_a_run_in_step_is_one_tick_a_row():
    made = schedule(np.ones(4, bool), 4, 2)
    assert (
        made.whole.all() and made.row[:, 0].tolist() == [0, 1, 2, 3] and np.isnan(made.utilisation)
    )


# -- the emulation is a loop over patches


def numpy_pipeline(params, x, label, plan, patches, synced):
    """One sample, x (L, 1): each patch in turn through the network, into one buffer of keys and values, and through the plan."""
    buffer = np.zeros((CONFIG.depth, 2, TOKENS, CONFIG.heads, CONFIG.width // CONFIG.heads))
    base, history = x.copy(), np.zeros((4, *x.shape))
    x = x.copy()

    def attend(layer, q, k, v):
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
    model, plan = (
        test_emulate.network(),
        plans.dpm_solver_pp(Linear(), grids.uniform(test_emulate.ROWS), 3),
    )
    policy = policies.at(plan.steps, which)
    told = exchange(plan, TOKENS, patches, attention="pipefusion", policy=policy, slots=TOKENS)
    found = test_emulate.run(model.params, plan, told)
    params = jax.tree.map(np.asarray, model.params)
    for sample in range(2):
        start = np.asarray(NOISE[sample]).reshape(TOKENS, 1)
        wanted = numpy_pipeline(params, start, LABEL[sample], plan, patches, policy < 0)
        np.testing.assert_allclose(
            np.asarray(found.x[sample]).reshape(TOKENS, 1), wanted, rtol=0, atol=1e-12
        )


# -- the mesh is the emulation


@functools.cache
def network():
    """Four layers, told 1 - t, none of whose weights is zero."""
    model = models.init(dataclasses.replace(CONFIG, depth=4), jax.random.key(0), clock="1 - t")
    return model._replace(params=perturbed(model.params))


def piped(stages, patches, plan=PLAN, sizes=(), **options):
    mesh = parallel.make_mesh(**{"pipe": stages} | dict(sizes))
    return parallel.sample(
        network(), NOISE, LABEL, plan, mesh, attention="pipefusion", patches=patches, **options
    )


@functools.cache
def emulation(scale):
    """(params, plan, told, key) -> solution, compiled."""
    model = network()

    def run(params, plan, told, key):
        return emulate_with(
            model._replace(params=params), NOISE, LABEL, plan, told, guidance=scale, key=key
        )

    return jax.jit(run)


def emulated(patches, plan=PLAN, scale=1.0, key=None, **options):
    told = exchange(plan, TOKENS, patches, attention="pipefusion", slots=TOKENS, **options)
    return emulation(scale)(network().params, plan, told, key)


def agree(found, wanted):
    np.testing.assert_allclose(found.x, wanted.x, rtol=0, atol=1e-12)
    for name in ("nfe", "accepted", "rejected", "synced", "staleness", "layers", "worst"):
        np.testing.assert_allclose(
            getattr(found.stats, name), getattr(wanted.stats, name), rtol=1e-9, atol=1e-14
        )


@functools.cache
def in_step(scale=1.0):
    """The synchronous run on one device."""
    model = network()

    def run(params, plan):
        model_of = guidance.classifier_free(
            functools.partial(model.apply, params), LABEL, CONFIG.classes, scale
        )
        return flowjax.sample(model_of, NOISE, plan).x

    return jax.jit(run)(model.params, PLAN)


def test_two_stages_are_the_emulation():
    """Of solvers and policies of as many ticks, by one compiled program; a second call gives what the first gave."""
    first = piped(2, 4, policy=COOL)
    agree(first, emulated(4, policy=COOL))
    assert first.stats.synced.tolist() == [True, False, False, False, True]
    euler = plans.euler(grids.uniform(STEPS))
    agree(piped(2, 4, euler, warmup=2), emulated(4, euler, warmup=2))
    third = plans.dpm_solver_pp(Linear(), grids.uniform(STEPS), 3)
    agree(piped(2, 4, third, policy=COOL), emulated(4, third, policy=COOL))
    again = piped(2, 4, policy=COOL)
    assert np.array_equal(first.x, again.x) and np.array_equal(
        first.stats.staleness, again.stats.staleness
    )
    assert np.abs(first.x - in_step()).max() > 1e-4

    programs = [
        program(2, 4, plan, **how)
        for plan, how in ((PLAN, {"policy": COOL}), (euler, {"warmup": 2}))
    ]
    (run, first_args, _), (other, second_args, _) = programs
    assert run is other and [a.shape for a in jax.tree.leaves(first_args)] == [
        a.shape for a in jax.tree.leaves(second_args)
    ]


def program(stages, patches, plan=PLAN, sizes=(), **options):
    mesh = parallel.make_mesh(**{"pipe": stages} | dict(sizes))
    return parallel.program(
        network(), NOISE, LABEL, plan, mesh, attention="pipefusion", patches=patches, **options
    )


# -- what it says to others


def spoken(stages, patches, **options):
    """{(operation, how often): number} of the compiled program, and its collectives and ticks."""
    run, args, table = program(stages, patches, **options)
    found = collectives(run.lower(*args).compile().as_text())
    return Counter((c.operation, c.times) for c in found), found, table.ticks


def test_a_message_a_tick_needs_no_product_of_its_tick():
    """Four patches of two stages: the message on its way is that of the tick before."""
    counts, found, ticks = spoken(2, 4, warmup=2)
    total = len(ticks.whole)
    assert total == 2 + 4 * 3 + 2 * 2 - 1
    assert counts == {
        ("collective-permute", total): 1,
        ("collective-permute", 2 * total): 1,
        ("all-reduce", 1): 3,
    }
    hop, image = sorted(
        (c for c in found if c.operation == "collective-permute"), key=lambda c: c.times
    )
    assert hop.branch != image.branch and not hop.waits and image.waits
    received = (~ticks.whole).sum() * hop.received + 2 * ticks.whole.sum() * image.received
    assert piped(2, 4, warmup=2).stats.bytes.sum() == received


@pytest.mark.slow
@pytest.mark.parametrize(("patches", "least", "most"), [(8, 0.99, 1), (4, 0, 0.1)])
def test_a_message_travels_while_a_stage_works_where_patches_are_twice_the_stages(
    patches, least, most
):
    """Of the operations of a tick with work, the share between the start and the end of the hop, compiled for four TPUs."""
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
    counts, found, ticks = spoken(2, 2, sizes={"cfg": 2, "data": 2}, guidance=1.7)
    total = len(ticks.whole)
    sums = {
        ("all-reduce", total): 2
    }  # of the patches' velocity, and of the image's, in two branches
    assert counts == sums | {
        ("collective-permute", total): 1,
        ("collective-permute", 2 * total): 1,
        ("all-reduce", 1): 3,
    }
    assert all(c.waits for c in found if c.operation == "collective-permute")


def test_keys_and_values_are_kept_on_their_stage():
    """Twice the stages keep half, whatever the patches; and every stage holds its layers' weights alone."""
    sizes = [
        traffic.pipe_buffer(
            network().card.config, NOISE.shape, parallel.make_mesh(pipe=n), 1.0, np.float64
        )
        for n in (1, 2)
    ]
    assert sizes == [2 * 4 * 16 * 16 * 2 * 8, 4 * 16 * 16 * 2 * 8]
    placed = parallel.place(network(), parallel.make_mesh(pipe=4)).params
    weights = placed["blocks"]["query"]["kernel"]
    assert weights.shape == (4, 16, 16) and {s.data.shape for s in weights.addressable_shards} == {
        (1, 16, 16)
    }


# -- everything else that must hold


@pytest.mark.slow
@pytest.mark.parametrize("patches", [2, 4, 8])
def test_samples_do_not_depend_on_the_number_of_stages(patches):
    wanted = emulated(patches)
    for stages in (1, 2, 4):
        agree(piped(stages, patches), wanted)


@pytest.mark.slow
def test_one_patch_and_a_warm_up_of_all_steps_are_in_step():
    np.testing.assert_allclose(piped(4, 1).x, in_step(), rtol=0, atol=1e-12)
    found = piped(2, 4, warmup=STEPS)
    np.testing.assert_allclose(found.x, in_step(), rtol=0, atol=1e-12)
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
def test_several_rows_a_step_keep_their_stages_apart(name):
    grid = grids.uniform(4)
    plan = {
        "heun": plans.heun(grid),
        "singlestep": plans.dpm_solver_pp(Linear(), grid, 2, method="singlestep"),
        "padded": plans.pad(plans.euler(grid), 6),
    }[name]
    agree(piped(2, 4, plan), emulated(4, plan))


SLOWLY = ({"forecast": 1}, {"forecast": "tuned", "gains_per": "token"}, {"correction": 0.8})


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
        ({"pipe": 2}, {"attention": "stale", "patches": None}, "pipe=2, but attention='stale'.*or attention='pipefusion'"),
        ({"pipe": 1}, {"attention": "gather"}, "patches=4 with attention='gather'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(sizes, options, words):
    given = {"attention": "pipefusion", "patches": 4} | options
    with pytest.raises(ValueError, match=words):
        parallel.program(network(), NOISE, LABEL, PLAN, parallel.make_mesh(**sizes), **given)
