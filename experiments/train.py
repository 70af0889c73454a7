"""Train a transformer, from a configuration to a model that `flowjax.models.load` reads.

    python -m experiments.train --config=configs/train_digits.py --workdir=runs/digits

The work directory holds

    rows.jsonl       loss, norm of the gradient, images a second: one row each `log_every` steps
    checkpoints/     the newest few, see `flowjax.checkpoint`
    samples.png      samples of the running mean of the parameters, one class a column, always from
                     the same noise
    pairs.npz        noise and images of the teacher, with the settings that made them (coupling
                     "reflow" only)
    model/           the running mean of the parameters at the end

A run may be stopped: after Ctrl-C or SIGTERM it saves a checkpoint and ends. The same command goes
on from the newest checkpoint, also after a SIGKILL. Its parameters at the end are those of a run
that was not stopped, on a CPU to the last bit.
"""

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
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

from experiments.cli import ranges
from experiments.cli.images import grid, save_png
from experiments.cli.run import main
from experiments.lab.reflow import make_pairs, noise_for, sampler, settings_in, settings_of
from experiments.lab.signals import signals
from experiments.lab.training import (
    batches_of,
    check,
    devices_of,
    key_of,
    load_data,
    load_teacher,
    make_card,
    make_optimizer,
)
from flowjax import checkpoint, data, grids, models, plans, train
from flowjax.environment import environment
from flowjax.records import Records, plain
from flowjax.records.values import differences

# Where the solver of pictures starts. At t = 1 alpha is 0, and the noise or the score there does
# not determine the data.
FIRST_TIME = {"noise": 0.999, "score": 0.999}
MOST_COLUMNS = 16  # classes shown in samples.png


