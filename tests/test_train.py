"""Training: the loss and its minimum, one step in all its forms, and runs that are stopped, killed and spoiled."""

import dataclasses
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from configs import train_digits, train_emoji
from experiments import train as experiment
from flowjax import Cosine, Linear, checkpoint, data, fields, models, train
from flowjax.schedules import predict

TINY = models.DiTConfig((4, 4), channels=1, patch=2, width=8, depth=2, heads=2, classes=2)
CARD = models.Card("tiny", TINY)
# Where the network is of no interest: one layer that compiles at once, with a raw output and labels as a `Card` has.
LAYER = types.SimpleNamespace(
    config=TINY, schedule=Linear(), prediction="velocity", clock="1000 t", null_label=2,
    raw=lambda params, x, clock, label: (
        jnp.tanh(x.reshape(-1, 16) @ params["mix"] + params["label"][label] + jnp.sin(clock)[:, None] * params["time"][None])
        @ params["out"]
    ).reshape(x.shape),
)  # fmt: skip
SHAPES = {"mix": (16, 16), "label": (3, 16), "time": (16,), "out": (16, 16)}


# The loss


def rate(f, t):
    """Derivative by central differences, the oracle for alpha' and sigma'."""
    return (f(t + 1e-6) - f(t - 1e-6)) / 2e-6


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize("kind", ["velocity", "data", "noise", "v"])
def test_loss_of_the_exact_predictor_is_the_known_minimum(schedule, kind):
    # x = alpha d + sigma n and target = a d + b n are jointly normal, so the least error is the conditional variance.
    std = 0.5
    alpha, sigma = schedule.alpha, schedule.sigma
    weights = {
        "velocity": lambda t: (rate(alpha, t), rate(sigma, t)), "data": lambda t: (1, 0), "noise": lambda t: (0, 1),
        "v": lambda t: (-sigma(t), alpha(t)),
    }  # fmt: skip

    def least(t):
        a, b = weights[kind](t)
        return (std * (a * sigma(t) - b * alpha(t))) ** 2 / ((alpha(t) * std) ** 2 + sigma(t) ** 2)

    wanted = integrate.quad(least, 1e-5, 1 - 1e-5)[0]
    if kind == "velocity" and isinstance(schedule, Linear):
        assert wanted == pytest.approx(std * np.pi / 2, rel=1e-4)

    rng, count = np.random.default_rng(0), 200_000
    d, n, t = (
        jnp.asarray(v)
        for v in (
            std * rng.standard_normal((count, 2)),
            rng.standard_normal((count, 2)),
            rng.random(count),
        )
    )
    field = fields.Gaussian.from_eigen(np.zeros(2), np.eye(2), np.full(2, std**2), schedule)
    exact = lambda x, t: predict(schedule, kind, field.velocity(x, t), x, t)
    errors = train.squared_errors(exact, schedule, kind, d, n, t)
    assert abs(errors.mean() - wanted) < 4 * errors.std() / count**0.5


def test_score_is_the_noise_over_minus_sigma():
    t, noise = jnp.array([0.2, 0.9]), jnp.ones((2, 3))
    np.testing.assert_allclose(
        train.target(Cosine(), "score", 0 * noise, noise, t)[:, 0], -1 / Cosine().sigma(t)
    )


@pytest.mark.parametrize("clock, told", [("1000 t", 300.0), ("1 - t", 0.7)])
def test_a_network_is_told_its_own_time_and_one_that_runs_towards_the_data_is_turned_round(
    clock, told
):
    raw = lambda params, x, clock, label: jnp.full(
        (2, 1, 1, 2), clock[0]
    )  # one channel of velocity, one of variance
    card = types.SimpleNamespace(config=TINY, schedule=Linear(), clock=clock, raw=raw)
    found = train.network_prediction(
        card, {}, jnp.zeros((2, 1, 1, 1)), jnp.array([0.3, 0.3]), jnp.array([0, 1])
    )
    assert found.shape == (2, 1, 1, 1) and np.allclose(found, -told if clock == "1 - t" else told)


def draws(kind, **options):
    keys = jax.random.split(jax.random.key(3), 4000)
    return np.asarray(jax.vmap(functools.partial(train.draw_times, kind=kind, **options))(keys))


