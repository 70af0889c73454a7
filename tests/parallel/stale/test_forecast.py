"""Forecasts: polynomials on any grid, least squares as numpy finds them, and the order that they give back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.staleness import loop
from flowjax import Linear, grids, plans
from flowjax.parallel.emulation.network import exchange
from flowjax.parallel.stale.forecast import FORECASTS, MOST, Forecast, forecast, predict
from tests.parallel.emulation.test_network import SPAN, TOKENS, of_field, of_network, slope

ROWS = 9
UNEVEN = np.array([1.0, 0.93, 0.9, 0.71, 0.6, 0.42, 0.37, 0.2, 0.11, 0.05])
PLAN = plans.euler(UNEVEN)
ALONE = np.zeros(ROWS, int)  # every row is of stage 0
SHAPE = (2, 3, 4, 2, 5)  # layers, samples, tokens, heads, numbers of a head


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def each(sums):
    """Nobody shares."""
    return sums


def history(values, row, depth):
    """The values (rows, ...) of the `depth` rows before `row`, newest first, zeros where there is none: (M, ...)."""
    before = [
        values[row - 1 - m] if row - 1 - m >= 0 else np.zeros_like(values[0]) for m in range(depth)
    ]
    return jnp.asarray(np.stack(before))


def depth_of(told):
    return told.weights.shape[1]


# ---- polynomials


@pytest.mark.parametrize("order", [0, 1, 2])
def test_weights_are_those_of_the_polynomial_through_what_is_known(order):
    told = forecast(PLAN, ALONE, order)
    values = draw(ROWS)
    for row in range(1, ROWS):
        count = min(order + 1, row)  # fewer at the beginning
        nodes = slice(row - count, row)
        wanted = np.polyval(np.polyfit(UNEVEN[nodes], values[nodes], count - 1), UNEVEN[row])
        found = told.weights[row] @ np.asarray(history(values, row, order + 1))
        assert found == pytest.approx(wanted, rel=1e-10, abs=1e-10)


def test_each_stage_has_its_own_polynomial():
    """Both rows of Heun's steps on parabolas of their own, forecast exactly as soon as three of a kind are known."""
    plan = plans.heun(grids.uniform(6))
    stage = np.arange(plan.rows) % 2
    values = np.where(stage, 3 - plan.t + plan.t**2, 1 + 2 * plan.t - 5 * plan.t**2)
    told = forecast(plan, stage, 2)
    assert told.weights[4] @ values[[2, 0, 0]] == pytest.approx(
        2 * values[2] - values[0]
    )  # the line through two
    for row in range(6, plan.rows):
        assert told.weights[row] @ values[[row - 2, row - 4, row - 6]] == pytest.approx(
            values[row], abs=1e-12
        )


@pytest.mark.parametrize("kind", FORECASTS)
def test_rows_that_pad_a_plan_are_forecast_finitely(kind):
    padded = plans.pad(PLAN, ROWS + 4)
    told = forecast(padded, np.zeros(padded.rows, int), kind)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(told))
    np.testing.assert_allclose(told.weights[:ROWS], forecast(PLAN, ALONE, kind).weights)
    np.testing.assert_allclose(told.weights[1:].sum(1), 1)


# ---- gains


def expected(values, row, when):
    """What 3/4 of the slope of the step before row `when`, and 1/4 of the one before that, add until then, at a gain of 1."""
    slope = lambda i: (values[i] - values[i - 1]) / (UNEVEN[i] - UNEVEN[i - 1])
    newest = when - 1
    both = slope(newest) if row == 3 else 0.75 * slope(newest) + 0.25 * slope(newest - 1)
    return both * (UNEVEN[when] - UNEVEN[newest])


