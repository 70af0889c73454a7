"""The laboratory of the staleness experiment: subjects, and one way to run a plan with an exchange on them.

A subject is a velocity with the noise of all seeds:

    field      the exact field of the digits in float64: no network, no error but the solver's and staleness
    network    the shipped digits network in float32, unguided; a token is a pixel
    emoji      the shipped emoji network in float32, guided; a token is 4 x 4 pixels
    8 pixels   the exact field of the emoji made so small, in float64; so too 16 pixels and 32 pixels, from the same noise

An error is |x - other| of a sample over the root mean square norm of the converged endpoints. Labels go round, so that
each is as frequent as another, to one.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

import flowjax
from experiments.order import lab
from experiments.order.lab import row_norms, scale_of
from flowjax import Linear, fields, grids, guidance, models, plans
from flowjax.models.dit import DiTConfig
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import emulate_with, exchange, tokens_of

NAMES = {"field": "the exact field", "network": "the digits network", "emoji": "the emoji network"}
SHAPES = {"field": (8, 8, 1), "network": (8, 8, 1), "emoji": (32, 32, 3)}
PIXELS = (8, 16, 32)  # of a side
NAMES |= {f"{pixels} pixels": f"the exact field of {pixels} x {pixels} emoji" for pixels in PIXELS}
SHAPES |= {f"{pixels} pixels": (pixels, pixels, 3) for pixels in PIXELS}
TOKENS = 64
DEVICES = 8  # unless a question asks for others


class Run(NamedTuple):
    """Endpoints (B, *D), the root mean square over the stale rows of their relative staleness, and the synchronous rows."""

    x: np.ndarray
    staleness: float
    synced: int


class Subject(NamedTuple):
    """A velocity to sample from.

    Attributes:
      name: one of `NAMES`.
      tokens: L; of a field the numbers in a sample.
      slots: parts of an image that tables are made for, so that fewer share a compiled program.
      noise, seed: (B, *D), (B,).
      program: (plan, `Exchange`) -> `Solution`; compiled once for each number of rows.
      exact: (B, *D) endpoints of a synchronous run with many steps.
      doubling: how much doubling its steps moved them (RMS, relative).
      nearest: endpoints -> the index of the datum that each is near.
    """

    name: str
    tokens: int
    slots: int
    noise: np.ndarray
    seed: np.ndarray
    program: callable
    exact: np.ndarray
    doubling: float
    nearest: callable

    def told(self, plan, devices, *, shards=None, **options):
        """The `Exchange` with these options of `exchange`; `shards` (L,) says which tokens are together, else they follow.

        A field has no attention, and so no correction of it.
        """
        options |= {} if self.name in ("network", "emoji") else {"correction": 0}
        found = exchange(plan, self.tokens, devices, slots=max(self.slots, devices), **options)
        return (
            found
            if shards is None
            else found._replace(
                shards=shards, gain_groups=shards == np.arange(len(found.fresh))[:, None]
            )
        )

    def end(self, plan, told):
        """The `Run` of a plan."""
        found = self.program(plan, told)
        synced = np.asarray(found.stats.synced)
        squares = np.asarray(found.stats.staleness)[~synced]
        staleness = float(np.sqrt(squares.mean())) if len(squares) else 0.0
        return Run(np.asarray(found.x, np.float64), staleness, int(synced.sum()))

    def errors(self, found, other):
        """Relative errors (B,) between endpoints."""
        return row_norms(found - other) / scale_of(self.exact)

    def compare(self, found, own):
        """A row's numbers: errors of `found` to the own synchronous run `own` and to the converged one."""
        values = {}
        for name, other in (("sync", own), ("exact", self.exact)):
            summary = lab.summary(self.errors(found, other), self.seed)
            values |= {f"{name}_{key}": value for key, value in summary.items()}
        discretisation = self.errors(own, self.exact)
        return values | {
            "own_rms": float(np.sqrt(np.mean(discretisation**2))),
            "misrouted": float(np.mean(self.nearest(found) != self.nearest(own))),
        }


def plan_of(solver, steps, shift=1.0):
    """The plan of a solver with one evaluation a step, on the uniform grid from 1 to 0."""
    return lab.SOLVERS[solver].build(Linear(), grids.uniform(steps, shift=shift))


@functools.cache
def field(name="field"):
    """The exact field of the digits, as in the order experiment, or that of the emoji averaged to so many pixels."""
    if name in ("field", "network"):
        return lab.make_field("digits")
    full = lab.make_field("emoji")
    pixels = SHAPES[name][0]
    return (
        full
        if pixels == 32
        else fields.DataSet(averaged(full.samples, pixels), full.bandwidth, full.schedule)
    )


def averaged(images, pixels):
    """(B, H, W, C) images to (B, pixels, pixels, C), each the mean of a block; H = W is a multiple of `pixels`."""
    side = images.shape[1] // pixels
    return images.reshape(len(images), pixels, side, pixels, side, -1).mean((2, 4))


def _noise(name, seeds, samples):
    """(B, *D). That of fewer pixels is the blocks' mean, times what makes its variance 1: the same pictures are drawn."""
    drawn = SHAPES["emoji"] if name.endswith("pixels") else SHAPES[name]
    noise = np.concatenate(
        [flowjax.draw_noise(jax.random.key(s), np.arange(samples), drawn) for s in range(seeds)]
    )
    return (
        noise
        if drawn == SHAPES[name]
        else averaged(noise, SHAPES[name][0]) * (drawn[0] / SHAPES[name][0])
    )


