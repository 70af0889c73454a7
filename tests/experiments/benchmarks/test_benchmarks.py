"""The benchmarks of the transformer: one result of all contenders, and tables made of rows.

Nothing is timed.
"""

import dataclasses
import io
import json
import pathlib
import sys
import types

import jax
import numpy as np
import pytest
from safetensors import safe_open

from configs import bench_gpu, bench_transformer
from experiments.benchmarks import gpu, transformer, with_jax, worker
from experiments.benchmarks.case import PAIRS, REPEATS, Case, error
from experiments.benchmarks.export import state_dict
from flowjax import models, records
from flowjax.parallel.analysis import latency

GOLDEN = pathlib.Path(__file__).parents[2] / "golden/models/dit_diffusers_a"
# A row of `transformer` without its cell.
ROW = {
    "agrees": True,
    "cpu": 1.0,
    "device": "d",
    "dtype": "float32",
    "error": 0.0,
    "first": 1.0,
    "load": 0.0,
    "memory": 1,
    "operations": 1e9,
    "peak": 1e9,
    "wall": 2.0,
}


# -- one network for all


def test_exported_weights_read_back_as_they_were(tmp_path):
    from safetensors.numpy import save_file

    loaded = models.load(GOLDEN)
    exported = state_dict(loaded.params, loaded.card.config)
    with safe_open(GOLDEN / "diffusion_pytorch_model.safetensors", "np") as file:
        assert exported.keys() == set(file.keys())
        assert all(np.array_equal(file.get_tensor(name), array) for name, array in exported.items())
    # Fails where an array is a view: the format needs contiguous ones.
    save_file(exported, tmp_path / "weights.safetensors")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A small case whose inputs and float64 reference are written."""
    found = Case(
        folder=str(tmp_path_factory.mktemp("case")),
        size=4,
        width=16,
        depth=2,
        heads=2,
        batch=2,
        steps=3,
        guidance=4.0,
        dtype="float32",
    )
    with_jax.prepare(dataclasses.replace(found, dtype="float64"), export=False)
    return found


@pytest.mark.parametrize("contender", worker.JAX)
def test_contenders_compute_the_reference(case, contender):
    answers = io.StringIO()
    messages = [
        {"do": "build", "case": vars(case)},
        {"do": "call"},
        {"do": "memory"},
        {"do": "peak", "rows": 8, "width": 4, "hidden": 16, "dtype": "bfloat16"},
        {"do": "nothing known"},
    ]
    worker.serve(contender, [json.dumps(message) for message in messages], answers)
    built, called, memory, peak, refused = map(json.loads, answers.getvalue().splitlines())
    assert built["error"] < 1e-6 and built["first"] > 0
    assert called.keys() == {"wall", "cpu", "error"} and called["error"] < 1e-6
    assert peak["peak"] > 0
    # The process holds at least an interpreter.
    assert memory["memory"] > 1e6
    assert "failed" in refused


def test_torch_computes_the_reference(case):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from experiments.benchmarks import with_torch

    with_jax.prepare(dataclasses.replace(case, dtype="float64"), export=True)
    call, _ = with_torch.BUILD["torch eager"](case)
    assert error(case, with_torch.wait(call())) < 1e-6
    assert with_torch.matmul_peak(8, 4, 16, "bfloat16") > 0


def test_operations_count_every_evaluation_and_branch(case):
    once = with_jax.operations(dataclasses.replace(case, batch=1, steps=1, guidance=1.0))
    assert with_jax.operations(case) == 2 * case.batch * case.steps * once
    # Latents of 4 x 4 in patches of 2 x 2 are four tokens.
    assert once == latency.work(with_jax.configuration(case)).operations(4)


def test_the_peak_is_all_operations_over_the_shortest_time(monkeypatch):
    seconds = iter([9.0, *np.linspace(2.0, 0.5, REPEATS)])  # the first call compiles
    monkeypatch.setattr(with_jax, "clock", lambda call: call() is not None and next(seconds))
    # Two products of 2 * 8 * 4 * 16 operations in each pair.
    assert with_jax.matmul_peak(8, 4, 16, "float32") == PAIRS * 2 * (2 * 8 * 4 * 16) / 0.5


# -- processes


def test_every_contender_begins_a_round_in_turn(monkeypatch):
    monkeypatch.setattr(worker, "GRACE", 0)
    order = []

    def asker(name):
        return lambda _: order.append(name) or len(order)

    workers = {name: types.SimpleNamespace(ask=asker(name)) for name in "abc"}
    found = worker.taking_turns(workers, 3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_another_python_is_named_by_its_jax():
    assert worker.elsewhere(sys.executable) == {f"flowjax, JAX {jax.__version__}": sys.executable}
    with pytest.raises(ValueError, match="python='no-such-python' cannot be asked for its JAX"):
        worker.elsewhere("no-such-python")


# -- commands


def test_another_result_gets_no_ratio():
    rows = [{"batch": 1, "contender": name, **ROW} for name in ("flowjax", "fast and wrong")]
    rows[1] |= {"wall": 1.0, "agrees": False}
    # The first two lines are the table's head.
    lines = transformer.markdown(rows, "command").splitlines()
    assert "| 1.00 |" in lines[2]
    assert "another result" in lines[3] and "0.50" not in lines[3]


def test_shares_are_of_the_fastest_products_of_the_case():
    rows = [
        {"batch": batch, "contender": name, **ROW, "peak": peak}
        for batch, name, peak in (
            (1, "flowjax", 1e9),
            (1, "torch eager", 2e9),
            (4, "flowjax", 1e9),
        )
    ]
    # 1e9 operations in 2 seconds.
    shares = [
        line.split(" | ")[5] for line in transformer.markdown(rows, "command").splitlines()[2:5]
    ]
    assert shares == ["0.25", "0.25", "0.50"]


def test_an_unknown_dtype_is_refused_before_anything_is_written(tmp_path):
    config = dataclasses.replace(bench_transformer.get_config("quick"), dtypes=("float23",))
    with pytest.raises(ValueError, match="dtypes='float23' is not known"):
        transformer.run(config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_gpu_one_sentence_and_no_rows(tmp_path):
    with pytest.raises(ValueError, match="needs an NVIDIA GPU and jax sees cpu alone"):
        gpu.run(bench_gpu.get_config(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_when_the_time_is_up_workers_end_and_cases_are_left_out(tmp_path, monkeypatch, capsys):
    """The first case takes all the time: it leaves no row, and the run is not complete."""
    killed = []

    def go(config, kept, folder, contenders, clock):
        clock.workers.append(
            types.SimpleNamespace(kill=lambda: killed.append(1), close=lambda: None)
        )
        # Wait for the end of the time, as a long call would.
        clock._timer.join(5)
        raise RuntimeError("flowjax: its process ended")

    monkeypatch.setattr(gpu, "_go", go)
    with pytest.raises(SystemExit) as status:
        gpu.run(dataclasses.replace(bench_gpu.get_config("quick"), seconds=0.01), tmp_path)
    assert status.value.code == 0 and killed
    assert "left out: 64 px batch 2" in capsys.readouterr().out
    assert not (tmp_path / "done.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("module, config", [(transformer, bench_transformer), (gpu, bench_gpu)])
def test_quick_run_in_processes(module, config, tmp_path, monkeypatch):
    """As a user runs it; PyTorch is left out, so that the test is the same everywhere."""

    def without_torch(names, **_):
        return {name: "left out by the test" for name in names if name in worker.TORCH}

    monkeypatch.setattr(worker, "missing", without_torch)
    rows = module.run(config.get_config("quick"), tmp_path)
    expected = worker.JAX if module is transformer else ("flowjax",)
    assert {row["contender"] for row in rows} == set(expected)
    assert all(row["agrees"] and row["wall"] > 0 for row in rows)
    # A second run measures nothing again.
    assert module.run(config.get_config("quick"), tmp_path) == rows
    (path,) = module.table(tmp_path)
    assert path.read_text().count("\n| ") == len(rows)
    assert len(records.read(tmp_path)) == len(rows)
