"""Images by label: one command from a model to a PNG.

    python -m experiments.sample --config=configs/sample_digits.py --config.labels=3,8 --workdir=runs/digits

The work directory (runs/ and the config's name by default) then holds

    samples.png    a row a label; all settings are inside: python -m experiments.images runs/digits/samples.png
    samples.npz    images (B, H, W, C) float32 in [-1, 1], latents of a latent model, labels (B,), index (B,), finite (B,), and
                   settings, the same text as in the PNG

Image k of label c starts from `flowjax.draw_noise(jax.random.fold_in(jax.random.key(seed), c), [k], shape)`: it does not depend
on the other labels, on the batch or on its place there.
"""

import importlib.metadata
import json
import pathlib
import tempfile
import threading
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

import flowjax
from experiments.cli import images, mesh
from experiments.cli.labels import numbers
from experiments.cli.run import act_on, progress
from flowjax import compat, grids, guidance, models, parallel, plans, records
from flowjax.errors import check_choice

SOLVERS = {
    "euler": lambda schedule, grid, order: plans.euler(grid),
    "heun": lambda schedule, grid, order: plans.heun(grid),
    "adams_bashforth": lambda schedule, grid, order: plans.adams_bashforth(grid, order),
    "ddim": lambda schedule, grid, order: plans.ddim(schedule, grid),
    "dpm_solver_pp": plans.dpm_solver_pp,
    "dpm_solver_sde": plans.dpm_solver_sde,
    "unipc": plans.unipc,
    "deis": plans.deis,
}
GRIDS = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "linear_quadratic": grids.linear_quadratic,
}


class Drawn(NamedTuple):
    """States at t = 0 (B, H, W, C) float32, whether each is finite (B,), and seconds: compile, first, steady (or None)."""

    states: np.ndarray
    finite: np.ndarray
    seconds: dict


def plan_of(config, card):
    """The plan that the configuration asks for, on the model's path."""
    check_choice("sample", "solver", config.solver, (*SOLVERS, "scheduler"))
    check_choice("sample", "grid", config.grid, tuple(GRIDS))
    if config.solver != "scheduler":
        grid = grids.shifted(GRIDS[config.grid](config.steps), config.shift)
        return SOLVERS[config.solver](card.schedule, grid, config.order)
    if card.scheduler is None:
        raise ValueError(
            f"solver='scheduler': {card.name} came without a scheduler_config.json; give a pipeline's folder, or one of "
            f"{', '.join(SOLVERS)}."
        )
    if (config.grid, config.shift) != ("uniform", 1.0):
        raise ValueError(
            "solver='scheduler' has its own grid and shift; leave grid='uniform' and shift=1, or take another solver."
        )
    return compat.diffusers_plan(card.scheduler, config.steps)


def state_shape(config, card):
    """(H, W, C) of a state: of the images, or of the latents of an autoencoder."""
    if not config.size:
        return (*card.config.size, card.config.channels)
    factor = card.vae.config.factor if card.vae is not None else 1
    least = factor * card.config.patch
    if len(config.size) != 2 or any(s < least or s % least for s in config.size):
        raise ValueError(
            f"size={config.size} of {card.name}: wanted (height, width), both multiples of {least}"
            + (
                f" (its patch {card.config.patch} times {factor} pixels a latent)."
                if factor > 1
                else ", its patch."
            )
        )
    return (*(s // factor for s in config.size), card.config.channels)


def noise_of(seed, wanted, shape):
    """The noise (B, *shape) to start from, and the keys (B,) of plans that draw more, for `wanted` (B, 2): label, index."""
    label, index = jnp.asarray(wanted).T
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), label)
    noise = jax.vmap(lambda key, i: flowjax.draw_noise(key, i[None], shape)[0])(keys, index)
    return noise.astype(jnp.float32), jax.vmap(jax.random.fold_in)(keys, index)


def draw(model, noise, label, plan, config, *, keys=None):
    """The `Solution` of one batch: the only place where the sampler is called.

    Args:
      model: a `flowjax.models.Model`.
      noise: (B, H, W, C).
      label: (B,) integers.
      plan: a Plan, which may be traced.
      config: the configuration; guidance is taken from it.
      keys: (B,) keys if the plan draws noise.
    """
    guided = guidance.classifier_free(
        lambda x, t, label: model.apply(model.params, x, t, label), label, model.card.null_label, config.guidance,
        interval=config.guidance_interval, channels=config.guidance_channels,
    )  # fmt: skip
    return flowjax.sample(guided, noise, plan, key=keys)


