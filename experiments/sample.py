r"""Images by label or text: one command from a model to a PNG.

    python -m experiments.sample --config=configs/sample_digits.py --config.labels=3,8 \
        --workdir=runs/digits

The work directory (runs/ and the config's name by default) then holds

    samples.png    a row a label, with all settings inside:
                   python -m experiments.cli.images runs/digits/samples.png
    samples.npz    images (B, H, W, C) float32 in [-1, 1], latents of a latent model, labels (B,),
                   index (B,), finite (B,), and settings, the same text as in the PNG

Image k of label c starts from

    flowjax.draw_noise(jax.random.fold_in(flowjax.seeds.key(seed), c), [k], shape)

so it does not depend on the other labels, on the batch or on its place in it. A network that draws
for texts takes these from --config.embeddings; the label c is then the number of the text. Image to
image,

    --config.image=photo.png --config.strength=0.6

mixes that noise with a given image, and takes the last 60 % of the steps.
"""

import functools
import pathlib
import re
import shlex
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

import flowjax
from experiments.cli import archive, embeddings, mesh, ranges, start
from experiments.cli.archive import Drawn
from experiments.cli.labels import numbers
from experiments.cli.run import act_on, progress
from flowjax import (
    Plan,
    Solution,
    compat,
    grids,
    guidance,
    models,
    parallel,
    plans,
    seeds,
    tune,
)
from flowjax.errors import check_choice
from flowjax.models import Card, Condition, Model
from flowjax.schedules import Schedule

# ---- what the configuration names


def _euler(schedule: Schedule, grid: np.ndarray, order: int) -> Plan:
    return plans.euler(grid)


def _heun(schedule: Schedule, grid: np.ndarray, order: int) -> Plan:
    return plans.heun(grid)


def _adams_bashforth(schedule: Schedule, grid: np.ndarray, order: int) -> Plan:
    return plans.adams_bashforth(grid, order)


def _ddim(schedule: Schedule, grid: np.ndarray, order: int) -> Plan:
    return plans.ddim(schedule, grid)


# Each: (schedule, grid, order) -> Plan.
SOLVERS = {
    "euler": _euler,
    "heun": _heun,
    "adams_bashforth": _adams_bashforth,
    "ddim": _ddim,
    "dpm_solver_pp": plans.dpm_solver_pp,
    "dpm_solver_sde": plans.dpm_solver_sde,
    "unipc": plans.unipc,
    "deis": plans.deis,
}
# Those that have one order only, or their own.
WITHOUT_ORDER = ("euler", "heun", "ddim", "scheduler", "tuned")
GRIDS = {
    "uniform": grids.uniform,
    "quadratic": grids.quadratic,
    "linear_quadratic": grids.linear_quadratic,
}


def check(config: Any) -> None:
    """Refuse what no model could serve; the range of each number is checked before."""
    if len(config.guidance_interval) != 2:
        raise ValueError(
            f"guidance_interval={config.guidance_interval}; wanted (low, high), such as 0.2,0.8."
        )
    start.check(config)
    is_partial = config.guidance_channels is not None or tuple(config.guidance_interval) != (0, 1)
    if config.mesh and is_partial:
        raise ValueError(
            f"mesh={config.mesh!r}: guidance on a mesh is of all channels at all times; leave "
            "guidance_channels and guidance_interval, or the mesh."
        )


def check_plan_alone(config: Any, command: str) -> None:
    """Refuse options of the command line that a plan's file replaces."""
    replaced = ("solver", "steps", "order", "grid", "shift")
    given = [field for field in _given(command) if field in replaced]
    if config.plan and given:
        raise ValueError(
            f"plan={config.plan!r} holds its own solver, steps, order, grid and shift; leave out "
            f"{', '.join(given)}, or leave out the plan."
        )


def check_order(config: Any, command: str) -> None:
    """Refuse an order on the command line beside a solver that has none to choose."""
    if config.solver in WITHOUT_ORDER and "order" in _given(command):
        choices = ", ".join(name for name in SOLVERS if name not in WITHOUT_ORDER)
        raise ValueError(
            f"solver={config.solver!r} has no order to choose, and order={config.order} would "
            f"change nothing; leave out order, or take one of {choices}."
        )


