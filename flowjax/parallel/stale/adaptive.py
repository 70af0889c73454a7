"""Error-controlled sampling over a mesh, with attention that may be stale.

`flowjax.sample_adaptive` runs on each device's tokens, inside one `jax.shard_map`. The keys and
values that a device knows of other devices are the carry of its model (see
`parallel.stale.history`). Collectives, over the devices that share an image's tokens:

    error       three numbers a sample are summed for each evaluation, so that all parts of a sample
                take the same steps
    meter       two more numbers; these five travel in two all-reduces
    attention   stale: one all-gather of copies a layer, issued while the layer before computes, and
                one in front of the first layer. The steps are not known before, so nobody could
                have sent that one earlier.
                synchronous: one all-gather a layer, used at once
    at the end  two all-reduces, of the status and of the counts

All samples of a batch are evaluated at once, so an evaluation waits for its gathers if one of its
samples is synchronous. Each device then sends, sample by sample, its keys and values of this
evaluation or the copy of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from flowjax.adaptive import Tolerance
from flowjax.models import dit
from flowjax.models.card import Card, Model
from flowjax.parallel.attention import TOKENS, attend, gathered
from flowjax.parallel.mesh import CFG, DATA, PIPE, token_axes, token_shards
from flowjax.parallel.stale.adaptive_options import check
from flowjax.parallel.stale.history import (
    HistoryRule,
    StaleAdaptiveStats,
    begin,
    sample_with_history,
)
from flowjax.sampling import Solution
from flowjax.schedules import Schedule
from flowjax.types import Array


class _Setup(NamedTuple):
    """What is fixed when the program is compiled; `axes` share the `tokens` of an image."""

    card: Card
    schedule: Schedule
    axes: tuple[str, ...]
    tokens: int
    solver: dict[str, Any]  # options of `flowjax.sample_adaptive`


def sample_adaptive(
    model: Model,
    noise: Array,
    label: Array | None,
    schedule: Schedule,
    tolerance: Tolerance,
    mesh: jax.sharding.Mesh,
    **options: Any,
) -> Solution:
    """Sample over a mesh with steps that keep the estimated error within `tolerance`.

    It is not jitted: jit the function that is called again.

    Args:
      model: what `models.load` returned.
      noise: (B, H, W, C) states at span[0]. B divides by the mesh's data, the tokens by its seq.
      label: (B,) integers, or None for the null label. A label out of range gives status 2.
      schedule, tolerance: as in `flowjax.sample_adaptive`.
      mesh: from `make_mesh`, with cfg = pipe = 1.
      **options: the fields of `parallel.stale.adaptive_options.AdaptiveOptions`, each by its name:
        order, span, max_evaluations and staleness, which have no default, and others. That class
        has their meanings.

    Returns:
      `Solution` with `parallel.stale.history.StaleAdaptiveStats`; path and carry are None.

    Raises:
      ValueError: an option, a mesh or shapes that do not fit.
    """
    name = "parallel.sample_adaptive"
    checked = check(name, model.card, schedule, tolerance, options)
    noise = jnp.asarray(noise)
    tokens = jax.eval_shape(model.card.patchify, noise).shape[1]
    _check_mesh(name, mesh, len(noise), tokens)
    # In lockstep the largest error of the whole batch decides, also over the data axis.
    axes = token_axes(mesh)
    axis_name = DATA if checked.solver["lockstep"] else None
    solver = checked.solver | {"split": axes, "axis_name": axis_name}
    setup = _Setup(model.card, schedule, axes, tokens, solver)

    # Lay the arguments out on the mesh: the batch over data, tokens over the axes that share them.
    if label is None:
        label = model.card.null_label
    label = jnp.broadcast_to(jnp.asarray(label), noise.shape[:1])
    positions = jnp.asarray(dit.positions(model.card.config, noise.shape[1:3]))
    same, batch, split = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(DATA, axes)
    arguments = (
        (model.params, same),
        (model.card.patchify(noise), split),
        (label, batch),
        (positions, PartitionSpec(axes)),
        (checked.rule, same),
        (checked.tolerance, same),
    )
    placed = (jax.device_put(value, NamedSharding(mesh, spec)) for value, spec in arguments)
    # One program on all devices; each takes its part of the batch and of the tokens.
    run = jax.shard_map(
        functools.partial(_device, setup),
        mesh=mesh,
        in_specs=tuple(spec for _, spec in arguments),
        out_specs=(split, batch),
    )
    patches, (status, stats) = run(*placed)
    x = model.card.unpatchify(patches, noise.shape[1:3])
    return Solution(x, status, StaleAdaptiveStats(*stats), path=None, carry=None)


def _check_mesh(name, mesh, batch, tokens):
    """Refuse a mesh over which this program cannot lay out its arguments."""
    shards = token_shards(mesh)
    if mesh.shape[CFG] > 1 or mesh.shape[PIPE] > 1:
        raise ValueError(
            f"{name}: the mesh has cfg={mesh.shape[CFG]} and pipe={mesh.shape[PIPE]}; wanted 1 and "
            "1, with all devices in data or seq."
        )
    if batch % mesh.shape[DATA] or tokens % shards:
        raise ValueError(
            f"{name}: {batch} samples of {tokens} tokens on data={mesh.shape[DATA]} and "
            f"seq={shards}; wanted samples that divide by data and tokens that divide by seq, "
            "since the error of a step is a mean over equal parts."
        )


def _device(
    setup: _Setup,
    params: Any,
    patches: jax.Array,
    label: jax.Array,
    positions: jax.Array,
    rule: HistoryRule,
    tolerance: Tolerance,
) -> tuple[jax.Array, tuple[jax.Array, StaleAdaptiveStats]]:
    """What one device does.

    Args:
      setup: a `_Setup`.
      params: the network's parameters.
      patches: (B, L/n, P), this device's tokens at the start.
      label: (B,).
      positions: (L/n, E).
      rule: the `HistoryRule`.
      tolerance: as in `flowjax.sample_adaptive`.

    Returns:
      (this device's patches at the end, (status, `StaleAdaptiveStats`)).
    """
    card, axes = setup.card, setup.axes
    config = card.config
    batch, local = patches.shape[:2]

    def evaluate(x, t, copy, synced):
        copy = jnp.moveaxis(copy, 0, 2)  # (K, 2, B, L/n, heads, d)

        def network(attention, carry):
            velocity, (values, *_) = card.velocity_of_patches(
                params, x, t, label, positions, attention, carry
            )
            return velocity, jnp.moveaxis(values, 2, 0)  # (B, K, 2, L/n, heads, d)

        def stale():
            attention = _stale_attention(axes, setup.tokens, copy)
            return network(attention, (copy, gathered(copy[0], axes)))

        def synchronous():
            return network(_synchronous_attention(axes, setup.tokens, copy, synced), (copy,))

        # The predicate is equal on all devices of a sample, since its meter was summed over them.
        return jax.lax.cond(jnp.any(synced), synchronous, stale)

    def sum_over_devices(sums):
        return jax.lax.psum(sums, axes)

    # Every device has a history of its own tokens, so its leaves vary over the mesh.
    dtype = jnp.promote_types(patches.dtype, jnp.float32)
    shape = batch, config.depth, 2, local, config.heads, config.width // config.heads
    history = begin(rule, jnp.zeros(shape, config.dtype or dtype), dtype)
    history = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, (DATA, *axes), to="varying"), history)
    found = sample_with_history(
        evaluate,
        patches,
        setup.schedule,
        tolerance,
        rule,
        history,
        sum_over_devices=sum_over_devices,
        **setup.solver,
    )
    # The devices of a sample agree on its counts; one all-reduce shows this to the compiler.
    agreed = jax.tree.map(lambda count: jax.lax.pmax(count, axes), (found.status, found.stats))
    return found.x, agreed


def _stale_attention(
    axes: tuple[str, ...], tokens: int, copy: jax.Array
) -> Callable[..., tuple[jax.Array, tuple]]:
    """Attention to a device's own keys and values and to the copies of all others.

    Its carry is (values of all layers, the copies of all devices for this layer).
    """

    def attention(q, k, v, layer, carry):
        values, copies = carry
        # The gather for the next layer needs no result of this one. The last layer gathers those
        # of layer 0, which are not used.
        following = (layer + 1) % len(copy)
        ahead = gathered(jax.lax.dynamic_index_in_dim(copy, following, keepdims=False), axes)
        own = jnp.stack([k, v])  # (2, B, L/n, heads, d)
        return _attend(axes, tokens, q, own, copies), (values.at[layer].set(own), ahead)

    return attention


def _synchronous_attention(
    axes: tuple[str, ...], tokens: int, copy: jax.Array, synced: jax.Array
) -> Callable[..., tuple[jax.Array, tuple]]:
    """Attention in which samples `synced` (B,) see the keys and values of this evaluation.

    The other samples see copies. Its carry is (values of all layers,).
    """

    def attention(q, k, v, layer, carry):
        own = jnp.stack([k, v])  # (2, B, L/n, heads, d)
        sent = jnp.where(synced[None, :, None, None, None], own, copy[layer])
        return _attend(axes, tokens, q, own, gathered(sent, axes)), (carry[0].at[layer].set(own),)

    return attention


def _attend(axes, tokens, q, own, everyone):
    """Attention to `everyone` (2, B, L, heads, d) with this device's `own` in their place."""
    first = jax.lax.axis_index(axes) * own.shape[TOKENS]
    return attend(q, jax.lax.dynamic_update_slice_in_dim(everyone, own, first, TOKENS), tokens)