def ticking(model, tick):
    """The model, calling `tick()` on the host at each evaluation.

    A long run is one program, in which only a callback can say how far it is: to cut the plan into several programs would
    lose the solver's history. It passes no number in or out, so it changes none.
    """

    def apply(*args, **options):
        io_callback(tick, None)
        return model.apply(*args, **options)

    return model._replace(apply=apply)


def programs(model, plan, config, tick):
    """(noise, label, keys) -> (jitted function, its arguments), on one device or on a mesh; it gives (x, status, ...)."""
    if config.mesh:
        made = parallel.make_mesh(**mesh.factors(config.mesh))
        options = mesh.options(config, plan, made)
        placed = parallel.place(model, made)
        return lambda noise, label, keys: parallel.program(
            placed, noise, label, plan, made, key=keys, **options
        )[:2]

    @jax.jit
    def run(params, noise, label, plan, keys):
        solution = draw(
            ticking(model, tick)._replace(params=params), noise, label, plan, config, keys=keys
        )
        return solution.x, solution.status

    return lambda noise, label, keys: (run, (model.params, noise, label, plan, keys))


def draw_all(model, wanted, plan, config, shape, ready=lambda: None):
    """All images, batch by batch in one compiled program, with a bar on stderr.

    Args:
      wanted: (B, 2) integers, the label and the index of each image.
      shape: of one state.
      ready: called when the program is compiled, which is when all mistakes of the configuration have been found.

    Returns:
      `Drawn`.
    """
    batch = min(config.batch, len(wanted))
    batches = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]
    name = lambda i: f"batch {i // plan.rows + 1} of {len(batches)}"
    bar, lock = progress(range(len(batches) * plan.rows), name), threading.Lock()

    def tick():
        with lock:
            next(bar, None)

    program = programs(model, plan, config, tick)

    def prepared(part):
        part = np.concatenate(
            [part, np.repeat(part[-1:], batch - len(part), axis=0)]
        )  # one shape, one program
        noise, keys = noise_of(config.seed, part, shape)
        return program(noise, jnp.asarray(part[:, 0]), keys if np.any(plan.s) else None)

    start = time.perf_counter()
    run, arguments = prepared(batches[0])
    compiled = run.lower(*arguments).compile()
    ready()
    times, found = [time.perf_counter()], []
    for part in batches:
        x, status, *_ = jax.block_until_ready(compiled(*prepared(part)[1]))
        found.append((np.asarray(x)[: len(part)], np.asarray(status)[: len(part)] == 0))
        times.append(time.perf_counter())
        for _ in range(plan.rows if config.mesh else 0):  # a mesh is not watched row by row
            tick()
    jax.effects_barrier()
    next(bar, None)
    states, finite = (np.concatenate(parts) for parts in zip(*found, strict=True))
    each = np.diff(times)
    seconds = {
        "compile": times[0] - start,
        "first": each[0],
        "steady": np.mean(each[1:]) if len(each) > 1 else None,
    }
    return Drawn(states, finite, seconds)


def pictures(card, states, tile=None):
    """Images (B, H, W, 1 or 3) in [-1, 1] of states at t = 0, or None for latents without an autoencoder."""
    if card.vae is not None:  # one at a time: a decoder's activations are many times its image
        whole = jax.jit(type(card.vae).to_images)
        decode = (
            (lambda z: whole(card.vae, z))
            if tile is None
            else lambda z: card.vae.to_images(z, tile=tile)
        )
        states = np.concatenate([decode(z[None]) for z in progress(states, lambda _: "decoding")])
    return np.clip(states, -1, 1).astype(np.float32) if states.shape[-1] in (1, 3) else None


def load(config):
    """The model, computing in the dtype asked for."""
    check_choice("sample", "dtype", config.dtype, ("float32", "bfloat16"))
    try:
        model = models.load(config.model, dtype=config.dtype)
    except FileNotFoundError as error:  # nothing there, or no internet
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(model, models.Model):
        raise ValueError(
            f"model={config.model!r} is an autoencoder by itself; give the folder of a network or a pipeline."
        )
    return model


def check(config):
    """Refuse numbers that no model could serve."""
    for name in ("count", "batch"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}={getattr(config, name)}; wanted at least 1.")
    if len(config.guidance_interval) != 2:
        raise ValueError(
            f"guidance_interval={config.guidance_interval}; wanted (low, high), such as 0.2,0.8."
        )
    if config.mesh and (
        config.guidance_channels is not None or tuple(config.guidance_interval) != (0, 1)
    ):
        raise ValueError(
            f"mesh={config.mesh!r}: guidance on a mesh is of all channels at all times; leave guidance_channels and "
            "guidance_interval, or the mesh."
        )


