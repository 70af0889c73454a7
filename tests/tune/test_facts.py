"""A plan's facts keep it from networks that it was not made for."""

import dataclasses
import re

import jax
import pytest

from flowjax import Cosine, VPDiscrete, grids, models, plans, tune
from flowjax.models import DiTConfig
from flowjax.tune.facts import ASSETS


def untrained(**card):
    config = DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=3)
    return models.init(config, jax.random.key(0), **card).card


def test_facts_fit_their_own_network_after_a_file(tmp_path):
    card = untrained()
    plan = plans.euler(grids.uniform(4))
    plans.save(tmp_path / "plan.json", plan, **tune.facts_of(card, 1.5))
    _, facts = plans.load_with_facts(tmp_path / "plan.json")
    assert tune.check_fits(facts, card, 1.5, "plan") == []


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"schedule": Cosine()}, "path"),
        ({"clock": "1 - t"}, "clock"),
        ({"clock_scale": 0.1}, "clock"),
    ],
)
def test_another_path_or_clock_is_refused(changed, named):
    facts = tune.facts_of(untrained(), 1.0)
    with pytest.raises(ValueError, match=named):
        tune.check_fits(facts, untrained(**changed), 1.0, "plan")


def test_another_number_of_channels_is_refused():
    facts = tune.facts_of(untrained(), 1.0)
    with pytest.raises(ValueError, match="channels"):
        tune.check_fits({**facts, "channels": 3}, untrained(), 1.0, "plan")


def test_the_parameters_of_a_path_count_and_not_only_its_name():
    card = untrained(schedule=VPDiscrete.linear())
    other = untrained(schedule=VPDiscrete.cosine())
    with pytest.raises(ValueError, match="path"):
        tune.check_fits(tune.facts_of(card, 1.0), other, 1.0, "plan")


def test_another_guidance_or_network_is_a_warning():
    facts = tune.facts_of(untrained(), 1.0)
    (guided,) = tune.check_fits(facts, untrained(), 4.0, "plan")
    assert "guidance 1" in guided
    (named,) = tune.check_fits(facts, untrained(name="another"), 1.0, "plan")
    assert "another" in named


def test_facts_that_are_missing_are_not_compared():
    assert tune.check_fits({}, untrained(), 4.0, "plan") == []


def test_a_plan_that_is_not_shipped_is_refused_with_those_that_are():
    card = dataclasses.replace(untrained(), name="digits-smooth")
    with pytest.raises(ValueError, match="experiments.tune") as caught:
        tune.shipped(card, 97, 1.0)
    listed = re.search(r"there are (.*?)\. python", str(caught.value))[1].split(", ")
    # The name of a file tells the guidance and the steps, such as w1.5-8.json.
    files = (ASSETS / "digits-smooth" / "plans").glob("*.json")
    pairs = [file.stem[1:].split("-") for file in files]
    wanted = [f"steps={steps} at guidance={guidance}" for guidance, steps in pairs]
    assert len(wanted) > 1 and sorted(listed) == sorted(wanted)


def test_a_network_without_shipped_plans_is_told_so():
    with pytest.raises(ValueError, match="none comes with flowjax"):
        tune.shipped(untrained(name="another"), 8, 1.0)
