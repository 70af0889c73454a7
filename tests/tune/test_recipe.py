"""The recipe: a table is returned only if it is better on starts that it has not seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import sample, tune
from flowjax.schedules import Linear
from flowjax.tune.levenberg_marquardt import Search
from flowjax.tune.recipe import published_solvers, roughness, split
from flowjax.tune.runner import Runner
from tests.tune.problems import HALF, RING, gaussian, noise_in, numpy_noise


@pytest.fixture(scope="module")
def on_the_ring():
    noise = jax.random.normal(jax.random.key(1), (128, 2))
    heard = []
    found = tune.tune(
        RING.velocity, noise, 4, iterations=4, at_once=1000, tolerance=1e-4, progress=heard.append
    )
    return found, heard


def test_the_ring_gets_a_better_table(on_the_ring):
    found, _ = on_the_ring
    assert found.accepted and found.ratio.high < 1
    assert found.sentence.startswith("The tuned table is accepted: on 32 unseen starts")
    assert found.plan.rows == found.start.rows == 4
    assert found.ratio.ratio == pytest.approx(found.after.test / found.before.test, rel=1e-9)


def test_it_is_better_on_other_starts_too(on_the_ring):
    found, _ = on_the_ring
    noise = jax.random.normal(jax.random.key(7), (64, 2))
    exact = tune.reference(RING.velocity, noise, [1.0, 0.0], tolerance=1e-4).states[-1]
    tuned, published = (
        np.linalg.norm(sample(RING.velocity, noise, plan).x - exact)
        for plan in (found.plan, found.start)
    )
    assert tuned < published


def test_progress_hears_of_every_iteration_of_the_history(on_the_ring):
    found, heard = on_the_ring
    assert all(iteration in heard for iteration in found.history)
    assert found.evaluations > heard[-1].evaluations


def test_what_is_not_better_is_not_accepted():
    # Without a free iteration and with times alone, the tuned table is the published one.
    noise = numpy_noise(0, 48)
    found = tune.tune(gaussian, noise, 3, iterations=0, free=("times",))
    assert not found.accepted and found.ratio.ratio == 1
    assert "not accepted, and the published plan is returned" in found.sentence
    for a, b in zip(found.plan, found.start):
        np.testing.assert_array_equal(a, b)


def test_what_may_be_chance_is_not_accepted():
    # The tuned table is better on the four test starts, but its interval contains 1.
    noise = jax.random.normal(jax.random.key(1), (16, 2))
    found = tune.tune(
        RING.velocity,
        noise,
        2,
        iterations=2,
        restarts=1,
        free=("times",),
        tolerance=1e-3,
        at_once=500,
    )
    assert found.ratio.ratio < 1 < found.ratio.high
    assert not found.accepted
    for a, b in zip(found.plan, found.start):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", HALF)
def test_starts_of_half_precision_are_tuned_in_float32(dtype):
    half, raised = (
        tune.tune(gaussian, noise, 2, iterations=1, restarts=1, at_once=500)
        for noise in noise_in(dtype, 1, 48)
    )
    assert half.accepted and half.after == raised.after
    for a, b in zip(half.plan, raised.plan):
        np.testing.assert_array_equal(a, b)


def test_when_the_time_is_up_the_best_table_so_far_is_tested():
    noise = jax.random.normal(jax.random.key(1), (128, 2))
    found = tune.tune(RING.velocity, noise, 4, tolerance=1e-4, seconds=1e-9)
    assert len(found.history) == 1
    with pytest.raises(ValueError, match="seconds"):
        tune.tune(RING.velocity, noise, 4, seconds=0)


def test_splits_take_every_start_once_and_follow_the_key():
    parts = split(21, jax.random.key(0))
    assert [len(part) for part in parts] == [11, 5, 5]
    assert sorted(np.concatenate(parts)) == list(range(21))
    assert not np.array_equal(parts[0], split(21, jax.random.key(1))[0])


def test_few_steps_leave_the_solvers_that_reach_their_order():
    assert list(published_solvers(1, Linear())) == ["Euler"]
    assert list(published_solvers(2, Linear())) == ["Adams-Bashforth 2", "DPM-Solver++ 2M"]
    assert len(published_solvers(3, Linear())) == 6


def test_too_few_starts_are_refused_before_anything_runs():
    def never(x, t):
        raise AssertionError("the model was called")

    with pytest.raises(ValueError, match=r"tune.tune: 10 start.*give at least \d+ starts"):
        tune.tune(never, numpy_noise(0, 10), 6)
    with pytest.raises(ValueError, match="depth=7"):
        tune.tune(never, numpy_noise(0, 100), 6, depth=7)
    with pytest.raises(ValueError, match="steps=0"):
        tune.tune(never, numpy_noise(0, 100), 0)


def test_a_condition_of_another_length_is_refused_before_anything_runs():
    def never(x, t, condition):
        raise AssertionError("the model was called")

    # JAX takes the last entry of an array in the place of one beyond its end.
    condition = jnp.arange(50)
    with pytest.raises(ValueError, match=r"tune.tune: .* shape \(50,\) for 100 starts"):
        tune.tune(never, numpy_noise(0, 100), 3, condition=condition)


def test_each_start_keeps_its_condition():
    """With the mean as condition, only the right pairing of starts and means can be solved."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(64, 3))

    def shifted(x, t, mean):
        return gaussian(x, t, mean=mean, variances=np.full((1, 3), 0.3))

    found = tune.tune(shifted, numpy_noise(1, 64), 2, condition=means, iterations=1, at_once=500)
    # x(0) = mean + std x(1) and v(1) = x(1) - mean: one row solves it, and two can.
    assert found.accepted and found.after.test < 1e-4


