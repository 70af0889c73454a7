"""The experiment goes on from what it holds, and keeps a model and its rows of each training."""

import dataclasses
import pathlib

import jax
import pytest

from configs.networks import Config, get_config
from experiments import networks, train
from experiments.networks import growth, training
from flowjax import models
from flowjax.records import Records, read

QUICK = get_config("quick")
TINY = models.DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=2)


def never(*args, **options):
    raise AssertionError("this was measured or trained already")


@pytest.fixture
def trainings(monkeypatch):
    """The work directories of trainings, which only leave the files of one."""
    made = []

    def run(config, workdir, command):
        made.append(pathlib.Path(workdir))
        (workdir / "checkpoints" / "00000008").mkdir(parents=True)
        (workdir / "samples.png").write_text("")
        records = Records(workdir, config)
        for step in (20, 40, 60, 80, 100, 120):
            records.add({"step": step}, loss=float(step))
        details = {"seconds": 1.0, "command": command, "environment": {"device_kind": "cpu"}}
        model = models.init(TINY, jax.random.key(0), name="tiny", details=details)
        models.save(workdir / "model", model)

    monkeypatch.setattr(train, "run", run)
    return made


def test_a_finished_training_is_not_repeated_and_leaves_only_its_model_and_rows(
    trainings, tmp_path, monkeypatch
):
    config = dataclasses.replace(QUICK, folder=str(tmp_path))
    path = pathlib.Path(training.model_of(config, "smooth-seed0"))
    assert path == tmp_path / "smooth-seed0" / "model" and models.load(path).card.name == "tiny"
    kept = {"model", "rows.jsonl", "config.json", "done.json", "environment.json"}
    assert {file.name for file in path.parent.iterdir()} <= kept
    # Killed after the mark of success: what is left over is removed later.
    (path.parent / "checkpoints").mkdir()
    monkeypatch.setattr(train, "run", never)
    assert training.model_of(config, "smooth-seed0") == str(path)
    assert not (path.parent / "checkpoints").exists()
    assert trainings == [path.parent]


def test_a_training_without_its_mark_of_success_goes_on(trainings, tmp_path):
    config = dataclasses.replace(QUICK, folder=str(tmp_path))
    training.model_of(config, "fast-seed0")
    (tmp_path / "fast-seed0" / "done.json").unlink()
    with pytest.raises(ValueError, match="measured already"):  # the rows of the made-up training
        training.model_of(config, "fast-seed0")
    assert len(trainings) == 2


def test_a_training_of_other_sizes_is_refused(trainings, tmp_path):
    config = dataclasses.replace(QUICK, folder=str(tmp_path))
    training.model_of(config, "fast-seed0")
    with pytest.raises(ValueError, match="remove the folder.* steps: 8 there, 9 now"):
        training.model_of(dataclasses.replace(config, steps=9), "fast-seed0")


def test_the_row_of_a_training_has_the_mean_loss_of_its_last_100_steps(trainings, tmp_path):
    config = dataclasses.replace(QUICK, folder=str(tmp_path))
    key = training.cells(config)[1]
    ((_, values),) = training.measure(config, [key])
    assert values["loss"] == (40 + 60 + 80 + 100 + 120) / 5
    assert values["command"].startswith("python -m experiments.train --config=configs/train_digits")


def test_a_shipped_network_is_not_trained(monkeypatch):
    monkeypatch.setattr(train, "run", never)
    assert training.model_of(Config(), "digits-ot") == "digits-ot"
    config = dataclasses.replace(Config(), networks=("digits-ot",))
    ((_, values),) = training.measure(config, training.cells(config))
    assert values["loss"] == pytest.approx(0.2121, abs=1e-4)


def test_a_run_measures_only_what_has_no_row(tmp_path, monkeypatch):
    rows = Records(tmp_path, QUICK)
    for module in networks.QUESTIONS:
        for key in module.cells(QUICK):
            rows.add(key, value=1.0)
        monkeypatch.setattr(module, "measure", never)
    assert networks.run(QUICK, tmp_path) == rows.rows

    # Another network is one more row of each question that is asked.
    asked = []

    def measure(config, todo):
        for key in todo:
            asked.append((key["network"], config.folder))
            yield key, {"value": 2.0}

    monkeypatch.setattr(growth, "measure", measure)
    more = dataclasses.replace(
        QUICK, networks=(*QUICK.networks, "fast-tenth", "smooth-sana"), questions=("growth",)
    )
    networks.run(more, tmp_path)
    # Linear attention has no such loop.
    assert asked == [("fast-tenth", str(tmp_path / "networks"))]


@pytest.mark.slow
def test_the_quick_run_from_training_to_page(tmp_path, monkeypatch):
    config = dataclasses.replace(QUICK, questions=Config().questions)
    rows = networks.run(config, tmp_path)
    assert len(rows) == 2 * len(networks.QUESTIONS)
    clocks = [
        models.load(tmp_path / "networks" / name / "model").card.clock for name in QUICK.networks
    ]
    assert clocks == ["1000 t", "1 - t"]
    assert not (tmp_path / "networks" / "fast-seed0" / "checkpoints").exists()
    (path,) = networks.make_report(tmp_path)
    assert "one seed: undecided beyond this network" in pathlib.Path(path).read_text()

    # The same command finds its rows and its networks.
    monkeypatch.setattr(train, "run", never)
    assert networks.run(config, tmp_path) == read(tmp_path)


@pytest.mark.slow
def test_linear_attention_has_held_sums_and_no_forecast(tmp_path):
    config = dataclasses.replace(QUICK, networks=("smooth-sana",), questions=("staleness",))
    (row,) = networks.run(config, tmp_path)
    assert [line["forecast"] for line in row["distances"]] == ["held"]


def test_the_list_of_the_findings_is_that_of_the_kept_rows():
    root = pathlib.Path(__file__).parents[3]
    found = networks.findings(read(root / "results" / "networks"))
    assert found.count("\n") >= 3
    assert found in (root / "docs" / "findings.md").read_text(encoding="utf-8")
