"""The laboratory of the staleness experiment: subjects, and one way to run a plan with an exchange on them.

A subject is a velocity with the noise of all seeds. "field" is the exact field of the digits in float64: no network, no
error but the solver's and staleness. "network" is a trained network in float32. Tokens are pixels on both. An error is
|x - other| of a sample over the root mean square norm of the converged endpoints.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np

import flowjax
from experiments.order import lab
from experiments.order.lab import row_norms, scale_of
from flowjax import Linear, grids, models, plans
from flowjax.models.dit import DiTConfig
from flowjax.parallel.emulate import emulate_with, exchange, tokens_of
from flowjax.parallel.emulate_field import emulate_field

NAMES = {"field": "the exact field", "network": "the network"}
SHAPE = (8, 8, 1)
TOKENS = 64


class Subject(NamedTuple):
    """A velocity to sample from.

    Attributes:
      name: "field" or "network".
      tokens: L.
      slots: the most parts of an image.
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

    def told(self, plan, devices, **options):
        """The `Exchange` with these options of `exchange`; those of one subject share a compiled program."""
        return exchange(plan, self.tokens, devices, slots=self.slots, **options)

    def end(self, plan, told):
        """Endpoints (B, *D) and the root mean square over the stale rows of their relative staleness."""
        found = self.program(plan, told)
        squares = np.asarray(found.stats.staleness)[~np.asarray(found.stats.synced)]
        return np.asarray(found.x, np.float64), float(np.sqrt(squares.mean())) if len(squares) else 0.0

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


def plan_of(solver, steps):
    """The plan of a solver with one evaluation a step, on the uniform grid from 1 to 0."""
    return lab.SOLVERS[solver].build(Linear(), grids.uniform(steps))


@functools.cache
def field():
    """The exact field of the digits, as in the order experiment."""
    return lab.make_field("digits")


def _converged(velocity, noise, steps):
    """(endpoints, how much doubling the steps moved them) by RK4."""

    @jax.jit
    def solve(plan):
        return flowjax.sample(velocity, noise, plan).x

    coarse, fine = (np.asarray(solve(plans.rk4(grids.uniform(n))), np.float64) for n in (steps // 2, steps))
    return fine, float(np.sqrt(np.mean(row_norms(coarse - fine) ** 2)) / scale_of(fine))


def stand_in():
    """A small network with random weights and open gates: for development, and where tests want no trained one."""
    config = DiTConfig(SHAPE[:2], channels=1, patch=1, width=32, depth=2, heads=4, classes=10)
    model = models.init(config, jax.random.key(0), clock="1 - t", name="random")
    draw = np.random.default_rng(1).standard_normal
    noisy = jax.tree.map(lambda leaf: leaf + 0.1 * draw(leaf.shape).astype(leaf.dtype), model.params)
    return model._replace(params=noisy)


@functools.cache
def subject(name, seeds, samples, devices, reference_steps, network):
    """The `Subject` called `name`, for up to `devices` devices."""
    noise = np.concatenate(
        [flowjax.draw_noise(jax.random.key(seed), np.arange(samples), SHAPE) for seed in range(seeds)]
    )
    seed = np.repeat(np.arange(seeds), samples)
    data = field()

    nearest = jax.jit(lambda x: data.nearest(x))
    if name == "field":
        program = jax.jit(lambda plan, told: emulate_field(data, noise, plan, told))
        fine = lab.reference(data, noise, reference_steps)
        return Subject(name, TOKENS, devices, noise, seed, program, fine.x, fine.doubling, nearest)
    model = stand_in() if network == "random" else models.load(network)
    noise, label = noise.astype(np.float32), np.arange(len(noise)) % model.card.config.classes
    program = jax.jit(lambda params, plan, told: emulate_with(model._replace(params=params), noise, label, plan, told))
    exact, doubling = _converged(lambda x, t: model.apply(model.params, x, t, label), noise, reference_steps)
    tokens = tokens_of(model, noise)
    return Subject(
        name, tokens, devices, noise, seed, functools.partial(program, model.params), exact, doubling, nearest
    )


def _key(config, name):
    samples = config.field_samples if name == "field" else config.network_samples
    return name, config.seeds, samples, max(config.devices), config.reference_steps, config.network


def of(config, name):
    """The subject called `name` in the sizes of `config`."""
    return subject(*_key(config, name))


@functools.cache
def _synchronous(key, solver, steps):
    found, plan = subject(*key), plan_of(solver, steps)
    return found.end(plan, found.told(plan, 1))[0]


def synchronous(config, name, solver, steps):
    """Endpoints (B, *D) of the synchronous run, which every stale run of the same solver and steps is compared with."""
    return _synchronous(_key(config, name), solver, steps)
