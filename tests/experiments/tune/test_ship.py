"""Which plans of a work directory come with flowjax."""

import json
import pathlib

import numpy as np
import pytest

from experiments.tune import ship
from flowjax import grids, models, plans
from flowjax.tune import facts

FACTS = {"network": "digits", "guidance": 1.0, "steps": 4, "accepted": True}


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """An empty folder in the place of the weights."""
    monkeypatch.setattr(facts, "ASSETS", tmp_path / "assets")
    return tmp_path / "assets"


def save(workdir, name, **changes):
    path = workdir / "plans" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    plans.save(path, plans.euler(grids.uniform(4)), **(FACTS | changes))


def test_an_accepted_table_of_a_shipped_network_is_found_afterwards(tmp_path, assets):
    save(tmp_path, "digits-w1-4", history=[1, 2, 3], begun_from="Euler")
    (written,) = ship.ship(tmp_path)
    card = models.load("digits").card
    plan, found = facts.shipped(card, 4, 1.0)
    assert written == facts.shipped_path("digits", 4, 1.0) and found["begun_from"] == "Euler"
    assert "history" not in found  # it stays in the work directory
    for kept, saved in zip(plan, plans.euler(grids.uniform(4)), strict=True):
        np.testing.assert_array_equal(kept, saved)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("digits-w1-4", {"accepted": False}),
        ("digits-w1-4", {"folder": "runs/mine/model"}),
        ("another-w1-4", {"network": "another"}),
        ("digits-w1-4-times", {}),
        ("digits-w1-4-8devices-held-1-start", {}),
        ("ring-w1-4", {"network": None, "field": "ring"}),
    ],
)
def test_other_plans_stay_where_they_are(tmp_path, assets, name, changes):
    save(tmp_path, name, **changes)
    assert ship.ship(tmp_path) == [] and not assets.exists()


def test_a_folder_without_plans_is_refused_in_a_sentence(tmp_path, assets, capsys):
    with pytest.raises(SystemExit):
        ship.main([str(tmp_path)])
    assert "work directory of experiments.tune that has plans/" in capsys.readouterr().err


def test_kept_plans_are_those_that_are_shipped():
    """The files beside the weights are the plans of results/tune."""
    kept = {}
    for path in sorted((pathlib.Path(__file__).parents[3] / "results/tune/plans").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        about = found["facts"]
        if path.stem == f"{about.get('network')}-w{about.get('guidance', 0):g}-{about['steps']}":
            kept[about["network"], about["guidance"], about["steps"]] = found["columns"]
    assert len(kept) >= 20
    for (network, guidance, steps), columns in kept.items():
        path = facts.shipped_path(network, steps, guidance)
        assert json.loads(path.read_text(encoding="utf-8"))["columns"] == columns
