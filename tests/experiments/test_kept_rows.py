"""The rows in results/ answer every question of today's full configurations."""

import json
import pathlib
import shutil

import pytest

from configs import latency as latency_config
from configs import order as order_config
from configs import staleness as staleness_config
from experiments import latency, order, staleness
from experiments.cli.run import cells_of
from flowjax.records import Records
from flowjax.records.values import hash_of

RESULTS = pathlib.Path(__file__).parents[2] / "results"
EXPERIMENTS = {
    "order": (order, order_config),
    "staleness": (staleness, staleness_config),
    "latency": (latency, latency_config),
}


@pytest.fixture
def kept(tmp_path):
    """A copy of the kept rows of one experiment, since Records writes config.json again."""

    def copy(name):
        return shutil.copytree(RESULTS / name, tmp_path / name)

    return copy


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_full_run_measures_nothing_and_is_only_drawn_again(name, kept):
    module, configs = EXPERIMENTS[name]
    config = configs.get_config()
    records = Records(kept(name), config)
    assert records.finished
    missing = {
        question.QUESTION: [key for key in cells if not records.done(key)]
        for question, cells in cells_of(config, module.QUESTIONS)
    }
    assert not any(missing.values()), missing


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_configuration_of_the_kept_rows_is_written_unchanged(name, kept):
    workdir = kept(name)
    before = (workdir / "config.json").read_bytes()
    Records(workdir, EXPERIMENTS[name][1].get_config())
    assert (workdir / "config.json").read_bytes() == before


@pytest.mark.parametrize("name", ["order", "staleness"])
def test_a_selection_of_questions_finds_its_kept_rows(name, kept):
    module, configs = EXPERIMENTS[name]
    config = configs.get_config()
    config.questions = (module.QUESTIONS[-1].QUESTION,)
    asked = cells_of(config, module.QUESTIONS)
    assert [question for question, _ in asked] == [module.QUESTIONS[-1]]
    records = Records(kept(name), config)
    assert records.finished and all(records.done(key) for _, cells in asked for key in cells)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*/rows.jsonl")), ids=lambda p: p.parent.name)
def test_every_kept_row_has_its_environment_and_all_are_counted(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    held = json.loads((path.parent / "environment.json").read_text(encoding="utf-8"))
    assert {row["environment"] for row in rows} <= held.keys()
    # The name of an environment is the hash of what it says.
    assert all(hash_of(said) == name for name, said in held.items())
    done = path.parent / "done.json"
    if done.exists():
        assert json.loads(done.read_text(encoding="utf-8"))["rows"] == len(rows)
