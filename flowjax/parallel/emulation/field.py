"""Staleness on a field whose truth is known: the exact field of a finite data set on n devices.

The softmax over the data needs one inner product for each datum, which is a sum over the devices:

    logit_k = alpha (sum_j <x_j, y_kj> - alpha <centre, y_k> - alpha |y_k|^2/2) / V

with x_j and y_kj the numbers of x and of datum y_k on device j. A device knows its own part of x
and, of the other devices, only their inner products of an earlier row. So it has a softmax of its
own, and with it answers for its part of the velocity. The rest is as in `emulate`: the same
`Exchange`, with F numbers in the place of L tokens. There is no network and no error of one, and
float64 shows orders.
"""

import jax
import jax.numpy as jnp

from flowjax.fields import DataSet
from flowjax.fields.base import HIGHEST, check_state, gains, path_at, variance
from flowjax.parallel.emulation.exchange import Exchange
from flowjax.parallel.emulation.row import run_row, sample_with_exchange
from flowjax.plans.table import Plan
from flowjax.sampling import Solution
from flowjax.types import Array, Scalar

NAME = "parallel.emulation.field"


def emulate_field(
    field: DataSet,
    noise: Array,
    plan: Plan,
    exchange: Exchange,
    *,
    key: jax.Array | None = None,
) -> Solution:
    """Sample from a `flowjax.fields.DataSet` as devices that exchange inner products would.

    Args:
      field: the `DataSet`. Its `chunk` is not used: (n, B, K) inner products are held at once.
      noise: (B, *D).
      plan, key: as in `flowjax.sample`.
      exchange: an `Exchange` whose shards are (F,), for the F numbers of a flattened sample. The
        cost grows with the size n of its tables, whatever the number of parts in use. The inner
        products of one part have their fitted gains in common.

    Returns:
      `Solution` with `parallel.emulation.row.EmulationStats`, whose carry is None.

    Raises:
      ValueError: an exchange with a correction, or of other sizes than the field and the plan.
    """
    noise = jnp.asarray(noise)
    count, size = field.offsets.shape
    devices = len(exchange.fresh)
    if exchange.rows.correction is not None:
        raise ValueError(
            f"{NAME}: a correction acts on attention's values, and a field has none; make the "
            "exchange with correction=0."
        )
    shards, policy = exchange.shards, exchange.rows.policy
    if shards.shape != (size,) or policy.shape != (plan.rows,):
        raise ValueError(
            f"{NAME}: shards {shards.shape} and policy {policy.shape} for {size} numbers a sample "
            f"and {plan.rows} rows; wanted one device a number, one threshold a row."
        )
    # A device has one "token": its inner products with all data.
    exchange = exchange._replace(gain_groups=jnp.eye(devices, dtype=bool))

    def model(x, t, carry):
        def evaluate(copy, synced):
            fresh = synced | jnp.asarray(exchange.fresh)
            fresh = jnp.broadcast_to(fresh, (len(x), devices, devices))
            # A field counts as one layer: its values are (1, B, n, K).
            products = jnp.moveaxis(copy[0], 1, 0)  # (n, B, K)
            velocity, new = velocity_of_devices(field, shards, x, t, products, fresh)
            return velocity, new[None]

        return run_row(exchange, carry, evaluate)

    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    like = jnp.zeros((1, len(noise), devices, count), dtype)
    return sample_with_exchange(model, noise, plan, exchange, like, key)


def velocity_of_devices(
    field: DataSet,
    shards: Array,
    x: jax.Array,
    t: Scalar,
    copy: jax.Array,
    fresh: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The velocity that n devices compute together.

    Args:
      field: the `DataSet`, of K data.
      shards: (F,) the device of each number of a sample.
      x: (B, *D).
      t: a scalar or (B,).
      copy: (n, B, K) the inner products of each device as the other devices know them.
      fresh: (B, n, n) bool, whether device i sees device j's inner products of this x.

    Returns:
      (velocity (B, *D), the inner products of each device (B, n, K)).
    """
    size = field.offsets.shape[1]
    devices = len(copy)
    x = check_state("DataSet", x, t, field.centre.shape)
    y = jnp.asarray(field.offsets, x.dtype).reshape(-1, size)  # (K, F)
    centre = jnp.asarray(field.centre, x.dtype).reshape(-1, size)  # (1, F)
    flat = x.reshape(-1, size)  # (B, F)
    path = path_at(field.schedule, t, x.dtype, 2)
    values = jnp.asarray(field.bandwidth, x.dtype).reshape(1, 1) ** 2

    # Each device's inner products of this x, and those that each device sees of every other.
    owned = jnp.asarray(shards)[None] == jnp.arange(devices)[:, None]
    owned = owned[:, None]  # (n, 1, F)
    new = jnp.matmul(jnp.where(owned, flat[None], 0), y.T, precision=HIGHEST)  # (n, B, K)
    fresh = fresh.astype(x.dtype)
    seen = jnp.einsum("bij,jbk->ibk", fresh, new) + jnp.einsum("bij,jbk->ibk", 1 - fresh, copy)

    # The softmax over the data, one for each device.
    squares = jnp.asarray(field.squares, x.dtype)[None]
    shift = path.alpha * (centre @ y.T + 0.5 * squares)  # (1 or B, K)
    logits = path.alpha[None] * (seen - shift[None]) / variance(path, values)[None]
    mean = jnp.matmul(jax.nn.softmax(logits, axis=-1), y, precision=HIGHEST)  # (n, B, F)

    # Each device answers for its part of the state.
    mean = jnp.sum(jnp.where(owned, mean, 0), axis=0)  # (B, F)
    offset, gain = gains("velocity", path, values)
    velocity = offset * (mean + centre) + gain * (flat - path.alpha * (mean + centre))
    return velocity.reshape(x.shape), jnp.moveaxis(new, 0, 1)
