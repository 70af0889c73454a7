"""Linear attention with stale sums over n parts, computed on one device: the oracle of the mesh.

The tokens of an image are split by rows into n parts. In row i of a plan and layer l, with S_p the
sums over the keys of part p in that row, a token of part p sees

    S_p + sum_{j != p} S_j       where the row is synchronous
    S_p + sum_{j != p} C_j       where it is stale; the copy C_j is S_j of the last row that sent

The convolution always reads the rows of this row of the plan. Written from this description, one
part after the other, and not from the mesh code.
"""

import jax
import jax.numpy as jnp

from flowjax.models import sana
from flowjax.models.sana_sizes import SanaConfig


def mixed_sums(
    config: SanaConfig,
    size: tuple[int, int],
    copy: jax.Array,
    shards: jax.Array,
    fresh: jax.Array,
) -> sana.Mixing:
    """The `Mixing` of n parts, of which each sees some sums of this row and copies of the others.

    Args:
      config: the network's sizes.
      size: (H, W) of the latent.
      copy: (K, B, n, heads, d, d + 1), the sums of each part as the others see them.
      shards: (L,) int, the part of each token.
      fresh: (n, n) bool, whether part i sees the sums of part j of this row.

    Returns:
      A `Mixing` whose carry collects the sums of all layers, shaped like `copy`.
    """
    parts = copy.shape[2]
    is_of = shards[None] == jnp.arange(parts)[:, None]  # (n, L)
    masks = is_of[:, None, :, None, None]  # (n, 1, L, 1, 1)

    def attention(q, k, v, layer, carry):
        # The sums of each part alone.
        own = jnp.stack([sana.key_value_sums(jnp.where(mask, k, 0), v) for mask in masks], axis=1)
        # What each part sees, and the outputs of its tokens.
        total = 0
        for i in range(parts):
            is_fresh = fresh[i][None, :, None, None, None]
            seen = jnp.where(is_fresh, own, copy[layer]).sum(axis=1)  # (B, heads, d, d + 1)
            total = total + jnp.where(masks[i], sana.weighted(q, seen), 0)
        return total.astype(q.dtype), carry.at[layer].set(own)

    return sana.Mixing(attention, sana.on_one_device(config, size).rows)