def test_times_follow_their_laws():
    logit = lambda t: np.log(t / (1 - t))
    u, t = draws("uniform", dtype=jnp.float64), draws("shifted", shift=4.0, dtype=jnp.float64)
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(
        logit(t), logit(u) + np.log(4), atol=1e-9
    )  # a shift by s moves the logit by log s
    normal = draws("logit-normal", mean=0.5, std=2.0)
    assert (
        stats.kstest((logit(normal.astype(float)) - 0.5) / 2, "norm").pvalue > 1e-3
        and normal.dtype == np.float32
    )


def test_unknown_times_are_refused():
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        train.draw_times(jax.random.key(0), "unform")


# One step


OPTIMIZER = train.adamw(20, learning_rate=1e-2, warmup=1)


@functools.cache
def compiled(devices, microbatches, label_dropout):
    """The step (state, batch) -> (state, metrics) with a key of its own, shared by the tests."""
    mesh, times = (
        train.data_mesh(jax.devices()[:devices]),
        functools.partial(train.draw_times, kind="logit-normal"),
    )
    options = dict(label_dropout=label_dropout, decay=0.9, microbatches=microbatches)
    step = train.make_step(LAYER, OPTIMIZER, mesh, times=times, **options)
    whole = functools.partial(train.replicate, mesh=mesh)
    return lambda state, batch: step(
        whole(state), train.shard(batch, mesh), whole(jax.random.key(5))
    )


def make(devices=1, microbatches=1, label_dropout=0.1):
    """(step, state, batch) of one layer, in float64."""
    rng = np.random.default_rng(0)
    params = {name: 0.3 * rng.standard_normal(shape) for name, shape in SHAPES.items()}
    batch = {"images": rng.uniform(-1, 1, (8, 4, 4, 1)), "labels": np.arange(8, dtype=np.int32) % 2}
    return compiled(devices, microbatches, label_dropout), train.start(params, OPTIMIZER), batch


def after(steps, **options):
    step, state, batch = make(**options)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


@functools.cache
def reference():
    return after(3)


@pytest.mark.parametrize("devices, microbatches", [(1, 4), (2, 2)])
def test_devices_and_microbatches_train_as_one(devices, microbatches):
    state, losses = after(3, devices=devices, microbatches=microbatches)
    np.testing.assert_allclose(losses, reference()[1], rtol=1e-13)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), state, reference()[0]
    )


def test_training_lowers_the_loss_of_what_it_has_seen():
    step, state, batch = make()
    for _ in range(20):
        state, _ = step(state, batch)
    again = state._replace(step=jnp.zeros_like(state.step))  # the noise and times of the first step
    assert float(step(again, batch)[1]["loss"]) < 0.9 * reference()[1][0]


def test_running_mean_is_that_of_a_loop():
    step, state, batch = make()
    mean = jax.tree.map(np.array, state.params)
    for n in range(4):
        state, _ = step(state, batch)
        rest = 1 - min(0.9, (1 + n) / (10 + n))
        mean = jax.tree.map(
            functools.partial(lambda rest, m, p: (1 - rest) * m + rest * np.asarray(p), rest),
            mean,
            state.params,
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), state.ema, mean
    )


def test_decay_of_the_running_mean_grows_to_its_limit():
    np.testing.assert_allclose(
        train.ema_decay(jnp.array([0, 8, 10**6]), 0.99), [0.1, 0.5, 0.99], rtol=1e-6
    )


@pytest.mark.parametrize("dropout", [0.1, 1.0])
def test_only_dropped_labels_tell_nothing(dropout):
    losses = []
    for label in (0, 1):
        step, state, batch = make(label_dropout=dropout)
        losses.append(
            float(step(state, batch | {"labels": jnp.full(8, label, jnp.int32)})[1]["loss"])
        )
    assert (losses[0] == losses[1]) == (dropout == 1)


def test_noise_of_the_batch_takes_the_place_of_drawn_noise():
    # noise = data makes the target 0, and so the loss of a network that says 0
    step, state, batch = make()
    state = state._replace(params={**state.params, "out": jnp.zeros((16, 16))})
    assert float(step(state, {**batch, "noise": batch["images"]})[1]["loss"]) == 0


