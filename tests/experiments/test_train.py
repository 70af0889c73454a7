"""Runs of training that are stopped, killed and spoiled, and the pairs of reflow."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import train_digits, train_emoji
from experiments import train as experiment
from experiments.lab import training
from flowjax import checkpoint, data, models, train
from flowjax.records import Records

TINY = models.DiTConfig((4, 4), channels=1, patch=2, width=8, depth=2, heads=2, classes=2)


@pytest.fixture
def config(tmp_path):
    """A run of six steps on twenty small images."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "toy.npz", images=images, labels=np.arange(20) % 2)
    return dataclasses.replace(
        train_digits.get_config("quick"),
        data=str(tmp_path / "toy.npz"),
        patch=2,
        width=8,
        batch=8,
        devices=1,
        steps=6,
        log_every=1,
        save_every=2,
        sample_every=6,
    )


def saved(workdir, step=6):
    """{name: array} of a checkpoint, and its details."""
    folder = workdir / "checkpoints"
    names = checkpoint.read_card(folder, step)["arrays"]
    like = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in names.items()}
    return checkpoint.restore(folder, step, like)


def assert_same_arrays(left, right):
    assert left.keys() == right.keys()
    assert all(np.array_equal(left[name], right[name]) for name in left)


# Runs that are stopped.


@pytest.fixture
def compiled_once(monkeypatch):
    """The runs of one test use the same compiled step and sampler."""

    def make_once(make):
        made = []

        def first(*args, **options):
            if not made:
                made.append(make(*args, **options))
            return made[0]

        return first

    monkeypatch.setattr(train, "make_step", make_once(train.make_step))
    monkeypatch.setattr(experiment, "sampler", make_once(experiment.sampler))


def terminate_at(step, patch):
    """Send this process SIGTERM when a run draws the batch of `step`."""
    batch = data.Batches.__call__

    def call(self, this_step):
        if this_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, this_step)

    patch.setattr(data.Batches, "__call__", call)


def test_run_that_is_terminated_ends_as_one_that_is_not(
    config, tmp_path, monkeypatch, capsys, compiled_once
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    rows = experiment.run(config, whole)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]

    # A signal in step 3 ends the run after that step, and later signals are handled as before.
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        terminate_at(2, patch)
        experiment.run(config, parts)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "SIGTERM: step 3 of 6 is saved" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    # The same command goes on to the same end.
    again = experiment.run(config, parts)
    assert "holds step 3 of 6" in capsys.readouterr().out
    assert_same_arrays(saved(whole)[0], saved(parts)[0])
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]

    # These three use the finished run, so that it need not be made again.
    check_model_is_the_running_mean(whole)
    check_other_settings_are_refused(config, whole)
    check_checkpoints_without_rows_are_moved_aside(config, whole)


def check_model_is_the_running_mean(workdir):
    arrays, _ = saved(workdir)
    # float64 is on in these tests, and must not reach a run.
    assert {a.dtype for a in arrays.values()} == {np.dtype("float32"), np.dtype("int32")}
    model = models.load(workdir / "model")
    ema = {
        name.removeprefix("ema."): a.astype(np.float16)
        for name, a in arrays.items()
        if name.startswith("ema.")
    }
    assert_same_arrays(checkpoint.flatten(model.params), ema)
    assert model.card.details["images_seen"] == 48
    assert model.card.details["config"]["patch"] == 2
    assert (workdir / "samples.png").exists()


def check_other_settings_are_refused(config, workdir):
    """Other settings, and other data, than those of the checkpoint."""
    path = workdir / "checkpoints" / "00000006" / "card.json"
    card = json.loads(path.read_text())
    # As if the checkpoint were that of another run.
    card["details"]["config"]["ema"] = 0.5
    card["details"]["data"]["hash"] = "0"
    path.write_text(json.dumps(card))
    wanted = "another run .ema: 0.5 there, 0.999 now; the images of .*: hash 0 there"
    with pytest.raises(ValueError, match=wanted):
        experiment.run(config, workdir)
    with pytest.raises(ValueError, match="another configuration .seed: 0 there, 1 now"):
        experiment.run(dataclasses.replace(config, seed=1), workdir)


def check_checkpoints_without_rows_are_moved_aside(config, workdir):
    (workdir / "rows.jsonl").unlink()
    assert experiment.Run(config, workdir).step == 0
    assert checkpoint.steps(workdir / "checkpoints-before-1") == [2, 4, 6]


# Runs that are spoiled.


