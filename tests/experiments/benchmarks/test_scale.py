"""One image on many devices: laws of the formulas, and the page."""

import dataclasses

import jax
import numpy as np
import pytest

import flowjax
from configs import scale as configured
from experiments.benchmarks import certificate, scale, scale_table
from experiments.latency import layouts
from flowjax import grids, models, parallel, plans
from flowjax.parallel.analysis import latency, overlap
from flowjax.parallel.mesh import without_devices

FULL = configured.get_config()
QUICK = configured.get_config("quick")
DIT, SANA = "DiT-XL/2 1024", "SANA-1.6B/4K"


def bytes_of(attention, seq, cfg=1, network=DIT, config=FULL):
    layout = layouts.Layout(attention, cfg, seq)
    sizes = certificate.network(config, network)
    return scale.received(config, sizes, layout, without_devices(seq, cfg))


def test_bytes_are_those_of_the_formulas_by_hand():
    """28 layers, 4096 tokens of 1152 numbers, two branches, two bytes."""
    tokens, both = 28 * 4096 * 1152 * 2, 2
    assert bytes_of("gather", 4) == bytes_of("stale", 4) == 2 * 3 * tokens * both // 4
    assert bytes_of("ulysses", 4) == 4 * 3 * tokens * both // 16
    assert bytes_of("gather", 4, cfg=2) == 2 * 3 * tokens // 4
    assert bytes_of("ulysses_ring", (4, 2)) == 5 * tokens * both // 8


@pytest.mark.parametrize("attention", ["gather", "ulysses"])
def test_bytes_are_those_that_a_run_counts(attention):
    """On four virtual devices; `stats.bytes` is what `parallel.sample` reports for a row."""
    config = dataclasses.replace(FULL, guidance=1.0, dtype="float32")
    model = models.init(models.preset("digits", dtype="float32"), jax.random.key(0))
    sizes = model.card.config
    noise = flowjax.draw_noise(jax.random.key(1), range(1), (*sizes.size, sizes.channels))
    noise = np.asarray(noise, np.float32)
    plan = plans.euler(grids.uniform(2))
    mesh = parallel.make_mesh(seq=4)
    found = parallel.sample(model, noise, None, plan, mesh, attention=attention)
    layout = layouts.Layout(attention, 1, 4)
    wanted = scale.received(config, sizes, layout, without_devices(4))
    assert found.stats.bytes.tolist() == [wanted] * plan.rows


@pytest.mark.parametrize("network", [DIT, SANA])
@pytest.mark.parametrize("devices", [1, 16, 256])
def test_a_layout_takes_all_devices_and_leaves_each_its_tokens(network, devices):
    row = scale.paper(FULL, "TPU v5e", network, devices, "exact")
    sizes = certificate.network(FULL, network)
    # With cfg=2 half of the devices share the tokens of a branch.
    halves = 2 if "cfg 2" in row["layout"] else 1
    assert row["tokens"] * devices == sizes.tokens * halves


def test_one_device_waits_for_nothing_and_receives_nothing():
    row = scale.paper(FULL, "H100 nodes", DIT, 1, "exact")
    assert (row["exposed"], row["received"], row["limit"]) == (0, 0, "products")


def test_rows_of_linear_attention_bound_the_devices():
    """128 rows of tokens and two branches of guidance: no more than 256 devices."""
    assert scale.paper(FULL, "TPU v5e", SANA, 256, "exact")
    assert scale.paper(FULL, "TPU v5e", SANA, 512, "exact") is None


def test_the_seconds_are_those_of_the_latency_model():
    row = scale.paper(FULL, "TPU v5p", DIT, 16, "stale")
    sizes = certificate.network(FULL, DIT)
    device = configured.MACHINES["TPU v5p"].device
    shape = (1, *sizes.size, sizes.channels)
    cfg = 2 if "cfg 2" in row["layout"] else 1
    options = dict(guidance=4.5, cfg=cfg)
    wanted = latency.of_run(sizes, shape, 20, 1, "stale", 16 // cfg, device, **options).total
    assert row["seconds"] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [({}, "products"), ({"floor": 1.0}, "floor"), ({"memory": 1e3}, "weights")],
)
def test_what_sets_the_time_of_a_layer(monkeypatch, changes, limit):
    machine = configured.MACHINES["TPU v5e"]
    changed = machine._replace(device=machine.device._replace(**changes))
    monkeypatch.setitem(configured.MACHINES, "TPU v5e", changed)
    assert scale.paper(FULL, "TPU v5e", DIT, 16, "exact")["limit"] == limit


def test_a_quick_run_makes_the_page(tmp_path, capsys):
    rows = scale.run(QUICK, tmp_path)
    assert len(rows) == len(QUICK.devices) * len(scale.METHODS)
    text = scale_table.markdown(rows, "the command", QUICK.shown, QUICK.pays)
    assert text.startswith("# One image on 16 devices")
    assert "Memory is no limit" in text and "InfiniBand was not fitted" in text
    # A second run finds all rows.
    assert scale.run(QUICK, tmp_path) == rows


def test_without_the_compiler_the_formulas_remain(tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(QUICK, programs=(f"v5e:4x4 gather {DIT}",))
    monkeypatch.setattr(overlap, "missing", lambda platform: "the compiler is not here")
    with pytest.raises(SystemExit) as status:
        scale.run(config, tmp_path)
    assert status.value.code == 0
    assert "1 programs are left out: the compiler is not here." in capsys.readouterr().out
    assert (tmp_path / "table.md").exists() and not (tmp_path / "done.json").exists()


def test_compiled_programs_have_a_table():
    row = dict(
        topology="v5e:4x4", network=DIT, attention="stale", arguments=1.35e9, weights=1.35e9,
        temporary=3e8, buffers=8e7, gathered=0, activations=2e7, compiling=9.0,
    )  # fmt: skip
    keys = [dict(machine="TPU v5e", network=DIT, devices=1, method=m) for m in scale.METHODS]
    paper = [{**key, **scale.paper(FULL, **key)} for key in keys]
    text = scale_table.markdown([*paper, row], "c", (1,), 0.5)
    assert f"| v5e:4x4 | {DIT} | stale | 1.35 (1.35) | 300 | 100 | 200 | 9 |" in text


def test_an_unknown_machine_is_refused():
    with pytest.raises(ValueError, match="machines='TPU v9'"):
        scale.check(dataclasses.replace(QUICK, machines=("TPU v9",)))


@pytest.mark.slow
def test_a_compiled_program_holds_the_weights_and_the_buffers():
    """Two layers at 512 pixels on four TPU v5e; half a minute of a core."""
    pytest.importorskip("libtpu", reason="the compiler for TPU comes with the extra certificate")
    config = dataclasses.replace(FULL, layers=2)
    with jax.enable_x64(False):
        found = scale.compiled(config, "v5e:2x2", "stale", "DiT-XL/2 512")
    # The arguments are the weights, the places of 512 tokens, the noise and the plan.
    places = 512 * 1152 * 4
    assert found["weights"] < found["arguments"] < 1.01 * found["weights"] + places
    assert found["temporary"] > found["buffers"]
