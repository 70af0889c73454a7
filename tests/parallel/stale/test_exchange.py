"""What devices exchange on a mesh: policies, forecasts, formats, each as emulated on one device."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import Linear, grids, models, parallel, plans
from flowjax.parallel import traffic
from flowjax.parallel.analysis.hlo import collectives
from flowjax.parallel.emulation.network import emulate_with, exchange
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import Forecast, forecast
from flowjax.parallel.stale.precision import BITS, bytes_of, decoded, encoded, rounded
from tests.parallel.cases import LABEL, NOISE, network

STEPS = 6
PLAN = plans.dpm_solver_pp(Linear(), grids.uniform(STEPS), 2)
HEUN = plans.heun(grids.uniform(5))
SINGLE = plans.dpm_solver_pp(Linear(), grids.uniform(5), 2, method="singlestep")


@functools.cache
def smooth(depth):
    """The network with the clock 1 - t.

    With the clock 1000 t an untrained network oscillates with t, and no forecast is of use.
    """
    model = network(depth=depth)
    return models.model(dataclasses.replace(model.card, clock="1 - t"), model.params)


@functools.cache
def emulation(scale, depth):
    """(params, plan, exchange) -> `Solution` on one device."""
    model = smooth(depth)

    def run(params, plan, exchange):
        given = model._replace(params=params), NOISE, LABEL, plan, exchange
        return emulate_with(*given, guidance=scale)._replace(path=None)

    return jax.jit(run)


def on_mesh(plan=PLAN, sizes=None, attention="stale", depth=3, **options):
    mesh = parallel.make_mesh(**sizes or {"seq": 4})
    return parallel.sample(smooth(depth), NOISE, LABEL, plan, mesh, attention=attention, **options)


def assert_as_emulated(plan=PLAN, sizes=None, guidance=1.0, gather=None, depth=3, **options):
    """The same images to 1e-12, the same synchronous rows, the same meter.

    Returns the run on the mesh.
    """
    sizes = sizes or {"seq": 4}
    found = on_mesh(plan, sizes, guidance=guidance, gather=gather, depth=depth, **options)
    emulated = exchange(plan, 24, sizes["seq"], slots=8, **options)
    wanted = emulation(guidance, depth)(smooth(depth).params, plan, emulated)
    np.testing.assert_allclose(found.x, wanted.x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.stats.synced, wanted.stats.synced)
    for name in ("staleness", "layers", "worst"):
        # Rows of padding move nothing: their squares are rounding errors of 1e-19 or less.
        pair = (np.square(getattr(each.stats, name)) for each in (found, wanted))
        np.testing.assert_allclose(*pair, rtol=1e-9, atol=1e-24, err_msg=name)
    return found


# -- policies


POLICIES = {
    "cool-down": policies.cool_down(STEPS, 2),
    "window": policies.window(PLAN, 0.7, 0.4),
    "every": policies.every(STEPS, 3),
    # Near the staleness of this network, so that some steps are synchronous and some are not.
    "tolerance": policies.tolerance(STEPS, 0.077),
    "both": np.minimum(policies.tolerance(STEPS, 0.08), policies.cool_down(STEPS, 1)),
}


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_policy_is_as_emulated(policy):
    found = assert_as_emulated(policy=policy)
    assert 0 < found.stats.synced.sum() < STEPS
    # There is staleness to get wrong.
    assert np.abs(found.x - on_mesh(attention="gather").x).max() > 1e-4


def test_policies_are_numbers_of_one_program():
    run = parallel.program(
        smooth(3), NOISE, LABEL, PLAN, parallel.make_mesh(seq=4), attention="stale"
    )[0]
    on_mesh()
    before = run._cache_size()
    for policy in POLICIES.values():
        on_mesh(policy=policy)
    assert run._cache_size() == before


def test_a_tighter_tolerance_never_synchronises_less():
    tolerances = (1.0, 0.08, 0.077, 0.074, 1e-9)
    runs = [on_mesh(policy=policies.tolerance(STEPS, tol)) for tol in tolerances]
    counts = [int(run.stats.synced.sum()) for run in runs]
    assert counts == sorted(counts)
    assert counts[0] == 2  # the first step, and the second: before it nothing could be metered
    assert counts[-1] == STEPS
    assert len(set(counts)) >= 3


def test_a_tolerance_of_almost_nothing_is_synchronous_bit_for_bit():
    exact = on_mesh(attention="gather")
    # 1e-300 is less than any staleness that is not 0.
    for policy in (policies.tolerance(STEPS, 1e-300), policies.warm_up(STEPS, STEPS)):
        found = on_mesh(policy=policy)
        np.testing.assert_array_equal(found.x, exact.x)
        assert found.stats.synced.all() and not found.stats.staleness.any()
        np.testing.assert_array_equal(found.stats.bytes, exact.stats.bytes)


def test_warm_up_is_a_policy():
    first, second = on_mesh(warmup=3), on_mesh(policy=policies.warm_up(STEPS, 3))
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.stats.worst, second.stats.worst)


# -- forecasts and fewer bits, on the axes of the mesh


def test_tuned_forecast_in_eight_bits_is_as_emulated():
    """Guided by the cfg axis, with a tolerance."""
    options = {
        "forecast": "tuned",
        "comm_dtype": "int8",
        "policy": policies.tolerance(STEPS, 0.095),
    }
    sizes = {"cfg": 2, "seq": 4}
    found = assert_as_emulated(sizes=sizes, guidance=1.7, **options)
    again = on_mesh(sizes=sizes, guidance=1.7, **options)
    # No buffer survives a call.
    np.testing.assert_array_equal(again.x, found.x)


@pytest.mark.slow
def test_residual_in_four_bits_is_as_emulated():
    """Of the parabola, with a cool-down."""
    found = assert_as_emulated(
        forecast=2, comm_dtype="int4", residual=True, policy=policies.cool_down(STEPS, 1)
    )
    assert found.stats.synced.tolist() == [True, False, False, False, False, True]


@pytest.mark.slow
@pytest.mark.parametrize("seq", [2, 5, 8])  # 24 tokens on 5 devices: the last has one of padding
@pytest.mark.parametrize(
    "options",
    [
        {"forecast": 1},
        {"forecast": 2, "gather": "early"},
        {"forecast": "tuned"},
        {"forecast": "tuned", "gains_per": "token"},
        {"forecast": "tuned", "gather": "early", "comm_dtype": "bfloat16"},
        {"comm_dtype": "int4"},
        {"comm_dtype": "int8", "gather": "early"},
        {"forecast": "tuned", "residual": True, "comm_dtype": "int4"},
        {"forecast": 1, "residual": True, "comm_dtype": "bfloat16"},
        {"correction": 1.0},
        {"forecast": 1, "correction": 0.3, "gather": "early"},
        {"forecast": 1, "correction": 0.7, "residual": True},
        {"forecast": "tuned", "correction": 0},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_every_exchange_is_as_emulated(seq, options):
    assert_as_emulated(sizes={"seq": seq}, policy=policies.every(STEPS, 4), **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "plan", [HEUN, SINGLE, plans.pad(SINGLE, 12)], ids=["heun", "2S", "padded"]
)
@pytest.mark.parametrize(
    "options",
    [
        {"forecast": 1},
        {"forecast": "tuned", "comm_dtype": "int8"},
        {"forecast": 1, "gather": "early"},
        {"forecast": 1, "residual": True, "comm_dtype": "int4"},
    ],
    ids=["late", "tuned", "early", "residual"],
)
def test_plan_of_several_rows_a_step_is_as_emulated(plan, options):
    """With a tolerance all rows of a step follow the meter of the last row of the step before."""
    for policy in (policies.tolerance(plan.steps, 0.08), policies.cool_down(plan.steps, 1)):
        assert_as_emulated(plan, policy=policy, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sizes",
    [{"seq": 2}, {"data": 2, "seq": 2}, {"cfg": 2, "seq": 2}, {"data": 2, "cfg": 2, "seq": 2}],
)
def test_guidance_and_the_data_axis_are_as_emulated(sizes):
    """The worst sample decides, of all devices and of both branches of guidance."""
    options = {
        "forecast": "tuned",
        "comm_dtype": "int8",
        "policy": policies.tolerance(STEPS, 0.095),
    }
    assert_as_emulated(sizes=sizes, guidance=1.7, **options)


@pytest.mark.slow
@pytest.mark.parametrize("gather", ["late", "early"])
def test_forecast_of_a_network_of_one_layer_is_as_emulated(gather):
    assert_as_emulated(depth=1, forecast=1, gather=gather)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"forecast": 1}, {"forecast": "tuned"}, {"comm_dtype": "int4"}], ids=str
)
def test_the_methods_of_exchange_give_the_same_samples(options):
    """They make one forecast, a layer earlier or later, or at the receiver in another order."""
    late = on_mesh(gather="late", **options)
    np.testing.assert_allclose(on_mesh(gather="early", **options).x, late.x, rtol=0, atol=1e-13)
    # Rounding an error of a forecast differs from rounding the forecast.
    if "comm_dtype" not in options:
        np.testing.assert_allclose(on_mesh(residual=True, **options).x, late.x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("refresh", [2, None])
def test_correction_of_values_that_are_held_for_many_rows_is_as_emulated(refresh):
    """The miss is that of the last copy, however old it is."""
    assert_as_emulated(refresh=refresh, correction=0.5, warmup=2)


def test_fractions_of_the_correction_are_numbers_of_one_program():
    run = parallel.program(
        smooth(3), NOISE, LABEL, PLAN, parallel.make_mesh(seq=4), attention="stale"
    )[0]
    ends = [np.asarray(on_mesh(correction=0.3).x)]
    before = run._cache_size()
    ends += [np.asarray(on_mesh(correction=fraction).x) for fraction in (0.6, 1.0)]
    assert run._cache_size() == before
    # Each fraction gives its own samples.
    assert np.abs(ends[0] - ends[1]).max() > 1e-6
    assert np.abs(ends[1] - ends[2]).max() > 1e-6
    np.testing.assert_array_equal(on_mesh(correction=0).x, on_mesh().x)


# Numbers for each step: an own weight for the newest keys and values, and an own correction.
OWN = {
    "forecast": Forecast(
        forecast(PLAN, np.zeros(STEPS, int), "tuned").weights + 0.02 * np.eye(STEPS, 4, -2),
        *forecast(PLAN, np.zeros(STEPS, int), "tuned")[1:],
    ),
    "correction": np.linspace(0.1, 0.9, STEPS),
}


@pytest.mark.parametrize("gather", ["late", pytest.param("early", marks=pytest.mark.slow)])
def test_forecast_and_correction_of_each_step_are_as_emulated(gather):
    found = assert_as_emulated(gather=gather, policy=policies.every(STEPS, 4), **OWN)
    # Each of the two acts.
    for usual in ({"forecast": "tuned"}, {"correction": 0.4}):
        other = on_mesh(policy=policies.every(STEPS, 4), **OWN | usual)
        assert np.abs(found.x - other.x).max() > 1e-6


def test_one_correction_for_all_steps_is_the_same_one_for_each():
    each = on_mesh(correction=[0.3] * STEPS)
    np.testing.assert_array_equal(each.x, on_mesh(correction=0.3).x)


# -- messages


@functools.partial(jax.jit, static_argnums=1)
def sent(values, comm_dtype):
    """(the message, the numbers that arrive)."""
    message = encoded(values, comm_dtype)
    return message, decoded(message, comm_dtype, values)


@pytest.mark.parametrize(("dtype", "size"), [(jnp.float64, 5), (jnp.float32, 8), (jnp.bfloat16, 1)])
@pytest.mark.parametrize("comm_dtype", BITS)
def test_message_has_the_rounded_numbers_in_the_bytes_of_the_formula(comm_dtype, size, dtype):
    normal = np.random.default_rng(size).normal(size=(2, 3, 4, size))
    values = normal * 10.0 ** np.arange(-2, 2)[:, None]  # each head has a scale of its own
    values[0, 0, 0] = 0
    values = jnp.asarray(values, dtype)
    message, found = sent(values, comm_dtype)

    @jax.jit
    def short(x):
        wide = x.astype(jnp.promote_types(dtype, jnp.float32))
        return rounded(wide, BITS[comm_dtype]).astype(dtype)

    assert found.dtype == dtype
    np.testing.assert_array_equal(found, short(values))
    assert message.nbytes == 24 * bytes_of(size, comm_dtype, values.dtype.itemsize)


@pytest.mark.parametrize("comm_dtype", ["int8", "int4"])
def test_rounding_errs_by_half_a_step_of_its_head_and_token(comm_dtype):
    values = np.random.default_rng(0).normal(size=(50, 6))
    # The largest number of a head of a token is the largest integer.
    step = np.abs(values).max(-1, keepdims=True) / {"int8": 127, "int4": 7}[comm_dtype]
    error = np.abs(sent(values, comm_dtype)[1] - values)
    assert np.all(error <= 0.5 * step * (1 + 1e-6)) and error.max() > 0.4 * step.min()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("comm_dtype", BITS)
def test_what_is_not_finite_does_not_arrive_as_a_number(comm_dtype, bad):
    values = jnp.array([[1.0, bad, 2.0], [1.0, 2.0, 3.0]])
    _, found = sent(values, comm_dtype)
    assert not np.isfinite(found[0]).all() and np.isfinite(found[1]).all()


@pytest.mark.parametrize(
    ("options", "sync", "stale", "last"),
    [
        ({"forecast": "tuned", "comm_dtype": "int8", "cfg": True}, ["f64"], ["s8"], 1),
        pytest.param({"forecast": 1}, ["f64"], ["f64"], 1, marks=pytest.mark.slow),
        pytest.param({"comm_dtype": "bfloat16"}, ["f64"], ["u16"], 1, marks=pytest.mark.slow),
        pytest.param(
            {"comm_dtype": "int4", "gather": "early"},
            ["f64", "s8"],
            ["s8"],
            0,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"comm_dtype": "int4", "residual": True}, ["f64"], ["s8"], 0, marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_program_has_the_gathers_and_bytes_of_the_docstrings(options, sync, stale, last):
    """The gathers of a layer in both kinds of row, those after a synchronous row, and the meter.

    sync and stale are the dtypes of a layer's gathers in the two kinds of row, and last is the
    number of gathers after the last layer of a synchronous row.
    """
    options = dict(options)
    has_branches = options.pop("cfg", False)  # of guidance, over devices
    scale = 1.7 if has_branches else 1.0
    mesh = parallel.make_mesh(cfg=2 if has_branches else 1, seq=4)
    run, args, schedule = parallel.program(
        smooth(3), NOISE, LABEL, PLAN, mesh, attention="stale", guidance=scale, **options
    )
    text = run.lower(*args).compile().as_text()
    found = collectives(text)

    # How often: three layers in each of STEPS rows.
    kinds = [[(c.operation, c.times) for c in found if c.branch == branch] for branch in (0, 1)]
    assert kinds == [
        [("all-gather", 3 * STEPS)] * len(sync) + [("all-gather", STEPS)] * last,
        [("all-gather", 3 * STEPS)] * len(stale),
    ]
    others = sorted((c.operation, c.times) for c in found if c.branch is None)
    guided = [("all-reduce", STEPS)] * (scale != 1)
    assert others == [("all-gather", 1), ("all-reduce", 1), ("all-reduce", STEPS), *guided]

    # How many bytes a row, stale and synchronous.
    method = "residual" if options.get("residual") else options.get("gather", "late")
    rows_used = schedule.forecast.weights.shape[1]
    moved = [
        sum(c.times * c.received for c in found if c.branch == branch) // STEPS for branch in (1, 0)
    ]
    formula = traffic.stale_row(
        smooth(3).card.config,
        NOISE.shape,
        mesh,
        scale,
        NOISE.dtype,
        method,
        options.get("comm_dtype"),
        rows_used,
    )
    assert tuple(moved) == formula

    # In which format, and whether a gather waits for its own layer.
    types = {
        line.split(" = ")[1].lstrip("(").split("[")[0]
        for line in text.splitlines()
        if " all-gather(" in line
    }
    assert types == {*sync, *stale}
    assert [c.waits for c in found if c.branch == 1] == [method != "late"]


def test_bytes_are_of_the_rows_that_were_synchronous():
    found = on_mesh(
        policy=policies.tolerance(STEPS, 0.095),
        comm_dtype="int8",
        forecast="tuned",
        sizes={"cfg": 2, "seq": 4},
        guidance=1.7,
    )
    stale, sync = traffic.stale_row(
        smooth(3).card.config,
        NOISE.shape,
        parallel.make_mesh(cfg=2, seq=4),
        1.7,
        NOISE.dtype,
        "late",
        "int8",
        4,
    )
    assert stale < sync / 2  # 6 bytes for 2 numbers of 8 bytes in this network
    assert found.stats.bytes.tolist() == np.where(found.stats.synced, sync, stale).tolist()


# -- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": np.zeros(3)}, r"policy has shape \(3,\) for a plan of 6 steps"),
        ({"policy": np.full(STEPS, 0.1)}, "wanted ALWAYS"),
        ({"policy": policies.tolerance(STEPS, 0.1) * np.nan}, "policy has shape"),
        ({"policy": policies.warm_up(STEPS, 2), "warmup": 2}, "warmup=2 and a policy"),
        ({"policy": policies.warm_up(STEPS, 2), "refresh": 2}, "refresh=2 with a policy"),
        ({"forecast": 1, "refresh": None}, "refresh=None with a policy, forecast or residual"),
        ({"residual": True, "refresh": 2}, "refresh=2 with"),
        ({"residual": True, "gather": "late"}, "residual=True.*take gather='early'"),
        ({"forecast": 3}, "forecast=3"),
        ({"forecast": "tunes"}, "did you mean 'tuned'"),
        ({"correction": -0.1}, r"correction=-0.1; wanted a fraction from 0 to 1"),
        ({"correction": 2}, "correction=2"),
        ({"correction": "all"}, "correction='all'"),
        ({"correction": float("nan")}, "correction=nan"),
        ({"correction": [0.5, 0.5]}, "6 of them for 6 steps"),
        ({"forecast": Forecast(np.ones((5, 2)), None, None)}, r"wanted \(6, R\)"),
        ({"forecast": Forecast(np.ones((6, 2)), np.ones((6, 2)), None)}, "wanted both None"),
        ({"forecast": Forecast(np.full((6, 2), np.nan), None, None)}, "not finite"),
        ({"forecast": OWN["forecast"], "refresh": 2}, "refresh=2 with a policy, forecast"),
        ({"attention": "ring", "forecast": OWN["forecast"]}, "with attention='ring'"),
        ({"attention": "ring", "correction": 0.5}, "correction=0.5 with attention='ring'"),
        ({"comm_dtype": "int9"}, "comm_dtype='int9'"),
        ({"comm_dtype": 4}, "comm_dtype=4"),
        ({"gather": "lat"}, "did you mean 'late'"),
        ({"gains_per": "layer"}, "gains_per='layer' is not known"),
        ({"gains_per": "devices"}, "did you mean 'device'"),
        (
            {"attention": "gather", "policy": policies.warm_up(STEPS, 2)},
            "policy=.*exact in every row",
        ),
        ({"attention": "ring", "forecast": 1}, "forecast=1 with attention='ring'"),
        ({"attention": "gather", "comm_dtype": "int8"}, "comm_dtype='int8' with"),
        ({"attention": "ulysses", "residual": True}, "residual=True with"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(options, words):
    given = {"attention": "stale"} | options
    with pytest.raises(ValueError, match=words):
        parallel.program(smooth(3), NOISE, LABEL, PLAN, parallel.make_mesh(seq=4), **given)