def counting(spoiled=None):
    """A step that only counts, with a loss that is not finite at step `spoiled`."""

    def step(state, batch, key):
        count = int(state.step) + 1
        loss = np.inf if count == spoiled else 1.0
        state = state._replace(step=jnp.asarray(count, jnp.int32))
        return state, {"loss": loss, "gradient": 1.0}

    return step


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(config, tmp_path):
    # The loss is looked at when it is logged or saved: at steps 2, 3, 4 and 6.
    work = experiment.Run(dataclasses.replace(config, log_every=3), tmp_path / "run")
    wanted = "at step 5 the loss is inf .*checkpoint of step 4 is kept"
    with pytest.raises(ValueError, match=wanted):
        experiment._loop(work, counting(spoiled=5), None, [])
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2, 4]


def test_full_disk_ends_with_a_sentence_and_the_run_goes_on_later(config, tmp_path, monkeypatch):
    write = checkpoint._write

    def write_to_a_full_disk(path, step, arrays, details):
        """At step 4 no file may have more than 4096 bytes."""
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        most = 4096 if step == 4 else before[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            write(path, step, arrays, details)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(checkpoint, "_write", write_to_a_full_disk)
    with pytest.raises(ValueError, match="step 4 cannot be written .*step 2 is kept"):
        experiment._loop(experiment.Run(config, tmp_path / "run"), counting(), None, [])
    # The checkpoint before the full disk is complete, and the run goes on from it.
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2]
    assert experiment.Run(config, tmp_path / "run").step == 2


# Reflow, and the configurations.


def test_reflow_pairs_join_noise_to_the_teachers_images(config, tmp_path):
    # Only the output's bias is not zero, so the velocity is c everywhere, and x(0) = x(1) - c.
    untrained = models.init(TINY, jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, untrained.params)
    params["outputs"]["bias"] = jnp.full_like(params["outputs"]["bias"], 0.25)
    teacher = models.model(untrained.card, params)
    models.save(tmp_path / "teacher", teacher, dtype="float32")

    reflow = dataclasses.replace(
        config, coupling="reflow", teacher=str(tmp_path / "teacher"), pairs=10
    )
    work = experiment.Run(reflow, tmp_path / "run")
    batch = work.batches(0)
    np.testing.assert_allclose(batch["images"], batch["noise"] - 0.25, atol=1e-6)
    assert np.std(batch["noise"]) == pytest.approx(1, abs=0.25)
    assert np.array_equal(work.state.params["outputs"]["bias"], params["outputs"]["bias"])

    # A teacher that is not there, and one of other sizes.
    without = dataclasses.replace(reflow, teacher=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="needs a teacher"):
        experiment.Run(without, tmp_path / "other")
    wider = dataclasses.replace(reflow, width=16)
    with pytest.raises(ValueError, match="teacher .* has sizes .*width=8"):
        experiment.Run(wider, tmp_path / "other")


def save_teacher(folder, seed=0, sizes=TINY):
    """Write a teacher of random weights, none of which is zero, and read it."""
    shapes = models.network(sizes).shapes()
    random = np.random.default_rng(seed)
    params = jax.tree.map(lambda leaf: 0.3 * random.normal(size=leaf.shape), shapes)
    models.save(folder, models.model(models.Card("teacher", sizes), params), dtype="float32")
    return models.load(folder)


@pytest.fixture
def reflow(config, tmp_path):
    """A run of reflow, and its teacher in tmp_path / "teacher"."""
    save_teacher(tmp_path / "teacher")
    return dataclasses.replace(
        config, coupling="reflow", teacher=str(tmp_path / "teacher"), pairs=10
    )


def test_overwriting_a_run_makes_the_pairs_of_other_settings(reflow, tmp_path, monkeypatch):
    workdir, made = tmp_path / "run", []
    make_pairs = experiment.make_pairs
    monkeypatch.setattr(
        experiment, "make_pairs", lambda *given: made.append(given) or make_pairs(*given)
    )
    first = experiment.Run(reflow, workdir).data
    # The run goes on with its pairs, and so does the same run that begins anew.
    assert experiment.Run(reflow, workdir).data.hash == first.hash
    Records(workdir, reflow).add({"step": 1}, loss=1.0)
    Records(workdir, reflow, overwrite=True)
    assert experiment.Run(reflow, workdir).data.hash == first.hash and len(made) == 1

    Records(workdir, reflow).add({"step": 1}, loss=1.0)
    guided = dataclasses.replace(reflow, pair_guidance=2.0)
    Records(workdir, guided, overwrite=True)
    second = experiment.Run(guided, workdir).data
    assert len(made) == 2 and np.array_equal(first.noise, second.noise)
    assert not np.allclose(first.images, second.images, atol=1e-3)
    # The earlier pairs are not lost.
    assert np.array_equal(data.load(str(workdir / "pairs-before-1.npz")).images, first.images)


