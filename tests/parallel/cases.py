"""Small networks, fields and plans for several tests of `flowjax.parallel`, and a DiT in numpy.

There are two networks, and none of their weights is zero. `network` has 24 tokens and 8 heads, for
meshes. `square_network` has 16 tokens and the clock 1 - t: a network with random weights is smooth
in that, as a trained network is in 1000 t.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from flowjax import Linear, fields, grids, guidance, models, plans
from flowjax.models.dit import DiTConfig, positions
from flowjax.parallel.emulation.field import emulate_field
from flowjax.parallel.emulation.network import emulate_with

LABEL = np.array([0, 2])

# 24 tokens, for meshes

NOISE = np.asarray(flowjax.draw_noise(jax.random.key(1), range(2), (4, 6, 1)))


@functools.cache
def network(**changes):
    """A tiny transformer on 24 tokens, with 8 heads; `changes` are of its sizes."""
    sizes = {
        "size": (4, 6),
        "channels": 1,
        "patch": 1,
        "width": 16,
        "depth": 3,
        "heads": 8,
        "classes": 3,
    }
    model = models.init(DiTConfig(**sizes | changes), jax.random.key(0))
    random = np.random.default_rng(0)

    def moved(leaf):
        return jnp.asarray(leaf + 0.2 * random.normal(size=leaf.shape))

    return model._replace(params=jax.tree.map(moved, model.params))


@functools.cache
def alone(scale=1.0):
    """The program of one device, (params, plan, key) -> x."""
    model = network()

    def run(params, plan, key):
        apply = functools.partial(model.apply, params)
        guided = guidance.classifier_free(apply, LABEL, 3, scale)
        return flowjax.sample(guided, NOISE, plan, key=key).x

    return jax.jit(run)


# 16 tokens, for laws

CONFIG = DiTConfig((4, 4), channels=1, patch=1, width=16, depth=2, heads=2, classes=3)
TOKENS = 16
ROWS = 6
SQUARE_NOISE = flowjax.draw_noise(jax.random.key(2), range(2), (4, 4, 1))
PLAN = plans.dpm_solver_pp(Linear(), grids.uniform(ROWS), 2)


def perturbed(params, scale=0.15):
    """Float64 parameters with no zero gates, in which every layer attends."""
    # A new network has zero gates, so that its layers add nothing.
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        leaf + scale * jax.random.normal(key, leaf.shape, np.float64)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, noisy)


@functools.cache
def square_network():
    """A tiny transformer on 16 tokens that receives 1 - t."""
    untrained = models.init(CONFIG, jax.random.key(0), clock="1 - t")
    return untrained._replace(params=perturbed(untrained.params))


@jax.jit
def run(params, plan, exchange, key=None):
    """`square_network` emulated: one compiled program for every exchange and plan of one length."""
    model = square_network()._replace(params=params)
    return emulate_with(model, SQUARE_NOISE, LABEL, plan, exchange, key=key)


# Orders of convergence

SPAN = {"start": 0.9, "end": 0.2}
STARTS = flowjax.draw_noise(jax.random.key(3), range(8), (4, 4, 1))
DATA = fields.DataSet(np.random.default_rng(0).standard_normal((12, 4, 4, 1)), 0.5, Linear())


@jax.jit
def of_network(plan, exchange):
    """The ends of `square_network` for stacked plans and exchanges."""
    model = square_network()

    def end(plan, exchange):
        return emulate_with(model, STARTS, None, plan, exchange).x

    return jax.vmap(end)(plan, exchange)


@jax.jit
def of_field(plan, exchange):
    """The ends of the exact field of `DATA` for stacked plans and exchanges."""

    def end(plan, exchange):
        return emulate_field(DATA, STARTS, plan, exchange).x

    return jax.vmap(end)(plan, exchange)


def slope(values):
    """The order p of errors that shrink as 2^-p when the steps double."""
    return np.log2(values[-2] / values[-1])


# A DiT in numpy


def numpy_modulated(x, shift, scale):
    """A layer norm without weights, then a shift and a scale."""
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift


def numpy_velocity(params, x, t, label, attend, tokens=slice(None)):
    """The DiT of `square_network` on some tokens of one sample, layer by layer.

    Args:
      params: numpy arrays.
      x: (L, 1).
      t, label: of the sample.
      attend: (layer, q, k, v) -> (L, heads, d).
      tokens: which tokens of the image x has.
    """

    def linear(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    # The condition: the clock 1 - t, and the label.
    angle = (1 - t) * 10000.0 ** (-np.arange(128) / 128)
    waves = np.concatenate([np.cos(angle), np.sin(angle)])
    time = linear(params["time2"], silu(linear(params["time1"], waves)))
    condition = silu(time + params["labels"]["embedding"][label])

    h = linear(params["patches"], x) + positions(CONFIG)[tokens]
    for layer in range(CONFIG.depth):
        block = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        modulation = linear(block["modulation"], condition)
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(modulation, 6)
        # Attention.
        y = numpy_modulated(h, shift1, scale1)
        q, k, v = (
            linear(block[name], y).reshape(len(x), CONFIG.heads, -1)
            for name in ("query", "key", "value")
        )
        h = h + gate1 * linear(block["out"], attend(layer, q, k, v).reshape(len(x), -1))
        # The two-layer network of each token.
        y = numpy_modulated(h, shift2, scale2)
        h = h + gate2 * linear(block["mlp2"], gelu(linear(block["mlp1"], y)))
    shift, scale = np.split(linear(params["modulation"], condition), 2)
    # The clock 1 - t runs against t, so the network's own velocity has the other sign.
    return -linear(params["outputs"], numpy_modulated(h, shift, scale))