class Run:
    """One run in its work directory.

    Attributes:
      config: the configuration.
      command: that trains this network; by default that of this process.
      workdir, folder: the work directory, and that of its checkpoints.
      records: its rows.
      mesh: the devices, over which each batch is spread.
      data, batches: the images, and the function from a step to its batch.
      card: of the network.
      state: parameters, their running mean, and the optimizer's state.
      step: steps done.
      seconds: spent on them, over all processes of the run.
    """

    def __init__(self, config: Any, workdir: str | os.PathLike, command: str = ""):
        self.config = config
        self.command = command or shlex.join(["python", "-m", "experiments.train", *sys.argv[1:]])
        self.workdir = pathlib.Path(workdir)
        self.folder = self.workdir / "checkpoints"
        self.records = Records(workdir, config)
        self.mesh = train.data_mesh(devices_of(config.devices))
        train.check_split(config.batch, self.mesh.size, config.microbatches)

        # The data: images, or the pairs of a teacher.
        teacher = None
        if config.coupling == "reflow":
            teacher = load_teacher(config.teacher)
            self.data = self._pairs(teacher)
        else:
            self.data = load_data(config.data, config.size)
        self.batches = batches_of(config, self.data)

        # The network and the state of training.
        self.card = make_card(config, self.data)
        self.state, self.seconds = self._begin(teacher)
        self.step = int(self.state.step)

    def _begin(self, teacher: models.Model | None) -> tuple[train.State, float]:
        """(state, seconds spent so far): of the newest checkpoint, or of the start."""
        params = self._first_params(teacher)
        state, seconds = train.start(params, make_optimizer(self.config)), 0.0
        found = checkpoint.steps(self.folder)
        if found and not self.records.rows:
            # --overwrite forgets the rows; it must not lose hours of training.
            aside = _unused(self.workdir, "checkpoints-before")
            self.folder.rename(aside)
            print(
                f"{self.workdir} has checkpoints and no rows; they were moved to {aside}, "
                "and the run begins anew."
            )
        elif found:
            state, details = checkpoint.restore(self.folder, found[-1], state)
            self._check(details)
            seconds = details["seconds"]
            print(
                f"{self.folder} holds step {found[-1]} of {self.config.steps}; "
                "the run goes on from there."
            )
        return train.replicate(state, self.mesh), seconds

    def _first_params(self, teacher: models.Model | None) -> dict:
        """Random parameters, or those of the teacher."""
        if teacher is None:
            return models.init(self.card.config, key_of(self.config, "parameters")).params
        # The dtype of matrix products is the student's own choice, and so is to do without the
        # teacher's null label.
        theirs, own = teacher.card.config, self.card.config
        has_null = theirs.has_null and own.has_null
        sizes = dataclasses.replace(theirs, dtype=own.dtype, has_null=has_null)
        if (sizes, teacher.card.clock_name) != (own, self.card.clock_name):
            raise ValueError(
                f"train: the teacher {self.config.teacher} has sizes {theirs} and clock "
                f"{teacher.card.clock_name!r}, and this run has {own} and "
                f"{self.card.clock_name!r}; reflow goes on from the teacher's parameters, so they "
                "must agree."
            )

        def first(array: jax.Array, wanted: jax.ShapeDtypeStruct) -> jax.Array:
            # The null label is the last row of its array.
            return jnp.asarray(array[tuple(map(slice, wanted.shape))], jnp.float32)

        return jax.tree.map(first, teacher.params, models.network(own).shapes())

    def _check(self, details: dict) -> None:
        """Refuse a checkpoint that another configuration or other data made."""
        config = plain(self.config)
        # A checkpoint older than a field was made with what is now that field's default.
        there = plain(type(self.config)()) | details["config"]
        differ = [f"{k}: {there[k]} there, {v} now" for k, v in config.items() if there[k] != v]
        old, new = details["data"]["hash"], self.data.hash
        if old != new:
            differ.append(f"the images of {self.config.data}: hash {old} there, {new} now")
        if differ:
            raise ValueError(
                f"train: the checkpoints of {self.folder} belong to another run "
                f"({'; '.join(differ)}); give another --workdir, or the settings and data that "
                "made them."
            )

    def details(self, **metrics: float) -> dict:
        """Everything that made this state: for the checkpoint, and for the card of the model."""
        return {
            "config": plain(self.config),
            "data": self.data.describe(),
            "environment": environment(),
            "command": self.command,
            "steps": self.step,
            "images_seen": self.step * self.config.batch,
            "seconds": self.seconds,
            **metrics,
        }

    def save(self, row: dict) -> None:
        """Write a checkpoint of this step, with the metrics of its row."""
        details = self.details(**row)
        checkpoint.save(self.folder, self.step, self.state, details, keep=self.config.keep)

    def _pairs(self, teacher: models.Model) -> data.Data:
        """The data set of the teacher's pairs, made unless the work directory has them."""
        path = self.workdir / "pairs.npz"
        if path.exists():
            self._check_pairs(path, settings_of(teacher, self.config))
        if not path.exists():
            make_pairs(path, teacher, self.config, key_of(self.config, "pairs"))
        classes = tuple(range(teacher.card.config.classes))
        return dataclasses.replace(data.load(path), name=self.config.data, classes=classes)

    def _check_pairs(self, path: pathlib.Path, wanted: dict) -> None:
        """Refuse pairs that other settings made; move them aside where the run begins anew."""
        there = settings_in(path)
        if there == wanted:
            return
        if not self.records.rows:
            # --overwrite forgets the rows, and no other run may go on with these pairs.
            aside = _unused(self.workdir, "pairs-before", ".npz")
            path.rename(aside)
            print(f"{path} has pairs of other settings and no rows; they were moved to {aside}.")
        elif there is not None:
            differ = "; ".join(differences(there, wanted))
            raise ValueError(
                f"train: the pairs of {path} were made with other settings ({differ}); give "
                "another --workdir, the settings and the teacher that made them, or --overwrite, "
                "which moves them aside and begins anew."
            )


def _unused(folder: pathlib.Path, name: str, suffix: str = "") -> pathlib.Path:
    """A path in `folder` that does not exist yet."""
    paths = (folder / f"{name}-{n}{suffix}" for n in range(1, 10**6))
    return next(path for path in paths if not path.exists())


# ---- pictures


def picture_sampler(run: Run) -> Callable:
    """The compiled function (params, noise, label) -> images of samples.png."""
    config, schedule = run.config, run.card.schedule
    start = FIRST_TIME.get(config.prediction, 1.0)
    grid_of_times = grids.uniform(config.sample_steps, start=start)
    plan = plans.dpm_solver_pp(schedule, grid_of_times, 2)
    return sampler(run.card, plan, config.guidance)


def draw_samples(run: Run, images: Callable) -> None:
    """Write samples.png, one class a column; nothing for latents, which cannot be shown."""
    config, card = run.config, run.card
    if card.config.channels not in (1, 3):
        return
    columns = min(card.config.classes, MOST_COLUMNS)
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


# ---- the loop


def run(config: Any, workdir: str | os.PathLike, command: str = "") -> list[dict]:
    """Train to the end, from the newest checkpoint if there is one, and write the model.

    Args:
      config: a configuration as configs/train_digits.py has it.
      workdir: the work directory.
      command: that trains this network, for its card; by default that of this process.

    Returns:
      The rows.
    """
    work = Run(config, workdir, command)
    times = functools.partial(
        train.draw_times,
        kind=config.times,
        mean=config.time_mean,
        std=config.time_std,
        shift=config.time_shift,
    )
    step = train.make_step(
        work.card,
        make_optimizer(config),
        work.mesh,
        times=times,
        label_dropout=config.label_dropout,
        decay=config.ema,
        microbatches=config.microbatches,
    )
    images = picture_sampler(work)
    with signals() as stop:
        _loop(work, step, images, stop)
    _export(work)
    return work.records.rows


