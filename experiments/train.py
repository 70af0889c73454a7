"""Train a transformer, from a configuration to a model that `flowjax.models.load` reads.

    python -m experiments.train --config=configs/train_digits.py --workdir=runs/digits

The work directory holds

    rows.jsonl       loss, norm of the gradient, images a second: one row each `log_every` steps
    checkpoints/     the newest few, see `flowjax.checkpoint`
    samples.png      samples of the running mean of the parameters, one class a column, always from the same noise
    pairs.npz        what the teacher made (coupling "reflow" only)
    model/           the running mean of the parameters at the end

Nothing is lost: Ctrl-C and SIGTERM save and leave; after a SIGKILL the same command goes on from the newest checkpoint. Both
end with the parameters of a run that was not stopped, on a CPU to the last bit.
"""

import contextlib
import dataclasses
import datetime
import functools
import math
import os
import pathlib
import shlex
import signal
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

import flowjax
from experiments.cli.images import grid, save_png
from experiments.cli.run import main
from experiments.lab.reflow import make_pairs, noise_for, sampler
from flowjax import checkpoint, data, grids, models, plans, train
from flowjax.errors import check_choice
from flowjax.records import Records, environment, plain

SCHEDULES = {"linear": flowjax.Linear(), "cosine": flowjax.Cosine()}
# Where pictures begin: at t = 1 these predictions say nothing of the data, since alpha is 0 there.
FIRST_TIME = {"noise": 0.999, "score": 0.999}
STREAMS = {"parameters": 0, "training": 1, "samples": 2, "pairs": 3}  # of the seed


def key_of(config, stream):
    """The key of one purpose."""
    return jax.random.fold_in(jax.random.key(config.seed), STREAMS[stream])


def make_card(config, held):
    """The `Card` of the network that `config` trains on the data `held`."""
    check_choice("train", "schedule", config.schedule, SCHEDULES)
    sizes = models.DiTConfig(
        held.images.shape[1:3], held.images.shape[3], config.patch, config.width, config.depth, config.heads,
        len(held.classes), dtype=None if config.dtype == "float32" else config.dtype,
    )  # fmt: skip
    name = pathlib.Path(held.name).stem
    return models.Card(name, sizes, SCHEDULES[config.schedule], config.prediction, config.clock)


def make_optimizer(config):
    """The optax chain of a run: `config.optimizer()` where a configuration defines one, else `flowjax.train.adamw`."""
    if hasattr(config, "optimizer"):
        return config.optimizer()
    names = ("learning_rate", "warmup", "weight_decay", "clip")
    return train.adamw(config.steps, **{name: getattr(config, name) for name in names})


@contextlib.contextmanager
def signals():
    """A list to which SIGTERM and SIGINT are added when they arrive; a second one acts as ever."""
    seen, before = [], {}

    def note(number, frame):
        seen.append(number)
        for which, handler in before.items():
            signal.signal(which, handler)

    for which in (signal.SIGTERM, signal.SIGINT):
        before[which] = signal.signal(which, note)
    try:
        yield seen
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