def _converged(velocity, noise, steps):
    """(endpoints, how much doubling the steps moved them) by RK4."""

    @jax.jit
    def solve(plan):
        return flowjax.sample(velocity, noise, plan).x

    coarse, fine = (
        np.asarray(solve(plans.rk4(grids.uniform(n))), np.float64) for n in (steps // 2, steps)
    )
    return fine, float(np.sqrt(np.mean(row_norms(coarse - fine) ** 2)) / scale_of(fine))


def stand_in(shape=(8, 8, 1)):
    """A small network with random weights and open gates: for development, and where tests want no trained one."""
    classes, patch = (10, 1) if shape[0] == 8 else (9, 4)
    config = DiTConfig(
        shape[:2], channels=shape[2], patch=patch, width=32, depth=2, heads=4, classes=classes
    )
    model = models.init(config, jax.random.key(0), clock="1 - t", name="random")
    draw = np.random.default_rng(1).standard_normal
    noisy = jax.tree.map(
        lambda leaf: leaf + 0.1 * draw(leaf.shape).astype(leaf.dtype), model.params
    )
    return model._replace(params=noisy)


def _network(name, network):
    """The model of a subject."""
    return (
        stand_in(SHAPES[name])
        if network == "random"
        else models.load("emoji" if name == "emoji" else network)
    )


@functools.cache
def subject(name, seeds, samples, slots, reference_steps, network, scale):
    """The `Subject` called `name`, with tables for `slots` devices; `scale` is that of guidance."""
    noise, seed = _noise(name, seeds, samples), np.repeat(np.arange(seeds), samples)
    data = field(name)
    nearest = jax.jit(lambda x: data.nearest(x))
    if name not in ("network", "emoji"):
        program = jax.jit(lambda plan, told: emulate_field(data, noise, plan, told))
        fine = lab.reference(data, noise, reference_steps)
        tokens = int(np.prod(SHAPES[name]))
        return Subject(name, tokens, slots, noise, seed, program, fine.x, fine.doubling, nearest)
    model = _network(name, network)
    noise, label = noise.astype(np.float32), np.arange(len(noise)) % model.card.config.classes

    @jax.jit
    def program(params, plan, told):
        return emulate_with(model._replace(params=params), noise, label, plan, told, guidance=scale)

    evaluate = lambda x, t, y: model.apply(model.params, x, t, y)
    if scale == 1:
        velocity = lambda x, t: evaluate(x, t, label)
    else:
        velocity = guidance.classifier_free(
            evaluate, label, np.full_like(label, model.card.null_label), scale
        )
    exact, doubling = _converged(velocity, noise, reference_steps)
    program = functools.partial(program, model.params)
    return Subject(
        name, tokens_of(model, noise), slots, noise, seed, program, exact, doubling, nearest
    )


def _key(config, name, seeds):
    """What `subject` wants: sizes of the first questions where `seeds` is None, of the later ones where it is a number."""
    scale = config.emoji_guidance if name == "emoji" else 1
    if seeds is None:
        samples = getattr(config, f"{name}_samples")
        return (
            name,
            config.seeds,
            samples,
            max(config.devices),
            config.reference_steps,
            config.network,
            scale,
        )
    kind = "pixel" if name.endswith("pixels") else name
    steps = {"field": config.reference_steps, "emoji": config.emoji_fine_steps}.get(
        name, config.fine_steps
    )
    return (
        name,
        seeds,
        getattr(config, f"{kind}_starts"),
        4 if kind == "pixel" else DEVICES,
        steps,
        config.network,
        scale,
    )


def of(config, name, seeds=None):
    """The subject called `name` in the sizes of `config`; `seeds` is None for the first questions, a number for the later ones."""
    return subject(*_key(config, name, seeds))


@functools.cache
def _synchronous(key, solver, steps, shift):
    found, plan = subject(*key), plan_of(solver, steps, shift)
    return found.end(plan, found.told(plan, 1)).x


def synchronous(config, name, solver, steps, shift=1.0, seeds=None):
    """Endpoints (B, *D) of the synchronous run, which every stale run of the same solver and steps is compared with."""
    return _synchronous(_key(config, name, seeds), solver, steps, shift)


def measured(config, todo, setup, base):
    """Yield (key, values) for each key of `todo`, from `config.repeats` seeds.

    A row holds the errors to its own synchronous run and to the converged one, and both over those of another cell, on the
    same starts and with their intervals: `rms_ratio`, `median_ratio`, and `total_rms_ratio`, `total_median_ratio`.

    Args:
      setup: key -> a dictionary of options of `Subject.told`, and of solver, steps, shift and devices where they are not
        config.one_solver, config.one_steps, 1 and `DEVICES`.
      base: key -> the key of the cell to compare with.
    """
    errors = {}

    def run(key):
        default = {
            "solver": config.one_solver,
            "steps": config.one_steps,
            "shift": 1.0,
            "devices": DEVICES,
        }
        how = default | setup(key)
        solver, steps, shift, devices = (how.pop(name) for name in default)
        found, plan = of(config, key["subject"], config.repeats), plan_of(solver, steps, shift)
        own = synchronous(config, key["subject"], solver, steps, shift, config.repeats)
        ended = found.end(plan, found.told(plan, devices, **how))
        errors[str(key)] = found.errors(ended.x, own), found.errors(ended.x, found.exact)
        values = found.compare(ended.x, own) | {
            "staleness": ended.staleness,
            "synced": ended.synced,
        }
        return values | {
            "solver": solver,
            "steps": steps,
            "devices": devices,
            "doubling": found.doubling,
        }

    for key in todo:
        values, other = run(key), base(key)
        if str(other) not in errors:
            run(other)
        seed = of(config, key["subject"], config.repeats).seed
        for kind, mine, theirs in zip(
            ("", "total_"), errors[str(key)], errors[str(other)], strict=True
        ):
            values |= {kind + name: value for name, value in lab.paired(mine, theirs, seed).items()}
        yield key, {name: value for name, value in values.items() if name not in key}
