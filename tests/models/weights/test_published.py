"""Published networks: what the originals compute, the schedule and parts of a pipeline.

The oracle for other sizes than the golden ones is a DiT in numpy (tests/models/reference.py).
"""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import compat, models
from flowjax.schedules import Linear, predict
from tests.golden import network_cases
from tests.models.weights.checkpoints import (
    CHANNELS,
    CLASSES,
    GRID,
    diffusers_folder,
    original_file,
    original_network,
    write_json,
)

GOLDEN = network_cases.HERE


# The golden networks.


@pytest.mark.parametrize(
    "name, cases",
    [
        ("dit_diffusers_a", 5),
        ("sit_original", 2),
        ("vae_kl", 4),
        # As the first, with another patch.
        pytest.param("dit_diffusers_b", 5, marks=pytest.mark.slow),
    ],
)
def test_golden_networks_give_what_the_originals_give(name, cases):
    lines = []
    passed, failed = network_cases.run_folder(GOLDEN / name, show=lines.append)
    assert (passed, failed) == (cases, 0), "\n".join(lines)


def test_golden_command_counts_what_cannot_be_loaded_or_differs(tmp_path, capsys):
    # One network with a wrong number, and one without files.
    shutil.copytree(GOLDEN / "vae_kl", tmp_path / "wrong")
    with np.load(tmp_path / "wrong" / "expected.npz") as file:
        given = dict(file)
    np.savez(tmp_path / "wrong" / "expected.npz", **given | {"scaling_factor": 0.2})
    (tmp_path / "empty").mkdir()
    shutil.copy(GOLDEN / "vae_kl" / "expected.npz", tmp_path / "empty")

    assert network_cases.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 passed, 2 failed"
    failures = [line.split()[0] for line in lines if line.endswith("FAILED")]
    assert failures == ["empty:", "wrong"]


def test_velocity_of_a_golden_dit_is_the_original_prediction_at_its_time():
    dit = models.load(GOLDEN / "dit_diffusers_a")
    given = network_cases.arrays(GOLDEN / "dit_diffusers_a" / "expected.npz")
    x, t = given["x"], (given["t"] + 1) / 1000
    velocity = jax.jit(dit.apply)(dit.params, x, t, given["y"])
    noise = predict(dit.card.schedule, "noise", velocity, x, t)
    np.testing.assert_allclose(noise, given["out"][..., :4], atol=1e-4)


def test_velocity_of_a_golden_sit_is_the_original_one_reversed():
    sit = models.load(GOLDEN / "sit_original")
    given = network_cases.arrays(GOLDEN / "sit_original" / "expected.npz")
    velocity = jax.jit(sit.apply)(sit.params, given["x"], 1 - given["t"], given["y"])
    # Ours points from data to noise, theirs to the data.
    np.testing.assert_allclose(velocity, -given["out"], atol=1e-5)


def test_slope_at_a_node_is_that_of_float64_where_float32_lies_below_the_node():
    model = models.load(GOLDEN / "dit_diffusers_a")
    nodes = np.arange(1, 1001)
    # 251 is among these nodes, which DDIM meets in 4 and in 20 steps.
    below = nodes[np.floor(np.float32(nodes / 1000) * np.float32(1000)) < nodes]
    assert len(below)
    x = np.zeros((len(below), 8, 8, 4), np.float32)
    label = np.zeros(len(below), int)
    exact = jax.tree.map(lambda a: a.astype(jnp.float64), model.params)
    velocity = jax.jit(model.apply)
    found = velocity(model.params, x, np.float32(below / 1000), label)
    wanted = velocity(exact, x.astype(np.float64), below / 1000, label)
    # The other segment's slope would differ by 2e-3 and more.
    assert network_cases.error_of(found, wanted) < 1e-4


# Networks of other sizes, against the oracle.


def assert_is_reference(model, patch, clock, wanted):
    """The network's own output, in float64, is `wanted(image, clock, label)`."""
    rows, columns = GRID
    x = np.random.default_rng(1).normal(size=(2, rows * patch, columns * patch, CHANNELS))
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.params)
    clocks = np.array([clock, clock / 2])
    labels = np.array([1, CLASSES])  # the second is the null label
    out = jax.jit(model.card.raw)(params, x, clocks, labels)
    both = [wanted(x[i], clocks[i], labels[i]) for i in range(2)]
    np.testing.assert_allclose(out, both, rtol=1e-9, atol=1e-9 * np.max(np.abs(both)))


@pytest.mark.parametrize("patch", [1, 4])
def test_diffusers_folder_is_the_network_of_the_paper(tmp_path, patch):
    folder = diffusers_folder(tmp_path / "net", patch, norm_eps=1e-2)
    wanted = functools.partial(original_network, patch, shift=1, epsilon=1e-2)
    assert_is_reference(models.load(folder), patch, 700.0, wanted)


def test_original_dit_keeps_its_learned_variance_and_sit_drops_it_as_its_own_code_does(tmp_path):
    path = original_file(tmp_path / "net", patch=4)
    dit, sit = models.load(path, kind="DiT"), models.load(path, kind="SiT")

    def without_variance(image, clock, label):
        return original_network(4, image, clock, label)[..., :CHANNELS]

    assert_is_reference(dit, 4, 700.0, functools.partial(original_network, 4))
    assert_is_reference(sit, 4, 0.7, without_variance)
    assert (dit.card.clock, dit.card.prediction) == ("index", "noise")
    assert (sit.card.clock, sit.card.prediction) == ("1 - t", "velocity")
    assert sit.card.schedule == Linear()


# Pipelines.

DPM = network_cases.SCHEDULERS["dpmpp_2m"]


def pipeline_folder(folder, **scheduler):
    shutil.copytree(GOLDEN / "dit_diffusers_a", folder / "transformer")
    shutil.copytree(GOLDEN / "vae_kl", folder / "vae")
    write_json(folder / "scheduler" / "scheduler_config.json", DPM | scheduler)
    index = {"_class_name": "DiTPipeline", "id2label": {"3": "giant panda, panda"}}
    write_json(folder / "model_index.json", index)
    return folder


def test_pipeline_samples_as_diffusers_from_its_own_scheduler(tmp_path):
    model = models.load(pipeline_folder(tmp_path / "net"))
    assert model.card.details["labels"] == {"3": "giant panda, panda"}
    assert model.card.scheduler == DPM
    run = network_cases.sampler(model)
    file = GOLDEN / "dit_diffusers_a" / "sample_dpmpp_2m_10_4.0.npz"
    found, wanted = network_cases.diffusers_run(run, file, model.card.scheduler, 10)
    assert network_cases.error_of(found, wanted) < network_cases.RUN
    assert model.card.vae.to_images(found).shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3]},
    ],
)
def test_pipeline_has_the_schedule_of_its_scheduler(tmp_path, options):
    schedule = models.load(pipeline_folder(tmp_path / "net", **options)).card.schedule
    wanted = compat.diffusers_schedule(DPM, **options)
    np.testing.assert_array_equal(schedule.betas, wanted.betas)
    assert schedule.log_snr_min == wanted.log_snr_min


def test_pipeline_without_a_part_or_of_another_kind_is_refused(tmp_path):
    folder = pipeline_folder(tmp_path / "net", prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="prediction_type='flow_prediction' is not known"):
        models.load(folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(FileNotFoundError, match="without vae/config.json"):
        models.load(folder)
    write_json(folder / "model_index.json", {"_class_name": "FluxPipeline"})
    with pytest.raises(ValueError, match="is a FluxPipeline, which is not read here"):
        models.load(folder)
