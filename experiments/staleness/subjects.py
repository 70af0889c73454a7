"""The subjects of the staleness experiment, and how a plan with an exchange runs on them.

A subject is a velocity with the starts of all seeds:

    field      the exact field of the digits in float64: no error but the solver's and staleness
    network    the shipped digits network in float32, unguided; a token is a pixel
    emoji      the shipped emoji network in float32, guided; a token is 4 x 4 pixels
    emoji-smooth   its twin, which receives 1 - t
    8 pixels   the exact field of the emoji averaged to 8 x 8 pixels, in float64; so too 16 pixels
               and 32 pixels, from the same noise

An error is |x - other| of a sample over the root mean square norm of the converged endpoints. The
labels of a network go round its classes, so that all classes are equally frequent, but for one
sample.
"""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

import flowjax
from experiments.cli.run import check_names
from experiments.lab.solvers import SOLVERS
from experiments.lab.statistics import row_norms, scale_of, summary
from experiments.lab.subjects import check_networks, make_field
from experiments.lab.truth import reference
from flowjax import Linear, Plan, fields, grids, guidance, models, plans
from flowjax.models.dit import DiTConfig
from flowjax.models.sana_sizes import SanaConfig
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import Exchange, emulate_with, exchange, tokens_of

if TYPE_CHECKING:
    from configs.staleness import Config

# Sides of the emoji whose exact fields are subjects.
PIXELS = (8, 16, 32)
# {subject: its name on the page}
NAMES = {
    "field": "the exact field",
    "network": "the digits network",
    "emoji": "the emoji network",
    "emoji-smooth": "the emoji-smooth network",
    **{f"{side} pixels": f"the exact field of {side} x {side} emoji" for side in PIXELS},
}
# {subject: (H, W, C)}
SHAPES = {
    "field": (8, 8, 1),
    "network": (8, 8, 1),
    "emoji": (32, 32, 3),
    "emoji-smooth": (32, 32, 3),
    **{f"{side} pixels": (side, side, 3) for side in PIXELS},
}
NETWORKS = ("network", "emoji", "emoji-smooth")
# The networks that are guided, each with its own data of colour.
EMOJI = ("emoji", "emoji-smooth")
# Of an image of digits.
TOKENS = 64
# Of all comparisons that do not vary the number of devices.
DEVICES = 8
# A small network with random weights, for development and for tests.
RANDOM = "random"
RANDOM_LINEAR = "random-linear"  # its twin with linear attention
# The solvers with one evaluation a step, whose plans have as many rows as steps.
ONE_ROW_SOLVERS = tuple(name for name, solver in SOLVERS.items() if solver.rows(8) == 8)


# -- a subject


class Run(NamedTuple):
    """What became of a plan with an exchange.

    Attributes:
      x: (B, *D) endpoints.
      staleness: the root mean square, over the stale rows, of the relative staleness.
      synced: the number of synchronous rows.
    """

    x: np.ndarray
    staleness: float
    synced: int


