"""Displaced patches on one device: exact where they must be, a naive loop otherwise, first order, (n-1)/n."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import flowjax
from flowjax import Linear, fields, grids, models, plans
from flowjax.models.dit import DiTConfig, positions
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import Exchange, contiguous, emulate, emulate_with, exchange

CONFIG = DiTConfig((4, 4), channels=1, patch=1, width=16, depth=2, heads=2, classes=3)
TOKENS = 16
ROWS = 6


def perturbed(params, scale=0.15):
    """Float64 parameters with no zero gates, in which every layer attends."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + scale * jax.random.normal(key, leaf.shape, np.float64)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


@functools.cache
def network():
    """A network that is told 1 - t: random weights are smooth in that, as trained ones are in 1000 t."""
    untrained = models.init(CONFIG, jax.random.key(0), clock="1 - t")
    return untrained._replace(params=perturbed(untrained.params))


NOISE = flowjax.draw_noise(jax.random.key(2), range(2), (4, 4, 1))
LABEL = np.array([0, 2])
PLAN = plans.dpm_solver_pp(Linear(), grids.uniform(ROWS), 2)


@jax.jit
def run(params, plan, told, key=None):
    """One compiled program for every exchange and plan of one length."""
    return emulate_with(network()._replace(params=params), NOISE, LABEL, plan, told, key=key)


def stale(devices, *, plan=PLAN, params=None, **options):
    return run(
        params or network().params, plan, exchange(plan, TOKENS, devices, slots=TOKENS, **options)
    )


@functools.cache
def exact():
    model = network()
    return jax.jit(
        lambda params: flowjax.sample(lambda x, t: model.apply(params, x, t, LABEL), NOISE, PLAN).x
    )(model.params)


# ---- where it must be exact


@pytest.mark.parametrize("devices", [1, 2, 3, 8])
def test_exact_attention_does_not_depend_on_the_devices(devices):
    found = emulate(network(), NOISE, LABEL, PLAN, devices=devices, attention="gather")
    np.testing.assert_allclose(found.x, exact(), rtol=0, atol=1e-13)
    assert found.stats.synced.all() and not found.stats.staleness.any()


def test_one_device_is_never_stale():
    assert np.array_equal(stale(1).x, stale(1, warmup=ROWS).x)
    assert not stale(1).stats.staleness.any()


def test_a_warm_up_of_all_steps_is_exact():
    found, short = stale(4, warmup=ROWS), stale(4, warmup=ROWS - 1)
    assert np.array_equal(found.x, stale(1).x)
    assert np.abs(short.x - found.x).max() > 1e-6  # one step fewer is not
    assert short.stats.synced.tolist() == [True] * (ROWS - 1) + [False]


def test_a_closed_attention_gate_hides_staleness():
    params = jax.tree.map(lambda leaf: leaf, network().params)
    width = slice(2 * CONFIG.width, 3 * CONFIG.width)  # gate1 of (shift1, scale1, gate1, ...)
    for name in ("kernel", "bias"):
        leaf = params["blocks"]["modulation"][name]
        params["blocks"]["modulation"][name] = leaf.at[..., width].set(0)
    assert np.array_equal(stale(4, params=params).x, stale(1, params=params).x)
    assert np.abs(stale(4).x - stale(1).x).max() > 1e-3


def test_keys_and_values_that_rest_are_never_stale():
    # x rests where the plan moves it nowhere, and the clock where the label time is one time.
    still = PLAN._replace(
        b=np.zeros_like(PLAN.b),
        d=np.zeros_like(PLAN.d),
        a=np.ones(ROWS),
        c=np.ones(ROWS),
        label_time=np.full(ROWS, 0.5),
    )
    last = still._replace(
        b=np.where(np.arange(ROWS)[:, None] == ROWS - 1, PLAN.b, 0)
    )  # only the last row is used
    found, true = stale(4, plan=last), stale(1, plan=last)
    np.testing.assert_allclose(found.x, true.x, rtol=0, atol=1e-14)
    assert np.abs(true.x - NOISE).max() > 1e-2
    assert found.stats.staleness.max() < 1e-28