@pytest.mark.parametrize("shared", [False, True])
def test_gains_are_numpys_least_squares(shared):
    """Each token's, or all tokens' of a sample: what would have made of the slope before the last step that step. In row 3
    two slopes are known, one for each."""
    told = forecast(PLAN, ALONE, "tuned")
    keys, values = np.cumsum(draw(2, ROWS, *SHAPE) + 0.5, axis=1)
    pool = (
        (lambda sums: jnp.broadcast_to(sums.sum(2, keepdims=True), sums.shape)) if shared else each
    )
    gains = []
    for row in range(3, ROWS):
        found = predict(told, row, [history(x, row, 4) for x in (keys, values)], pool)
        before, change = (
            np.stack([expected(x, row, when) for x in (keys, values)]) for when in (row - 1, row)
        )
        came = np.stack([x[row - 1] - x[row - 2] for x in (keys, values)])
        for layer, sample, token in np.ndindex(SHAPE[:3]):
            who = slice(None) if shared else token
            left, right = (x[:, layer, sample, who].reshape(-1, 1) for x in (before, came))
            gains.append(np.clip(np.linalg.lstsq(left, right, rcond=None)[0].item(), 0, MOST))
            for leaf, x in enumerate((keys, values)):
                wanted = (
                    x[row - 1, layer, sample, token]
                    + gains[-1] * change[leaf, layer, sample, token]
                )
                np.testing.assert_allclose(
                    found[leaf][layer, sample, token], wanted, rtol=1e-10, atol=1e-10
                )
    assert shared or (min(gains) == 0 and max(gains) == MOST)  # single tokens meet both bounds
    assert len(set(gains)) > 10


@pytest.mark.parametrize(
    ("ratio", "gain"), [(1.0, 1.0), (-1.0, 0.0), (2.0, 16 / 7), (0.8, 128 / 170)]
)
def test_a_gain_follows_what_speeds_up_and_drops_what_swings(ratio, gain):
    """Of steps r^i the last is 4 r^2/(3 r + 1) times 3/4 of the one before it and 1/4 of the one before that."""
    told = forecast(plans.euler(grids.uniform(ROWS)), ALONE, "tuned")
    values = np.cumsum(ratio ** np.arange(ROWS)).reshape(ROWS, 1, 1, 1, 1)
    found = predict(told, 6, [history(values, 6, 4)], each)[0].item()
    step = 0.75 * ratio**5 + 0.25 * ratio**4
    assert found == pytest.approx(values[5].item() + min(gain, MOST) * step)


def test_where_nothing_changed_nothing_is_added():
    told = forecast(PLAN, ALONE, "tuned")
    rested = np.ones((ROWS, 1, 1, 1, 1))
    rested[5] = 3.0  # moves for the first time
    assert predict(told, 6, [history(rested, 6, 4)], each)[0].item() == 3.0


# ---- what is forecast exactly


@pytest.mark.parametrize("kind", FORECASTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, jnp.bfloat16])
def test_what_rests_is_forecast_exactly(kind, dtype):
    told = forecast(PLAN, ALONE, kind)
    values = jnp.asarray(draw(*SHAPE), dtype)
    tolerance = (
        4 * jnp.finfo(jnp.promote_types(dtype, np.float32)).eps
    )  # the polynomials' weights are rounded
    for row in range(1, ROWS):
        past = jnp.stack(
            [values if m < row else jnp.zeros_like(values) for m in range(depth_of(told))]
        )
        found = predict(told, row, (past, 3 * past), each)
        assert found[0].dtype == dtype
        for one, wanted in zip(found, (values, 3 * values), strict=True):
            np.testing.assert_allclose(
                np.asarray(one, np.float64),
                np.asarray(wanted, np.float64),
                rtol=0,
                atol=100 * float(tolerance),
            )


def test_what_moves_evenly_has_a_gain_of_one():
    """On any grid, from the third row on: the gain multiplies what would come if all went on as before."""
    told = forecast(PLAN, ALONE, "tuned")
    start, speed = draw(2, *SHAPE)
    line = start + UNEVEN[:ROWS, None, None, None, None, None] * speed
    for row in range(2, ROWS):
        np.testing.assert_allclose(
            predict(told, row, [history(line, row, 4)], each)[0], line[row], rtol=0, atol=1e-12
        )
    assert np.array_equal(predict(told, 1, [history(line, 1, 4)], each)[0], line[0])


