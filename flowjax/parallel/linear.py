"""A network with linear attention over a mesh: exact, or with stale sums.

The tokens of an image are split by rows of the image. Tokens see each other in two places, which
are the two functions of a `models.sana.Mixing`:

    attention   the sums (S, s) over keys, d (d + 1) numbers a head: one all-reduce a layer
    rows        the row above and the row below the device's own, for the 3 x 3 convolution: two
                collective-permutes a layer, one in each direction, of columns x 2 F numbers

The attention to the text needs nothing from other devices.

With attention="stale" a device adds its own sums of this row to the sums of the others of the step
before. The all-reduce of a row is then used in the next row, and nothing in this row waits for it.
The rows for the convolution are always those of this row of the plan.

A device keeps, for each layer, its own sums and the sums of all devices, 2 K B heads d (d + 1)
numbers, whatever the image's size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flowjax.models.networks import Config
from flowjax.models.sana import Mixing, key_value_sums, weighted
from flowjax.parallel.mesh import token_axes
from flowjax.parallel.options import Options
from flowjax.parallel.stale.exchange import ExchangeMethod, at, finish_nothing, put
from flowjax.parallel.stale.forecast import Forecast
from flowjax.parallel.stale.rows import HOLD, SYNC
from flowjax.types import PyTree

# Options of stale attention that do not apply to sums.
REFUSED = {
    "gather": None,
    "forecast": 0,
    "correction": None,
    "comm_dtype": None,
    "residual": False,
    "gains_per": "device",
}


class RowShard(NamedTuple):
    """The rows of an image that one device holds.

    Attributes:
      axes: the mesh axes that share an image's tokens.
      tokens: L without padding.
      columns: tokens in one row of the image.
    """

    axes: tuple[str, ...]
    tokens: int
    columns: int

    def without_padding(self, x: jax.Array) -> jax.Array:
        """x (B, L/n, ...), with zeros where a token of this device is padding."""
        local = x.shape[1]
        first = jax.lax.axis_index(self.axes) * local
        valid = first + jnp.arange(local) < self.tokens
        return jnp.where(valid.reshape(1, -1, *(1,) * (x.ndim - 2)), x, 0)

    def own_sums(self, k: jax.Array, v: jax.Array) -> jax.Array:
        """(B, heads, d, d + 1) the sums over this device's keys."""
        # A key of zeros adds nothing, whatever its value.
        return key_value_sums(self.without_padding(k), v)

    def rows(
        self, x: jax.Array, layer: Any = None, carry: PyTree = None
    ) -> tuple[jax.Array, PyTree]:
        """This device's tokens (B, L/n, C) as rows, with the rows of its neighbours around.

        Two collective-permutes: the last row goes to the next device, the first row to the one
        before. A device without neighbour receives zeros, which is the padding of the convolution.
        """
        x = self.without_padding(x)
        x = x.reshape(len(x), -1, self.columns, x.shape[-1])  # (B, rows, columns, C)
        first, last = x[:, :1], x[:, -1:]
        n = jax.lax.axis_size(self.axes)
        if n == 1:  # nobody is there to send to
            above, below = jnp.zeros_like(last), jnp.zeros_like(first)
        else:
            above = jax.lax.ppermute(last, self.axes, [(j, j + 1) for j in range(n - 1)])
            below = jax.lax.ppermute(first, self.axes, [(j + 1, j) for j in range(n - 1)])
        return jnp.concatenate([above, x, below], axis=1), carry


def exact_mixing(mesh: Mesh, tokens: int, columns: int) -> Mixing:
    """The exact `Mixing` over the token axes of a mesh, inside `jax.shard_map`."""
    shard = RowShard(token_axes(mesh), tokens, columns)

    def attention(q, k, v, layer=None, carry=None):
        sums = jax.lax.psum(shard.own_sums(k, v), shard.axes)
        return weighted(q, sums), carry

    return Mixing(attention, shard.rows)


# Stale sums


class SumBuffers(NamedTuple):
    """What a device keeps between rows.

    Attributes:
      own: (K, B, heads, d, d + 1), its own sums of the last row that exchanged.
      total: like `own`, the sums of all devices in that row.
    """

    own: jax.Array
    total: jax.Array


def sum_buffers(layers: int, batch: int, config: Config, dtype: Any) -> SumBuffers:
    """The shapes of the buffers of one substep; `dtype` is that of the state."""
    head = config.width // config.heads
    exact = jnp.promote_types(config.dtype or dtype, jnp.float32)
    shape = jax.ShapeDtypeStruct((layers, batch, config.heads, head, head + 1), exact)
    return SumBuffers(shape, shape)


# The rows of `stale.model` that end with nothing to send; the exchange itself is in `stale_mixing`.
METHOD = ExchangeMethod(buffers=sum_buffers, layer={}, finish=finish_nothing)


def stale_mixing(columns: int, model: NamedTuple, kind: int, row: jax.Array) -> Mixing:
    """The `Mixing` of a row of this kind; its carry is (buffers, sums of squares (2, K, B)).

    Args:
      columns: tokens in one row of the image.
      model: the `StaleModel`.
      kind: SYNC, EXCHANGE or HOLD, of `parallel.stale.rows`.
      row: its number; not used, since a copy is held and not extrapolated.
    """
    shard = RowShard(model.shard.axes, model.shard.tokens, columns)

    def attention(q, k, v, layer, carry):
        buffers, sums = carry
        own = shard.own_sums(k, v)
        own_before, total_before = at(buffers.own, layer), at(buffers.total, layer)
        squares = [_sum_of_squares(own - own_before), _sum_of_squares(own)]
        sums = sums.at[:, layer].set(jnp.stack(squares).astype(sums.dtype))
        # The sums of the other devices, of the last row that exchanged.
        seen = own + (total_before - own_before)
        if kind != HOLD:
            total = jax.lax.pcast(jax.lax.psum(own, shard.axes), shard.axes, to="varying")
            seen = total if kind == SYNC else seen
            buffers = SumBuffers(put(buffers.own, own, layer), put(buffers.total, total, layer))
        return weighted(q, seen), (buffers, sums)

    return Mixing(attention, shard.rows)


def _sum_of_squares(sums):
    """(B, heads, d, d + 1) -> (B,)."""
    return jnp.sum(jnp.square(sums), axis=(1, 2, 3))


# Refusals


def check_options(name: str, options: Options) -> None:
    """Refuse options of stale attention that are made for keys and values."""
    for option, default in REFUSED.items():
        value = getattr(options, option)
        # A correction of 0 asks for none, as its default does.
        if option == "correction" and (value is None or not np.any(value)):
            continue
        if isinstance(value, Forecast) or value != default:
            raise ValueError(
                f"{name}: {option}={value!r} with a network whose attention is linear: its devices "
                "exchange sums over keys, which are held and sent as they are; leave it."
            )