def test_pairs_of_a_teacher_that_was_trained_again_are_refused(reflow, tmp_path):
    workdir = tmp_path / "run"
    first = experiment.Run(reflow, workdir).data
    Records(workdir, reflow).add({"step": 1}, loss=1.0)
    save_teacher(tmp_path / "teacher", seed=1)
    with pytest.raises(ValueError, match="pairs of .* other settings .parameters of the teacher: "):
        experiment.Run(reflow, workdir)

    # A run that is older than the settings goes on.
    archive = dict(np.load(workdir / "pairs.npz"))
    del archive["settings"]
    np.savez(workdir / "pairs.npz", **archive)
    assert experiment.Run(reflow, workdir).data.hash == first.hash


# Networks without a null label.


@pytest.mark.parametrize("network", ["dit", "sana"])
def test_a_network_has_a_null_label_if_labels_are_dropped(config, network):
    held = data.load(config.data)
    for dropout, has_null in ((0.1, True), (0.0, False)):
        given = dataclasses.replace(config, network=network, label_dropout=dropout)
        sizes = experiment.make_card(given, held).config
        assert (sizes.has_null, sizes.labels) == (has_null, 2 + has_null)


def test_training_without_dropped_labels_ends_with_a_network_without_a_null_label(config, tmp_path):
    given = dataclasses.replace(config, label_dropout=0.0, guidance=1.0, steps=2)
    training.check(given)
    experiment.run(given, tmp_path / "run")
    assert (tmp_path / "run" / "samples.png").exists()
    assert not models.load(tmp_path / "run" / "model").card.config.has_null

    guided = dataclasses.replace(given, guidance=1.5)
    with pytest.raises(ValueError, match="label_dropout=0 .* guidance=1.5 .* give guidance=1, or"):
        training.check(guided)


@pytest.mark.parametrize("network", ["dit", "sana"])
def test_a_student_may_do_without_the_null_label_of_its_teacher(config, tmp_path, network):
    labelled = dataclasses.replace(config, network=network)
    sizes = experiment.make_card(labelled, data.load(config.data)).config
    teacher = save_teacher(tmp_path / "teacher", sizes=sizes)
    given = dataclasses.replace(
        labelled, coupling="reflow", teacher=str(tmp_path / "teacher"), pairs=10
    )
    given = dataclasses.replace(given, label_dropout=0.0, guidance=1.0, pair_guidance=2.0)
    training.check(given)
    work = experiment.Run(given, tmp_path / "run")
    # It computes what the teacher does for its classes.
    noise, label = jnp.asarray(work.data.noise), work.data.labels
    student = models.model(work.card, jax.device_get(work.state.params))
    found, wanted = (each.apply(each.params, noise, 0.5, label) for each in (student, teacher))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


def test_a_teacher_without_a_null_label_is_not_guided(reflow, tmp_path):
    save_teacher(tmp_path / "teacher", sizes=dataclasses.replace(TINY, has_null=False))
    given = dataclasses.replace(reflow, label_dropout=0.0, guidance=1.0)
    training.check(given)
    assert len(experiment.Run(given, tmp_path / "run").data) == 10
    for change in ({"pair_guidance": 2.0}, {"label_dropout": 0.1}):
        wanted = "teacher .* without a null label.* give pair_guidance=1 and label_dropout=0"
        with pytest.raises(ValueError, match=wanted):
            training.check(dataclasses.replace(given, **change))


@pytest.mark.parametrize("name, module", [("digits", train_digits), ("emoji", train_emoji)])
def test_configs_train_the_presets(name, module):
    card = experiment.make_card(module.get_config(), data.load(name))
    assert card.config == models.preset(name)
    assert module.get_config("quick").steps < 10


# Runs that are killed.

COMMAND = [
    sys.executable,
    "-m",
    "experiments.train",
    "--config=configs/train_digits.py:quick",
    "--config.save_every=1",
]


def run_to_the_end(workdir, environment):
    command = [*COMMAND, f"--workdir={workdir}"]
    subprocess.run(command, check=True, env=environment, capture_output=True)


def kill_after_progress(lines, workdir, environment):
    """Kill a run in the step or save after some lines of progress. Returns its exit code."""
    with subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}"],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        for _ in range(lines):
            process.stderr.readline()
        process.kill()
    return process.returncode


@pytest.mark.slow
def test_run_that_is_killed_at_any_moment_ends_as_one_that_is_not(tmp_path):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_to_the_end(whole, environment)
    codes = [kill_after_progress(lines, parts, environment) for lines in (1, 2, 3)]
    run_to_the_end(parts, environment)
    assert codes == [-signal.SIGKILL] * 3
    left, right = saved(whole, 8)[0], saved(parts, 8)[0]
    assert all(np.array_equal(left[name], right[name]) for name in left)
