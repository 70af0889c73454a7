"""The count of operations of a DiT, `latency.work`, against programs and the paper's table."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.extend.core import jaxprs_in_params

from flowjax import models
from flowjax.models.dit import SIZES
from flowjax.parallel.analysis import latency


def counted(config):
    """Operations of one forward pass of one sample, by the formula."""
    return latency.work(config).operations(config.tokens)


def forward(config):
    """(apply, abstract arguments) of one forward pass of one sample."""

    def apply(params, *args):
        return models.network(config).apply(params, *args, models.softmax_attention, None)[0]

    def number(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    patches = number(1, config.tokens, config.patch**2 * config.channels)
    label = jax.ShapeDtypeStruct((1,), jnp.int32)
    positions = number(config.tokens, config.width)
    return apply, (models.network(config).shapes(), patches, number(1), label, positions)


def products(jaxpr):
    """Operations of the matrix products in a jaxpr, those of a scan as often as it turns."""
    total = 0
    for equation in jaxpr.eqns:
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += turns * sum(products(inner) for inner in jaxprs_in_params(equation.params))
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            # A multiplication and an addition for each number that is summed.
            total += 2 * summed * math.prod(equation.outvars[0].aval.shape)
    return total


def traced(config):
    """Operations of the matrix products of the network's own program."""
    apply, arguments = forward(config)
    return products(jax.make_jaxpr(apply)(*arguments).jaxpr)


@pytest.mark.parametrize("depth, size", [(1, (8, 8)), (3, (8, 4))])
def test_operations_are_those_of_the_matrix_products(depth, size):
    config = models.DiTConfig(
        size, channels=4, patch=2, width=24, depth=depth, heads=2, classes=3, out_channels=8
    )
    assert counted(config) == traced(config)


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("side, patch", [(32, 2), (64, 2), (32, 8)])
def test_operations_of_the_published_networks_are_those_of_their_products(family, side, patch):
    config = models.preset(f"DiT-{family}/{patch}", size=(side, side))
    assert counted(config) == traced(config)


def test_operations_of_the_largest_network_are_the_papers():
    """Table 4 of arXiv:2212.09748, where a multiplication and an addition count as one.

    118.64 Gflops at 256 x 256 and 524.60 at 512 x 512.
    """
    config = models.preset("DiT-XL/2")
    assert counted(config) / 2e9 == pytest.approx(118.64, rel=2e-3)
    large = dataclasses.replace(config, size=(64, 64))
    assert counted(large) / 2e9 == pytest.approx(524.60, rel=2e-3)