def _given(command: str) -> list[str]:
    """The fields of the configuration that a command line sets, each once."""
    # A flag has one dash or two.
    matches = [re.match(r"--?config\.(\w+)", word) for word in shlex.split(command)]
    return list(dict.fromkeys(match[1] for match in matches if match))


def load(config: Any) -> Model:
    """The model, which computes in the dtype of the configuration."""
    check_choice("sample", "dtype", config.dtype, ("float32", "bfloat16"))
    try:
        model = models.load(config.model, dtype=config.dtype)
    except FileNotFoundError as error:  # there is no such folder, or no internet
        raise ValueError(" ".join(str(error).split())) from error
    if not isinstance(model, Model):
        raise ValueError(
            f"model={config.model!r} is an autoencoder by itself; "
            "give the folder of a network or a pipeline."
        )
    return model


def plan_of(config: Any, card: Card) -> Plan:
    """The plan of the configuration's solver and grid, on the model's path.

    With a strength it is that of the last steps of the grid alone, so its history starts anew.
    """
    if config.plan or config.solver == "tuned":
        _check_from_noise(config)
    if config.plan:
        return plan_of_file(config, card)
    check_choice("sample", "solver", config.solver, (*SOLVERS, "scheduler", "tuned"))
    check_choice("sample", "grid", config.grid, tuple(GRIDS))
    if config.solver == "tuned":
        _check_no_grid(config)
        return tune.shipped(card, config.steps, config.guidance)[0]
    if config.solver != "scheduler":
        grid = grids.shifted(GRIDS[config.grid](config.steps), config.shift)
        grid = grid[-1 - start.steps_taken(config) :]
        return SOLVERS[config.solver](card.schedule, grid, config.order)

    if card.scheduler is None:
        raise ValueError(
            f"solver='scheduler': {card.name} came without a scheduler_config.json; give a "
            f"pipeline's folder, or one of {', '.join(SOLVERS)}."
        )
    _check_no_grid(config)
    path = compat.diffusers_schedule(card.scheduler)
    if type(path) is not type(card.schedule):
        raise ValueError(
            f"solver='scheduler': the scheduler of {card.name} steps along {type(path).__name__}, "
            f"and its network was read as one of {type(card.schedule).__name__}; take another "
            "solver."
        )
    strength = 1.0 if config.strength is None else config.strength
    # The hook of a scheduler that clips is that of `data_hook_of`.
    return compat.diffusers_plan(card.scheduler, config.steps, strength=strength, with_hook=True)


def _check_no_grid(config: Any) -> None:
    """Refuse a grid beside a solver that has its own."""
    if (config.grid, config.shift) != ("uniform", 1.0):
        raise ValueError(
            f"solver={config.solver!r} has its own grid and shift; leave grid='uniform' and "
            "shift=1, or take another solver."
        )


def _check_from_noise(config: Any) -> None:
    """Refuse a strength beside a table whose times are fixed."""
    if config.strength is not None:
        raise ValueError(
            f"strength={config.strength:g}: a tuned table begins at t = 1, and its rows use those "
            "before them, so it has no last part that could run alone; take a published solver for "
            "image to image."
        )


def plan_of_file(config: Any, card: Card) -> Plan:
    """The plan of `config.plan`, which must fit the network; what else differs is printed.

    Raises:
      ValueError: the file cannot be read, or its plan is for another kind of network.
    """
    try:
        plan, facts = plans.load_with_facts(config.plan)
    except OSError as error:
        raise ValueError(f"plan={config.plan!r}: {error.strerror or error}.") from error
    if "stale" in facts and config.forecast != mesh.OF_PLAN:
        print(
            f"plan={config.plan!r} was tuned for stale attention over "
            f"{facts.get('devices', 'several')} devices; with --config.attention=stale "
            "--config.forecast=plan it runs as it was measured.",
            file=sys.stderr,
        )
    for warning in tune.check_fits(facts, card, config.guidance, f"plan={config.plan!r}"):
        print(f"warning: {warning}", file=sys.stderr)
    return plan


