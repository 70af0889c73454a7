"""The memory of a device: formulas beside parameter trees, buffers and their laws."""

import math

import jax
import numpy as np
import pytest

from flowjax import models
from flowjax.models import networks
from flowjax.parallel import linear, traffic
from flowjax.parallel.analysis import memory
from flowjax.parallel.mesh import without_devices

DIT = models.preset("DiT-XL/2", size=(64, 64), dtype="bfloat16")
SANA = models.preset("SANA-1.6B/1024", dtype="bfloat16")


def held(config, attention, devices, guidance=4.0, cfg=1, **options):
    mesh = without_devices(devices, cfg)
    return memory.of_device(
        config, (1, *config.size, config.channels), mesh, attention, guidance, **options
    )


@pytest.mark.parametrize(
    "config",
    [
        models.preset("DiT-XL/2"),
        models.preset("emoji"),
        models.preset("DiT-S/4", has_null=False, mlp_ratio=3.5),
        models.preset("SANA-0.6B/512"),
        models.preset("SANA-1.6B/4K", attention_bias=True, norm_affine=True),
        models.preset("SANA1.5-4.8B/1024", guidance_embeds=True),
        models.preset("SANA-1.6B/1024", qk_norm="layer_norm_across_heads", cross_width=1120),
        models.preset("SANA-0.6B/512", classes=10, caption=None, qk_norm="l2"),
    ],
)
def test_parameters_are_those_of_the_tree(config):
    leaves = jax.tree.leaves(networks.network(config).shapes())
    assert memory.parameters(config) == sum(math.prod(leaf.shape) for leaf in leaves)


@pytest.mark.parametrize("rows_used", [1, 3])
def test_stale_attention_keeps_what_traffic_says(rows_used):
    shape = (1, *DIT.size, DIT.channels)
    wanted = traffic.buffer(DIT, shape, without_devices(4), "late", 4.0, "bfloat16", rows_used)
    assert held(DIT, "stale", 4, rows_used=rows_used).buffers == wanted


def test_stale_linear_attention_keeps_the_sums_of_its_buffers():
    """Both branches of guidance are on the device, so the batch is 2."""
    shapes = jax.tree.leaves(linear.sum_buffers(SANA.depth, 2, SANA, np.float32))
    wanted = sum(math.prod(each.shape) * each.dtype.itemsize for each in shapes)
    assert [held(SANA, "stale", n).buffers for n in (2, 8)] == [wanted, wanted]
    assert held(SANA, "gather", 8).buffers == 0


def test_what_shrinks_with_the_devices_and_what_does_not():
    few, many = held(DIT, "gather", 2), held(DIT, "gather", 8)
    assert many.weights == few.weights == 2 * memory.parameters(DIT)
    # Every device gathers the keys and values of all tokens of one layer.
    assert many.gathered == few.gathered == 2 * 1024 * 1152 * 2 * 2
    assert many.activations == few.activations / 4
    assert held(DIT, "ulysses", 8).gathered == held(DIT, "ulysses", 2).gathered / 4


def test_branches_on_their_own_devices_halve_all_but_the_weights():
    together, apart = held(DIT, "stale", 4), held(DIT, "stale", 4, cfg=2)
    assert apart.weights == together.weights
    assert 2 * (apart.total - apart.weights) == together.total - together.weights


def test_a_ring_of_groups_has_the_tokens_of_all_its_devices():
    assert held(DIT, "ulysses_ring", (4, 2)) == held(DIT, "ring", 8)


def test_an_unknown_attention_is_refused():
    with pytest.raises(ValueError, match="attention='pipefusion'"):
        held(DIT, "pipefusion", 2)