class Run:
    """One run in its work directory: what `run` reads, writes and resumes."""

    def __init__(self, config, workdir):
        self.config, self.workdir = config, pathlib.Path(workdir)
        self.records = Records(workdir, config)
        self.folder = self.workdir / "checkpoints"
        self.mesh = train.data_mesh(_devices(config.devices))
        train.check_split(config.batch, self.mesh.size, config.microbatches)
        teacher = _teacher(config.teacher) if config.coupling == "reflow" else None
        self.data = (
            data.load(config.data, size=config.size or None)
            if teacher is None
            else self._pairs(teacher)
        )
        self.batches = data.Batches(
            self.data, config.batch, config.seed, config.coupling, config.pool, config.flip
        )
        self.card = make_card(config, self.data)
        self.state, self.seconds = self._begin(teacher)
        self.step = int(self.state.step)

    def _begin(self, teacher):
        """(state, seconds spent so far): of the newest checkpoint, or of the start."""
        params = self._first_params(teacher)
        state, seconds = train.start(params, make_optimizer(self.config)), 0.0
        found = checkpoint.steps(self.folder)
        if (
            found and not self.records.rows
        ):  # --overwrite forgets rows; it must not lose hours of training
            aside = _unused(self.workdir, "checkpoints-before")
            self.folder.rename(aside)
            print(
                f"{self.workdir} has checkpoints and no rows; they were moved to {aside}, and the run begins anew."
            )
        elif found:
            state, details = checkpoint.restore(self.folder, found[-1], state)
            self._check(details)
            seconds = details["seconds"]
            print(
                f"{self.folder} holds step {found[-1]} of {self.config.steps}; the run goes on from there."
            )
        return train.replicate(state, self.mesh), seconds

    def _first_params(self, teacher):
        if teacher is None:
            return models.init(self.card.config, key_of(self.config, "parameters")).params
        theirs = (
            dataclasses.replace(teacher.card.config, dtype=self.card.config.dtype),
            teacher.card.clock,
        )
        if theirs != (self.card.config, self.card.clock):
            raise ValueError(
                f"train: the teacher {self.config.teacher} has sizes and clock {theirs}, and this run has "
                f"{self.card.config} and {self.card.clock!r}; reflow goes on from the teacher's parameters, so they must agree."
            )
        return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), teacher.params)

    def _check(self, details):
        """Refuse a checkpoint that another configuration or other data made."""
        config, hash = plain(self.config), self.data.hash
        # A checkpoint older than a field was made with what is now that field's default.
        there = plain(type(self.config)()) | details["config"]
        differ = [f"{k}: {there[k]} there, {v} now" for k, v in config.items() if there[k] != v]
        if details["data"]["hash"] != hash:
            differ.append(
                f"the images of {self.config.data}: hash {details['data']['hash']} there, {hash} now"
            )
        if differ:
            raise ValueError(
                f"train: the checkpoints of {self.folder} belong to another run ({'; '.join(differ)}); give another --workdir, "
                "or the settings and data that made them."
            )

    def details(self, **metrics):
        """What a checkpoint and the finished model say of themselves."""
        return {
            "config": plain(self.config),
            "data": self.data.describe(),
            "environment": environment(),
            "command": shlex.join(["python", "-m", "experiments.train", *sys.argv[1:]]),
            "steps": self.step,
            "images_seen": self.step * self.config.batch,
            "seconds": self.seconds,
            **metrics,
        }

    def save(self, row):
        """A checkpoint of this step."""
        checkpoint.save(
            self.folder, self.step, self.state, self.details(**row), keep=self.config.keep
        )

    def _pairs(self, teacher):
        """The data set of the teacher's pairs, made at the first call."""
        path = self.workdir / "pairs.npz"
        if not path.exists():
            make_pairs(path, teacher, self.config, key_of(self.config, "pairs"))
        return dataclasses.replace(
            data.load(path),
            name=self.config.data,
            classes=tuple(range(teacher.card.config.classes)),
        )


def _teacher(name):
    """The model that makes the pairs of reflow."""
    try:
        return models.load(name)
    except FileNotFoundError as error:
        raise ValueError(f"train: coupling 'reflow' needs a teacher. {error}") from error


def _devices(count):
    there = jax.devices()
    if count > len(there):
        raise ValueError(
            f"train: devices={count}, and there are {len(there)}; 0 takes all of them."
        )
    return there[: count or len(there)]


def _unused(folder, name):
    """A path in `folder` that is not there yet."""
    return next(p for p in (folder / f"{name}-{n}" for n in range(1, 10**6)) if not p.exists())


def draw_samples(run, images):
    """samples.png: one class a column; nothing for latents, which are no picture."""
    config, card = run.config, run.card
    if card.config.channels not in (1, 3):
        return
    columns = min(card.config.classes, 16)
    label = jnp.tile(jnp.arange(columns, dtype=jnp.int32), config.sample_rows)
    noise = noise_for(key_of(config, "samples"), np.arange(len(label)), card)
    made = np.asarray(images(jax.device_get(run.state.ema), noise, label))
    settings = {
        "steps": run.step,
        "guidance": config.guidance,
        "nfe": config.sample_steps,
        "data": config.data,
    }
    save_png(run.workdir / "samples.png", grid(made, columns), settings)


