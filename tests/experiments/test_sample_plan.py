"""Images drawn with a plan from a file, and with the tables that come with the networks."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from configs.sample import Config
from experiments import sample
from experiments.cli import mesh
from flowjax import Cosine, grids, models, parallel, plans, tune
from flowjax.models import DiTConfig
from flowjax.parallel.options import Options, check
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import Forecast
from flowjax.tune import facts as tune_facts

SIZES = DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=3)


def card(**changes):
    return models.init(SIZES, jax.random.key(0), name="toy", **changes).card


def given(**changes):
    return dataclasses.replace(Config(model="toy", labels="0", guidance=1.5), **changes)


@pytest.fixture
def file(tmp_path):
    plan = plans.adams_bashforth(grids.uniform(5, shift=2.0), 2)
    path = tmp_path / "plan.json"
    plans.save(path, plan, **tune.facts_of(card(), 1.5))
    return path, plan


def test_the_plan_of_a_file_runs_to_the_last_bit(file):
    path, plan = file
    found = sample.plan_of(given(plan=str(path)), card())
    for a, b in zip(found, plan, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_plan_for_another_path_or_clock_is_refused(file):
    path, _ = file
    for changes, named in (({"schedule": Cosine()}, "path"), ({"clock": "1 - t"}, "clock")):
        with pytest.raises(ValueError, match=f"whose {named} is"):
            sample.plan_of(given(plan=str(path)), card(**changes))


def test_another_guidance_is_a_warning(file, capsys):
    path, _ = file
    sample.plan_of(given(plan=str(path), guidance=4.0), card())
    assert "made for guidance 1.5 and runs at 4" in capsys.readouterr().err
    sample.plan_of(given(plan=str(path)), card())
    assert not capsys.readouterr().err


def test_what_a_plan_replaces_is_refused_beside_it(file):
    path, _ = file
    command = f"python -m experiments.sample --config.plan={path}"
    # Of one dash or two, and with the value in the same word or in the next one
    for word in ("--config.steps=8", "-config.steps=8", "-config.steps 8"):
        with pytest.raises(ValueError, match="leave out steps,"):
            sample.check_plan_alone(given(plan=str(path)), f"{command} {word}")
    # The name of a file may look like a flag.
    for word in ("", "--config.model=my-config.steps"):
        sample.check_plan_alone(given(plan=str(path)), f"{command} {word}")


@pytest.mark.parametrize("solver", [*sample.SOLVERS, *sample.WITHOUT_ORDER])
def test_an_order_is_refused_beside_a_solver_that_has_none(solver):
    config = given(solver=solver, order=3)
    sample.check_order(config, "python -m experiments.sample")  # it stands in the configuration
    for word in ("--config.order=3", "-config.order 3"):
        command = f"python -m experiments.sample --config.solver={solver} {word}"
        if solver in sample.WITHOUT_ORDER:
            with pytest.raises(ValueError, match=f"'{solver}' has no order .*order=3.*leave out"):
                sample.check_order(config, command)
        else:
            sample.check_order(config, command)


@pytest.mark.parametrize("name", sample.SOLVERS)
def test_the_order_changes_the_plans_of_the_solvers_that_have_one(name):
    first, second = (
        sample.plan_of(given(solver=name, steps=6, order=order), card()) for order in (1, 2)
    )
    is_same = all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert is_same == (name in sample.WITHOUT_ORDER)


@pytest.mark.parametrize("content", [b"", b'{"format": "flowjax plan"', b"[]"])
def test_a_damaged_plan_is_refused_in_a_sentence(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=str(path)):
        sample.plan_of(given(plan=str(path)), card())
    with pytest.raises(ValueError, match="nothing.json"):
        sample.plan_of(given(plan=str(tmp_path / "nothing.json")), card())


def test_a_tuned_table_has_no_last_part_for_image_to_image(file):
    path, _ = file
    for changes in ({"plan": str(path)}, {"solver": "tuned"}):
        with pytest.raises(ValueError, match="a published solver for"):
            sample.plan_of(given(strength=0.5, **changes), card())


def test_tuned_needs_a_table_that_is_there_and_no_grid():
    with pytest.raises(ValueError, match="none comes with flowjax"):
        sample.plan_of(given(solver="tuned", steps=8), card())
    with pytest.raises(ValueError, match="own grid and shift"):
        sample.plan_of(given(solver="tuned", shift=3.0), card())


# ---- plans for stale attention

STALE = {"attention": "stale", "mesh": "seq=2", "forecast": "plan"}


@pytest.fixture
def stale_file(tmp_path):
    """A plan of four steps with a forecast and a correction of its own in each."""
    plan = plans.adams_bashforth(grids.uniform(4), 2)
    chosen = np.array([True, False, True, False])
    own = Forecast(np.tile([1.2, -0.2], (4, 1)), np.full((4, 1), 0.3), np.full((4, 1), 0.5))
    options = {"policy": chosen, "forecast": own, "correction": np.array([0, 0.1, 0, 0.7])}
    path = tmp_path / "stale.json"
    facts = tune.facts_of(card(), 1.5) | {"devices": 2} | parallel.stale_facts(options)
    plans.save(path, plan, **facts)
    return path, plan, options


def test_the_forecasts_of_a_plan_are_those_that_were_saved(stale_file):
    path, plan, options = stale_file
    found = mesh.options(given(plan=str(path), **STALE), plan, parallel.make_mesh(seq=2))
    assert found["policy"].tolist() == [-1, np.inf, -1, np.inf]
    for part, wanted in zip(found["forecast"], options["forecast"], strict=True):
        np.testing.assert_array_equal(part, wanted)
    np.testing.assert_array_equal(found["correction"], options["correction"])
    check("parallel.sample", Options(**found), plan)


def test_a_usual_forecast_is_saved_by_its_name(tmp_path):
    plan = plans.euler(grids.uniform(3))
    for forecast in (0, "tuned"):
        facts = parallel.stale_facts({"policy": policies.warm_up(3, 2), "forecast": forecast})
        plans.save(tmp_path / "plan.json", plan, **facts)
        _, facts = plans.load_with_facts(tmp_path / "plan.json")
        found = parallel.stale_options(facts, plan, "plan")
        assert (found["forecast"], found["correction"]) == (forecast, None)
        np.testing.assert_array_equal(found["policy"], policies.warm_up(3, 2))


def test_a_plan_for_stale_attention_says_how_it_was_measured(stale_file, capsys):
    path, _, _ = stale_file
    sample.plan_of(given(plan=str(path)), card())
    assert "stale attention over 2 devices" in capsys.readouterr().err
    sample.plan_of(given(plan=str(path), **STALE), card())
    assert not capsys.readouterr().err


def test_another_number_of_devices_is_a_warning(stale_file, capsys):
    path, plan, _ = stale_file
    for devices in (2, 4):
        config = given(plan=str(path), **STALE | {"mesh": f"seq={devices}"})
        mesh.options(config, plan, parallel.make_mesh(seq=devices))
        said = capsys.readouterr().err
        assert ("tuned for 2 devices and runs on 4" in said) == (devices == 4)


@pytest.mark.parametrize(
    "stale",
    [
        {},
        {"forecast": 0},
        {"forecast": {"weight": [[1.0]]}, "synchronous_steps": [0]},
        {"forecast": 0, "synchronous_steps": [0, 9]},
    ],
)
def test_damaged_facts_of_stale_attention_are_a_sentence(stale):
    with pytest.raises(ValueError, match="here: the facts on stale attention are not complete"):
        parallel.stale_options({"stale": stale}, plans.euler(grids.uniform(4)), "here")


def test_forecasts_of_a_plan_need_a_plan_that_has_them_and_a_mesh(file, stale_file):
    path, plan, _ = stale_file
    for changes, words in (
        ({"policy": "every=2"}, "leave out policy"),
        ({"correction": 0.0}, "leave out correction"),
        ({"mesh": ""}, "mesh=''"),
        ({"attention": "gather"}, "attention='gather'"),
        ({"plan": ""}, "plan=''"),
    ):
        with pytest.raises(ValueError, match=words):
            mesh.check(given(**{"plan": str(path)} | STALE | changes))
    with pytest.raises(ValueError, match="was not tuned for stale attention"):
        mesh.options(given(plan=str(file[0]), **STALE), plan, parallel.make_mesh(seq=2))


SHIPPED = sorted(tune_facts.ASSETS.glob("*/plans/*.json"))


def test_tables_come_with_flowjax():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_a_shipped_table_fits_its_network_and_says_what_it_gains(path):
    plan, facts = plans.load_with_facts(path)
    made = json.loads((path.parents[1] / "card.json").read_text())
    assert (facts["network"], facts["clock"]) == (path.parts[-3], made["clock"])
    assert plan.nfe == facts["steps"] and facts["accepted"] and facts["ratio"][2] < 1
    assert path == tune_facts.shipped_path(facts["network"], facts["steps"], facts["guidance"])
    assert "python -m experiments.tune" in facts["command"]


def test_the_shipped_table_of_a_network_is_found_by_its_steps():
    network = models.load(SHIPPED[0].parts[-3])
    _, facts = plans.load_with_facts(SHIPPED[0])
    config = given(solver="tuned", steps=facts["steps"], guidance=facts["guidance"])
    assert sample.plan_of(config, network.card).nfe == facts["steps"]