def test_optimizer_warms_up_and_ends_at_rest():
    optimizer = train.adamw(10, learning_rate=0.1, warmup=2)
    params = jnp.ones(3)
    state, moves = optimizer.init(params), []
    update_by = jax.jit(optimizer.update)
    for _ in range(11):
        update, state = update_by(jnp.full(3, 5.0), state, params)
        moves.append(float(-update[0]))
    np.testing.assert_allclose(
        moves[:3], [0, 0.05, 0.1], rtol=1e-5
    )  # Adam moves by its rate while gradients are equal
    assert all(a > b for a, b in zip(moves[2:], moves[3:])) and moves[10] == 0


def test_batch_that_does_not_divide_says_what_would():
    with pytest.raises(
        ValueError,
        match="batch of 12 does not divide over 8 device.*take 8 or 16, or 1, 2, 3, 4, 6, 12 devices",
    ):
        train.check_split(12, 8, 1)
    with pytest.raises(ValueError, match="take 6 or 12"):
        train.check_split(8, 2, 3)
    with pytest.raises(ValueError, match="does not divide"):
        step, state, batch = make(devices=1, microbatches=3)
        step(state, batch)


# A run


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "toy.npz",
        images=rng.integers(0, 256, (20, 4, 4, 1), dtype=np.uint8),
        labels=np.arange(20) % 2,
    )
    return dataclasses.replace(
        train_digits.get_config("quick"), data=str(tmp_path / "toy.npz"), patch=2, width=8, batch=8, devices=1, steps=6,
        log_every=1, save_every=2, sample_every=6,
    )  # fmt: skip


def saved(workdir, step=6):
    """{name: array} of a checkpoint, and its details."""
    folder = workdir / "checkpoints"
    names = checkpoint.read_card(folder, step)["arrays"]
    like = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in names.items()}
    return checkpoint.restore(folder, step, like)


def assert_same_run(a, b):
    left, right = saved(a)[0], saved(b)[0]
    assert left.keys() == right.keys() and all(
        np.array_equal(left[name], right[name]) for name in left
    )


@pytest.fixture
def compiled_once(monkeypatch):
    """The runs of one test share their compiled step and sampler."""
    for module, name in ((train, "make_step"), (experiment, "sampler")):
        made, make = [], getattr(module, name)
        first = lambda *args, made=made, make=make, **options: (
            made or made.append(make(*args, **options)) or made
        )[0]
        monkeypatch.setattr(module, name, first)


def test_run_that_is_terminated_ends_as_one_that_is_not(
    config, tmp_path, monkeypatch, capsys, compiled_once
):
    rows = experiment.run(config, tmp_path / "whole")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]

    batch = data.Batches.__call__
    terminate = lambda self, step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(
            data.Batches,
            "__call__",
            lambda self, step: (terminate(self, step), batch(self, step))[1],
        )
        experiment.run(config, tmp_path / "parts")
    assert (
        stopped.value.code == 128 + signal.SIGTERM
        and "SIGTERM: step 3 of 6 is saved" in capsys.readouterr().out
    )
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    again = experiment.run(config, tmp_path / "parts")
    assert "holds step 3 of 6" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert [row["loss"] for row in again] == [row["loss"] for row in rows]

    arrays, details = saved(tmp_path / "whole")
    assert {a.dtype for a in arrays.values()} == {
        np.dtype("float32"),
        np.dtype("int32"),
    }  # float64 is on in these tests
    model = models.load(tmp_path / "whole" / "model")
    ema = {name.removeprefix("ema."): a for name, a in arrays.items() if name.startswith("ema.")}
    found = checkpoint.flatten(model.params)
    assert found.keys() == ema.keys() and all(
        np.array_equal(found[n], ema[n].astype(np.float16)) for n in ema
    )
    assert model.card.details["images_seen"] == 48 and model.card.details["config"]["patch"] == 2
    assert (tmp_path / "whole" / "samples.png").exists()
    check_settings_are_held(config, tmp_path)


def check_settings_are_held(config, tmp_path):
    """Part of the test above, whose run it reuses: other settings and other data are refused, rows lost keep checkpoints."""
    folder, card = tmp_path / "whole" / "checkpoints", "00000006/card.json"
    told = json.loads((folder / card).read_text())
    told["details"]["config"]["ema"], told["details"]["data"]["hash"] = 0.5, "0"
    (folder / card).write_text(json.dumps(told))
    with pytest.raises(
        ValueError, match="another run .ema: 0.5 there, 0.999 now; the images of .*: hash 0 there"
    ):
        experiment.run(config, tmp_path / "whole")
    with pytest.raises(ValueError, match="another configuration .seed: 0 there, 1 now"):
        experiment.run(dataclasses.replace(config, seed=1), tmp_path / "whole")
    (tmp_path / "whole" / "rows.jsonl").unlink()
    work = experiment.Run(config, tmp_path / "whole")
    assert work.step == 0 and checkpoint.steps(tmp_path / "whole" / "checkpoints-before-1") == [
        2,
        4,
        6,
    ]


