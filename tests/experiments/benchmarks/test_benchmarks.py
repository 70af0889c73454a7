"""The benchmarks of the transformer: that contenders compute one thing, and what the tables are made of. Nothing is timed."""

import dataclasses
import io
import json
import math
import pathlib
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from safetensors import safe_open

from configs import bench_gpu, bench_transformer
from experiments.benchmarks import flops, gpu, transformer, with_jax, worker
from experiments.benchmarks.case import Case, error
from experiments.benchmarks.export import state_dict
from flowjax import models, records

GOLDEN = pathlib.Path(__file__).parents[2] / "golden/models/dit_diffusers_a"
ROW = dict(
    agrees=True,
    cpu=1.0,
    device="d",
    dtype="float32",
    error=0.0,
    first=1.0,
    load=0.0,
    memory=1,
    wall=2.0,
)


def forward(config):
    """(apply, abstract arguments) of one forward pass of one sample."""
    apply = lambda params, *args: models.network(config).apply(
        params, *args, models.softmax_attention, None
    )[0]
    number = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    patches = number(1, config.tokens, config.patch**2 * config.channels)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    positions = number(config.tokens, config.width)
    return apply, (models.network(config).shapes(), patches, number(1), label, positions)


def products(jaxpr):
    """Operations of the matrix products in a jaxpr, those of a scan as often as it turns."""
    total = 0
    for equation in jaxpr.eqns:
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += turns * sum(products(inner) for inner in jaxprs_in_params(equation.params))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += 2 * shared * math.prod(equation.outvars[0].aval.shape)
    return total


@pytest.mark.parametrize("depth, size", [(1, (8, 8)), (3, (8, 4))])
def test_operations_are_those_of_the_matrix_products(depth, size):
    config = models.DiTConfig(
        size, channels=4, patch=2, width=24, depth=depth, heads=2, classes=3, out_channels=8
    )
    apply, arguments = forward(config)
    assert flops.forward(config) == products(jax.make_jaxpr(apply)(*arguments).jaxpr)


def test_operations_agree_with_xla():
    config = models.DiTConfig((16, 16), channels=4, patch=2, width=192, depth=1, heads=2, classes=3)
    apply, arguments = forward(config)
    counted = jax.jit(apply).lower(*arguments).cost_analysis()["flops"]
    assert flops.forward(config) == pytest.approx(
        counted, rel=0.05
    )  # XLA counts norms, softmax and gelu too


def test_operations_of_the_largest_network_are_the_papers():
    """Table 4 of arXiv:2212.09748: 118.64 Gflops at 256 x 256 and 524.60 at 512 x 512, multiplication and addition as one."""
    config = models.preset("DiT-XL/2")
    assert flops.forward(config) / 2e9 == pytest.approx(118.64, rel=2e-3)
    assert flops.forward(config, (64, 64)) / 2e9 == pytest.approx(524.60, rel=2e-3)


