"""Tables tuned through whole runs."""

import jax
import numpy as np
import pytest

import flowjax
from flowjax import grids, tune
from flowjax.tune.stale import refine_run
from tests.tune.problems import gaussian, gaussian_end, numpy_noise, second_order

GRID = grids.uniform(4)


def starts(seed, count):
    noise = numpy_noise(seed, count)
    return tune.Starts(noise, gaussian_end(noise))


@jax.jit
def compiled(plan, noise):
    return flowjax.sample(gaussian, noise, plan).x


def run(plan, noise, condition):
    assert condition is None
    return compiled(plan, noise)


def test_it_finds_what_refine_finds():
    train, validation = starts(0, 24), starts(1, 24)
    found = refine_run(run, second_order, GRID, train, validation=validation, iterations=6)
    other = tune.refine(
        gaussian, second_order, GRID, train, validation=validation, iterations=6, bound=None
    )
    first, last = found.history[0].train, found.history[-1].train
    # The two optimizers choose their dampings differently, so only sizes agree.
    assert last < 0.05 * first
    # Differences end at their own error; derivatives go on to rounding.
    least = min(i.validation for i in found.history)
    assert min(i.validation for i in other.history) < least < 1e-5
    kept = tune.truth.errors(compiled(found.plan, validation.noise), validation.exact)
    assert np.sqrt(np.mean(kept**2)) == pytest.approx(min(i.validation for i in found.history))


def test_its_history_counts_a_run_for_each_number():
    seen = []
    found = refine_run(run, second_order, GRID, starts(0, 24), iterations=1, progress=seen.append)
    assert seen == found.history and found.stopped == "iterations"
    # steps of the grid, 3 weights of states, and 1 + 2 + 3 + 4 of outputs
    numbers = 4 + 4 + 10
    assert found.history[1].evaluations >= numbers * 4 * 24


def test_other_numbers_of_the_run_are_tuned_with_the_table():
    """The endpoints are scaled and shifted by numbers that only the run knows; it undoes both."""

    def spoiled(plan, noise, condition, others):
        return (0.8 + others[0]) * compiled(plan, noise) + 0.3 - others[1]

    train, validation = starts(0, 24), starts(1, 24)
    found = refine_run(
        spoiled,
        second_order,
        GRID,
        train,
        validation=validation,
        others=np.zeros(2),
        iterations=8,
    )
    alone = refine_run(run, second_order, GRID, train, validation=validation, iterations=8)
    # As near as without the spoiling, and by these numbers: the exact ones are .2 and .3.
    assert found.history[0].validation > 0.1
    least = min(i.validation for i in found.history)
    assert least < 10 * min(i.validation for i in alone.history)
    ends = spoiled(found.plan, validation.noise, None, found.others)
    assert np.sqrt(np.mean(tune.truth.errors(ends, validation.exact) ** 2)) == pytest.approx(least)


def test_without_other_numbers_there_are_none():
    found = refine_run(run, second_order, GRID, starts(0, 24), iterations=1)
    assert found.others.shape == (0,)


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="without 'labels'"):
        refine_run(run, second_order, GRID, starts(0, 24), free=("labels",))
    with pytest.raises(ValueError, match="give at least"):
        refine_run(run, second_order, GRID, starts(0, 2))
    with pytest.raises(ValueError, match="for 58 free numbers; give at least 58 starts"):
        refine_run(run, second_order, GRID, starts(0, 24), others=np.zeros(41))
    with pytest.raises(ValueError, match="wanted the same"):
        refine_run(run, second_order, GRID, tune.Starts(numpy_noise(0, 24), np.zeros((23, 3))))
    with pytest.raises(ValueError, match="wanted a vector"):
        refine_run(run, second_order, GRID, starts(0, 24), others=0.5)
    with pytest.raises(ValueError, match="not finite"):
        refine_run(lambda plan, x, c: np.nan * x, second_order, GRID, starts(0, 24))
