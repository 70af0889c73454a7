"""Stale attention under error control: rejected steps, and what the error estimate sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax import Linear, Tolerance, models, parallel, plans
from flowjax.adaptive import control, lanes
from flowjax.adaptive.pairs import pair as find_pair
from flowjax.models import SanaConfig
from flowjax.parallel.analysis.hlo import collectives
from flowjax.parallel.emulation.adaptive import (
    emulate_adaptive,
    emulate_adaptive_field,
    emulate_adaptive_with,
)
from flowjax.parallel.emulation.field import emulate_field, velocity_of_devices
from flowjax.parallel.emulation.network import contiguous, exchange
from flowjax.parallel.stale.adaptive import sample_adaptive
from flowjax.parallel.stale.history import (
    begin,
    extrapolation,
    history_rule,
    in_estimate,
    with_history,
)
from tests.parallel.cases import CONFIG, DATA, STARTS, TOKENS
from tests.parallel.cases import square_network as network

LINEAR, SPAN, DEVICES = Linear(), (1.0, 0.0), 4
SHARDS = contiguous(TOKENS, DEVICES)
LABEL = np.arange(8) % 3


def rule_of(method="dpm_solver_pp", order=2, span=SPAN, **options):
    """A `HistoryRule` of one size, so that all rules of one pair share a program.

    By default the naive one: each stage holds its own copy.
    """
    naive = {
        "attention": "stale",
        "forecast": 0,
        "history": "stage",
        "estimate": "as it is",
        "staleness": np.inf,
    }
    return history_rule(
        "test", find_pair("test", method, order), LINEAR, span, slots=3, **naive | options
    )


# Without staleness; and the cure: the newest evaluations of any stage, extrapolated.
SYNC = {"attention": "gather"}
CURED = {"history": "newest", "forecast": 1}


@functools.cache
def field_program(method, order):
    options = {
        "order": order,
        "span": SPAN,
        "max_evaluations": 3000,
        "method": method,
        "save_grid": True,
    }

    @jax.jit
    def program(rule, atol):
        tolerance = Tolerance(atol, 0 * atol)
        return emulate_adaptive_field(DATA, STARTS, tolerance, SHARDS, rule, **options)

    return program


def of_field(atol, method="dpm_solver_pp", order=2, **options):
    found = field_program(method, order)(rule_of(method, order, **options), atol)
    assert not found.status.any()
    return found


@functools.cache
def network_program():
    options = {"order": 2, "span": SPAN, "max_evaluations": 3000}

    @jax.jit
    def program(params, rule, shards, atol):
        model, tolerance = network()._replace(params=params), Tolerance(atol, 0 * atol)
        return emulate_adaptive_with(
            model, STARTS, LABEL, LINEAR, tolerance, shards, rule, **options
        )

    return program


def of_network(atol, devices=DEVICES, **options):
    found = network_program()(
        network().params, rule_of(**options), contiguous(TOKENS, devices), atol
    )
    assert not found.status.any()
    return found


@functools.cache
def truth(subject):
    """The ends of the exact solution.

    Of the field by another method at a tolerance of 1e-9, of the network at 1e-6.
    """
    if subject is of_network:
        return of_network(1e-6, **SYNC).x
    options = {"order": 5, "span": SPAN, "max_evaluations": 5000, "method": "runge_kutta"}
    found = jax.jit(
        lambda x: flowjax.sample_adaptive(DATA.velocity, x, LINEAR, Tolerance(1e-9, 0.0), **options)
    )(STARTS)
    assert not found.status.any()
    return found.x


def error(subject, found, atol):
    """The median sample's RMS error, in units of the tolerance.

    The median, since one of the eight samples ends near the border of two data.
    """
    squares = np.mean((found.x - truth(subject)) ** 2, axis=(1, 2, 3))
    return float(np.median(np.sqrt(squares))) / atol


# ---- a rejected step is taken back


@pytest.mark.parametrize("order", [2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "options",
    [{}, *(pytest.param(o, marks=pytest.mark.slow) for o in ({"forecast": 1}, SYNC))],
    ids=["0", "1", "sync"],
)
def test_a_run_with_rejections_is_the_plan_on_the_accepted_grid(order, options):
    """The emulation of that plan has no rejected steps, so their values did not enter this run."""
    found = of_field(1e-3, order=order, **options)
    assert found.stats.rejected[0] > 3
    # The accepted times of sample 0; behind them the grid is padded.
    grid = np.asarray(found.stats.grid)[: found.stats.accepted[0] + 1, 0]
    plan = plans.dpm_solver_pp(LINEAR, grid, order, method="singlestep")
    as_plan = exchange(
        plan,
        TOKENS,
        DEVICES,
        forecast=options.get("forecast", 0),
        attention=options.get("attention", "stale"),
    )
    wanted = emulate_field(DATA, STARTS[:1], plan, as_plan)
    np.testing.assert_allclose(found.x[:1], wanted.x, rtol=0, atol=1e-12)
    assert (
        found.stats.committed[0] == plan.rows and found.stats.synced[0] == wanted.stats.synced.sum()
    )


def test_a_rejected_step_leaves_the_history_bit_equal():
    """After a rejection the carry is that after the evaluation at the start of the step."""
    rule = rule_of(order=3, **CURED)
    # The solver of `flowjax.sample_adaptive`, to be advanced by one evaluation at a time.
    same = lambda values: values
    pair = find_pair("test", "dpm_solver_pp", 3)
    solver = control.Rule(
        pair, LINEAR, Tolerance(1e-3, 0.0), *SPAN, True, True, False, same, same, 1000
    )

    def evaluate(x, t, copy, synced):
        fresh = synced[:, None, None] | jnp.eye(DEVICES, dtype=bool)[None]
        return velocity_of_devices(DATA, SHARDS, x, t, copy.swapaxes(0, 1), fresh)

    model = with_history(rule, evaluate)
    turn = jax.jit(
        lambda state: lanes.advance(solver, state, *model(state.at, state.t_at, state.carry))
    )

    @jax.jit
    def start(x):
        return lanes.begin(solver, x, begin(rule, jnp.zeros((1, DEVICES, 12)), x.dtype))

    state = start(STARTS[:1])
    at_start, rejections, entered = None, 0, 0
    for _ in range(60):
        after = turn(state)
        if after.rejected[0] > state.rejected[0]:
            rejections += 1
            # The evaluations that had entered the history before the rejection.
            entered += int(state.carry.count[0] - at_start.count[0])
            for found, wanted in zip(*map(jax.tree.leaves, (after.carry, at_start)), strict=True):
                assert np.array_equal(found, wanted, equal_nan=True)
        # A step begins with its own first evaluation, or with the last one of the step before.
        if state.stage[0] == 0 or (after.stage[0] == 1 and after.accepted[0] > state.accepted[0]):
            at_start = after.carry
        state = after
    assert rejections > 3 and entered > 3


# ---- what the estimate sees


SUBJECTS = pytest.mark.parametrize(
    "subject",
    [of_field, pytest.param(of_network, marks=pytest.mark.slow)],
    ids=["field", "network"],
)


@SUBJECTS
def test_estimate_of_a_dpm_pair_does_not_see_held_copies(subject):
    """Staleness adds the same to all stages, and their difference loses it.

    So the steps stay as they are without staleness, and the errors are far larger.
    """
    for atol, blind in ((1e-3, 3), (1e-4, 7)):
        sync, held = (subject(atol, **options) for options in (SYNC, {}))
        assert 0.98 < np.mean(held.stats.accepted) / np.mean(sync.stats.accepted) < 1.02
        assert error(subject, held, atol) > blind * error(subject, sync, atol)


@SUBJECTS
def test_extrapolating_the_newest_keeps_steps_and_error_with_one_synchronous_evaluation(subject):
    for atol in (1e-3, 1e-4):
        sync, cured = (subject(atol, **options) for options in (SYNC, CURED))
        assert 0.97 < np.mean(cured.stats.accepted) / np.mean(sync.stats.accepted) < 1.03
        assert error(subject, cured, atol) < 1.1 * error(subject, sync, atol)
        assert (cured.stats.synced == 1).all() and (sync.stats.synced == sync.stats.committed).all()


def test_cure_by_stage_saves_nothing_or_one_in_six():
    """Evaluations with a weight in the estimate must be synchronous for it not to see staleness."""
    for method, order in (("dpm_solver_pp", 2), ("dpm_solver_pp", 3), ("runge_kutta", 3)):
        assert in_estimate(find_pair("test", method, order), LINEAR).all()
    # The second stage of Dormand-Prince is the only one without a weight.
    assert in_estimate(find_pair("test", "runge_kutta", 5), LINEAR).tolist() == [False] + [True] * 5
    found, sync = of_field(1e-3, estimate="synchronous"), of_field(1e-3, **SYNC)
    assert np.array_equal(found.x, sync.x) and (found.stats.synced == found.stats.committed).all()


@pytest.mark.slow
def test_estimate_of_a_runge_kutta_pair_sees_held_copies_and_shrinks_the_steps():
    """Dormand-Prince, whose stages lie unequally far from what they see."""
    ratios = []  # of the steps, held over synchronous
    for atol in (1e-4, 1e-6):
        sync, held = (
            of_field(atol, "runge_kutta", 5, **options) for options in (SYNC, {"history": "newest"})
        )
        ratios.append(np.mean(held.stats.accepted) / np.mean(sync.stats.accepted))
        assert error(of_field, held, atol) > 5 * error(of_field, sync, atol)
    assert ratios[0] > 1.5 and ratios[1] > 4


# ---- the bound


def test_bound_makes_whole_steps_synchronous_and_a_tighter_one_more():
    found = [of_field(1e-3, staleness=bound, **CURED) for bound in (np.inf, 0.003, 0.0003, 0.0)]
    synced = [np.sum(one.stats.synced) for one in found]
    assert synced[0] < synced[1] < synced[2] < synced[3] == np.sum(found[3].stats.committed)
    # A bound of 0 makes every step synchronous.
    np.testing.assert_array_equal(found[3].x, of_field(1e-3, **SYNC).x)
    assert not found[3].stats.staleness.any()


@pytest.mark.slow
def test_one_device_is_never_stale():
    found = of_network(1e-3, devices=1)
    np.testing.assert_allclose(found.x, of_network(1e-3, **SYNC).x, rtol=0, atol=1e-13)


@pytest.mark.slow
def test_on_a_trained_network_extrapolation_needs_the_bound():
    """Over 8 devices the forecast is unstable; it looks like curvature, and steps shrink."""
    model = models.load("digits")
    noise = flowjax.draw_noise(jax.random.key(3), range(4), (8, 8, 1)).astype(np.float32)
    options, shards = {"order": 2, "span": SPAN, "max_evaluations": 400}, contiguous(64, 8)

    @jax.jit
    def run(params, rule, atol):
        own, tolerance = model._replace(params=params), Tolerance(atol, 0 * atol)
        return emulate_adaptive_with(
            own, noise, np.arange(4), LINEAR, tolerance, shards, rule, **options
        )

    def found(atol, **options):
        return run(model.params, rule_of(**options), np.float32(atol))

    # Without staleness; without a bound on it; with one.
    sync, free, bound = (found(0.03, **how) for how in (SYNC, CURED, CURED | {"staleness": 0.1}))
    true = found(0.002, **SYNC).x
    steps = [float(np.mean(one.stats.accepted)) for one in (sync, free, bound)]
    errors = [float(np.sqrt(np.mean((one.x - true) ** 2))) for one in (sync, free, bound)]
    assert steps[1] > 3 * steps[0] and errors[1] > 5 * errors[0]
    assert steps[2] < 1.15 * steps[0] and errors[2] < 1.5 * errors[0]
    assert np.sum(bound.stats.synced) < 0.8 * np.sum(bound.stats.committed)


# ---- extrapolation


def test_extrapolation_is_exact_for_polynomials_and_uses_what_there_is():
    # Three known times, two, one, none.
    times = np.array([[0.4, 0.5, 0.8], [0.4, 0.5, np.nan], [0.4, np.nan, np.nan], [np.nan] * 3])
    weights = np.asarray(extrapolation(jnp.asarray(times), jnp.full(4, 0.1)))
    for row, degree in ((0, 2), (1, 1), (2, 0)):
        known = times[row, : degree + 1]
        for power in range(degree + 1):
            np.testing.assert_allclose(
                weights[row, : degree + 1] @ known**power, 0.1**power, atol=1e-12
            )
    assert not weights[3].any() and not weights[2, 1:].any()


# ---- over devices


def over_devices(data, seq, **options):
    """(solution on a mesh, solution of the emulation) of two samples.

    Each has steps of its own, unless they are in lockstep.
    """
    options = {"order": 2, "span": SPAN, "max_evaluations": 200, "staleness": np.inf} | options
    rest = np.stack([STARTS[0], STARTS[1]]), LABEL[:2], LINEAR, Tolerance(1e-3, 0.0)
    mesh = parallel.make_mesh(data=data, seq=seq)

    @jax.jit
    def on_mesh(params):
        return sample_adaptive(network()._replace(params=params), *rest, mesh, **options)

    @jax.jit
    def emulated(params):
        model = network()._replace(params=params)
        return emulate_adaptive(model, *rest, devices=seq, **options)

    return on_mesh(network().params), emulated(network().params)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (1, {"staleness": 0.003}),
        pytest.param(1, {"staleness": 0.003, "lockstep": True}, marks=pytest.mark.slow),
        pytest.param(2, {"staleness": 0.003}, marks=pytest.mark.slow),
        pytest.param(1, {"history": "stage", "forecast": 0}, marks=pytest.mark.slow),
        pytest.param(1, {"attention": "gather"}, marks=pytest.mark.slow),
    ],
)
def test_program_on_a_mesh_is_the_emulation_on_one_device(data, options):
    found, wanted = over_devices(data, 4, **options)
    np.testing.assert_allclose(found.x, wanted.x, rtol=0, atol=1e-12)
    assert found.stats.rejected.sum() > 0 and not found.status.any()
    for name in ("nfe", "accepted", "rejected", "committed", "synced"):
        np.testing.assert_array_equal(getattr(found.stats, name), getattr(wanted.stats, name))
    np.testing.assert_allclose(found.stats.staleness, wanted.stats.staleness, rtol=1e-9)
    # Samples of their own take different numbers of evaluations.
    lockstep = options.get("lockstep", False)
    assert (len(np.unique(found.stats.nfe)) == 1) == lockstep


@pytest.mark.slow
def test_program_holds_the_collectives_that_it_names():
    """Branch 0 is stale, a gather a layer and one before it; branch 1 is synchronous.

    Each evaluation has two reductions, and the end has two.
    """
    options = {"order": 2, "span": SPAN, "max_evaluations": 200, "staleness": 0.1}
    rest = STARTS[:1], LABEL[:1], LINEAR, Tolerance(1e-3, 0.0), parallel.make_mesh(seq=2)

    @jax.jit
    def run(params):
        return sample_adaptive(network()._replace(params=params), *rest, **options)

    found = collectives(run.lower(network().params).compile().as_text())
    # Loops over layers run a gather `depth` times.
    layers = sorted((c.branch, c.times) for c in found if c.operation == "all-gather")
    assert layers == [(0, 1), (0, CONFIG.depth), (1, CONFIG.depth)]
    assert [c.operation for c in found if c.branch is None] == ["all-reduce"] * 4
    assert len(found) == 7


# ---- refusals


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"staleness": -0.1}, "staleness=-0.1"),
        ({"staleness": np.nan}, "staleness=nan"),
        ({"history": "stages"}, "did you mean 'stage'"),
        ({"forecast": 3}, "forecast=3"),
        ({"forecast": "tuned"}, "forecast='tuned'"),
        ({"attention": "ring"}, "attention='ring'"),
        ({"devices": 17}, "17 devices for 16 tokens"),
        ({"order": 4}, "order=4"),
        ({"tolerances": 1}, "the option='tolerances' is not known"),
        ({"forcast": 2}, "did you mean 'forecast'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(options, sentence):
    usual = {"order": 2, "span": SPAN, "max_evaluations": 200, "staleness": np.inf}
    options = {"devices": 4} | usual | options
    with pytest.raises(ValueError, match=sentence):
        emulate_adaptive(network(), STARTS, LABEL, LINEAR, Tolerance(1e-3, 0.0), **options)


ADAPTIVE = {
    "parallel.emulate_adaptive": lambda *rest, **options: emulate_adaptive(
        *rest, devices=2, **options
    ),
    "parallel.sample_adaptive": lambda *rest, **options: sample_adaptive(
        *rest, parallel.make_mesh(seq=2), **options
    ),
}


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize(
    ("tolerance", "options", "sentence"),
    [
        (Tolerance(1e-3, 0.0), {"sapn": SPAN}, "the option='sapn' .* did you mean 'span'"),
        (Tolerance(1e-3, 0.0), {}, "order, span, max_evaluations, staleness must be given"),
        (1e-3, None, "tolerance=0.001; wanted Tolerance"),
        ((1e-3, np.nan), None, "rtol=nan"),
        (Tolerance(0.0, 0.0), None, "one of them positive"),
        (Tolerance(1e-3, 0.0), "no span", "span='no span'; wanted two different times"),
    ],
)
def test_both_adaptive_functions_refuse_the_same(name, tolerance, options, sentence):
    usual = {"order": 2, "span": SPAN, "max_evaluations": 200, "staleness": np.inf}
    if not isinstance(options, dict):
        options = usual | ({"span": options} if options else {})
    with pytest.raises(ValueError, match=f"{name}: .*{sentence}"):
        ADAPTIVE[name](network(), STARTS, LABEL, LINEAR, tolerance, **options)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_both_adaptive_functions_refuse_linear_attention(name):
    sizes = SanaConfig((4, 4), 1, patch=1, width=8, depth=1, heads=2, cross_heads=2, classes=3)
    linear = models.init(sizes, jax.random.key(0), name="sums")
    options = {"order": 2, "span": SPAN, "max_evaluations": 200, "staleness": np.inf}
    with pytest.raises(ValueError, match=f"{name}: sums has linear attention"):
        ADAPTIVE[name](linear, STARTS, LABEL, LINEAR, Tolerance(1e-3, 0.0), **options)
    # The emulation may also be given any shards and any rule.
    shards = np.zeros(16, int)
    with pytest.raises(ValueError, match="sums has linear attention"):
        emulate_adaptive_with(linear, STARTS, LABEL, LINEAR, Tolerance(1e-3, 0.0), shards, None)


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"cfg": 2, "seq": 2}, "cfg=2"),
        ({"seq": 3}, "8 samples of 16 tokens on data=1 and seq=3"),
        ({"data": 3}, "data=3"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(sizes, sentence):
    options = {"order": 2, "span": SPAN, "max_evaluations": 200, "staleness": np.inf}
    mesh = parallel.make_mesh(**sizes)
    with pytest.raises(ValueError, match=sentence):
        sample_adaptive(network(), STARTS, LABEL, LINEAR, Tolerance(1e-3, 0.0), mesh, **options)
