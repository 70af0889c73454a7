"""Seconds to a given error: the choice of plans, the words of the table, one network for both."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

from configs import bench_to_error, bench_transformer
from experiments.benchmarks import export, reached, to_error, untrained, with_jax, worker
from experiments.benchmarks.case import Case, error
from experiments.benchmarks.to_error_table import markdown
from flowjax import models, plans, records
from flowjax.schedules import Cosine

SIZES = models.DiTConfig((4, 4), channels=1, patch=1, width=8, depth=1, heads=2, classes=3)


# -- the choice of the fewest evaluations


def errors_row(solver, evaluations, rms):
    """A row of errors on the grids of shift 1 and 2."""
    return {
        "part": "errors",
        "solver": solver,
        "evaluations": evaluations,
        "shifts": [1.0, 2.0],
        "rms": rms,
    }


ERRORS = [
    errors_row("AB3", 8, [0.03, 0.04]),
    errors_row("AB3", 10, [0.009, 0.008]),
    errors_row("UniPC3", 8, [0.05, 0.02]),
    errors_row("UniPC3", 10, [0.007, 0.02]),
    errors_row("UniPC3", 12, [float("inf"), 0.001]),
]


@pytest.mark.parametrize(
    "names, stated, wanted",
    [
        (("AB3", "UniPC3"), 0.05, ("UniPC3", 2.0, 8)),
        # Both solvers reach it with 10 evaluations: the more accurate one is taken.
        (("AB3", "UniPC3"), 0.01, ("UniPC3", 1.0, 10)),
        (("AB3",), 0.01, ("AB3", 2.0, 10)),
        (("AB3",), 0.002, None),
        (("AB3", "UniPC3"), 0.002, ("UniPC3", 2.0, 12)),
        (("Euler",), 1.0, None),
    ],
)
def test_the_plan_with_the_fewest_evaluations_is_chosen(names, stated, wanted):
    found = reached.fewest(ERRORS, names, stated)
    assert (found and found[:3]) == wanted


def test_a_solver_goes_no_further_than_the_smallest_error(tmp_path):
    """Neither what is measured nor what comes after the smallest error is measured again."""
    config = dataclasses.replace(
        bench_to_error.get_config(), errors=(0.01, 0.03), nfe=(12, 4, 8, 10)
    )
    kept = records.Records(tmp_path, config)
    kept.add({"part": "errors", "solver": "AB3", "evaluations": 4}, shifts=[1.0], rms=[0.1])
    asked = []
    for key in reached.until_reached(config, kept, "AB3"):
        asked.append(key["evaluations"])
        kept.add(key, shifts=[1.0], rms=[0.1 / key["evaluations"]])
    assert asked == [8, 10]
    assert list(reached.until_reached(config, kept, "AB3")) == []


def test_the_shipped_tuned_plans_are_found(tmp_path):
    config = dataclasses.replace(bench_to_error.get_config(), plans=str(tmp_path))
    found = reached.tuned_plans(config)
    assert {6, 8} <= found.keys()
    assert all(plan.nfe == evaluations for evaluations, plan in found.items())


# -- the table


PLAN = {"solver": "AB3", "shift": 0.7, "evaluations": 10, "rms": 0.0081}
OUT_OF_REACH = dict.fromkeys(PLAN)


def plans_row(listed, **changes):
    """A row of the plan that a list chose."""
    return {"part": "plans", "error": 0.01, "list": listed, **PLAN, **changes}


def seconds_row(contender, wall, **changes):
    """A row of seconds."""
    return {
        "part": "seconds",
        "error": 0.01,
        "batch": 1,
        "contender": contender,
        "jax": "1.0",
        **PLAN,
        "libraries": "torch 2" if contender.startswith("torch") else "JAX 1.0",
        "wall": wall,
        "agrees": True,
        "load": 0.5,
        "device": "a processor",
        **changes,
    }


def test_seconds_stand_beside_the_fastest_torch_contender():
    tuned = {"solver": "tuned", "shift": None, "evaluations": 6}
    rows = [
        seconds_row("torch compile", 0.2),
        seconds_row("torch eager", 0.4),
        seconds_row("flowjax, published", 0.3),
        seconds_row("flowjax, tuned", 0.1, **tuned),
        plans_row("published"),
        plans_row("tuned", **tuned),
        plans_row("diffusers", **OUT_OF_REACH),
    ]
    lines = markdown([*ERRORS, *rows], "command").splitlines()
    assert lines[2] == (
        "| 1 | 0.01 | 10 evaluations, 0.2 s (1.00) | 10 evaluations, 0.4 s (2.00) "
        "| 10 evaluations, 0.3 s (1.50) | 6 evaluations, 0.1 s (0.50) |"
    )
    assert lines[6] == (
        "| 0.01 | AB3, shift 0.7, 10 evaluations: 0.0081 | tuned, 6 evaluations: 0.0081 "
        "| not reached |"
    )
    assert lines[8] == "a processor; torch 2; JAX 1.0; load of the machine up to 0.5; `command`"


def test_another_result_and_an_error_out_of_reach_get_no_seconds():
    rows = [
        # The fastest, but it computes something else, so that no ratio refers to it.
        seconds_row("torch compile", 0.01, agrees=False),
        seconds_row("torch eager", 0.4),
        seconds_row("flowjax, tuned", 0.1, **OUT_OF_REACH),
    ]
    line = markdown(rows, "command").splitlines()[2]
    assert "10 evaluations, another result | 10 evaluations, 0.4 s (1.00) | not reached |" in line


def test_another_jax_has_lines_of_its_own():
    rows = [
        seconds_row("torch compile", 0.2),
        seconds_row("flowjax, tuned", 0.1),
        seconds_row("flowjax, tuned", 0.05, jax="2.0"),
    ]
    lines = markdown(rows, "command").splitlines()
    assert lines[2].startswith("| 1, JAX 1.0 | 0.01 | 10 evaluations, 0.2 s (1.00) |")
    assert lines[3] == "| 1, JAX 2.0 | 0.01 |  | 10 evaluations, 0.05 s (0.25) |"


# -- refusals


def refused(tmp_path, **changes):
    """The sentence with which a run is refused; nothing is written."""
    config = dataclasses.replace(bench_to_error.get_config("quick"), **changes)
    workdir = tmp_path / "run"
    with pytest.raises(ValueError) as caught:
        to_error.run(config, workdir)
    assert not workdir.exists()
    return str(caught.value)


def test_an_unknown_model_is_refused(tmp_path):
    assert "did you mean 'digits-smooth'" in refused(tmp_path, model="digits-smoth")


def test_a_path_that_is_not_linear_is_refused(tmp_path):
    folder = tmp_path / "network"
    models.save(folder, models.init(SIZES, jax.random.key(0), schedule=Cosine()))
    assert "the path Cosine; wanted the velocity on the path Linear" in refused(
        tmp_path, model=str(folder)
    )


def test_more_images_than_starts_are_refused(tmp_path):
    assert "raise --config.network_unseen" in refused(tmp_path, batches=(9,))


# -- the command


@pytest.mark.slow
def test_quick_run_in_processes(tmp_path, monkeypatch):
    """As a user runs it; PyTorch is left out, so that the test is the same everywhere."""

    def without_torch(names, **_):
        return {name: "left out by the test" for name in names if name in worker.TORCH}

    monkeypatch.setattr(worker, "missing", without_torch)
    config = dataclasses.replace(bench_to_error.get_config("quick"), plans=str(tmp_path / "none"))
    rows = to_error.run(config, tmp_path)
    timed = [row for row in rows if row["part"] == "seconds"]
    assert {row["contender"] for row in timed} == {"flowjax, published", "flowjax, tuned"}
    assert all(row["agrees"] and row["wall"] > 0 for row in timed)
    # A second run measures nothing again.
    assert to_error.run(config, tmp_path) == rows
    (path,) = to_error.table(tmp_path)
    assert path.read_text().startswith("| images | error | flowjax, published | flowjax, tuned |")


# -- one network for both


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """One evaluation of a shipped network, whose inputs and result in JAX are written."""
    folder = tmp_path_factory.mktemp("case")
    path = folder / "once.json"
    plans.save(path, to_error.one_evaluation())
    loaded = models.load("digits-smooth")
    sizes = loaded.card.config
    found = Case(
        folder=str(folder),
        size=8,
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        batch=2,
        steps=1,
        guidance=1.0,
        dtype="float32",
        model="digits-smooth",
        plan=str(path),
    )
    noise = np.random.default_rng(0).standard_normal((2, 8, 8, 1), dtype=np.float32)
    labels = np.array([3, 7], np.int32)
    velocity = jax.jit(loaded.apply)(loaded.params, noise, 0.5, labels)
    columns = with_jax.columns(loaded.card, plans.load(path))
    np.savez(found.inputs, noise=noise, labels=labels, x=-0.5 * np.asarray(velocity), **columns)
    export.write(pathlib.Path(folder), loaded.params, sizes)
    return found


def test_the_result_of_one_evaluation_is_the_velocity_alone(case):
    call, _ = with_jax.BUILD["flowjax"](case)
    assert error(case, call()) < 1e-5


def test_the_columns_have_the_clock_and_the_sign_of_the_network(case):
    """digits-smooth counts 1 - t, so its velocity is minus ours."""
    with np.load(case.inputs) as file:
        assert file["clock"] == 0.5 and file["q"] == -1


def test_one_evaluation_in_torch_agrees(case):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from experiments.benchmarks import with_torch

    call, _ = with_torch.BUILD["torch eager"](case)
    assert error(case, with_torch.wait(call())) < 1e-5


# -- the rows of seconds


def test_a_batch_that_lacks_contenders_is_timed_again_and_keeps_its_rows(tmp_path, monkeypatch):
    """A run without PyTorch, and then one with it."""
    config = dataclasses.replace(bench_to_error.get_config("quick"), batches=(2,))
    kept = records.Records(tmp_path, config)
    calls = []

    def measured(cases, pythons, folder, repeats):
        calls.append(list(cases))
        return {each: {"wall": float(len(calls)), "agrees": True} for each in cases}

    monkeypatch.setattr(to_error, "_measure", measured)
    monkeypatch.setattr(to_error, "_libraries", lambda contender, version: "")
    monkeypatch.setattr(
        to_error, "_share", lambda config, folder, plan, *_: Case("", 8, 8, 1, 2, 2, 1, 1.0, "")
    )
    monkeypatch.setattr(reached, "plan_of", lambda config, choice: None)
    choice = reached.Choice("AB3", 1.0, 8, 0.01)
    chosen = dict.fromkeys(reached.LISTS, choice)
    for absent in (dict.fromkeys(worker.TORCH, "absent"), {}, {}):
        monkeypatch.setattr(worker, "missing", lambda names, absent=absent: absent)
        to_error._take_seconds(config, kept, "", None, 0.05, chosen)
    # All take turns the second time, and nothing is measured the third time.
    assert [len(each) for each in calls] == [2, 4]
    walls = {row["contender"]: row["wall"] for row in kept.rows}
    assert walls == {
        "flowjax, published": 1.0,
        "flowjax, tuned": 1.0,
        "torch compile": 2.0,
        "torch eager": 2.0,
    }


# -- a network of public size


def test_the_untrained_network_is_that_of_the_transformer_benchmark_with_a_smooth_clock(tmp_path):
    config = bench_transformer.get_config("quick")
    written = untrained.write(tmp_path / "network", config)
    read = models.load(tmp_path / "network")
    assert read.card == written.card and read.card.clock == "1 - t"
    case = Case.of(config, tmp_path, config.size, 1, "float32")
    _, wanted = with_jax.network_of(case)
    for ours, theirs in zip(*map(jax.tree.leaves, (read.params, wanted)), strict=True):
        # The folder has float16.
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)
    # It is a model of `to_error`.
    to_error.check(
        dataclasses.replace(bench_to_error.get_config(), model=str(tmp_path / "network"))
    )
