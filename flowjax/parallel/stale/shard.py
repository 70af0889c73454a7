"""Facts of one `shard_map` body: mesh axes, token counts, the schedule of rows, the message format.

All methods of exchange (`parallel.stale.exchange`) are written with the operations of this file.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.parallel.attention import TOKENS, gathered
from flowjax.parallel.stale.forecast import predict
from flowjax.parallel.stale.precision import decoded, encoded
from flowjax.parallel.stale.rows import RowSchedule


class TokenShard(NamedTuple):
    """The tokens of one device, beside those of the other devices.

    Attributes:
      axes: the mesh axes that share an image's tokens, over n devices.
      tokens: L without padding.
      local: the tokens of one device, L/n rounded up.
      layers: K.
      schedule: the `RowSchedule` of the run.
      comm_dtype: the number format of messages, see `parallel.stale.precision`.
      gains_per: "device" or "token", which tokens have a fitted gain in common.
    """

    axes: tuple[str, ...]
    tokens: int
    local: int
    layers: int
    schedule: RowSchedule
    comm_dtype: str | None
    gains_per: str

    @property
    def rows_used(self) -> int:
        """The number R of rows that a forecast uses."""
        return self.schedule.forecast.weights.shape[1]

    @property
    def sends_unchanged(self) -> bool:
        """Whether the copies for the next row are this row's keys and values, unchanged."""
        return self.rows_used == 1 and self.comm_dtype is None

    def first(self) -> jax.Array:
        """The number of this device's first token."""
        return jax.lax.axis_index(self.axes) * self.local

    def valid(self, count: int) -> jax.Array:
        """(count,) bool, which tokens are not padding: this device's if count = local, else all."""
        # On one device the two cases agree, since its first token is number 0.
        first = self.first() if count == self.local else 0
        return first + jnp.arange(count) < self.tokens

    def is_own(self, count: int) -> jax.Array:
        """(count,) bool, which of the first tokens of the image are this device's."""
        return jnp.arange(count) // self.local == jax.lax.axis_index(self.axes)

    def forecast(self, past: jax.Array, row: jax.Array) -> jax.Array:
        """The forecast of keys and values in `row`.

        Args:
          past: (R, 2, B, T, heads, d) of the last R rows, newest first; T tokens of this device or
            of all.
          row: the row's number.

        Returns:
          (2, B, T, heads, d).
        """
        if len(past) == 1:
            return past[0]  # held: no arithmetic, so the copy is equal to the last bit
        # `predict` wants an axis of layers: here it has length 1.
        keys = past[:, 0, None]  # (R, 1, B, T, heads, d)
        values = past[:, 1, None]
        return jnp.concatenate(predict(self.schedule.forecast, row, (keys, values), self._pool))

    def as_received(self, values: jax.Array) -> jax.Array:
        """The values in the precision in which other devices receive them."""
        return decoded(encoded(values, self.comm_dtype), self.comm_dtype, values)

    def gather_message(self, values: jax.Array) -> jax.Array:
        """Send `values`, and receive those of all devices, by one all-gather.

        Args:
          values: (2, B, L/n, heads, d).

        Returns:
          (2, B, L, heads, d), L with padding, in the precision of messages.
        """
        message = gathered(encoded(values, self.comm_dtype), self.axes)
        return decoded(message, self.comm_dtype, values)

    def own_part(self, everyone: jax.Array) -> jax.Array:
        """This device's tokens among those of all; tokens are the third axis from the end."""
        axis = everyone.ndim - 3
        return jax.lax.dynamic_slice_in_dim(everyone, self.first(), self.local, axis)

    def with_own_part(self, everyone: jax.Array, own: jax.Array) -> jax.Array:
        """The keys and values (2, B, L, heads, d) of all devices, with `own` as this device's."""
        return jax.lax.dynamic_update_slice_in_dim(everyone, own, self.first(), TOKENS)

    def _pool(self, sums):
        """Sums (1, B, T) of tokens, added up over those with a common gain: no collective."""
        if self.gains_per == "token":
            return sums
        # Padding is not a token of anybody, so it adds nothing to a gain.
        sums_of_tokens = jnp.where(self.valid(sums.shape[-1]), sums, 0)
        by_device = sums_of_tokens.reshape(*sums.shape[:-1], -1, self.local)  # (1, B, n, L/n)
        total = by_device.sum(-1, keepdims=True)
        return jnp.broadcast_to(total, by_device.shape).reshape(sums.shape)