def test_a_second_call_gives_what_the_first_gave():
    first = stale(4).x
    run(network().params, PLAN._replace(label_time=PLAN.label_time / 2), exchange(PLAN, TOKENS, 2))
    assert np.array_equal(stale(4).x, first)


# ---- an independent loop


def numpy_modulated(x, shift, scale):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift


def numpy_velocity(params, x, t, label, attend, tokens=slice(None)):
    """The DiT of some tokens of one sample, x (L, 1), layer by layer; attend(layer, q, k, v) -> (L, heads, d)."""

    def linear(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    angle = (1 - t) * 10000.0 ** (-np.arange(128) / 128)
    time = linear(
        params["time2"],
        silu(linear(params["time1"], np.concatenate([np.cos(angle), np.sin(angle)]))),
    )
    condition = silu(time + params["labels"]["embedding"][label])
    h = linear(params["patches"], x) + positions(CONFIG)[tokens]
    for layer in range(CONFIG.depth):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(
            linear(block["modulation"], condition), 6
        )
        y = numpy_modulated(h, shift1, scale1)
        q, k, v = (
            linear(block[name], y).reshape(len(x), CONFIG.heads, -1)
            for name in ("query", "key", "value")
        )
        h = h + gate1 * linear(block["out"], attend(layer, q, k, v).reshape(len(x), -1))
        y = numpy_modulated(h, shift2, scale2)
        h = h + gate2 * linear(block["mlp2"], gelu(linear(block["mlp1"], y)))
    shift, scale = np.split(linear(params["modulation"], condition), 2)
    return -linear(
        params["outputs"], numpy_modulated(h, shift, scale)
    )  # the clock 1 - t runs the other way


def numpy_displaced_patches(params, x, label, grid, devices, warmup, period):
    """Euler of one sample; each device in turn attends to its own tokens' keys and values and to what it was last sent.

    Returns the end (L, 1), and for each step the sums |KV - what was last sent|^2 and |KV|^2.
    """
    sent, sums = {}, []
    each = -(-TOKENS // devices)
    owned = [np.arange(TOKENS)[j * each : (j + 1) * each] for j in range(devices)]
    for step, (t, t_next) in enumerate(zip(grid, grid[1:], strict=False)):
        computed = {}

        def attend(layer, q, k, v, step=step, computed=computed, sent=sent):
            computed[layer] = k, v
            out = np.zeros_like(v)
            for tokens in owned:
                keys, values = (a.copy() for a in ((k, v) if step < warmup else sent[layer]))
                keys[tokens], values[tokens] = k[tokens], v[tokens]
                for a in tokens:
                    for head in range(CONFIG.heads):
                        scores = keys[:, head] @ q[a, head] / np.sqrt(q.shape[-1])
                        weights = np.exp(scores - scores.max())
                        out[a, head] = weights @ values[:, head] / weights.sum()
            return out

        velocity = numpy_velocity(params, x, t, label, attend)
        pairs = [
            (new, old)
            for layer in sent
            for new, old in zip(computed[layer], sent[layer], strict=True)
        ]
        sums.append(
            [
                sum(((new - old) ** 2).sum() for new, old in pairs),
                sum((new**2).sum() for new, _ in pairs),
            ]
        )
        if step < warmup or (period and (step + 1 - warmup) % period == 0):
            sent = computed
        x = x + (t_next - t) * velocity
    return x, np.array(sums)


@functools.cache
def naive(*arguments):
    """(ends (B, L, 1), relative staleness (steps,)) of the naive loop over all samples."""
    params = jax.tree.map(np.asarray, network().params)
    starts = np.asarray(NOISE).reshape(2, TOKENS, 1)
    ends, sums = zip(*(
        numpy_displaced_patches(params, x, label, grids.uniform(ROWS), *arguments)
        for x, label in zip(starts, LABEL, strict=True)
    ), strict=True)  # fmt: skip
    gap, size = sum(sums)[1:].T
    return np.stack(ends), np.concatenate([[0.0], gap / size])


@pytest.mark.parametrize(
    ("devices", "warmup", "period"),
    [(4, 1, 1), (3, 2, 1), (5, 1, 1), (4, 1, 2), (2, 2, None), (16, 1, 1)],
)
def test_it_is_the_naive_loop_over_steps_shards_and_layers(devices, warmup, period):
    found = stale(devices, plan=plans.euler(grids.uniform(ROWS)), warmup=warmup, refresh=period)
    ends, staleness = naive(devices, warmup, period)
    np.testing.assert_allclose(np.asarray(found.x).reshape(ends.shape), ends, rtol=0, atol=1e-12)
    staleness[:warmup] = 0  # nobody used the copy
    np.testing.assert_allclose(found.stats.staleness, staleness, rtol=1e-10)


# ---- flags, stages, guidance, meter


def test_flags_say_what_warm_up_and_refresh_mean():
    told = exchange(plans.euler(grids.uniform(8)), TOKENS, 4, warmup=2, refresh=3)
    assert np.flatnonzero(told.rows.policy < 0).tolist() == [0, 1]
    assert np.flatnonzero(told.rows.sent).tolist() == [
        0,
        1,
        4,
        7,
    ]  # copies are 1, 2, 3, 1, 2, 3 steps old
    frozen = exchange(plans.euler(grids.uniform(8)), TOKENS, 4, warmup=2, refresh=None)
    assert np.flatnonzero(frozen.rows.sent).tolist() == [0, 1]


def test_each_stage_has_its_own_copy_and_begins_in_step():
    plan = plans.dpm_solver_pp(
        Linear(), grids.uniform(4), 2, method="singlestep"
    )  # rows 1, 2, 2, 1: ends touch 0 and 1
    told = exchange(plan, TOKENS, 4)
    assert told.rows.substep.tolist() == [0, 0, 1, 0, 1, 0]
    assert (told.rows.policy < 0).tolist() == [
        True,
        False,
        True,
        False,
        False,
        False,
    ]  # row 2 is the first of its stage
    assert np.isfinite(run(network().params, plan, told).x).all()
    # A stage that saw the other stage's copy would differ: swap the streams of one stale row.
    swapped = told._replace(rows=told.rows._replace(substep=told.rows.substep[[0, 1, 2, 3, 3, 5]]))
    assert (
        np.abs(run(network().params, plan, swapped).x - run(network().params, plan, told).x).max()
        > 1e-6
    )


def test_padding_changes_nothing():
    plan = plans.euler(grids.uniform(4))
    padded = plans.pad(plan, ROWS)
    assert exchange(padded, TOKENS, 4).rows.first_of_substep.shape == (1,)
    np.testing.assert_allclose(stale(4, plan=padded).x, stale(4, plan=plan).x, rtol=0, atol=1e-13)


def test_guidance_is_that_of_two_runs_side_by_side():
    """Scale 0 is the unconditional run, stale in its own copies."""
    null = np.full(2, CONFIG.classes)
    guided = emulate(network(), NOISE, LABEL, PLAN, devices=4, attention="stale", guidance=0.0)
    alone = emulate(network(), NOISE, null, PLAN, devices=4, attention="stale")
    np.testing.assert_allclose(guided.x, alone.x, rtol=0, atol=1e-13)


def test_noise_in_the_steps_does_not_depend_on_the_devices():
    plan = plans.ddim(Linear(), grids.uniform(ROWS, start=0.9), eta=1.0)
    told = exchange(plan, TOKENS, 1)
    many = exchange(plan, TOKENS, 4, warmup=ROWS)
    key = jax.random.key(5)
    np.testing.assert_allclose(
        run(network().params, plan, told, key).x,
        run(network().params, plan, many, key).x,
        rtol=0,
        atol=1e-13,
    )


def test_half_precision_keys_and_values_keep_the_state_in_float32():
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    model = models.init(half, jax.random.key(0), clock="1 - t")
    model = model._replace(
        params=jax.tree.map(lambda p: p.astype(np.float32), perturbed(model.params))
    )
    noise = NOISE.astype(np.float32)
    found = emulate(model, noise, LABEL, PLAN, devices=4, attention="stale").x
    true = stale(4).x
    assert found.dtype == np.float32
    assert np.abs(found - true).max() < 0.1 * np.abs(true).max()


def test_residuals_against_what_the_others_know_cost_less_than_as_many_bits_plain():
    """Error feedback: what one message lost the next one sees, so little is lost in all."""
    whole = stale(4).x

    def lost(bits, residual):
        return np.abs(stale(4, comm_dtype=bits, residual=residual).x - whole).max()

    assert lost(14, True) < 1e-5  # many bits: as none lost
    assert 0 < lost(4, True) < 0.2 * lost(4, False)
    assert lost(8, False) < 0.2 * lost(4, False)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"devices": 17}, "17 devices for 16 tokens"),
        ({"devices": 0}, "0 devices"),
        ({"devices": 2, "attention": "stale", "warmup": 0}, "warmup=0 of 6 steps"),
        ({"devices": 2, "attention": "stale", "warmup": 7}, "warmup=7 of 6 steps"),
        ({"devices": 2, "attention": "stale", "refresh": 0}, "refresh=0"),
        ({"devices": 2, "attention": "stal"}, "did you mean 'stale'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, said):
    with pytest.raises(ValueError, match=said):
        emulate(network(), NOISE, LABEL, PLAN, **options)


def test_guidance_without_labels_is_refused():
    with pytest.raises(ValueError, match="guidance needs label"):
        emulate(network(), NOISE, None, PLAN, devices=2, guidance=2.0)


def test_shards_of_another_size_are_refused():
    told = exchange(PLAN, 8, 2)
    with pytest.raises(ValueError, match="8,.*16 tokens"):
        emulate_with(network(), NOISE, LABEL, PLAN, told)


# ---- laws: order one, (n-1)/n


STEPS = (64, 128)
SPAN = {"start": 0.9, "end": 0.2}
SOLVERS = {
    "euler": plans.euler,
    "2M": lambda grid: plans.dpm_solver_pp(Linear(), grid, 2),
    "AB2": lambda grid: plans.adams_bashforth(grid, 2),
}
DEVICES = (1, 2, 4, 8)
STARTS = flowjax.draw_noise(jax.random.key(3), range(8), (4, 4, 1))
DATA = fields.DataSet(np.random.default_rng(0).standard_normal((12, 4, 4, 1)), 0.5, Linear())


@jax.jit
def of_network(plan, told):
    model = network()
    return jax.vmap(lambda plan, told: emulate_with(model, STARTS, None, plan, told).x)(plan, told)


@jax.jit
def of_field(plan, told):
    return jax.vmap(lambda plan, told: emulate_field(DATA, STARTS, plan, told).x)(plan, told)


@functools.cache
def errors(subject):
    """RMS errors {(solver, devices): (len(STEPS),)} to the exact endpoints, and to the own synchronous run."""
    cases = [(name, n, steps) for name in SOLVERS for n in DEVICES for steps in STEPS]
    made = [
        plans.pad(SOLVERS[name](grids.uniform(steps, **SPAN)), STEPS[-1])
        for name, _, steps in cases
    ]
    told = [exchange(plan, TOKENS, n, slots=8) for plan, (_, n, _) in zip(made, cases, strict=True)]
    fine = plans.rk4(grids.uniform(STEPS[-1] // 4, **SPAN))
    made, told = (
        [*made, fine],
        [*told, exchange(plans.euler(grids.uniform(STEPS[-1])), TOKENS, 1, slots=8)],
    )
    found = subject(
        *(jax.tree.map(lambda *leaves: np.stack(leaves), *many) for many in (made, told))
    )
    ends = dict(zip(cases, np.asarray(found), strict=False))

    def rms(a, b):
        return float(np.sqrt(np.mean((a - b) ** 2)))

    each = [(name, n) for name in SOLVERS for n in DEVICES]
    total = {case: [rms(ends[*case, s], found[-1]) for s in STEPS] for case in each}
    own = {case: [rms(ends[*case, s], ends[case[0], 1, s]) for s in STEPS] for case in each}
    return total, own


SUBJECTS = pytest.mark.parametrize("subject", [of_network, of_field], ids=["network", "field"])


def slope(values):
    return np.log2(values[-2] / values[-1])


@SUBJECTS
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("2M", 2), ("AB2", 2)])
def test_stale_sampling_is_first_order_whatever_the_solver(subject, solver, order):
    total, own = errors(subject)
    assert slope(total[solver, 1]) == pytest.approx(order, abs=0.1)
    for devices in (2, 8):
        assert slope(own[solver, devices]) == pytest.approx(1, abs=0.1)
        if order > 1:
            assert slope(total[solver, devices]) == pytest.approx(1, abs=0.1)


@SUBJECTS
def test_staleness_grows_as_the_stale_share(subject):
    _, own = errors(subject)
    for solver in ("euler", "2M"):
        ratio = [own[solver, n][-1] / ((n - 1) / n) for n in (2, 4, 8)]
        assert max(ratio) < 1.15 * min(ratio)


# ---- the exact field


def test_a_field_on_devices_in_step_is_the_field():
    plan = plans.euler(grids.uniform(ROWS))
    true = flowjax.sample(DATA.velocity, NOISE, plan).x
    for devices in (1, 3, 16):
        found = emulate_field(DATA, NOISE, plan, exchange(plan, TOKENS, devices, warmup=ROWS))
        np.testing.assert_allclose(found.x, true, rtol=0, atol=1e-12)


def test_a_field_on_devices_is_the_naive_loop():
    plan, devices = plans.euler(grids.uniform(ROWS)), 3
    owner = contiguous(TOKENS, devices)
    found = emulate_field(DATA, NOISE, plan, exchange(plan, TOKENS, devices, slots=4))
    y, width = np.asarray(DATA.samples).reshape(12, TOKENS), 0.5
    for i in range(2):
        x, before = np.asarray(NOISE[i]).ravel(), None
        for step, (t, t_next) in enumerate(zip(plan.t, plan.t_next, strict=True)):
            products = y * x[None]  # (K, F): token by token
            seen = before if step else products
            a, variance = 1 - t, (1 - t) ** 2 * width**2 + t**2
            velocity = np.zeros(TOKENS)
            for j in range(devices):
                inner = np.where((owner == j)[None], products, seen).sum(1)
                logits = a * (inner - a * (y**2).sum(1) / 2) / variance
                weights = np.exp(logits - logits.max())
                mean = weights @ y / weights.sum()
                own = -mean + (t - a * width**2) / variance * (x - a * mean)
                velocity[owner == j] = own[owner == j]
            before = products
            x = x + (t_next - t) * velocity
        np.testing.assert_allclose(np.asarray(found.x[i]).ravel(), x, rtol=0, atol=1e-12)


def test_a_field_with_shards_of_another_size_is_refused():
    with pytest.raises(ValueError, match="one device a number"):
        emulate_field(DATA, NOISE, PLAN, exchange(PLAN, 8, 2))


def test_an_exchange_is_data():
    """One compiled program serves every n, warm-up and period."""
    before = run._cache_size()
    for told in (
        exchange(PLAN, TOKENS, 2, slots=16),
        exchange(PLAN, TOKENS, 16, warmup=3, refresh=2),
    ):
        run(network().params, PLAN, Exchange(*told))
    assert run._cache_size() <= before + 1