def test_exported_weights_read_back_as_they_were(tmp_path):
    from safetensors.numpy import save_file

    loaded = models.load(GOLDEN)
    exported = state_dict(loaded.params, loaded.card.config)
    with safe_open(GOLDEN / "diffusion_pytorch_model.safetensors", "np") as file:
        assert exported.keys() == set(file.keys())
        assert all(np.array_equal(file.get_tensor(name), array) for name, array in exported.items())
    save_file(
        exported, tmp_path / "weights.safetensors"
    )  # the arrays are contiguous, as the format needs


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A small case whose inputs and float64 reference are written."""
    found = Case(
        str(tmp_path_factory.mktemp("case")),
        4,
        16,
        2,
        2,
        batch=2,
        steps=3,
        guidance=4.0,
        dtype="float32",
    )
    with_jax.prepare(dataclasses.replace(found, dtype="float64"), export=False)
    return found


@pytest.mark.parametrize("contender", worker.JAX)
def test_contenders_compute_the_reference(case, contender):
    told = io.StringIO()
    asked = [
        {"do": "build", "case": vars(case)},
        {"do": "call"},
        {"do": "memory"},
        {"do": "nothing known"},
    ]
    worker.serve(contender, [json.dumps(line) for line in asked], told)
    built, called, memory, refused = map(json.loads, told.getvalue().splitlines())
    assert built["error"] < 1e-6 and built["first"] > 0
    assert called.keys() == {"wall", "cpu"}
    assert memory["memory"] > 1e6
    assert "failed" in refused


def test_torch_computes_the_reference(case):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    from experiments.benchmarks import with_torch

    with_jax.prepare(dataclasses.replace(case, dtype="float64"), export=True)
    call, _ = with_torch.BUILD["torch eager"](case)
    assert error(case, with_torch.wait(call())) < 1e-6


def test_fused_attention_lowers_for_cuda(monkeypatch):
    """Heads 72 wide, as DiT-XL has, become one call of cuDNN; jax asks for the driver, which is not here."""
    library = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(library, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(library, "check_compute_capability", lambda _: True)
    q = jax.ShapeDtypeStruct((2, 256, 16, 72), jnp.bfloat16)
    program = jax.jit(lambda q, k, v: with_jax.fused_attention(q, k, v)[0])
    allowed = jax.export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")
    exported = jax.export.export(program, platforms=["cuda"], disabled_checks=[allowed])(q, q, q)
    assert "__cudnn$fmhaSoftmax" in exported.mlir_module()
    assert exported.out_avals[0].shape == q.shape


def test_attention_is_plain_without_a_gpu(case):
    assert (
        with_jax.attention(dataclasses.replace(case, dtype="bfloat16")) is models.softmax_attention
    )


def test_every_contender_begins_a_round_in_turn(monkeypatch):
    monkeypatch.setattr(worker, "GRACE", 0)
    order = []
    workers = {
        name: types.SimpleNamespace(ask=lambda _, name=name: order.append(name) or len(order))
        for name in "abc"
    }
    found = worker.taking_turns(workers, 3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1, 6, 8], "b": [2, 4, 9], "c": [3, 5, 7]}


def test_another_python_is_named_by_its_jax():
    assert worker.elsewhere(sys.executable) == {f"flowjax, JAX {jax.__version__}": sys.executable}
    with pytest.raises(ValueError, match="python='no-such-python' cannot be asked for its JAX"):
        worker.elsewhere("no-such-python")


def test_another_result_gets_no_ratio():
    rows = [{"batch": 1, "contender": name, **ROW} for name in ("flowjax", "fast and wrong")]
    rows[1] |= {"wall": 1.0, "agrees": False}
    lines = transformer.markdown(rows, "command").splitlines()
    assert "| 1.00 |" in lines[2]
    assert "another result" in lines[3] and "0.50" not in lines[3]


def test_without_a_gpu_one_sentence_and_no_rows(tmp_path):
    with pytest.raises(ValueError, match="needs an NVIDIA GPU and jax sees cpu alone"):
        gpu.run(bench_gpu.get_config(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_when_the_time_is_up_workers_end_and_cases_are_left_out(tmp_path, monkeypatch, capsys):
    """The first case takes all the time: its row is not written, and the run is not marked as complete."""
    killed = []

    def go(config, kept, folder, contenders, clock):
        clock.workers.append(
            types.SimpleNamespace(kill=lambda: killed.append(1), close=lambda: None)
        )
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
    """As a user runs it; PyTorch is left out, so that the test is the same with it and without."""
    monkeypatch.setattr(
        worker,
        "missing",
        lambda names, **_: {name: "not asked" for name in names if name in worker.TORCH},
    )
    rows = module.run(config.get_config("quick"), tmp_path)
    assert {row["contender"] for row in rows} == set(
        worker.JAX if module is transformer else ("flowjax",)
    )
    assert all(row["agrees"] and row["wall"] > 0 for row in rows)
    assert module.run(config.get_config("quick"), tmp_path) == rows  # nothing is measured again
    (path,) = module.table(tmp_path)
    assert path.read_text().count("\n| ") == len(rows)
    assert len(records.read(tmp_path)) == len(rows)