class Subject(NamedTuple):
    """A velocity to sample from, with its starts.

    Attributes:
      name: one of `NAMES`.
      tokens: L; of a field the numbers in a sample.
      slots: size of an exchange's tables; exchanges of one size share a compiled program.
      noise: (B, *D) the starts.
      seed: (B,) the seed of each start.
      program: (plan, `Exchange`) -> `Solution`; compiled once for each number of rows.
      exact: (B, *D) the converged endpoints.
      doubling: how far doubling the steps moved them (RMS, relative).
      nearest: endpoints -> the index of the datum that each is near; None for a network whose
        data are not here.
    """

    name: str
    tokens: int
    slots: int
    noise: np.ndarray
    seed: np.ndarray
    program: Callable[[Plan, Exchange], flowjax.Solution]
    exact: np.ndarray
    doubling: float
    nearest: Callable[[np.ndarray], jax.Array] | None

    def exchange(
        self,
        plan: Plan,
        devices: int,
        *,
        shards: np.ndarray | None = None,
        by_layer: np.ndarray | None = None,
        **options: Any,
    ) -> Exchange:
        """The `Exchange` with these options.

        Args:
          plan: whose rows are scheduled.
          devices: n, or the patches of a pipeline.
          shards: (L,) the device of each token; None puts runs of tokens on each device.
          by_layer: (K,) the fraction of the correction in each layer of a network, in place of the
            option correction.
          **options: of `flowjax.parallel.emulation.network.exchange`.
        """
        if self.name not in NETWORKS:
            # A correction acts on attention's output, and a field has none.
            options |= {"correction": 0}
        slots = max(self.slots, devices)
        found = exchange(plan, self.tokens, devices, slots=slots, **options)
        if by_layer is not None:
            fractions = np.broadcast_to(by_layer, (plan.rows, len(by_layer)))
            found = found._replace(rows=found.rows._replace(correction=fractions))
        if shards is None:
            return found
        # The tokens of a device have their fitted gains in common.
        groups = shards == np.arange(len(found.fresh))[:, None]
        return found._replace(shards=shards, gain_groups=groups)

    def end(self, plan: Plan, exchange: Exchange) -> Run:
        """The `Run` of a plan."""
        found = self.program(plan, exchange)
        # A policy by tolerance decides on the way, so the rows are counted afterwards.
        synced = np.asarray(found.stats.synced)
        metered = np.asarray(found.stats.staleness, float)[~synced]
        staleness = float(np.sqrt(np.mean(metered**2))) if len(metered) else 0.0
        return Run(np.asarray(found.x, np.float64), staleness, int(synced.sum()))

    def errors(self, found: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Relative errors (B,) between endpoints."""
        return row_norms(found - other) / scale_of(self.exact)

    def compare(self, found: np.ndarray, own: np.ndarray) -> dict[str, float]:
        """The numbers of a row.

        Args:
          found: (B, *D) endpoints.
          own: those of the synchronous run of the same solver and steps.

        Returns:
          {sync_...: the `summary` of the errors to `own`, exact_...: of those to the converged
          endpoints, own_rms: the RMS error of `own` itself, misrouted: the fraction of samples that
          are near another datum than in `own`, NaN where the data are not here}.
        """
        # Staleness alone; staleness and the solver; the solver alone.
        to_sync = summary(self.errors(found, own), self.seed)
        to_exact = summary(self.errors(found, self.exact), self.seed)
        discretisation = self.errors(own, self.exact)
        misrouted = np.nan
        if self.nearest:
            misrouted = float(np.mean(self.nearest(found) != self.nearest(own)))
        return {
            **{f"sync_{name}": value for name, value in to_sync.items()},
            **{f"exact_{name}": value for name, value in to_exact.items()},
            "own_rms": float(np.sqrt(np.mean(discretisation**2))),
            "misrouted": misrouted,
        }


def plan_of(solver: str, steps: int, shift: float = 1.0) -> Plan:
    """The plan of a solver with one evaluation a step, on the uniform grid from 1 to 0."""
    return SOLVERS[solver].build(Linear(), grids.uniform(steps, shift=shift))


# -- which subjects a configuration asks for


class Key(NamedTuple):
    """A subject and its sizes.

    Attributes:
      name: one of `NAMES`.
      seeds: the number of seeds.
      starts: for each seed.
      slots: as in `Subject`.
      reference_steps: of the converged run.
      network: the name of a network for `flowjax.models.load`; without meaning for a field.
      guidance: scale of classifier-free guidance.
      reference_solver: of the converged run of a network, a name of `REFERENCES`.
    """

    name: str
    seeds: int
    starts: int
    slots: int
    reference_steps: int
    network: str
    guidance: float
    reference_solver: str = "RK4"


def surveyed(config: "Config", name: str) -> Key:
    """The subject `name` in the sizes of the survey."""
    starts = {"field": config.field_starts, "network": config.network_starts}
    return Key(
        name=name,
        seeds=config.seeds,
        starts=starts.get(name, config.compared_emoji_starts),
        slots=max(config.devices),
        reference_steps=config.reference_steps,
        network=network_of(config, name),
        guidance=guidance_of(config, name),
    )


def compared(config: "Config", name: str) -> Key:
    """The subject `name` in the sizes of the comparisons."""
    kind = "pixel" if name.endswith("pixels") else name.removesuffix("-smooth")
    steps = {"field": config.reference_steps, "emoji": config.emoji_fine_steps}
    return Key(
        name=name,
        seeds=config.seeds,
        starts=getattr(config, f"compared_{kind}_starts"),
        # Fields of many pixels are dear, and no question puts them on more than four devices.
        slots=4 if kind == "pixel" else DEVICES,
        reference_steps=steps.get(kind, config.fine_steps),
        network=network_of(config, name),
        guidance=guidance_of(config, name),
    )


def network_of(config: "Config", name: str) -> str:
    """The name of the network that a subject is; a field has that of the digits."""
    if config.network == RANDOM:
        return RANDOM
    return name if name in EMOJI else config.network


def guidance_of(config: "Config", name: str) -> float:
    """The scale of classifier-free guidance of a subject; a field is not guided."""
    if name in EMOJI:
        return config.emoji_guidance
    return config.network_guidance if name in NETWORKS else 1


def check_survey(config: "Config") -> None:
    """Refuse subjects, networks and solvers of the survey that there are not."""
    check_names("subjects", config.subjects, ("field", *NETWORKS))
    check_names("solvers", config.solvers, ONE_ROW_SOLVERS)
    check_names("one_solver", config.one_solver, ONE_ROW_SOLVERS)
    check_network(config, config.subjects)


def check_comparison(config: "Config") -> None:
    """Refuse subjects, networks and solvers of the comparisons that there are not."""
    check_names("compared_subjects", config.compared_subjects, ("field", *NETWORKS))
    check_names("one_solver", config.one_solver, ONE_ROW_SOLVERS)
    check_network(config, config.compared_subjects)


def check_network(config: "Config", names: Iterable[str]) -> None:
    """Refuse `config.network` where it is among the subjects `names`, and is not there."""
    if "network" in names and config.network != RANDOM:
        check_networks("network", [config.network])


# -- their data and starts


@functools.cache
def field(name: str = "field") -> fields.DataSet:
    """The exact field of a subject; of a network, that of its data.

    Of emoji it is the field of the pictures, averaged to so many pixels.
    """
    if SHAPES[name] == SHAPES["field"]:
        return make_field("digits")
    full = make_field("emoji")
    side = SHAPES[name][0]
    if side == SHAPES["emoji"][0]:
        return full
    return fields.DataSet(averaged(full.samples, side), full.bandwidth, full.schedule)


def averaged(images: np.ndarray, pixels: int) -> np.ndarray:
    """Images (B, H, W, C) to (B, pixels, pixels, C), each pixel the mean of a block.

    H = W is a multiple of `pixels`.
    """
    side = images.shape[1] // pixels
    blocks = images.reshape(len(images), pixels, side, pixels, side, -1)
    return blocks.mean((2, 4))


def shape_of(key: Key) -> tuple[int, ...]:
    """(H, W, C) of a subject; of a network it is that of its card, which may be one of your own."""
    if key.name not in NETWORKS or key.network in (RANDOM, RANDOM_LINEAR):
        return SHAPES[key.name]
    size = models.load(key.network).card.config
    return (*size.size, size.channels)


def starts_of(
    name: str, seeds: int, starts: int, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """The noise (B, *D) of a subject, seed by seed; `shape` is D, that of `SHAPES` by default.

    That of fewer pixels is the mean over blocks, times the factor that makes its variance 1, so
    that all sizes draw the same pictures.
    """
    shape = shape or SHAPES[name]
    drawn = SHAPES["emoji"] if name.endswith("pixels") else shape
    noise = np.concatenate(
        [flowjax.draw_noise(jax.random.key(s), np.arange(starts), drawn) for s in range(seeds)]
    )
    if drawn == shape:
        return noise
    return averaged(noise, shape[0]) * (drawn[0] / shape[0])


# -- networks


def random_network(shape: tuple[int, int, int] = (8, 8, 1)) -> models.Model:
    """A small network with random weights and open gates, for development and for tests."""
    classes, patch = (10, 1) if shape[0] == 8 else (9, 4)
    config = DiTConfig(
        shape[:2], channels=shape[2], patch=patch, width=32, depth=2, heads=4, classes=classes
    )
    return moved(models.init(config, jax.random.key(0), clock="1 - t", name="random"))


def moved(model: models.Model) -> models.Model:
    """A new network with its weights moved, since its gates are zero and no layer would act."""
    draw = np.random.default_rng(1).standard_normal

    def move(leaf):
        return leaf + 0.1 * draw(leaf.shape).astype(leaf.dtype)

    return model._replace(params=jax.tree.map(move, model.params))


def random_linear_network() -> models.Model:
    """A small network with linear attention and random weights, for 8 x 8 digits."""
    config = SanaConfig(
        (8, 8), channels=1, patch=1, width=32, depth=2, heads=4, cross_heads=4, classes=10
    )
    return moved(models.init(config, jax.random.key(0), clock="1 - t", name=RANDOM_LINEAR))


def _network(name: str, network: str) -> models.Model:
    """The model of a subject."""
    if network == RANDOM:
        return random_network(SHAPES[name])
    if network == RANDOM_LINEAR:
        return random_linear_network()
    return models.load(network)


def _adams_bashforth(grid: np.ndarray) -> Plan:
    return plans.adams_bashforth(grid, 2)


# {solver of a converged run: grid -> plan}. A network that receives 1000 t bends within a step of
# RK4, whose four evaluations then buy less than as many short steps of order 2.
REFERENCES = {"RK4": plans.rk4, "AB2": _adams_bashforth}


def _converged(
    velocity: Callable[..., jax.Array], noise: np.ndarray, steps: int, solver: str
) -> tuple[np.ndarray, float]:
    """(endpoints, how far doubling the steps moved them) on uniform grids."""

    @jax.jit
    def solve(plan):
        return flowjax.sample(velocity, noise, plan).x

    build = REFERENCES[solver]
    coarse, fine = (
        np.asarray(solve(build(grids.uniform(n))), np.float64) for n in (steps // 2, steps)
    )
    moved = np.sqrt(np.mean(row_norms(coarse - fine) ** 2))
    return fine, float(moved / scale_of(fine))


# -- subjects


@functools.cache
def subject(key: Key) -> Subject:
    """The `Subject` of a key; made once in a process."""
    shape = shape_of(key)
    noise = starts_of(key.name, key.seeds, key.starts, shape)
    # The data of a network of your own are not here.
    data = field(key.name) if shape == SHAPES[key.name] else None
    make = _field_program
    if key.name in NETWORKS:
        make, noise = _network_program, noise.astype(np.float32)
    program, tokens, exact, doubling = make(key, noise)
    return Subject(
        name=key.name,
        tokens=tokens,
        slots=key.slots,
        noise=noise,
        seed=np.repeat(np.arange(key.seeds), key.starts),
        program=program,
        exact=exact,
        doubling=doubling,
        nearest=jax.jit(lambda x: data.nearest(x)) if data else None,
    )


def _field_program(key: Key, noise: np.ndarray) -> tuple[Callable, int, np.ndarray, float]:
    """(program, tokens, converged endpoints, doubling) of an exact field."""
    data = field(key.name)

    @jax.jit
    def program(plan, exchange):
        return emulate_field(data, noise, plan, exchange)

    fine = reference(data, noise, key.reference_steps)
    return program, int(np.prod(SHAPES[key.name])), fine.x, fine.doubling


def _network_program(key: Key, noise: np.ndarray) -> tuple[Callable, int, np.ndarray, float]:
    """(program, tokens, converged endpoints, doubling) of a network."""
    model = _network(key.name, key.network)
    label = np.arange(len(noise)) % model.card.config.classes

    # The parameters are an argument, so that they are no constants of the program.
    @jax.jit
    def program(params, plan, exchange):
        bound = model._replace(params=params)
        return emulate_with(bound, noise, label, plan, exchange, guidance=key.guidance)

    def network(x, t, label):
        return model.apply(model.params, x, t, label)

    def unguided(x, t):
        return network(x, t, label)

    velocity = unguided
    if key.guidance != 1:
        null = np.full_like(label, model.card.null_label)
        velocity = guidance.classifier_free(network, label, null, key.guidance)
    exact, doubling = _converged(velocity, noise, key.reference_steps, key.reference_solver)
    run = functools.partial(program, model.params)
    return run, tokens_of(model, noise), exact, doubling


@functools.cache
def synchronous(key: Key, solver: str, steps: int, shift: float = 1.0) -> np.ndarray:
    """Endpoints (B, *D) of the synchronous run.

    Every stale run of the same solver and steps is compared with it.
    """
    found, plan = subject(key), plan_of(solver, steps, shift)
    return found.end(plan, found.exchange(plan, 1)).x
