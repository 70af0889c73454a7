"""Staleness on a field whose truth is known: the exact field of a finite data set, computed by n devices.

The softmax over the data needs one inner product a datum, and that is a sum over the parts of the state:

    logit_k = alpha (sum_j <x_j, y_kj> - alpha <centre, y_k> - alpha |y_k|^2/2) / V,     x_j: what lies on device j

A device that knows its own part of x and, of the others, only their inner products of the row before, has a softmax of
its own. With it it answers for its part. All else is as in `emulate`: the same `Exchange`, with F numbers in the place
of L tokens. There is no network, so no network's error, and float64 shows orders.
"""

import jax
import jax.numpy as jnp

from flowjax.fields.base import HIGHEST, check_state, gains, path_at, variance
from flowjax.parallel.emulation.network import exchanged, solve


def emulate_field(field, noise, plan, told, *, key=None):
    """Sample from a `flowjax.fields.DataSet` as `devices` of them would.

    Args:
      field: the `DataSet`. Its `chunk` is not used: (devices, B, K) inner products are held at once.
      noise: (B, *D).
      plan, key: as in `flowjax.sample`.
      told: an `Exchange` whose shards are (F,), F numbers in a sample, flattened. Its size n counts: tables for 8 parts that
        hold 2 cost 8. Fitted gains are shared by the inner products of one part.

    Returns:
      `flowjax.Solution` whose stats are `flowjax.parallel.emulate.Stats`.
    """
    noise = jnp.asarray(noise)
    count, size = field.offsets.shape
    devices = len(told.fresh)
    if told.correction is not None:
        raise ValueError(
            "parallel.emulation.field: a correction is of attention's values, and a field has none; make the exchange with "
            "correction=0."
        )
    if told.shards.shape != (size,) or told.policy.shape != (plan.rows,):
        raise ValueError(
            f"parallel.emulation.field: shards {told.shards.shape} and policy {told.policy.shape} for {size} numbers a sample "
            f"and {plan.rows} rows; wanted one device a number, one threshold a row."
        )

    def model(x, t, carry):
        def evaluate(copy, synced):
            fresh = jnp.broadcast_to(synced | jnp.asarray(told.fresh), (len(x), devices, devices))
            velocity, new = answer(field, told.shards, x, t, jnp.moveaxis(copy[0], 1, 0), fresh)
            return velocity, new[None]

        return exchanged(told, carry, evaluate)

    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    told = told._replace(share=jnp.eye(devices, dtype=bool))
    return solve(model, noise, plan, told, jnp.zeros((1, len(noise), devices, count), dtype), key)


def answer(field, shards, x, t, copy, fresh):
    """What the devices answer together.

    Args:
      field: the `DataSet`.
      shards: (F,) the device of each number of a sample.
      x, t: (B, *D), and a scalar or (B,).
      copy: (n, B, K) the inner products of each device as the others know them.
      fresh: (B, n, n) bool, whether device i sees device j's products of this x.

    Returns:
      (velocity (B, *D), the inner products of each device (B, n, K)).
    """
    size, devices = field.offsets.shape[1], len(copy)
    x = check_state("DataSet", x, t, field.centre.shape)
    y, centre = (
        jnp.asarray(a, x.dtype).reshape(-1, size) for a in (field.offsets, field.centre)
    )  # (K, F), (1, F)
    path, flat = path_at(field.schedule, t, x.dtype, 2), x.reshape(-1, size)
    values = jnp.asarray(field.bandwidth, x.dtype).reshape(1, 1) ** 2
    mine = (jnp.asarray(shards)[None] == jnp.arange(devices)[:, None])[:, None]  # (n, 1, F)
    shift = path.alpha * (
        centre @ y.T + 0.5 * jnp.asarray(field.squares, x.dtype)[None]
    )  # (1 or B, K)
    new = jnp.matmul(jnp.where(mine, flat[None], 0), y.T, precision=HIGHEST)  # (n, B, K)
    fresh = fresh.astype(x.dtype)
    seen = jnp.einsum("bij,jbk->ibk", fresh, new) + jnp.einsum("bij,jbk->ibk", 1 - fresh, copy)
    logits = path.alpha[None] * (seen - shift[None]) / variance(path, values)[None]
    mean = jnp.matmul(jax.nn.softmax(logits, axis=-1), y, precision=HIGHEST)  # (n, B, F)
    mean = jnp.sum(jnp.where(mine, mean, 0), axis=0)  # each device answers for its part
    offset, gain = gains("velocity", path, values)
    velocity = offset * (mean + centre) + gain * (flat - path.alpha * (mean + centre))
    return velocity.reshape(x.shape), jnp.moveaxis(new, 0, 1)
