"""Forecasts: polynomials on any grid, least squares as in numpy, and the restored order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.staleness import loop
from flowjax import Linear, grids, plans
from flowjax.parallel.emulation.network import exchange
from flowjax.parallel.stale.forecast import FORECASTS, MOST, Forecast, forecast, predict
from tests.parallel.cases import SPAN, TOKENS, of_field, of_network, slope

ROWS = 9
UNEVEN = np.array([1.0, 0.93, 0.9, 0.71, 0.6, 0.42, 0.37, 0.2, 0.11, 0.05])
PLAN = plans.euler(UNEVEN)
ALONE = np.zeros(ROWS, int)  # every row is of substep 0
SHAPE = (2, 3, 4, 2, 5)  # layers, samples, tokens, heads, numbers of a head


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def each(sums):
    """The pool in which each token has its own gain."""
    return sums


def history(values, row, depth):
    """The values (R, ...) of the R = `depth` rows before `row`, newest first; 0 where none is."""
    numbers = range(row - 1, row - 1 - depth, -1)
    before = [values[i] if i >= 0 else np.zeros_like(values[0]) for i in numbers]
    return jnp.asarray(np.stack(before))


def depth_of(forecasts):
    """R, the rows that a forecast uses."""
    return forecasts.weights.shape[1]


# ---- polynomials


@pytest.mark.parametrize("order", [0, 1, 2])
def test_weights_are_those_of_the_polynomial_through_the_known_values(order):
    forecasts = forecast(PLAN, ALONE, order)
    values = draw(ROWS)
    for row in range(1, ROWS):
        count = min(order + 1, row)  # fewer at the beginning
        nodes = slice(row - count, row)
        wanted = np.polyval(np.polyfit(UNEVEN[nodes], values[nodes], count - 1), UNEVEN[row])
        found = forecasts.weights[row] @ np.asarray(history(values, row, order + 1))
        assert found == pytest.approx(wanted, rel=1e-10, abs=1e-10)


def test_each_substep_has_its_own_polynomial():
    """Both rows of Heun's steps lie on parabolas, which three known values determine."""
    plan = plans.heun(grids.uniform(6))
    substep = np.arange(plan.rows) % 2
    values = np.where(substep, 3 - plan.t + plan.t**2, 1 + 2 * plan.t - 5 * plan.t**2)
    forecasts = forecast(plan, substep, 2)
    # Two known values give the line through them.
    line = forecasts.weights[4] @ values[[2, 0, 0]]
    assert line == pytest.approx(2 * values[2] - values[0])
    for row in range(6, plan.rows):
        found = forecasts.weights[row] @ values[[row - 2, row - 4, row - 6]]
        assert found == pytest.approx(values[row], abs=1e-12)


@pytest.mark.parametrize("kind", FORECASTS)
def test_rows_that_pad_a_plan_are_forecast_finitely(kind):
    padded = plans.pad(PLAN, ROWS + 4)
    forecasts = forecast(padded, np.zeros(padded.rows, int), kind)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(forecasts))
    np.testing.assert_allclose(forecasts.weights[:ROWS], forecast(PLAN, ALONE, kind).weights)
    np.testing.assert_allclose(forecasts.weights[1:].sum(1), 1)


# ---- gains


def expected(values, row, when):
    """The change S until row `when`, at a gain of 1.

    The slope is 3/4 that of the last step and 1/4 that of the step before. In row 3 the change and
    the one before it use the last slope alone, since the latter has no other.
    """

    def step_slope(i):
        return (values[i] - values[i - 1]) / (UNEVEN[i] - UNEVEN[i - 1])

    newest = when - 1
    both = step_slope(newest)
    if row > 3:
        both = 0.75 * step_slope(newest) + 0.25 * step_slope(newest - 1)
    return both * (UNEVEN[when] - UNEVEN[newest])


@pytest.mark.parametrize("shared", [False, True])
def test_gains_are_numpys_least_squares(shared):
    """The gain of a token, or of all tokens of a sample, brings S' nearest to the last change."""
    forecasts = forecast(PLAN, ALONE, "tuned")
    keys, values = np.cumsum(draw(2, ROWS, *SHAPE) + 0.5, axis=1)

    def pool(sums):
        return jnp.broadcast_to(sums.sum(2, keepdims=True), sums.shape) if shared else sums

    gains = []
    for row in range(3, ROWS):
        found = predict(forecasts, row, [history(x, row, 4) for x in (keys, values)], pool)
        before = np.stack([expected(x, row, row - 1) for x in (keys, values)])
        change = np.stack([expected(x, row, row) for x in (keys, values)])
        came = np.stack([x[row - 1] - x[row - 2] for x in (keys, values)])
        for layer, sample, token in np.ndindex(SHAPE[:3]):
            tokens = slice(None) if shared else token
            left, right = (x[:, layer, sample, tokens].reshape(-1, 1) for x in (before, came))
            fit = np.linalg.lstsq(left, right, rcond=None)[0].item()
            gains.append(np.clip(fit, 0, MOST))
            place = layer, sample, token
            for leaf, x in enumerate((keys, values)):
                wanted = x[row - 1][place] + gains[-1] * change[leaf][place]
                np.testing.assert_allclose(found[leaf][place], wanted, rtol=1e-10, atol=1e-10)
    assert shared or (min(gains) == 0 and max(gains) == MOST)  # single tokens meet both bounds
    assert len(set(gains)) > 10


