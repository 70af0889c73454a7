"""Runs of stale attention whose forecasts and synchronous steps are chosen."""

import dataclasses
import pathlib
import types

import jax
import numpy as np
import pytest

from configs.tune import get_config
from experiments.lab import subjects
from experiments.tune import messages, stale
from flowjax import grids, parallel, plans, tune
from flowjax.parallel.stale import forecast

NAME = "digits-smooth"
STEPS = 5
PLAN = plans.adams_bashforth(grids.uniform(STEPS), 2)
NOISE = np.asarray(jax.random.normal(jax.random.key(0), (4, 8, 8, 1)))
LABEL = np.arange(4)
CHOSEN = np.array([True, False, False, True, False])


def run_of(chosen, kind="tuned"):
    return messages.stale_run(NAME, 4, kind, chosen)


def test_a_free_forecast_begins_as_the_tuned_one():
    start = messages.start_of(CHOSEN)
    # Steps 1, 2 and 4 are stale: they know one row, two and three, and have a correction each.
    assert len(start) == 1 + 2 + 3 + 3
    free = run_of(CHOSEN, messages.FREE)(PLAN, NOISE, LABEL, start)
    np.testing.assert_allclose(free, run_of(CHOSEN)(PLAN, NOISE, LABEL), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_every_free_number_moves_the_endpoint_and_none_of_a_synchronous_step():
    start = messages.start_of(CHOSEN)
    run = run_of(CHOSEN, messages.FREE)
    begun = run(PLAN, NOISE, LABEL, start)
    for number in range(len(start)):
        moved = start.copy()
        moved[number] += 0.05
        assert np.abs(run(PLAN, NOISE, LABEL, moved) - begun).max() > 1e-6
        options = messages.options_of(PLAN, messages.FREE, CHOSEN, moved)
        usual = forecast.forecast(PLAN, np.zeros(STEPS, int), "tuned")
        np.testing.assert_array_equal(options["forecast"].weights[CHOSEN], usual.weights[CHOSEN])
        assert not options["correction"][CHOSEN].any()


def test_a_correction_stays_a_fraction():
    start = messages.start_of(CHOSEN)
    start[-3:] = -1.0, 0.5, 2.0
    found = messages.options_of(PLAN, messages.FREE, CHOSEN, start)["correction"]
    np.testing.assert_array_equal(found, [0, 0, 0.5, 0, 1])


@pytest.mark.parametrize("worst", [1, 3])
def test_steps_are_placed_where_they_help_most(worst):
    """A run that errs by how far its synchronous steps are from one step."""

    def toy(chosen):
        def run(plan, noise, condition):
            return noise + np.min(np.abs(np.flatnonzero(chosen[1:]) + 1 - worst), initial=9)

        return run

    starts = tune.Starts(NOISE, NOISE)
    found = messages.by_worth(toy, PLAN, starts, 2)
    assert np.flatnonzero(found).tolist() == [0, worst]
    assert np.flatnonzero(messages.by_worth(toy, PLAN, starts, 1)).tolist() == [0]


# ---- the question


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A configuration of seconds for the question `stale`."""
    monkeypatch.setattr(stale, "ITERATIONS", 1)
    monkeypatch.setattr(stale, "STARTS", 12)
    return dataclasses.replace(
        get_config("quick"),
        stale_models=(NAME,),
        stale_steps=(3,),
        devices=(2,),
        stale_synchronous=(0.7,),
        iterations=1,
        plans=str(tmp_path / "plans"),
    )


def test_large_states_need_fewer_starts():
    counts = {size: stale._starts(types.SimpleNamespace(shape=(size, size, 3))) for size in (8, 32)}
    assert counts == {8: stale.STARTS, 32: stale.STARTS_OF_LARGE}


@pytest.mark.slow  # tunes two tables, a minute
def test_a_row_is_measured_from_its_file_and_never_tuned_again(small, monkeypatch):
    last = stale.cells(small)[-1]
    assert (last["forecast"], last["synchronous"], last["placed"]) == ("free forecast", 2, "worth")
    ((_, first),) = stale.measure(small, [last])
    # The published plan of the best ones is no worse than with the steps at the start.
    assert first["synchronous_steps"][0] == 0 and len(first["synchronous_steps"]) == 2
    assert 0 < first["over_synchronous_low"] <= first["over_synchronous_ratio"]
    monkeypatch.setattr(stale, "refine_run", None)
    ((_, again),) = stale.measure(small, [last])
    assert again == first

    # The file runs on a mesh as it was measured.
    (path,) = pathlib.Path(small.plans).glob("*devices*.json")
    plan, facts = plans.load_with_facts(path)
    options = parallel.stale_options(facts, plan, "the file")
    model = subjects.load(NAME)
    given = model, NOISE, LABEL, plan
    # A sampler at another guidance scale is warned.
    assert facts["guidance"] == 1.0
    assert "guidance" in " ".join(tune.facts.check_fits(facts, model.card, 4.0, "the file"))
    on_mesh = parallel.sample(*given, parallel.make_mesh(seq=2), attention="stale", **options)
    alone = messages.run_with(NAME, 2, options, plan, NOISE, LABEL)
    np.testing.assert_allclose(on_mesh.x, alone, rtol=0, atol=1e-5)

    # Other settings are another table.
    monkeypatch.setattr(stale, "STARTS", 24)
    with pytest.raises(ValueError, match="tuned with other settings .starts."):
        list(stale.measure(small, [last]))
