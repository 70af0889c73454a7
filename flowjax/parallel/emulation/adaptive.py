"""Stale attention with steps that each sample chooses, on one device and in any precision.

The solver is `flowjax.sample_adaptive`, unchanged. The model that it calls keeps the keys and
values that devices know of each other in its carry (see `parallel.stale.history`). What was
measured with it stands in docs/findings.md.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive import Tolerance
from flowjax.fields import DataSet
from flowjax.models.card import Model
from flowjax.parallel.emulation.exchange import contiguous
from flowjax.parallel.emulation.field import velocity_of_devices
from flowjax.parallel.emulation.network import mixed_attention, tokens_of
from flowjax.parallel.stale.adaptive_options import check, check_attention
from flowjax.parallel.stale.history import HistoryRule, begin, sample_with_history
from flowjax.sampling import Solution
from flowjax.schedules import Schedule
from flowjax.types import Array

NAME = "parallel.emulate_adaptive"


def emulate_adaptive(
    model: Model,
    noise: Array,
    label: Array | None,
    schedule: Schedule,
    tolerance: Tolerance,
    *,
    devices: int,
    save_grid: bool = False,
    **options: Any,
) -> Solution:
    """The result of `parallel.sample_adaptive` on `devices` devices, computed on one.

    Args:
      model: a `flowjax.models.Model`.
      noise: (B, H, W, C) states at span[0]; float64 is computed in float64.
      label: (B,) integers, or None for the null label.
      schedule, tolerance, save_grid: as in `flowjax.sample_adaptive`.
      devices: n. `parallel.emulation.exchange.contiguous` says which tokens lie on which device.
      **options: as in `parallel.sample_adaptive`, the fields of
        `parallel.stale.adaptive_options.AdaptiveOptions`.

    Returns:
      `Solution` with `parallel.stale.history.StaleAdaptiveStats`, whose carry is None.

    Raises:
      ValueError: an option or shapes that do not fit.
    """
    checked = check(NAME, model.card, schedule, tolerance, options)
    return emulate_adaptive_with(
        model,
        noise,
        label,
        schedule,
        checked.tolerance,
        contiguous(tokens_of(model, noise), devices, NAME),
        checked.rule,
        save_grid=save_grid,
        **checked.solver,
    )


def emulate_adaptive_with(
    model: Model,
    noise: Array,
    label: Array | None,
    schedule: Schedule,
    tolerance: Tolerance,
    shards: Array,
    rule: HistoryRule,
    **solver: Any,
) -> Solution:
    """`emulate_adaptive` with any shards and any `HistoryRule`, which may be traced.

    Args:
      model, noise, label, schedule, tolerance: as in `emulate_adaptive`.
      shards: (L,) int, the device of each token.
      rule: a `HistoryRule` that was made for the same pair, schedule and span.
      **solver: options of `flowjax.sample_adaptive`.

    Raises:
      ValueError: a network with linear attention, or shards that are not one device a token.
    """
    check_attention(NAME, model.card)
    config = model.card.config
    tokens = tokens_of(model, noise)
    if np.shape(shards) != (tokens,):
        raise ValueError(
            f"{NAME}: shards have shape {np.shape(shards)} for {tokens} tokens; wanted one device "
            "for each token."
        )
    # A query sees this evaluation of its own device, and of all devices where it is synchronous.
    shards = jnp.asarray(shards)
    same_device = shards[:, None] == shards[None]  # (L, L)

    def evaluate(x, t, copy, synced):
        fresh = synced[:, None, None, None] | same_device[None, None]  # (B, 1, L, L)
        copy = jax.tree.map(_swap_batch_and_layers, copy)  # (K, B, L, heads, d)
        velocity, values = model.apply(
            model.params,
            x,
            t,
            label,
            attention=mixed_attention(copy, fresh),
            carry=jax.tree.map(jnp.zeros_like, copy),
        )
        return velocity, jax.tree.map(_swap_batch_and_layers, values)

    # A history has the batch first, so that a step is taken back for one sample alone.
    dtype = jnp.promote_types(jnp.asarray(noise).dtype, jnp.float32)
    shape = len(noise), config.depth, tokens, config.heads, config.width // config.heads
    keys = jnp.zeros(shape, config.dtype or dtype)
    history = begin(rule, (keys, keys), dtype)
    return sample_with_history(evaluate, noise, schedule, tolerance, rule, history, **solver)


def emulate_adaptive_field(
    field: DataSet,
    noise: Array,
    tolerance: Tolerance,
    shards: Array,
    rule: HistoryRule,
    **solver: Any,
) -> Solution:
    """The same for the exact field of a finite data set (see `parallel.emulation.field`).

    Args:
      field: a `flowjax.fields.DataSet`. Devices exchange its inner products.
      noise: (B, *D).
      tolerance: as in `flowjax.sample_adaptive`.
      shards: (F,) int with known values, the device of each number of a sample.
      rule, **solver: as in `emulate_adaptive_with`.
    """
    devices = int(np.max(shards)) + 1
    same_device = jnp.eye(devices, dtype=bool)

    def evaluate(x, t, copy, synced):
        fresh = synced[:, None, None] | same_device[None]  # (B, n, n)
        return velocity_of_devices(field, shards, x, t, copy.swapaxes(0, 1), fresh)

    noise = jnp.asarray(noise)
    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    # A device has one number for each datum: its part of the inner product.
    products = jnp.zeros((len(noise), devices, len(field.offsets)), dtype)  # (B, n, K)
    history = begin(rule, products, dtype)
    return sample_with_history(evaluate, noise, field.schedule, tolerance, rule, history, **solver)


def _swap_batch_and_layers(leaf):
    """A network's values have the layers first, a history's the batch."""
    return leaf.swapaxes(0, 1)
