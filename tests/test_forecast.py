"""Forecasts: polynomials on any grid, least squares as numpy finds them, and the order that they give back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import Linear, grids, plans
from flowjax.parallel.emulate import exchange
from flowjax.parallel.forecast import FORECASTS, Forecast, fitted, forecast, predict
from tests.test_emulate import SPAN, SUBJECTS, TOKENS, slope

ROWS = 9
UNEVEN = np.array([1.0, 0.93, 0.9, 0.71, 0.6, 0.42, 0.37, 0.2, 0.11, 0.05])
PLAN = plans.euler(UNEVEN)
ALONE = np.zeros(ROWS, int)  # every row is of stage 0
DRAW = np.random.default_rng(0)
SHAPE = (2, 3, 4, 2, 5)  # layers, samples, tokens, heads, numbers of a head


def each(sums):
    """Nobody shares."""
    return sums


def history(values, row, depth):
    """The values (rows, ...) of the `depth` rows before `row`, newest first, zeros where there is none: (M, ...)."""
    before = [values[row - 1 - m] if row - 1 - m >= 0 else np.zeros_like(values[0]) for m in range(depth)]
    return jnp.asarray(np.stack(before))


def depth_of(told):
    return told.weights.shape[1]


# ---- polynomials


@pytest.mark.parametrize("order", [0, 1, 2])
def test_weights_are_those_of_the_polynomial_through_what_is_known(order):
    told = forecast(PLAN, ALONE, order)
    values = DRAW.standard_normal(ROWS)
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
    assert told.weights[4] @ values[[2, 0, 0]] == pytest.approx(2 * values[2] - values[0])  # the line through two
    for row in range(6, plan.rows):
        assert told.weights[row] @ values[[row - 2, row - 4, row - 6]] == pytest.approx(values[row], abs=1e-12)


@pytest.mark.parametrize("kind", FORECASTS)
def test_rows_that_pad_a_plan_are_forecast_finitely(kind):
    padded = plans.pad(PLAN, ROWS + 4)
    told = forecast(padded, np.zeros(padded.rows, int), kind)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(told._replace(tune=told.tune and told.tune[:3])))
    np.testing.assert_allclose(told.weights[:ROWS], forecast(PLAN, ALONE, kind).weights)
    np.testing.assert_allclose(told.weights[1:].sum(1), 1)


# ---- gains


@pytest.mark.parametrize("gains", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_gains_are_numpys_least_squares(gains, shared, ridge):
    """Each token's, or all tokens' of a sample: a system with a line for each number and one for each gain's ridge."""
    told = forecast(PLAN, ALONE, "tuned", gains=gains, ridge=ridge)
    keys, values = DRAW.standard_normal((2, ROWS, *SHAPE))
    pool = (lambda sums: jnp.broadcast_to(sums.sum(2, keepdims=True), sums.shape)) if shared else each
    for row in range(3, ROWS):
        past = [history(x, row, gains + 2) for x in (keys, values)]
        steps = [[h[m] - h[m + 1] for h in past] for m in range(gains + 1)]
        found = fitted(told.tune, row, steps, pool)
        known = min(gains, row - 2)
        h = UNEVEN[row] - UNEVEN[row - 1]
        slopes = np.stack([
            np.stack([x[row - 1 - m] - x[row - 2 - m] for x in (keys, values)]) / (UNEVEN[row - 1 - m] - UNEVEN[row - 2 - m])
            for m in range(known + 1)
        ])  # fmt: skip
        for layer, sample, token in np.ndindex(SHAPE[:3]):
            who = slice(None) if shared else slice(token, token + 1)
            system = slopes[:, :, layer, sample, who].reshape(known + 1, -1)
            # the slopes' common length, the last step's, multiplies both sides, and so the ridge as well
            left, right = system[1:].T, system[0]
            added = ridge * np.sum(left**2) / gains
            left = np.concatenate([left, np.sqrt(added) * np.eye(known)])
            wanted = np.linalg.lstsq(left, np.concatenate([right, np.zeros(known)]), rcond=None)[0]
            for m, gain in enumerate(wanted):
                step = UNEVEN[row - 1 - m] - UNEVEN[row - 2 - m]
                assert found[m][layer, sample, token] == pytest.approx(gain * h / step, rel=1e-9, abs=1e-12)
        assert all(not np.any(found[m]) for m in range(known, gains))


