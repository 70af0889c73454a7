"""The command from configuration to page; what it keeps, and what it refuses."""

import dataclasses
import pathlib
import shutil
import types

import jax
import numpy as np
import pytest

from configs.tune import get_config
from experiments import tune as experiment
from experiments.cli import images
from experiments.cli.run import cells_of, main
from experiments.tune import floor, quality, ratio, row, subject, tables, unseen
from experiments.tune.optimizer import methods
from flowjax import distances, grids, models, plans, records, tune
from flowjax.schedules import Cosine, Linear
from flowjax.tune import numbers as numbering
from flowjax.tune.jacobian import endpoints_and_jacobian

CONFIG = str(pathlib.Path(experiment.__file__).parents[2] / "configs" / "tune.py")
# One exact field, one number of evaluations, few starts.
SMALL = {
    "models": ("ring",),
    "steps": (4,),
    "field_starts": 96,
    "iterations": 1,
    "field_unseen": 32,
    "field_reference": 200,
    "solvers": ("Euler", "AB3"),
    "shifts": (1.0,),
    "draws": 2,
    "samples": 16,
    "field_samples": 64,
    "questions": ("ratio",),
}


def small(**changes):
    return dataclasses.replace(get_config("quick"), **(SMALL | changes))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A finished run of the command on one exact field."""
    path = tmp_path_factory.mktemp("tune")
    flags = [f"--config.{name}={value}" for name, value in SMALL.items() if isinstance(value, int)]
    flags += ["--config.model=ring", "--config.steps=4", "--config.solvers=Euler,AB3"]
    flags += ["--config.shifts=1.0", "--config.questions=ratio"]
    main(
        experiment.run,
        experiment.make_report,
        ["experiments.tune", f"--config={CONFIG}:quick", f"--workdir={path}", *flags],
        questions=experiment.QUESTIONS,
    )
    return path


# ---- a run


def test_the_command_leaves_a_plan_with_its_facts_a_row_and_a_page(workdir):
    plan, facts = plans.load_with_facts(workdir / "plans" / "ring-w1-4.json")
    assert plan.nfe == 4
    wanted = {"field": "ring", "guidance": 1.0, "steps": 4, "starts": 96, "seed": 0}
    assert wanted.items() <= facts.items()
    assert facts["path"]["name"] == "Linear"
    assert {"before", "after", "accepted", "published", "versions"} <= facts.keys()
    assert "--config.model=ring" in facts["command"] and "--config.steps=4" in facts["command"]
    (found,) = records.read(workdir)
    assert found["refused"] is None and found["tuned"]["rms"] > 0
    assert "tuned" in (workdir / "report.html").read_text(encoding="utf-8")


def test_the_row_holds_the_errors_of_the_plan_in_the_file(workdir):
    config = dataclasses.replace(small(), plans=str(workdir / "plans"))
    made = subject.subject(config, "ring")
    table = tables.table_of(config, made, 4)
    (found,) = records.read(workdir)
    test = unseen.unseen(config, made)
    exact = tune.reference(made.velocity, test.noise, [1.0, 0.0], tolerance=1e-5).states[-1]
    ends = ratio.numbers.solvers.solve(made.field, test.noise, table.plan)
    by_hand = np.sqrt(np.mean(tune.truth.errors(np.asarray(ends), exact) ** 2))
    assert found["tuned"]["rms"] == pytest.approx(by_hand, rel=1e-2)
    assert table.facts["published"].startswith(found["published"][:6])


def test_a_file_with_other_settings_is_no_result(workdir):
    config = small(model="ring", steps=(4,), seed=7, plans=str(workdir / "plans"))
    for question in (ratio, quality):
        with pytest.raises(ValueError, match="was tuned with seed=0, and seed=7 is wanted"):
            list(question.measure(config, question.cells(config)))


def test_other_texts_are_other_cells(monkeypatch):
    held = {"a.npz": np.zeros(3), "b.npz": np.ones(3)}

    def made(config, *name_and_scale):
        return types.SimpleNamespace(texts=held[config.embeddings])

    monkeypatch.setattr(ratio.numbers.subjects, "subject", made)
    config = small(model="digits", steps=(4,))
    found = [
        ratio.cells(dataclasses.replace(config, embeddings=path)) for path in ("a.npz", "b.npz")
    ]
    assert found[0] != found[1] and "texts" not in ratio.cells(config)[0]


def copied(workdir, tmp_path):
    """A copy to go on from, in which tuning again would fail."""
    return shutil.copytree(workdir, tmp_path / "copy")


def test_a_finished_cell_is_not_measured_again(workdir, tmp_path, monkeypatch):
    again = copied(workdir, tmp_path)
    monkeypatch.setattr(ratio, "measure", None)
    before = (again / "rows.jsonl").read_bytes()
    config = small(**records.read_config(again))
    experiment.run(dataclasses.replace(config, questions=("ratio",)), again)
    assert (again / "rows.jsonl").read_bytes() == before


def test_a_run_killed_after_its_table_measures_only_the_row(workdir, tmp_path, monkeypatch):
    again = copied(workdir, tmp_path)
    # A kill in the middle of the row's line leaves a part of it.
    line = (again / "rows.jsonl").read_bytes()
    (again / "rows.jsonl").write_bytes(line[: len(line) // 2])
    (again / "done.json").unlink()
    monkeypatch.setattr(tune, "tune", None)
    config = small(**records.read_config(again))
    (found,) = experiment.run(dataclasses.replace(config, questions=("ratio",)), again)
    (first,) = records.read(workdir)
    assert found["tuned"] == first["tuned"] and found["table"] == first["table"]


def test_a_plan_of_other_settings_is_not_taken_for_this_one(workdir):
    config = dataclasses.replace(small(field_starts=128), plans=str(workdir / "plans"))
    with pytest.raises(ValueError, match="starts=96, and starts=128 is wanted"):
        tables.table_of(config, subject.subject(config, "ring"), 4)


def test_a_model_that_cannot_be_tuned_is_a_row_and_not_an_end(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise ValueError("the end still moves")

    monkeypatch.setattr(tune, "tune", refuse)
    (found,) = experiment.run(small(), tmp_path)
    assert "still moves" in found["refused"]


# ---- what is refused before anything is measured


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--config.model=digitz", "neither a network"),
        ("--config.models=ring,rink", "'rink' is neither"),
        ("--config.steps=1", "at least 2"),
        ("--config.steps=4.5", "4.5 is no int"),
        ("--config.guidance=nan", "no float"),
        ("--config.guidance=-1.0", "finite number of at least 0"),
        ("--config.solvers=Eule", "did you mean 'Euler'"),
        ("--config.questions=ratios", "did you mean 'ratio'"),
        ("--config.draws=1", "two or more of each"),
    ],
)
def test_a_mistake_ends_with_one_sentence_before_anything_is_written(tmp_path, capsys, flag, says):
    path = tmp_path / "runs"
    with pytest.raises(SystemExit) as stopped:
        main(
            experiment.run,
            experiment.make_report,
            ["experiments.tune", f"--config={CONFIG}:quick", f"--workdir={path}", flag],
            questions=experiment.QUESTIONS,
        )
    assert stopped.value.code == 2 and says in capsys.readouterr().err
    assert not path.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"guidance": (3.0,)}, "has no labels"),
        ({"models": ("digits-smooth",), "guidance": (float("inf"),)}, "finite number"),
        ({"parts_models": ("nothing",)}, "--config.parts_models"),
        ({"depths": (5,)}, "--config.depths"),
        ({"rates": (0.0,)}, "learning rates"),
        ({"transfer_networks": ("ring",)}, "is no network"),
        ({"between_steps": (3, 4, 5)}, "at least 4"),
        ({"stale_models": ("ring",)}, "is an exact field"),
        ({"devices": (1,)}, "at least 2"),
    ],
)
def test_every_question_refuses_what_it_cannot_measure(changes, says):
    with pytest.raises(ValueError, match=says):
        cells_of(small(questions=(), **changes), experiment.QUESTIONS)


# ---- cells


def test_a_field_is_measured_without_guidance_and_a_network_at_every_scale():
    config = small(models=("ring", "digits-smooth"), guidance=(1.0, 2.0), steps=(4, 6))
    found = [(key["model"], key["guidance"], key["steps"]) for key in ratio.cells(config)]
    assert ("ring", 2.0, 4) not in found
    assert [key for key in found if key[0] == "digits-smooth"] == [
        ("digits-smooth", w, n) for w in (1.0, 2.0) for n in (4, 6)
    ]


def test_names_of_fields_have_hyphens_and_widths():
    config = small()
    assert subject.subject(config, "two-points").shape == (1,)
    narrow = subject.subject(config, "ring-0.05").field
    assert np.sqrt(np.asarray(narrow.covariances)[0, 0, 0]) == pytest.approx(0.05)
    # A network has the name without "exact-".
    assert subject.subject(config, "digits").is_network
    assert not subject.subject(config, "exact-digits").is_network


# ---- tables


def test_a_table_of_many_numbers_takes_more_starts_than_are_given():
    config = small()
    ring, wide = subject.subject(config, "ring"), subject.subject(config, "power-law")
    assert tables.starts_for(config, ring, 4) == config.field_starts
    assert tables.starts_for(config, ring, 20) > 3 * 20 * 4
    assert tables.starts_for(config, wide, 20) == config.field_starts


def test_weights_are_in_units_of_the_step_and_of_velocities():
    euler = ratio.weights_of(plans.euler(grids.uniform(3, shift=2.0)))
    np.testing.assert_allclose(euler["outputs"], [[1, 0, 0, 0]] * 3)
    second = ratio.weights_of(plans.adams_bashforth(grids.uniform(3), 2))
    np.testing.assert_allclose(second["outputs"][1:], [[1.5, -0.5, 0, 0]] * 2)
    assert second["largest"] == pytest.approx(2)
    # DPM-Solver++ 1 is Euler's method, written in data predictions.
    first = ratio.weights_of(plans.dpm_solver_pp(Linear(), grids.uniform(3), 1))
    np.testing.assert_allclose(first["outputs"], euler["outputs"])


def test_a_published_plan_is_found_again_by_its_name():
    name = "DPM-Solver++ 2M on the uniform grid of shift 0.7"
    found = tables.published_plan(name, 5, Linear())
    wanted = plans.dpm_solver_pp(Linear(), grids.uniform(5, shift=0.7), 2)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_picture_of_a_plan_needs_its_facts(tmp_path):
    path = tmp_path / "plan.json"
    plans.save(path, plans.euler(grids.uniform(4)), network="digits")
    with pytest.raises(ValueError, match="does not say its guidance, steps, published"):
        row.of_file(path)


def test_the_picture_of_an_untouched_plan_has_two_equal_rows_on_any_path(tmp_path, monkeypatch):
    monkeypatch.setattr(row, "FINE_STEPS", 2)
    made = models.init(models.preset("digits"), jax.random.key(0), schedule=Cosine())
    models.save(tmp_path / "network", made)
    name = "Adams-Bashforth 2 on the uniform grid of shift 1"
    here = subject.subject(small(), str(tmp_path / "network"))
    plan = here.own_plan(tables.published_plan(name, 3, here.schedule))
    facts = {"network": str(tmp_path / "network"), "guidance": 1.0, "steps": 3, "published": name}
    plans.save(tmp_path / "plan.json", plan, **facts)
    samples, _ = row.of_file(tmp_path / "plan.json")
    published, tuned, _ = np.split(samples, 3)
    np.testing.assert_allclose(tuned, published, rtol=1e-4, atol=1e-4 * np.abs(published).max())


# ---- oracles of the questions


def test_the_floor_is_nothing_within_the_span_and_all_outside_it():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(3, 40, 5))
    within = columns @ rng.normal(size=5)
    assert floor._left(columns, within) < 1e-20
    outside = np.stack([np.linalg.svd(basis)[0][:, -1] for basis in columns])
    assert floor._left(columns, outside) == pytest.approx(1)


def test_the_gradient_of_adam_is_that_of_levenberg_marquardt():
    made = subject.subject(small(), "ring")
    noise = made.starts(0, 6)
    train = tune.Starts(noise, np.random.default_rng(0).normal(size=noise.shape))
    grid = grids.uniform(4)
    runner = tune.runner.Runner(made.velocity)
    task = methods.Problem(made, runner, _third, grid, train, train, noise[None])
    numbers = numbering.numbers_of("test", _third, grid, tables.FREE)
    is_time = np.array(numbers.column) == "t"
    corrections = np.where(is_time, 0, 0.05)
    plan = numbers.plan(grid, corrections)
    found = methods.by_numbers(numbers, grid, corrections, methods.slope_of(task)(plan))
    tangents = numbers.tangents(grid, corrections)
    ends, columns = endpoints_and_jacobian(runner, plan, tangents, noise)
    vector = columns @ (ends - train.exact).ravel()
    # The derivative of |r|^2 / |exact|^2
    wanted = 2 * vector / np.sum(train.exact**2)
    np.testing.assert_allclose(found["corrections"][~is_time], wanted[~is_time], rtol=1e-8)
    by_gaps = numbering.grid_by_gaps(grid).T @ wanted[is_time]
    np.testing.assert_allclose(found["gaps"], by_gaps, rtol=1e-8)


def _third(grid):
    return plans.adams_bashforth(grid, 3)


@pytest.mark.slow  # programs of a network
def test_a_network_has_facts_a_row_samples_and_a_picture(tmp_path, monkeypatch):
    start = plans.adams_bashforth(grids.uniform(3), 2)
    plan = plans.adams_bashforth(grids.uniform(3, shift=0.7), 2)
    seen = {}

    def found(model, noise, steps, **options):
        seen.update(options, noise=noise)
        errors = tune.Errors(0.1, 0.1, 0.1)
        half = distances.Ratio(0.5, 0.4, 0.6, "win")
        name = "Adams-Bashforth 2 on the uniform grid of shift 1"
        return tune.Tuned(plan, start, name, errors, errors, half, True, [], 9, "Half.")

    # The tuning itself is the matter of tests/tune.
    monkeypatch.setattr(tune, "tune", found)
    sizes = {"network_starts": 20, "network_unseen": 10, "network_reference": 8, "samples": 20}
    config = small(model="digits-smooth", steps=(3,), guidance=(1.5,), **sizes)
    rows = experiment.run(dataclasses.replace(config, questions=("ratio", "quality")), tmp_path)
    # All labels, in float32
    assert seen["noise"].dtype == np.float32 and set(seen["condition"]) == set(range(10))
    ratios, quality = rows
    assert ratios["bfloat16"]["tuned"] > ratios["doubling"]
    assert 0.5 < ratios["bfloat16"]["tuned"] / ratios["tuned"]["rms"] < 2
    assert quality["measure"] == "Frechet" and 0 <= quality["accuracy"]["tuned"] <= 1
    path = tmp_path / "plans" / "digits-smooth-w1.5-3.json"
    facts = plans.load_with_facts(path)[1]
    assert facts["clock"] == "1 - t" and facts["channels"] == 1
    section = row.draw(path, tmp_path / "row.png")
    assert images.read_settings(tmp_path / "row.png")["network"] == "digits-smooth"
    assert "guidance 1.5" in section.answer


@pytest.mark.slow  # all questions, two minutes
def test_every_question_runs_from_cells_to_page(tmp_path):
    experiment.run(
        small(questions=(), stds=(0.15, 0.5), adam_budget=0.5, field_starts=160), tmp_path
    )
    found = {line["question"] for line in records.read(tmp_path)}
    assert found == {module.QUESTION for module in experiment.QUESTIONS} - {"stale"}
    assert pathlib.Path(experiment.make_report(tmp_path)[0]).is_file()
