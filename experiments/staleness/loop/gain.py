"""The gain of a loop: a row of the stale network as a linear map, repeated to find its rate."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.staleness import subjects
from flowjax import grids, models, plans
from flowjax.parallel.emulation.network import (
    contiguous,
    emulate_with,
    exchange,
    mixed_attention,
    tokens_of,
)
from flowjax.parallel.stale.forecast import Forecast
from flowjax.types import PyTree

# {name: W, the weights of the last three rows}. Of tuned at a gain of 1.
WEIGHTS = {
    "hold": (1, 0, 0),
    "linear, half": (1.5, -0.5, 0),
    "linear over two steps": (1.5, 0, -0.5),
    "tuned": (1.75, -0.5, -0.25),
    "linear": (2, -1, 0),
    "quadratic": (3, -3, 1),
}
MEMORY = 3
# The common setting: the time of the loop, the steps of the path, and the numbers of devices.
TIME, STEPS, COUNTS = 0.5, 20, (2, 4, 8)
# Rounds of the loop; the rate is that of the second half.
ROUNDS = 60
# Samples of which a rate is the rate.
SAMPLES = 2


@functools.cache
def network_of(name: str) -> models.Model:
    """The network called `name`."""
    return subjects.random_network() if name == subjects.RANDOM else models.load(name)


# -- the linear map of a row


class Round(NamedTuple):
    """What a program of `rounds_of` is called with.

    Attributes:
      x: (B, *D) the state.
      t: its time.
      step: h.
      label: (B,) integers.
      weights: (M,) W, of the last M rows.
      fresh: (L, L) bool, whether two tokens are on the same device.
      layers: how many layers are stale; the others see everything of this row.
      moves: 1 where the state moves with the velocity, 0 where it rests.
      correction: c, the fraction of a part's own miss.
    """

    x: np.ndarray
    t: np.ndarray
    step: np.ndarray
    label: np.ndarray
    weights: np.ndarray
    fresh: np.ndarray
    layers: int
    moves: np.ndarray
    correction: np.ndarray


@functools.cache
def rounds_of(name: str) -> Callable[[PyTree, Round], jax.Array]:
    """The compiled program (params, `Round`) -> (ROUNDS,), the growth of each round."""
    model = network_of(name)

    @jax.jit
    def rounds(params, given):
        bound = model._replace(params=params)
        derivative, (keys, _) = _derivative(bound, given)
        again = functools.partial(_again, derivative, given)
        return jax.lax.scan(again, _first_errors(given, keys), None, ROUNDS)[1]

    return rounds


def _derivative(
    model: models.Model, given: Round
) -> tuple[Callable[..., tuple], tuple[jax.Array, jax.Array]]:
    """(the derivative of a row in (state, copy), the true (keys, values) of all layers)."""
    x, fresh, config = given.x, given.fresh, model.card.config
    shape = (config.depth, len(x), tokens_of(model, x), config.heads, config.width // config.heads)
    zeros = (jnp.zeros(shape, x.dtype),) * 2

    def apply(x, attention):
        label = given.label
        return model.apply(model.params, x, given.t, label, attention=attention, carry=zeros)

    def row(x, copy):
        def attend(q, k, v, layer, carry):
            seen = (fresh | (layer >= given.layers))[None, None]
            mixed = mixed_attention(copy, seen, fresh[None, None], given.correction)
            return mixed(q, k, v, layer, carry)

        return apply(x, attend)

    # At the true keys and values: there the copy makes no error.
    everyone = mixed_attention(zeros, jnp.ones_like(fresh)[None, None])
    _, truth = apply(x, everyone)
    _, derivative = jax.linearize(row, x, truth)
    return derivative, truth


def _first_errors(given: Round, keys: jax.Array) -> tuple:
    """Random errors (dx, dv, (dK, dV) of the last rows); the velocity begins without one."""
    draw = functools.partial(jax.random.normal, dtype=keys.dtype)
    state = draw(jax.random.key(1), given.x.shape)
    history = tuple(
        draw(key, (len(given.weights), *keys.shape)) for key in jax.random.split(jax.random.key(0))
    )
    return given.moves * state, jnp.zeros_like(given.x), history


def _again(derivative: Callable[..., tuple], given: Round, errors: tuple, _: None) -> tuple:
    """(errors after one more row, scaled to norm 1, their norm before that): a step of a scan."""
    dx, before, history = errors
    copy = jax.tree.map(lambda leaf: jnp.tensordot(given.weights, leaf, 1), history)
    velocity, new = derivative(dx, copy)
    # Adams-Bashforth of order 2 with even steps: dx' = dx - h (3/2 dv - 1/2 dv').
    dx = dx - given.moves * given.step * (1.5 * velocity - 0.5 * before)

    def pushed(old, newest):
        return jnp.concatenate([newest[None], old[:-1]])

    errors = dx, velocity, jax.tree.map(pushed, history, new)
    size = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(errors)))
    scale = jnp.where(size > 0, size, 1)
    return jax.tree.map(lambda leaf: leaf / scale, errors), size


# -- rates, along a path


class Setting(NamedTuple):
    """The synchronous path of a network.

    Attributes:
      noise: (B, *D).
      label: (B,).
      states: {t: state (B, *D)} along STEPS steps of DPM++ 2M.
    """

    noise: np.ndarray
    label: np.ndarray
    states: dict[float, np.ndarray]


@functools.cache
def setting(name: str, samples: int) -> Setting:
    """The `Setting` of a network."""
    model = network_of(name)
    shape = subjects.SHAPES["network"]
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(samples), shape).astype(np.float32)
    label = np.arange(samples) % model.card.config.classes
    grid = grids.uniform(STEPS)
    plan = plans.dpm_solver_pp(model.card.schedule, grid, 2)

    @jax.jit
    def path(params):
        def velocity(x, t):
            return model.apply(params, x, t, label)

        return flowjax.sample(velocity, noise, plan, save_path=True).path

    states = zip(np.round(grid, 12), np.asarray(path(model.params)), strict=True)
    return Setting(noise, label, dict(states))


def rate_of(network: str, forecast: str, **setting: Any) -> float:
    """The rate of a cell with a forecast of `WEIGHTS`; `setting` is that of `rate_with`."""
    return rate_with(network, WEIGHTS[forecast], **setting)


@functools.cache
def rate_with(
    network: str,
    weights: tuple[float, ...],
    devices: int,
    layers: int,
    time: float,
    steps: int,
    state: str,
    correction: float,
) -> float:
    """The rate of a loop; with one device nothing is stale, and it is the path's own.

    Args:
      network: its name.
      weights: W, of the last `MEMORY` rows.
      devices: n.
      layers: how many are stale; 0 for all.
      time: t of the loop.
      steps: of the path, which set the step h.
      state: "moves" or "rests".
      correction: c.
    """
    model = network_of(network)
    _, label, states = setting(network, SAMPLES)
    x = states[round(time, 12)]
    shard = contiguous(tokens_of(model, x), devices)
    given = Round(
        x=x,
        t=np.float32(time),
        step=np.float32(1 / steps),
        label=label,
        weights=np.float32(weights),
        fresh=shard[:, None] == shard,
        layers=layers or model.card.config.depth,
        moves=np.float32(state == "moves"),
        correction=np.float32(correction),
    )
    sizes = rounds_of(network)(model.params, given)
    late = np.asarray(sizes[ROUNDS // 2 :], np.float64)
    # A state at rest: the error is exactly 0 after as many rows as layers.
    return float(np.exp(np.mean(np.log(late)))) if late.all() else 0.0


# -- complete runs


@functools.cache
def runs_of(name: str, samples: int) -> Callable[..., np.ndarray]:
    """(name of weights, devices, correction) -> endpoints (B, *D) of complete runs."""
    model = network_of(name)
    noise, label, _ = setting(name, samples)
    plan = plans.dpm_solver_pp(model.card.schedule, grids.uniform(STEPS), 2)

    @jax.jit
    def run(params: Any, exchange: Any) -> jax.Array:
        return emulate_with(model._replace(params=params), noise, label, plan, exchange).x

    @functools.cache
    def end(forecast: str, devices: int, correction: float = 0.0) -> np.ndarray:
        # The first rows have no three rows before them, and hold.
        begins = np.arange(STEPS)[:, None] < MEMORY
        weights = np.where(begins, WEIGHTS["hold"], WEIGHTS[forecast])
        found = exchange(
            plan,
            tokens_of(model, noise),
            devices,
            slots=max(COUNTS),
            forecast=Forecast(weights, None, None),
            correction=correction,
        )
        return np.asarray(run(model.params, found))

    return end