def test_gains_keep_within_their_bounds():
    told = forecast(PLAN, ALONE, "tuned", gains=1, ridge=0.0, bounds=(0.0, 1.0))
    values = 2.0 ** np.arange(ROWS)[:, None, None, None, None] * np.ones((ROWS, 1, 1, 1, 1))  # grows: a gain above 1
    grows = predict(told, 5, [history(values, 5, 3)], each)[0]
    falls = predict(told, 5, [history(values * (-1.0) ** np.arange(ROWS)[:, None, None, None, None], 5, 3)], each)[0]
    ahead = (UNEVEN[5] - UNEVEN[4]) / (UNEVEN[4] - UNEVEN[3])
    assert grows.item() == pytest.approx(16 + ahead * 8)
    assert falls.item() == pytest.approx(16)  # an oscillation switches it off


# ---- what is forecast exactly


@pytest.mark.parametrize("kind", FORECASTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, jnp.bfloat16])
def test_what_rests_is_forecast_exactly(kind, dtype):
    told = forecast(PLAN, ALONE, kind)
    values = jnp.asarray(DRAW.standard_normal(SHAPE), dtype)
    tolerance = 4 * jnp.finfo(jnp.promote_types(dtype, np.float32)).eps  # the polynomials' weights are rounded
    for row in range(1, ROWS):
        past = jnp.stack([values if m < row else jnp.zeros_like(values) for m in range(depth_of(told))])
        found = predict(told, row, (past, 3 * past), each)
        assert found[0].dtype == dtype
        for one, wanted in zip(found, (values, 3 * values), strict=True):
            np.testing.assert_allclose(
                np.asarray(one, np.float64), np.asarray(wanted, np.float64), rtol=0, atol=100 * float(tolerance)
            )


def test_what_moves_evenly_has_a_gain_of_one():
    """On any grid: the gain multiplies what the next step would add if all went on as before."""
    told = forecast(PLAN, ALONE, "tuned", gains=1, ridge=0.0)
    start, speed = DRAW.standard_normal((2, *SHAPE))
    line = start + UNEVEN[:ROWS, None, None, None, None, None] * speed
    for row in range(3, ROWS):
        found = predict(told, row, [history(line, row, 3)], each)[0]
        np.testing.assert_allclose(found, line[row], rtol=0, atol=1e-12)
    two = predict(told, 2, [history(line, 2, 3)], each)[0]
    assert np.array_equal(two, line[1])  # two rows tell no gain: they are held


def test_layers_and_samples_never_share_by_themselves():
    told = forecast(PLAN, ALONE, "tuned")
    values = DRAW.standard_normal((ROWS, *SHAPE))
    other = values.copy()
    other[:, 1] *= 7.0  # another layer
    other[:, :, 2] = 0.0  # another sample
    one, two = (predict(told, 6, [history(x, 6, depth_of(told))], each)[0] for x in (values, other))
    assert np.array_equal(one[0, :2], two[0, :2])
    assert np.abs(one[1] - two[1]).max() > 0.1


# ---- the order that they give back

STEPS = (64, 128)
HELD = Forecast(np.eye(1, 2).repeat(STEPS[-1], 0), None)  # as deep a history as the line's, so one program serves both


@functools.cache
def errors(subject):
    """{(order of the forecast, devices): RMS distance to the own synchronous run}, of 64 and of 128 steps of 2M."""
    cases = [(order, devices) for devices in (1, 2, 8) for order in (0, 1)]
    made = [plans.pad(plans.dpm_solver_pp(Linear(), grids.uniform(n, **SPAN), 2), STEPS[-1]) for n in STEPS]
    told = [exchange(plan, TOKENS, n, slots=8, forecast=1) for _, n in cases for plan in made]
    told = [
        x if order else x._replace(forecast=HELD)
        for x, order in zip(told, np.repeat([c[0] for c in cases], 2), strict=True)
    ]
    found = subject(*(jax.tree.map(lambda *leaves: np.stack(leaves), *many) for many in (made * len(cases), told)))
    ends = np.asarray(found).reshape(len(cases), len(STEPS), -1)
    return dict(zip(cases, np.sqrt(np.mean((ends - ends[:1]) ** 2, axis=-1)), strict=True))


@SUBJECTS
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize("order", [0, 1])
def test_a_linear_forecast_restores_the_second_order_that_holding_loses(subject, devices, order):
    """Away from the ends of time, in float64: holding is first order, a linear forecast second, as the solver is."""
    assert slope(errors(subject)[order, devices]) == pytest.approx(order + 1, abs=0.1)


@SUBJECTS
def test_a_forecast_changes_nothing_where_nobody_is_stale(subject):
    assert errors(subject)[1, 1].max() < 1e-13