def run(config, workdir):
    """Train to the end, from the newest checkpoint if there is one, and write the model. Returns the rows."""
    work = Run(config, workdir)
    times = functools.partial(
        train.draw_times,
        kind=config.times,
        mean=config.time_mean,
        std=config.time_std,
        shift=config.time_shift,
    )
    step = train.make_step(
        work.card, make_optimizer(config), work.mesh,
        times=times, label_dropout=config.label_dropout, decay=config.ema, microbatches=config.microbatches,
    )  # fmt: skip
    pictures = grids.uniform(config.sample_steps, start=FIRST_TIME.get(config.prediction, 1.0))
    images = sampler(
        work.card, plans.dpm_solver_pp(work.card.schedule, pictures, 2), config.guidance
    )
    with signals() as stop:
        _loop(work, step, images, stop)
    _export(work)
    return work.records.rows


def _loop(work, step, images, stop):
    """Steps, rows, checkpoints and pictures, until the last step or a signal."""
    config, key = work.config, train.replicate(key_of(work.config, "training"), work.mesh)
    pending, clock = [], time.monotonic()
    while work.step < config.steps:
        work.state, metrics = step(work.state, train.shard(work.batches(work.step), work.mesh), key)
        work.step += 1
        pending.append(metrics)  # stays on the device: reading it now would wait for the step
        leave = bool(stop)  # asked once a step: a signal that comes later is seen after the next
        last = leave or work.step == config.steps
        save, draw = (
            last or work.step % every == 0 for every in (config.save_every, config.sample_every)
        )
        if save or draw or work.step % config.log_every == 0:
            row = _row(work, pending)  # waits for the steps
            now = time.monotonic()
            work.seconds, rate = (
                work.seconds + now - clock,
                len(pending) * config.batch / (now - clock),
            )
            _add_row(work, {**row, "images_per_second": rate, "seconds": work.seconds})
            if save:
                work.save(row)
            _say(work, row, rate)
            if leave:
                _leave(work, stop[0])
            if draw:
                draw_samples(work, images)
            pending, clock = [], time.monotonic()


def _row(work, pending):
    """Mean loss and gradient of the pending steps; a number that is not finite stops the run."""
    values = {name: np.array([float(m[name]) for m in pending]) for name in ("loss", "gradient")}
    bad = np.flatnonzero(~(np.isfinite(values["loss"]) & np.isfinite(values["gradient"])))
    if len(bad):
        held, which = checkpoint.steps(work.folder), bad[0]
        kept = (
            f"the checkpoint of step {held[-1]} is kept" if held else "there is no checkpoint yet"
        )
        raise ValueError(
            f"train: at step {work.step - len(pending) + which + 1} the loss is {values['loss'][which]} and the norm of its "
            f"gradient {values['gradient'][which]}; {kept} in {work.folder}. Lower the learning rate, clip harder, or look at "
            "the data."
        )
    return {name: float(value.mean()) for name, value in values.items()}


def _add_row(work, values):
    key = {"step": work.step}
    if work.records.done(key):  # measured before a kill, and the checkpoint was older
        return
    try:
        work.records.add(key, **values)
    except OSError as error:
        raise ValueError(
            f"train: the row of step {work.step} cannot be written to {work.workdir} ({error})."
        ) from error


def _say(work, row, rate):
    left = (work.config.steps - work.step) * work.config.batch / rate
    print(
        f"step {work.step}/{work.config.steps}, loss {row['loss']:.4f}, {rate:.0f} images/s, "
        f"{datetime.timedelta(seconds=math.ceil(left))} left",
        file=sys.stderr,
        flush=True,
    )


def _leave(work, number):
    """End as the signal asks, after a sentence."""
    name = signal.Signals(number).name
    print(
        f"{name}: step {work.step} of {work.config.steps} is saved in {work.folder}; the same command goes on from there."
    )
    sys.stdout.flush()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _export(work):
    """The model of the running mean."""
    rows = work.records.rows
    details = work.details(loss=rows[-1]["loss"])
    card = dataclasses.replace(work.card, details=plain(details))
    folder = work.workdir / "model"
    try:
        models.save(folder, models.model(card, jax.device_get(work.state.ema)), dtype="float16")
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"train: the model cannot be written to {folder} ({error}); the last checkpoint is kept. Make room, and give the same "
            "command again."
        ) from error


def report(workdir):
    """What a run has made."""
    return [
        path
        for name in ("samples.png", "model")
        if os.path.exists(path := os.path.join(workdir, name))
    ]


if __name__ == "__main__":
    main(run, report)