def test_layers_and_samples_never_share_by_themselves():
    told = forecast(PLAN, ALONE, "tuned")
    values = draw(ROWS, *SHAPE)
    other = values.copy()
    other[:, 1] *= 7.0  # another layer
    other[:, :, 2] = 0.0  # another sample
    one, two = (predict(told, 6, [history(x, 6, depth_of(told))], each)[0] for x in (values, other))
    assert np.array_equal(one[0, :2], two[0, :2])
    assert np.abs(one[1] - two[1]).max() > 0.1


# ---- the order that they give back

SUBJECTS = pytest.mark.parametrize(
    "subject",
    [pytest.param(of_network, marks=pytest.mark.slow), of_field],
    ids=["network", "field"],
)
STEPS = (64, 128)
KINDS = (0, 1, "tuned")


def alike(told, depth=4):
    """The same forecast in tables as deep as a tuned one's and with a gain, so that one program serves all kinds."""
    weights = np.pad(told.weights, ((0, 0), (0, depth - told.weights.shape[1])))
    zeros = np.zeros((len(weights), depth - 1))
    return Forecast(weights, *((zeros, zeros) if told.change is None else told[1:]))


@pytest.mark.parametrize("kind, most", [(0, 2), (1, 4), (2, 8), ("tuned", 3)])
def test_forecasts_miss_of_a_wiggle_what_they_say(kind, most):
    """Even steps; a tuned forecast with a gain of 1. What it misses times the stale share says where loops grow."""
    told = alike(forecast(plans.euler(grids.uniform(ROWS)), ALONE, kind))
    changes = told.change[-1]
    assert loop.swing(told.weights[-1] + np.diff(changes, prepend=0, append=0)) == pytest.approx(
        most, rel=1e-5
    )


@functools.cache
def errors(subject):
    """{(kind, devices): RMS distance to the own synchronous run}, of 64 and of 128 steps of 2M."""
    cases = [
        (kind, devices) for devices in (1, 2, 8) for kind in KINDS[-1 if devices == 1 else 0 :]
    ]
    made = [
        plans.pad(plans.dpm_solver_pp(Linear(), grids.uniform(n, **SPAN), 2), STEPS[-1])
        for n in STEPS
    ]
    told = [
        exchange(plan, TOKENS, n, slots=8, forecast=kind, correction=0)
        for kind, n in cases
        for plan in made
    ]
    told = [x._replace(rows=x.rows._replace(forecast=alike(x.rows.forecast))) for x in told]
    plain = [exchange(plan, TOKENS, 1, slots=8) for plan in made]
    told += [x._replace(rows=x.rows._replace(forecast=alike(x.rows.forecast))) for x in plain]
    found = subject(
        *(
            jax.tree.map(lambda *leaves: np.stack(leaves), *many)
            for many in (made * (len(cases) + 1), told)
        )
    )
    ends = np.asarray(found).reshape(len(cases) + 1, len(STEPS), -1)
    return dict(zip(cases, np.sqrt(np.mean((ends - ends[-1:]) ** 2, axis=-1)), strict=False))


@SUBJECTS
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize(("kind", "order"), [(0, 1), (1, 2), ("tuned", 2)])
def test_forecasts_restore_the_second_order_that_holding_loses(subject, devices, kind, order):
    """Away from the ends of time, in float64, where the linear forecast is stable: the solver is of order 2."""
    assert slope(errors(subject)[kind, devices]) == pytest.approx(order, abs=0.1)


@SUBJECTS
def test_a_forecast_changes_nothing_where_nobody_is_stale(subject):
    assert errors(subject)["tuned", 1].max() < 1e-13
