"""Displaced patches on one device: exact where they must be, else a naive loop; their order."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import flowjax
from flowjax import Linear, grids, models, plans
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import Exchange, contiguous, emulate, emulate_with, exchange
from tests.parallel.cases import (
    CONFIG,
    DATA,
    LABEL,
    PLAN,
    ROWS,
    SPAN,
    TOKENS,
    numpy_velocity,
    of_field,
    of_network,
    perturbed,
    run,
    slope,
)
from tests.parallel.cases import SQUARE_NOISE as NOISE
from tests.parallel.cases import square_network as network


def stale(devices, *, plan=PLAN, params=None, **options):
    table = exchange(plan, TOKENS, devices, slots=TOKENS, **options)
    return run(params or network().params, plan, table)


@functools.cache
def exact():
    """The end of the run on one device, by `flowjax.sample` alone."""
    model = network()

    @jax.jit
    def end(params):
        return flowjax.sample(lambda x, t: model.apply(params, x, t, LABEL), NOISE, PLAN).x

    return end(model.params)


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
    params = jax.tree.map(lambda leaf: leaf, network().params)  # new dictionaries, to be changed
    width = slice(2 * CONFIG.width, 3 * CONFIG.width)  # gate1 of (shift1, scale1, gate1, ...)
    for name in ("kernel", "bias"):
        leaf = params["blocks"]["modulation"][name]
        params["blocks"]["modulation"][name] = leaf.at[..., width].set(0)
    # Attention adds nothing, so neither do copies.
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
    # The last row alone moves x, so the ends are no starts.
    is_last = np.arange(ROWS)[:, None] == ROWS - 1
    last = still._replace(b=np.where(is_last, PLAN.b, 0))
    found, true = stale(4, plan=last), stale(1, plan=last)
    np.testing.assert_allclose(found.x, true.x, rtol=0, atol=1e-14)
    assert np.abs(true.x - NOISE).max() > 1e-2
    assert found.stats.staleness.max() < 1e-14


def test_a_second_call_gives_what_the_first_gave():
    first = stale(4).x
    # Another run between the two, of which nothing may remain.
    run(network().params, PLAN._replace(label_time=PLAN.label_time / 2), exchange(PLAN, TOKENS, 2))
    assert np.array_equal(stale(4).x, first)


# ---- an independent loop


def numpy_attention(q, keys, values):
    """Softmax attention of one query (heads, d) to keys and values (L, heads, d)."""
    out = np.zeros_like(q)
    for head in range(CONFIG.heads):
        scores = keys[:, head] @ q[head] / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[head] = weights @ values[:, head] / weights.sum()
    return out


def numpy_displaced_patches(params, x, label, grid, devices, warmup, period):
    """Euler of one sample; each device in turn attends to its own tokens and to its last copies.

    Returns the end (L, 1), and for each step the sums |KV - copy|^2 and |KV|^2.
    """
    copies, sums = {}, []  # copies: {layer: (keys, values)}
    each = -(-TOKENS // devices)
    owned = [np.arange(TOKENS)[j * each : (j + 1) * each] for j in range(devices)]
    for step, (t, t_next) in enumerate(zip(grid, grid[1:], strict=False)):
        computed = {}

        def attend(layer, q, k, v, step=step, computed=computed, copies=copies):
            computed[layer] = k, v
            out = np.zeros_like(v)
            for tokens in owned:
                seen = (k, v) if step < warmup else copies[layer]
                keys, values = (a.copy() for a in seen)
                keys[tokens], values[tokens] = k[tokens], v[tokens]
                for a in tokens:
                    out[a] = numpy_attention(q[a], keys, values)
            return out

        velocity = numpy_velocity(params, x, t, label, attend)

        # Meter the copies, used or not, then exchange if this step does.
        pairs = [
            (new, old)
            for layer in copies
            for new, old in zip(computed[layer], copies[layer], strict=True)
        ]
        gap = sum(((new - old) ** 2).sum() for new, old in pairs)
        sums.append([gap, sum((new**2).sum() for new, _ in pairs)])
        if step < warmup or (period and (step + 1 - warmup) % period == 0):
            copies = computed
        x = x + (t_next - t) * velocity
    return x, np.array(sums)


@functools.cache
def naive(*arguments):
    """(ends (B, L, 1), relative staleness (steps,)) of the naive loop over all samples."""
    params = jax.tree.map(np.asarray, network().params)
    starts = np.asarray(NOISE).reshape(2, TOKENS, 1)
    grid = grids.uniform(ROWS)
    found = [
        numpy_displaced_patches(params, x, label, grid, *arguments)
        for x, label in zip(starts, LABEL, strict=True)
    ]
    ends, sums = zip(*found, strict=True)
    gap, size = sum(sums)[1:].T  # the first step has no copy
    return np.stack(ends), np.concatenate([[0.0], np.sqrt(gap / size)])


@pytest.mark.parametrize(
    ("devices", "warmup", "period"),
    [(4, 1, 1), (3, 2, 1), (5, 1, 1), (4, 1, 2), (2, 2, None), (16, 1, 1)],
)
def test_it_is_the_naive_loop_over_steps_shards_and_layers(devices, warmup, period):
    found = stale(devices, plan=plans.euler(grids.uniform(ROWS)), warmup=warmup, refresh=period)
    ends, staleness = naive(devices, warmup, period)
    np.testing.assert_allclose(np.asarray(found.x).reshape(ends.shape), ends, rtol=0, atol=1e-12)
    staleness[:warmup] = 0  # nobody used the copy
    np.testing.assert_allclose(found.stats.staleness, staleness, rtol=5e-11)


# ---- schedule, substeps, guidance, meter


def test_schedule_says_what_warm_up_and_refresh_mean():
    rows = exchange(plans.euler(grids.uniform(8)), TOKENS, 4, warmup=2, refresh=3).rows
    assert np.flatnonzero(rows.policy < 0).tolist() == [0, 1]
    # Copies are 1, 2, 3, 1, 2, 3 steps old.
    assert np.flatnonzero(rows.sent).tolist() == [0, 1, 4, 7]
    frozen = exchange(plans.euler(grids.uniform(8)), TOKENS, 4, warmup=2, refresh=None).rows
    assert np.flatnonzero(frozen.sent).tolist() == [0, 1]


def test_each_substep_has_its_own_copy_and_begins_synchronous():
    # The steps have 1, 2, 2 and 1 rows: the first and the last touch t = 1 and t = 0.
    plan = plans.dpm_solver_pp(Linear(), grids.uniform(4), 2, method="singlestep")
    table = exchange(plan, TOKENS, 4)
    assert table.rows.substep.tolist() == [0, 0, 1, 0, 1, 0]
    # Row 2 is the first of its substep.
    synced = [True, False, True, False, False, False]
    assert (table.rows.policy < 0).tolist() == synced
    found = run(network().params, plan, table).x
    assert np.isfinite(found).all()
    # A row that used the history of the other substep would differ: let row 4 do so.
    swapped = table._replace(
        rows=table.rows._replace(substep=table.rows.substep[[0, 1, 2, 3, 3, 5]])
    )
    assert np.abs(run(network().params, plan, swapped).x - found).max() > 1e-6


def test_padding_changes_nothing():
    plan = plans.euler(grids.uniform(4))
    padded = plans.pad(plan, ROWS)
    assert len(exchange(padded, TOKENS, 4).rows.first_of_substep) == 1
    np.testing.assert_allclose(stale(4, plan=padded).x, stale(4, plan=plan).x, rtol=0, atol=1e-13)


def test_guidance_is_that_of_two_runs_side_by_side():
    """Scale 0 is the unconditional run, which sees its own copies."""
    # The null label's run alone, without guidance.
    null = np.full(2, CONFIG.classes)
    guided = emulate(network(), NOISE, LABEL, PLAN, devices=4, attention="stale", guidance=0.0)
    alone = emulate(network(), NOISE, null, PLAN, devices=4, attention="stale")
    np.testing.assert_allclose(guided.x, alone.x, rtol=0, atol=1e-13)


def test_noise_in_the_steps_does_not_depend_on_the_devices():
    plan = plans.ddim(Linear(), grids.uniform(ROWS, start=0.9), eta=1.0)
    alone = exchange(plan, TOKENS, 1)
    many = exchange(plan, TOKENS, 4, warmup=ROWS)
    key = jax.random.key(5)
    np.testing.assert_allclose(
        run(network().params, plan, alone, key).x,
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


def test_residuals_lose_less_than_forecasts_in_as_many_bits():
    """Error feedback: the next residual includes what one message lost, so the loss stays small."""
    in_full = stale(4).x

    def lost(bits, residual):
        return np.abs(stale(4, comm_dtype=bits, residual=residual).x - in_full).max()

    assert lost(14, True) < 1e-5  # with many bits nearly nothing
    assert 0 < lost(4, True) < 0.2 * lost(4, False)
    assert lost(8, False) < 0.2 * lost(4, False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"devices": 17}, "17 devices for 16 tokens"),
        ({"devices": 0}, "0 devices"),
        ({"devices": 2, "attention": "stale", "warmup": 0}, "warmup=0 of 6 steps"),
        ({"devices": 2, "attention": "stale", "warmup": 7}, "warmup=7 of 6 steps"),
        ({"devices": 2, "attention": "stale", "refresh": 0}, "refresh=0"),
        ({"devices": 2, "attention": "stal"}, "did you mean 'stale'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        emulate(network(), NOISE, LABEL, PLAN, **options)


def test_guidance_without_labels_is_refused():
    with pytest.raises(ValueError, match="guidance needs label"):
        emulate(network(), NOISE, None, PLAN, devices=2, guidance=2.0)


def test_shards_of_another_size_are_refused():
    table = exchange(PLAN, 8, 2)
    with pytest.raises(ValueError, match="8,.*16 tokens"):
        emulate_with(network(), NOISE, LABEL, PLAN, table)


# ---- laws: order one, (n-1)/n


STEPS = (64, 128)
SOLVERS = {
    "euler": plans.euler,
    "2M": lambda grid: plans.dpm_solver_pp(Linear(), grid, 2),
    "AB2": lambda grid: plans.adams_bashforth(grid, 2),
}
DEVICES = (1, 2, 4, 8)


def stacked(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@functools.cache
def errors(subject):
    """RMS errors {(solver, devices): (len(STEPS),)}, to two ends.

    Returns:
      (errors to the exact ends, errors to the synchronous run of the same solver and steps).
    """
    cases = [(name, n, steps) for name in SOLVERS for n in DEVICES for steps in STEPS]
    made, tables = [], []
    for name, n, steps in cases:
        plan = plans.pad(SOLVERS[name](grids.uniform(steps, **SPAN)), STEPS[-1])
        made.append(plan)
        tables.append(exchange(plan, TOKENS, n, slots=8))
    # The exact ends, by RK4 on one device. Its four rows a step count as steps of the exchange.
    made.append(plans.rk4(grids.uniform(STEPS[-1] // 4, **SPAN)))
    tables.append(exchange(plans.euler(grids.uniform(STEPS[-1])), TOKENS, 1, slots=8))
    found = subject(stacked(made), stacked(tables))
    # zip stops before the last entry, which is the exact end.
    ends = dict(zip(cases, np.asarray(found), strict=False))

    def rms(a, b):
        return float(np.sqrt(np.mean((a - b) ** 2)))

    each = [(name, n) for name in SOLVERS for n in DEVICES]
    total = {case: [rms(ends[*case, s], found[-1]) for s in STEPS] for case in each}
    own = {case: [rms(ends[*case, s], ends[case[0], 1, s]) for s in STEPS] for case in each}
    return total, own


SUBJECTS = pytest.mark.parametrize("subject", [of_network, of_field], ids=["network", "field"])


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
def test_staleness_grows_as_the_fraction_of_stale_tokens(subject):
    _, own = errors(subject)
    for solver in ("euler", "2M"):
        # A token sees copies of (n-1)/n of all tokens.
        ratio = [own[solver, n][-1] / ((n - 1) / n) for n in (2, 4, 8)]
        assert max(ratio) < 1.15 * min(ratio)


# ---- the exact field


def test_a_field_on_synchronous_devices_is_the_field():
    plan = plans.euler(grids.uniform(ROWS))
    true = flowjax.sample(DATA.velocity, NOISE, plan).x
    for devices in (1, 3, 16):
        found = emulate_field(DATA, NOISE, plan, exchange(plan, TOKENS, devices, warmup=ROWS))
        np.testing.assert_allclose(found.x, true, rtol=0, atol=1e-12)


def test_a_field_on_devices_is_the_naive_loop():
    plan, devices = plans.euler(grids.uniform(ROWS)), 3
    owner = contiguous(TOKENS, devices)
    found = emulate_field(DATA, NOISE, plan, exchange(plan, TOKENS, devices, slots=4))
    # The field by hand, sample by sample and device by device.
    y, width = np.asarray(DATA.samples).reshape(12, TOKENS), 0.5
    for i in range(2):
        x, before = np.asarray(NOISE[i]).ravel(), None
        for step, (t, t_next) in enumerate(zip(plan.t, plan.t_next, strict=True)):
            products = y * x[None]  # (K, F): token by token
            seen = before if step else products
            a, variance = 1 - t, (1 - t) ** 2 * width**2 + t**2
            velocity = np.zeros(TOKENS)
            for j in range(devices):
                # Device j sees the products of its own tokens, and copies of the others.
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
    for table in (
        exchange(PLAN, TOKENS, 2, slots=16),
        exchange(PLAN, TOKENS, 16, warmup=3, refresh=2),
    ):
        run(network().params, PLAN, Exchange(*table))
    assert run._cache_size() <= before + 1
