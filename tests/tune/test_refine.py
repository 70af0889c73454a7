"""Levenberg-Marquardt on the numbers of a table: what it gains, and what it must not depend on."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, plans, sample, tune
from flowjax.distances import rms
from flowjax.schedules import Linear
from flowjax.tune.levenberg_marquardt import Search
from flowjax.tune.numbers import numbers_of
from flowjax.tune.runner import Runner
from flowjax.tune.truth import errors
from tests.tune.problems import (
    EIGENVALUES,
    HALF,
    RING,
    gaussian,
    gaussian_end,
    noise_in,
    numpy_noise,
    ring_starts,
    second_order,
)

GRID = grids.uniform(4)
refine = functools.partial(tune.refine, at_once=1000)  # few and large calls: the model is small


def error(model, plan, starts):
    return float(rms(errors(sample(model, starts.noise, plan).x, starts.exact)))


def gaussian_starts(seed=0, count=24):
    noise = numpy_noise(seed, count)
    return tune.Starts(noise, gaussian_end(noise))


def assert_same_plan(a, b, **tolerance):
    for x, y in zip(a, b):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.fixture(scope="module")
def on_the_ring():
    grid = grids.uniform(6)
    train, validation = ring_starts(0, 64), ring_starts(1, 32)
    found = refine(
        RING.velocity, second_order, grid, train, validation=validation, iterations=6, bound=None
    )
    return grid, found


def test_the_training_error_never_rises(on_the_ring):
    train = [iteration.train for iteration in on_the_ring[1].history]
    assert len(train) > 3 and np.all(np.diff(train) < 0)


def test_a_refined_table_beats_published_plans_on_unseen_starts(on_the_ring):
    grid, found = on_the_ring
    unseen = ring_starts(2, 64)
    tuned = error(RING.velocity, found.plan, unseen)
    assert tuned < 0.5 * error(RING.velocity, second_order(grid), unseen)
    assert tuned < 0.5 * error(RING.velocity, plans.adams_bashforth(grid, 3), unseen)


def test_the_plan_of_the_least_validation_error_is_returned(on_the_ring):
    _, found = on_the_ring
    least = min(iteration.validation for iteration in found.history)
    starts = ring_starts(1, 32)
    away = np.sort(errors(sample(RING.velocity, starts.noise, found.plan).x, starts.exact))
    # Without the worst tenth.
    assert float(rms(away[:29])) == pytest.approx(least, rel=1e-9)


def test_evaluations_are_counted(on_the_ring):
    spent = [iteration.evaluations for iteration in on_the_ring[1].history]
    # The start: its cost, its training and its validation error.
    assert spent[0] == 6 * (64 + 64 + 32) and np.all(np.diff(spent) > 0)


def test_a_search_goes_on_with_other_starts_from_the_table_that_it_has():
    few, many = ring_starts(0, 48), ring_starts(1, 96)
    runner = Runner(RING.velocity)
    numbers = numbers_of("test", second_order, GRID, ("times", "state", "outputs"))
    search = Search(runner, numbers, GRID, few, many, None, 1000)
    search.go(1)
    before = search.plan
    search.on(many)
    assert_same_plan(search.plan, before, atol=0)
    assert search.cost == pytest.approx(error(RING.velocity, before, many) ** 2, rel=1e-4)
    search.go(1)
    # The error that falls is that of the new starts.
    assert search.history[-1].train == pytest.approx(error(RING.velocity, search.plan, many))
    assert search.history[-1].train < error(RING.velocity, before, many)


def test_the_bound_pulls_the_weights_back():
    train = ring_starts(0, 64)
    free = refine(RING.velocity, second_order, GRID, train, iterations=5, bound=None)
    bound = refine(RING.velocity, second_order, GRID, train, iterations=5, bound=1.5)
    # It is a penalty, not a wall: beyond it the weights must earn their size.
    assert bound.history[-1].largest < 0.7 * free.history[-1].largest


@pytest.mark.parametrize("free", [("times",), ("state", "outputs"), ("labels",)])
def test_only_free_numbers_change(free):
    found = refine(gaussian, second_order, GRID, gaussian_starts(), iterations=2, free=free).plan
    start = second_order(GRID)
    assert np.array_equal(found.grid, start.grid) == ("times" not in free)
    assert np.array_equal(found.label_time, found.t) == ("labels" not in free)
    if "times" not in free:
        assert np.array_equal(found.b, start.b) == ("outputs" not in free)
    assert np.array_equal(found.a, start.a) == ("state" not in free)


def test_the_order_of_starts_changes_nothing_beyond_rounding():
    train = gaussian_starts()
    mixed = np.random.default_rng(0).permutation(len(train.noise))
    shuffled = tune.Starts(train.noise[mixed], train.exact[mixed])
    one, other = (
        refine(gaussian, second_order, GRID, s, iterations=3).plan for s in (train, shuffled)
    )
    # Rounding, times the condition of the damped equations
    assert_same_plan(one, other, rtol=1e-6, atol=1e-6)


def test_an_ignored_condition_changes_nothing():
    def ignores(x, t, condition):
        return gaussian(x, t)

    train = gaussian_starts()
    count = len(train.noise)
    found = [
        refine(ignores, second_order, GRID, train._replace(condition=c), iterations=2).plan
        for c in (jnp.zeros(count, int), jnp.arange(count))
    ]
    assert_same_plan(*found, rtol=0, atol=0)
    without = refine(gaussian, second_order, GRID, train, iterations=2).plan
    assert_same_plan(found[0], without, rtol=1e-9, atol=1e-9)


def test_a_black_box_needs_no_derivative():
    def numpy_only(x, t):
        assert type(x) is np.ndarray and type(t) is float
        return gaussian(x, t)

    train = gaussian_starts()
    options = {"iterations": 3}
    black = refine(numpy_only, second_order, GRID, train, derivatives="differences", **options)
    white = refine(gaussian, second_order, GRID, train, **options)
    assert black.history[-1].train == pytest.approx(white.history[-1].train, rel=0.02)
    assert black.history[-1].train < 0.3 * black.history[0].train


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("derivatives", ["jvp", "differences"])
def test_starts_of_half_precision_are_refined_in_float32(dtype, derivatives):
    half, raised = (
        refine(
            gaussian,
            second_order,
            GRID,
            tune.Starts(noise, gaussian_end(np.asarray(noise, np.float64))),
            iterations=2,
            derivatives=derivatives,
        )
        for noise in noise_in(dtype, 0, 24)
    )
    assert half.history == raised.history
    assert_same_plan(half.plan, raised.plan, rtol=0, atol=0)
    assert half.history[-1].train < 0.3 * half.history[0].train


# ---- why it ends


def test_it_ends_after_the_iterations_that_are_allowed():
    found = refine(gaussian, second_order, GRID, gaussian_starts(), iterations=1)
    assert found.stopped == "iterations" and len(found.history) > 1


def test_it_ends_where_no_step_lowers_the_error():
    # The endpoints of the table itself are wanted.
    noise = numpy_noise(0, 24)
    train = tune.Starts(noise, Runner(gaussian).run(second_order(GRID), noise))
    found = refine(gaussian, second_order, GRID, train)
    assert found.stopped == "no step" and len(found.history) == 1
    assert_same_plan(found.plan, second_order(GRID), rtol=0, atol=0)


def test_it_ends_after_an_iteration_that_gains_little():
    # No times come near endpoints that are moved at random.
    train = gaussian_starts(count=64)
    moved = train._replace(exact=train.exact + 10 * numpy_noise(5, 64))
    found = refine(gaussian, second_order, GRID, moved, free=("times",))
    assert found.stopped == "little" and len(found.history) > 1
    assert found.history[-1].train > 0.99 * found.history[0].train


def test_it_ends_where_the_validation_error_no_longer_falls():
    # The first table is exact on these validation starts, so every step is worse there.
    noise = numpy_noise(1, 24)
    validation = tune.Starts(noise, Runner(gaussian).run(second_order(GRID), noise))
    found = refine(gaussian, second_order, GRID, gaussian_starts(), validation=validation)
    assert found.stopped == "validation"
    assert found.history[-1].train < 0.5 * found.history[0].train
    assert_same_plan(found.plan, second_order(GRID), rtol=0, atol=0)


# ---- refusals


def refusal(**changed):
    """The sentence with which `refine` refuses a call that is right but for `changed`."""
    arguments = {"model": gaussian, "make": second_order, "grid": GRID}
    arguments |= {"train": gaussian_starts()} | changed
    with pytest.raises(ValueError, match="^tune.refine: ") as caught:
        tune.refine(**arguments, iterations=1)
    return str(caught.value)


def test_plans_that_cannot_be_tuned_are_refused():
    def stochastic(grid):
        return plans.ddim(Linear(), grid, eta=1.0)

    def padded(grid):
        return plans.pad(plans.euler(grid), 6)

    assert "draws noise" in refusal(make=stochastic)
    assert "rows that only pad" in refusal(make=padded)


def test_too_few_starts_are_refused_with_the_number_that_is_enough():
    # 3 times, 4 states, 1 + 2 + 3 + 4 outputs: 17 numbers, 51 equations, 3 of each start
    assert "at least 17 starts" in refusal(train=gaussian_starts(count=16))


def test_what_is_free_must_hold_a_number():
    assert "free=() holds no number" in refusal(free=())
    # The two ends of the grid stay.
    one_step = {"make": plans.euler, "grid": grids.uniform(1)}
    assert "free=('times',) holds no number" in refusal(free=("times",), **one_step)


@pytest.mark.parametrize("which", ["train", "validation"])
def test_starts_of_which_a_part_is_missing_are_refused(which):
    right = gaussian_starts()
    longer = right._replace(condition=jnp.zeros(25))
    assert "shape (25,) for 24 starts" in refusal(**{which: longer})
    fewer = right._replace(exact=right.exact[:23])
    words = "exact has shape (23, 3) and noise (24, 3); wanted the same"
    assert words in refusal(**{which: fewer})


def test_options_that_are_not_known_are_refused():
    assert "free='weights' is not known" in refusal(free=("weights",))
    assert "derivatives='exact' is not known" in refusal(derivatives="exact")
    assert "depth=5" in refusal(depth=5)


def test_a_model_that_is_not_finite_is_refused():
    def broken(x, t):
        return x * jnp.where(t < 0.6, jnp.nan, 1.0)

    assert "not finite on the way" in refusal(model=broken)


def test_eigenvalues_are_as_the_problem_says():
    """The Gaussian of these tests in plain arithmetic is its own oracle: no step of it is ours."""
    x = numpy_noise(0, 2)
    fine = sample(gaussian, x, plans.rk4(grids.uniform(40))).x
    np.testing.assert_allclose(fine, gaussian_end(x), atol=1e-4)
    assert np.unique(EIGENVALUES).size == 3