@pytest.mark.parametrize(
    ("ratio", "gain"), [(1.0, 1.0), (-1.0, 0.0), (2.0, 16 / 7), (0.8, 128 / 170)]
)
def test_a_gain_follows_what_speeds_up_and_drops_what_swings(ratio, gain):
    """For steps r^i the best gain is r^2 / (3/4 r + 1/4): the last step over the expected one."""
    forecasts = forecast(plans.euler(grids.uniform(ROWS)), ALONE, "tuned")
    values = np.cumsum(ratio ** np.arange(ROWS)).reshape(ROWS, 1, 1, 1, 1)
    found = predict(forecasts, 6, [history(values, 6, 4)], each)[0].item()
    step = 0.75 * ratio**5 + 0.25 * ratio**4
    assert found == pytest.approx(values[5].item() + min(gain, MOST) * step)


def test_where_nothing_changed_nothing_is_added():
    forecasts = forecast(PLAN, ALONE, "tuned")
    rested = np.ones((ROWS, 1, 1, 1, 1))
    rested[5] = 3.0  # moves for the first time
    assert predict(forecasts, 6, [history(rested, 6, 4)], each)[0].item() == 3.0


# ---- what is forecast exactly


@pytest.mark.parametrize("kind", FORECASTS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, jnp.bfloat16])
def test_what_rests_is_forecast_exactly(kind, dtype):
    forecasts = forecast(PLAN, ALONE, kind)
    values = jnp.asarray(draw(*SHAPE), dtype)
    # The polynomials' weights are rounded.
    tolerance = 4 * jnp.finfo(jnp.promote_types(dtype, np.float32)).eps
    zeros = jnp.zeros_like(values)
    for row in range(1, ROWS):
        past = jnp.stack([values if j < row else zeros for j in range(depth_of(forecasts))])
        found = predict(forecasts, row, (past, 3 * past), each)
        assert found[0].dtype == dtype
        for one, wanted in zip(found, (values, 3 * values), strict=True):
            pair = np.asarray(one, np.float64), np.asarray(wanted, np.float64)
            np.testing.assert_allclose(*pair, rtol=0, atol=100 * float(tolerance))


def test_what_moves_evenly_has_a_gain_of_one():
    """On any grid, from the third row on."""
    forecasts = forecast(PLAN, ALONE, "tuned")
    start, speed = draw(2, *SHAPE)
    line = start + UNEVEN[:ROWS, None, None, None, None, None] * speed
    for row in range(2, ROWS):
        found = predict(forecasts, row, [history(line, row, 4)], each)[0]
        np.testing.assert_allclose(found, line[row], rtol=0, atol=1e-12)
    # One known row is held.
    assert np.array_equal(predict(forecasts, 1, [history(line, 1, 4)], each)[0], line[0])


def test_layers_and_samples_never_have_a_gain_in_common():
    forecasts = forecast(PLAN, ALONE, "tuned")
    values = draw(ROWS, *SHAPE)
    other = values.copy()
    other[:, 1] *= 7.0  # another layer
    other[:, :, 2] = 0.0  # another sample
    depth = depth_of(forecasts)
    one, two = (predict(forecasts, 6, [history(x, 6, depth)], each)[0] for x in (values, other))
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


def alike(forecasts, depth=4):
    """The same forecast in tables of the size of a tuned one, so that one program serves all."""
    weights = np.pad(forecasts.weights, ((0, 0), (0, depth - depth_of(forecasts))))
    if forecasts.change is not None:
        return forecasts._replace(weights=weights)
    zeros = np.zeros((len(weights), depth - 1))
    return Forecast(weights, zeros, zeros)


@pytest.mark.parametrize("kind, most", [(0, 2), (1, 4), (2, 8), ("tuned", 3)])
def test_the_error_for_an_oscillation_is_at_most_that_of_the_docstring(kind, most):
    """With even steps, and a gain of 1."""
    forecasts = alike(forecast(plans.euler(grids.uniform(ROWS)), ALONE, kind))
    # Weights of changes, as weights of values.
    changes = np.diff(forecasts.change[-1], prepend=0, append=0)
    assert loop.swing(forecasts.weights[-1] + changes) == pytest.approx(most, rel=1e-5)


def stacked(trees):
    """One pytree with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@functools.cache
def errors(subject):
    """{(kind, devices): RMS distance to the own synchronous run}, of 64 and of 128 steps of 2M."""
    cases = [("tuned", 1), *((kind, devices) for devices in (2, 8) for kind in KINDS)]
    made = [
        plans.pad(plans.dpm_solver_pp(Linear(), grids.uniform(n, **SPAN), 2), STEPS[-1])
        for n in STEPS
    ]
    exchanges = [
        exchange(plan, TOKENS, n, slots=8, forecast=kind, correction=0)
        for kind, n in cases
        for plan in made
    ]
    # The synchronous run comes last.
    exchanges += [exchange(plan, TOKENS, 1, slots=8) for plan in made]
    exchanges = [
        x._replace(rows=x.rows._replace(forecast=alike(x.rows.forecast))) for x in exchanges
    ]
    found = subject(stacked(made * (len(cases) + 1)), stacked(exchanges))
    ends = np.asarray(found).reshape(len(cases) + 1, len(STEPS), -1)
    distances = np.sqrt(np.mean((ends - ends[-1:]) ** 2, axis=-1))
    return dict(zip(cases, distances[:-1], strict=True))


@SUBJECTS
@pytest.mark.parametrize("devices", [2, 8])
@pytest.mark.parametrize(("kind", "order"), [(0, 1), (1, 2), ("tuned", 2)])
def test_forecasts_restore_the_second_order_that_holding_loses(subject, devices, kind, order):
    """Away from the ends of time, in float64, where the linear forecast is stable."""
    assert slope(errors(subject)[kind, devices]) == pytest.approx(order, abs=0.1)


@SUBJECTS
def test_a_forecast_changes_nothing_on_one_device(subject):
    assert errors(subject)["tuned", 1].max() < 1e-13