def test_second_differences_in_time_tell_smooth_from_rough():
    noise = numpy_noise(0, 8, dim=2)
    assert roughness(Runner(RING.velocity), noise, None, 20) == pytest.approx(4, rel=0.1)

    def rough(x, t):
        return x * (1 + 0.3 * np.sign(np.sin(900 * t)))

    assert roughness(Runner(rough, "differences"), noise, None, 20) < 2

    # What does not depend on the time is smooth, not rounding.
    def still(x, t):
        return -x

    assert roughness(Runner(still, "differences"), noise, None, 20) == 4


def test_a_model_without_a_finite_plan_is_refused():
    def broken(x, t):
        return x / 0.0 if t < 0.5 else x

    with pytest.raises(ValueError, match="not finite"), np.errstate(all="ignore"):
        tune.tune(broken, numpy_noise(0, 64), 3, derivatives="differences")


def test_starting_tables_race_on_a_part_and_the_best_one_goes_on_with_all(monkeypatch):
    fitted = []
    on = Search.on

    def noted(search, train):
        fitted.append(len(train.noise))
        on(search, train)

    monkeypatch.setattr(Search, "on", noted)
    noise = jax.random.normal(jax.random.key(3), (400, 2))
    tune.tune(RING.velocity, noise, 2, iterations=2, tolerance=1e-3, restarts=1)
    # Half of 400 train, and a quarter of them is more than six equations for each number.
    assert fitted == [50, 50, 200]


def test_more_starting_tables_give_the_best_of_them_after_the_race(monkeypatch):
    """All have the same iterations there, so the best of more tables is at least as good."""
    searches, best = [], []
    on = Search.on

    def noted(search, train):
        # A search begins with some of the starts, and only the best one goes on with all of them.
        if search in searches:
            errors = [each.best[1] for each in searches]
            assert search.best[1] == min(errors)
            best.append(min(errors))
        else:
            searches.append(search)
        on(search, train)

    monkeypatch.setattr(Search, "on", noted)
    noise = jax.random.normal(jax.random.key(3), (96, 2))
    for restarts in (1, 3):
        searches.clear()
        tune.tune(RING.velocity, noise, 3, iterations=2, tolerance=1e-3, restarts=restarts)
        # That of least squares is one more.
        assert len(searches) == restarts + 1
    assert best[1] <= best[0]