def counting(spoiled=None):
    """A step that only counts, with a loss that is not finite at step `spoiled`."""

    def step(state, batch, key):
        count = int(state.step) + 1
        return state._replace(step=jnp.asarray(count, jnp.int32)), {
            "loss": np.inf if count == spoiled else 1.0,
            "gradient": 1.0,
        }

    return step


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(config, tmp_path):
    work = experiment.Run(dataclasses.replace(config, log_every=3), tmp_path / "run")
    with pytest.raises(
        ValueError, match="at step 5 the loss is inf .*checkpoint of step 4 is kept"
    ):
        experiment._loop(work, counting(spoiled=5), None, [])
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2, 4]


def test_full_disk_ends_with_a_sentence_and_the_run_goes_on_later(config, tmp_path, monkeypatch):
    write = checkpoint._write

    def limited(path, step, arrays, details):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if step == 4 else before[0], before[1]))
        try:
            write(path, step, arrays, details)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(checkpoint, "_write", limited)
    with pytest.raises(ValueError, match="step 4 cannot be written .*step 2 is kept"):
        experiment._loop(experiment.Run(config, tmp_path / "run"), counting(), None, [])
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2]
    assert experiment.Run(config, tmp_path / "run").step == 2


def test_reflow_pairs_join_noise_to_what_the_teacher_makes_of_it(config, tmp_path):
    # a teacher with velocity c everywhere (only the output's bias is not zero): x(0) = x(1) - c
    teacher = models.init(TINY, jax.random.key(0))
    params = jax.tree.map(jnp.zeros_like, teacher.params)
    params["outputs"]["bias"] = jnp.full_like(params["outputs"]["bias"], 0.25)
    models.save(tmp_path / "teacher", models.model(teacher.card, params), dtype="float32")
    config = dataclasses.replace(
        config, coupling="reflow", teacher=str(tmp_path / "teacher"), pairs=10
    )
    work = experiment.Run(config, tmp_path / "run")
    batch = work.batches(0)
    np.testing.assert_allclose(batch["images"], batch["noise"] - 0.25, atol=1e-6)
    assert np.std(batch["noise"]) == pytest.approx(1, abs=0.25)
    assert np.array_equal(work.state.params["outputs"]["bias"], params["outputs"]["bias"])
    with pytest.raises(ValueError, match="needs a teacher"):
        experiment.Run(
            dataclasses.replace(config, teacher=str(tmp_path / "none")), tmp_path / "other"
        )
    other = dataclasses.replace(config, width=16)
    with pytest.raises(ValueError, match="teacher .* has sizes .*width=8"):
        experiment.Run(other, tmp_path / "other")


@pytest.mark.parametrize("name, module", [("digits", train_digits), ("emoji", train_emoji)])
def test_configs_train_the_presets(name, module):
    held = data.load(name)
    assert experiment.make_card(module.get_config(), held).config == models.preset(name)
    assert module.get_config("quick").steps < 10


@pytest.mark.slow
def test_run_that_is_killed_at_any_moment_ends_as_one_that_is_not(config, tmp_path):
    command = [
        sys.executable,
        "-m",
        "experiments.train",
        "--config=configs/train_digits.py:quick",
        "--config.save_every=1",
    ]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    subprocess.run(
        [*command, f"--workdir={whole}"], check=True, env=environment, capture_output=True
    )
    kills = 0
    for line in range(
        2, 5
    ):  # after the first, second and third progress line, so within the step or save that follows
        with subprocess.Popen(
            [*command, f"--workdir={parts}"],
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process:
            for _ in range(line - 1):
                process.stderr.readline()
            process.kill()
        kills += process.returncode == -signal.SIGKILL
    subprocess.run(
        [*command, f"--workdir={parts}"], check=True, env=environment, capture_output=True
    )
    assert kills == 3
    left, right = saved(whole, 8)[0], saved(parts, 8)[0]
    assert all(np.array_equal(left[name], right[name]) for name in left)