def data_hook_of(config: Any, card: Card, plan: Plan) -> compat.DataHook | None:
    """The correction of the data prediction that a pipeline's scheduler makes, or None."""
    if config.solver != "scheduler" or config.plan:
        return None
    hook = compat.diffusers_data_hook(card.scheduler, plan)
    if hook is not None and config.mesh:
        raise ValueError(
            f"mesh={config.mesh!r}: the scheduler of {card.name} clips the data prediction, which "
            "runs on one device only; leave the mesh, or set clip_sample and thresholding to false "
            "in its scheduler_config.json."
        )
    return hook


def state_shape(config: Any, card: Card) -> tuple[int, ...]:
    """(H, W, C) of a state: of the images, or of the latents of an autoencoder."""
    if not config.size:
        return (*card.config.size, card.config.channels)
    factor = card.vae.config.factor if card.vae is not None else 1
    least = factor * card.config.patch
    if len(config.size) != 2 or any(s < least or s % least for s in config.size):
        latent = f" (its patch {card.config.patch} times {factor} pixels a latent)."
        raise ValueError(
            f"size={config.size} of {card.name}: wanted (height, width), both multiples of {least}"
            + (latent if factor > 1 else ", its patch.")
        )
    return (*(s // factor for s in config.size), card.config.channels)


# ---- drawing


def noise_of(seed: int, wanted: Any, shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """The noise of each image, and its key for plans that draw more.

    Args:
      seed: of the configuration, from 0 to 2**64 - 1.
      wanted: (B, 2) integers, the label and the index of each image.
      shape: of one state.

    Returns:
      (B, *shape) float32; (B,) keys.
    """
    label, index = jnp.asarray(wanted).T
    of_label = jax.vmap(jax.random.fold_in, (None, 0))(seeds.key(seed), label)

    def one(key: jax.Array, i: jax.Array) -> jax.Array:
        return flowjax.draw_noise(key, i[None], shape)[0]

    noise = jax.vmap(one)(of_label, index)
    return noise.astype(jnp.float32), jax.vmap(jax.random.fold_in)(of_label, index)


def draw(
    model: Model,
    noise: jax.Array,
    label: jax.Array | Condition,
    plan: Plan,
    config: Any,
    *,
    keys: jax.Array | None = None,
    data_hook: compat.DataHook | None = None,
) -> Solution:
    """One batch: the only place where the sampler of one device is called.

    Args:
      model: the network.
      noise: (B, H, W, C).
      label: (B,) integers, or a `Condition`.
      plan: it may be traced.
      config: the configuration; guidance is taken from it.
      keys: (B,) keys if the plan draws noise.
      data_hook: the scheduler's correction of the data prediction, as `data_hook_of` gives it.
    """

    def network(x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
        return model.apply(model.params, x, t, label)

    # Without guidance the null condition is never evaluated, and a text need not have one.
    branches = (label, label) if config.guidance == 1 else model.card.branches(label)
    guided = guidance.classifier_free(
        network,
        *branches,
        config.guidance,
        interval=config.guidance_interval,
        channels=config.guidance_channels,
    )
    return flowjax.sample(guided, noise, plan, key=keys, data_hook=data_hook)


def ticking(model: Model, tick: Callable[[], None]) -> Model:
    """The model, which calls `tick()` on the host at each evaluation.

    A long run is one program, in which only a callback can report progress: several programs would
    each have to receive the solver's history. No number passes through the callback, so it changes
    none.
    """

    def apply(*args: Any, **options: Any) -> Any:
        io_callback(tick, None)
        return model.apply(*args, **options)

    return model._replace(apply=apply)


# A function (noise, label, keys) -> (jitted function, its arguments); that gives (x, status, ...).
Program = Callable[[jax.Array, jax.Array, jax.Array | None], tuple[Callable, tuple]]


def program_of(model: Model, plan: Plan, config: Any, tick: Callable[[], None]) -> Program:
    """The program of one batch, on one device or on the configuration's mesh.

    Args:
      model, plan, config: as in `draw`.
      tick: called at each evaluation on one device; on a mesh it is never called.
    """
    data_hook = data_hook_of(config, model.card, plan)
    if config.mesh:
        made = parallel.make_mesh(**mesh.factors(config.mesh))
        options = mesh.options(config, plan, made)
        placed = parallel.place(model, made)
        return functools.partial(_on_mesh, placed, plan, made, options)

    @jax.jit
    def run(params: Any, noise: jax.Array, label: jax.Array, plan: Plan, keys: Any) -> tuple:
        bound = ticking(model, tick)._replace(params=params)
        solution = draw(bound, noise, label, plan, config, keys=keys, data_hook=data_hook)
        return solution.x, solution.status

    def on_one_device(noise: jax.Array, label: jax.Array, keys: Any) -> tuple[Callable, tuple]:
        return run, (model.params, noise, label, plan, keys)

    return on_one_device


def _on_mesh(
    model: Model,
    plan: Plan,
    made: Any,
    options: dict,
    noise: jax.Array,
    label: jax.Array,
    keys: Any,
) -> tuple[Callable, tuple]:
    return parallel.program(model, noise, label, plan, made, key=keys, **options)[:2]


def _ignore() -> None:
    pass


def draw_all(
    model: Model,
    wanted: np.ndarray,
    plan: Plan,
    config: Any,
    shape: Sequence[int],
    ready: Callable[[], None] = _ignore,
    data: jax.Array | None = None,
    condition: Callable[[np.ndarray], Any] = jnp.asarray,
) -> Drawn:
    """All images, batch by batch in one compiled program, with a bar on stderr.

    Args:
      model: the network.
      wanted: (B, 2) integers, the label and the index of each image.
      plan: the solver.
      config: the configuration.
      shape: of one state.
      ready: called when the program is compiled, which is when all mistakes of the configuration
        have been found.
      data: the state of the image that image to image starts from, shaped `shape`; or None.
      condition: the numbers (B,) of labels or texts -> what the network is drawn for.
    """
    batch = min(config.batch, len(wanted))
    batches = [wanted[i : i + batch] for i in range(0, len(wanted), batch)]

    # The bar counts evaluations. Callbacks come from threads of JAX, and a generator takes one.
    def name(i: int) -> str:
        return f"batch {i // plan.rows + 1} of {len(batches)}"

    bar = progress(range(len(batches) * plan.rows), name)
    lock = threading.Lock()

    def tick() -> None:
        with lock:
            next(bar, None)

    program = program_of(model, plan, config, tick)

    def prepared(part: np.ndarray) -> tuple[Callable, tuple]:
        # The last batch is filled up: one shape, and so one program.
        part = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
        begin, keys = noise_of(config.seed, part, shape)
        if data is not None:
            begin = start.noised(data, begin, plan, model.card)
        draws_noise = np.any(plan.s)
        return program(begin, condition(part[:, 0]), keys if draws_noise else None)

    began = time.perf_counter()
    run, arguments = prepared(batches[0])
    compiled = run.lower(*arguments).compile()
    ready()

    times = [time.perf_counter()]
    states, finite = [], []
    for part in batches:
        x, status, *_ = jax.block_until_ready(compiled(*prepared(part)[1]))
        states.append(np.asarray(x)[: len(part)])
        finite.append(np.asarray(status)[: len(part)] == 0)
        times.append(time.perf_counter())
        # A mesh does not report its rows one by one.
        if config.mesh:
            for _ in range(plan.rows):
                tick()
    jax.effects_barrier()
    next(bar, None)  # the bar ends with a line of its own

    each = np.diff(times)
    seconds = {
        "compile": times[0] - began,
        "first": each[0],
        "steady": np.mean(each[1:]) if len(each) > 1 else None,
    }
    return Drawn(np.concatenate(states), np.concatenate(finite), seconds)


def pictures(card: Card, states: np.ndarray, tile: int | None = None) -> np.ndarray | None:
    """Images of states at t = 0.

    Args:
      card: of the model; its autoencoder decodes latents.
      states: (B, H, W, C).
      tile: side of the tiles in which latents are decoded, in pixels; None decodes in one piece.

    Returns:
      (B, H, W, 1 or 3) in [-1, 1]; None for latents without an autoencoder.
    """
    if card.vae is not None:
        decode = functools.partial(card.vae.to_images, tile=tile)
        if tile is None:
            decode = functools.partial(jax.jit(type(card.vae).to_images), card.vae)
        # One at a time: a decoder's activations are many times its image.
        decoded = [decode(z[None]) for z in progress(states, _decoding)]
        states = np.concatenate(decoded)
    if states.shape[-1] not in (1, 3):
        return None
    return np.clip(states, -1, 1).astype(np.float32)


def _decoding(state: np.ndarray) -> str:
    return "decoding"


# ---- the command


def sample(config: Any, workdir: str, overwrite: bool, command: str) -> None:
    """Draw the images of the configuration, write them, and report it in one line."""
    workdir = pathlib.Path(workdir)
    check(config)
    check_plan_alone(config, command)
    check_order(config, command)
    mesh.check(config)
    mesh.make_devices(config.mesh)
    digests = archive.digests_of(config)
    if not overwrite and archive.is_drawn(workdir, config, digests):
        print(f"{workdir} holds the images of this configuration; --overwrite draws them again.")
        return

    # Everything that the configuration names, before anything is drawn.
    model = load(config)
    texts = embeddings.texts_of(model.card, config.guidance, config.embeddings)
    labels = numbers(config.labels, model.card) if texts is None else texts.labels(config.labels)
    wanted = np.array([(label, k) for label, _ in labels for k in range(config.count)])
    plan, shape = plan_of(config, model.card), state_shape(config, model.card)
    data = start.state_of(config, model.card, shape)

    # States, and their images.
    ready = functools.partial(archive.make_writable, workdir)
    condition = jnp.asarray if texts is None else texts.of
    drawn = draw_all(model, wanted, plan, config, shape, ready, data, condition)
    began = time.perf_counter()
    shown = pictures(model.card, drawn.states, config.tile)
    decoding = time.perf_counter() - began if model.card.vae is not None else None
    seconds = drawn.seconds | {"decode": decoding}

    settings = archive.settings_of(config, command, plan, labels, seconds, digests)
    paths = archive.save(workdir, config.count, wanted, drawn, shown, settings)
    print(summary(drawn, seconds, plan, paths))
    if shown is None:
        print(
            f"{model.card.name} draws latents and came without an autoencoder, so there is no PNG; "
            "give a pipeline's folder, with vae/ beside transformer/."
        )


def summary(
    drawn: Drawn, seconds: dict[str, float | None], plan: Plan, paths: Sequence[pathlib.Path]
) -> str:
    """One line: how many images, how long it took, where they are."""
    spent = [f"compiled in {seconds['compile']:.1f} s", f"first batch {seconds['first']:.2f} s"]
    if seconds["steady"] is not None:
        spent.append(f"then {seconds['steady']:.2f} s each")
    if seconds["decode"] is not None:
        spent.append(f"decoded in {seconds['decode']:.1f} s")
    bad = int(np.sum(~drawn.finite))
    note = f", {bad} OF THEM NOT FINITE (black)" if bad else ""
    where = ", ".join(str(path) for path in paths)
    count = len(drawn.states)
    return f"{count} images{note}, {plan.nfe} evaluations each; {', '.join(spent)}; {where}"


def _default_workdir(config: str) -> str:
    """runs/ and the name of the configuration's file."""
    return f"runs/{pathlib.Path(config.split(':')[0]).stem}"


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: see the module."""
    act_on(sample, argv, workdir=_default_workdir, special=ranges.OF_SAMPLING)


if __name__ == "__main__":
    main()