def held(workdir):
    """The settings of the images that a work directory holds, or None."""
    path, picture = workdir / "samples.npz", workdir / "samples.png"
    if not path.exists():
        if picture.exists():  # another program's, or of a run that was killed between the two files
            raise ValueError(
                f"{picture} has no samples.npz beside it; give another --workdir, or --overwrite."
            )
        return None
    try:
        with np.load(path) as found:
            return json.loads(str(found["settings"]))
    except (KeyError, ValueError, OSError):
        raise ValueError(
            f"{path} was not written by this program; give another --workdir, or --overwrite."
        ) from None


def is_drawn(workdir, config):
    """Whether a work directory holds the images of this configuration; one that holds others' is refused."""
    found = held(workdir)
    if found is None:
        return False
    old, new = found["config"], records.plain(config)
    differ = "; ".join(
        f"{k}: {old.get(k)!r} there, {v!r} now" for k, v in new.items() if old.get(k) != v
    )
    if differ:
        raise ValueError(
            f"{workdir} holds images of another configuration ({differ}). Give another --workdir, or --overwrite."
        )
    return True


def make_writable(workdir):
    """Make the directory, and refuse one that cannot be written to before an hour is spent on it."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise ValueError(
            f"{workdir} cannot be written to ({error.strerror}); give another --workdir."
        ) from None


def settings_of(config, command, plan, labels, seconds):
    """All that made the images, a dictionary for JSON."""
    try:
        version = importlib.metadata.version("flowjax-dit")
    except importlib.metadata.PackageNotFoundError:
        version = None  # run from a clone; the environment has its commit
    return {
        "config": records.plain(config), "command": command, "labels": labels, "nfe": plan.nfe, "seconds": seconds,
        "environment": {"flowjax": version, **records.environment()},
    }  # fmt: skip


def save(workdir, config, wanted, drawn, shown, settings):
    """Write samples.png, then samples.npz, whose presence means that all is there; returns their paths."""
    archive, picture = workdir / "samples.npz", workdir / "samples.png"
    arrays = dict(labels=wanted[:, 0], index=wanted[:, 1], finite=drawn.finite)
    for old in (archive, picture):
        old.unlink(missing_ok=True)
    if shown is None or shown.shape[1:] != drawn.states.shape[1:]:
        arrays["latents"] = drawn.states
    if shown is not None:
        arrays["images"] = shown
        images.save_png(picture, images.grid(shown, config.count), settings)
    with images.whole_file(archive) as file:
        np.savez(file, settings=json.dumps(records.plain(settings), sort_keys=True), **arrays)
    return [archive] if shown is None else [picture, archive]


def sample(config, workdir, overwrite, command):
    """Draw what the configuration asks for, write it, and say so in one line."""
    workdir = pathlib.Path(workdir)
    check(config)
    mesh.make_devices(config.mesh)
    if not overwrite and is_drawn(workdir, config):
        print(f"{workdir} holds the images of this configuration; --overwrite draws them again.")
        return
    model = load(config)
    labels = numbers(config.labels, model.card)
    wanted = np.array([(label, k) for label, _ in labels for k in range(config.count)])
    plan, shape = plan_of(config, model.card), state_shape(config, model.card)
    drawn = draw_all(model, wanted, plan, config, shape, lambda: make_writable(workdir))
    start = time.perf_counter()
    shown = pictures(model.card, drawn.states, config.tile)
    seconds = drawn.seconds | {
        "decode": time.perf_counter() - start if model.card.vae is not None else None
    }
    paths = save(
        workdir, config, wanted, drawn, shown, settings_of(config, command, plan, labels, seconds)
    )
    print(summary(drawn, seconds, plan, paths))
    if shown is None:
        print(
            f"{model.card.name} draws latents and came without an autoencoder, so there is no PNG; give a pipeline's folder, "
            "with vae/ beside transformer/."
        )


def summary(drawn, seconds, plan, paths):
    """One line: what was drawn, how long it took, where it lies."""
    said = [f"compiled in {seconds['compile']:.1f} s", f"first batch {seconds['first']:.2f} s"]
    said += [f"then {seconds['steady']:.2f} s each"] if seconds["steady"] is not None else []
    said += [f"decoded in {seconds['decode']:.1f} s"] if seconds["decode"] is not None else []
    bad = int(np.sum(~drawn.finite))
    note = f", {bad} OF THEM NOT FINITE (black)" if bad else ""
    where = ", ".join(map(str, paths))
    return (
        f"{len(drawn.states)} images{note}, {plan.nfe} evaluations each; {', '.join(said)}; {where}"
    )


def main(argv=None):
    """Command line: see the module."""
    act_on(sample, argv, workdir=lambda config: f"runs/{pathlib.Path(config.split(':')[0]).stem}")


if __name__ == "__main__":
    main()