def _loop(work: Run, step: Callable, images: Callable, stop: list[int]) -> None:
    """Steps, rows, checkpoints and pictures, until the last step or a signal."""
    config = work.config
    key = train.replicate(key_of(config, "training"), work.mesh)
    pending, clock = [], time.monotonic()
    while work.step < config.steps:
        batch = train.shard(work.batches(work.step), work.mesh)
        work.state, metrics = step(work.state, batch, key)
        work.step += 1
        # The metrics stay on the device: to read them now would be to wait for the step.
        pending.append(metrics)

        # Asked once a step: a signal that comes later is seen after the next step.
        leave = bool(stop)
        last = leave or work.step == config.steps
        save = last or work.step % config.save_every == 0
        draw = last or work.step % config.sample_every == 0
        if not (save or draw or work.step % config.log_every == 0):
            continue

        # The row of the steps since the last one. To read it waits for them.
        row = _row(work, pending)
        now = time.monotonic()
        work.seconds += now - clock
        rate = len(pending) * config.batch / (now - clock)
        _add_row(work, {**row, "images_per_second": rate, "seconds": work.seconds})

        # Their checkpoint and picture. A run that was asked to leave draws no picture.
        if save:
            work.save(row)
        _print_step(work, row, rate)
        if leave:
            _leave(work, stop[0])
        if draw:
            draw_samples(work, images)
        pending, clock = [], time.monotonic()


def _row(work: Run, pending: list[dict]) -> dict[str, float]:
    """Mean loss and norm of the gradient over the pending steps.

    Raises:
      ValueError: one of them is not finite. That ends the run.
    """
    values = {name: np.array([float(m[name]) for m in pending]) for name in ("loss", "gradient")}
    is_finite = np.isfinite(values["loss"]) & np.isfinite(values["gradient"])
    if not np.all(is_finite):
        bad = int(np.argmin(is_finite))  # the first that is not finite
        held = checkpoint.steps(work.folder)
        kept = (
            f"the checkpoint of step {held[-1]} is kept" if held else "there is no checkpoint yet"
        )
        raise ValueError(
            f"train: at step {work.step - len(pending) + bad + 1} the loss is "
            f"{values['loss'][bad]} and the norm of its gradient {values['gradient'][bad]}; "
            f"{kept} in {work.folder}. Lower the learning rate, clip harder, or look at the data."
        )
    return {name: float(value.mean()) for name, value in values.items()}


def _add_row(work: Run, values: dict[str, float]) -> None:
    key = {"step": work.step}
    # The row was measured before a kill, and the checkpoint is older than the row.
    if work.records.done(key):
        return
    try:
        work.records.add(key, **values)
    except OSError as error:
        raise ValueError(
            f"train: the row of step {work.step} cannot be written to {work.workdir} ({error})."
        ) from error


def _print_step(work: Run, row: dict[str, float], rate: float) -> None:
    seconds = (work.config.steps - work.step) * work.config.batch / rate
    left = datetime.timedelta(seconds=math.ceil(seconds))
    print(
        f"step {work.step}/{work.config.steps}, loss {row['loss']:.4f}, {rate:.0f} images/s, "
        f"{left} left",
        file=sys.stderr,
        flush=True,
    )


def _leave(work: Run, number: int) -> None:
    """End as the signal asks, after a sentence."""
    name = signal.Signals(number).name
    print(
        f"{name}: step {work.step} of {work.config.steps} is saved in {work.folder}; "
        "the same command goes on from there."
    )
    sys.stdout.flush()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _export(work: Run) -> None:
    """Write the model with the running mean of the parameters."""
    details = work.details(loss=work.records.rows[-1]["loss"])
    card = dataclasses.replace(work.card, details=plain(details))
    model = models.model(card, jax.device_get(work.state.ema))
    folder = work.workdir / "model"
    try:
        models.save(folder, model, dtype="float16")
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(
            f"train: the model cannot be written to {folder} ({error}); the last checkpoint is "
            "kept. Make room, and give the same command again."
        ) from error


def report(workdir: str | os.PathLike) -> list[str]:
    """The paths that a run has made."""
    paths = [os.path.join(workdir, name) for name in ("samples.png", "model")]
    return [path for path in paths if os.path.exists(path)]


if __name__ == "__main__":
    main(run, report, check=check, special=ranges.OF_TRAINING)
