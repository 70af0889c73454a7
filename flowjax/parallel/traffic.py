"""What attention over devices moves and keeps: formulas, and a reader of the compiled program that they are held to.

Letters: B the batch on one device (twice that where it computes both branches of guidance), L tokens with padding, E width,
b bytes a number, n = devices that share an image. Per device and layer, received from others:

    gather, stale   2 (n-1)/n L E B b          keys and values of the others
    ring            2 (n-1)/n L E B b          the same, a block at a time
    ulysses         4 (n-1)/n^2 L E B b        q, k, v one way and the output the other, each (n-1)/n of L/n tokens
    ulysses_ring    4 (u-1)/(u n) L E B b + 2 (r-1)/n L E B b,   n = u r
"""

import jax.numpy as jnp

from flowjax.parallel.mesh import DATA, RING, SEQ, doubled, token_shards


def received(config, shape, mesh, attention, guidance, dtype):
    """Bytes that one device receives in one layer of one row that exchanges.

    Args:
      config: the network's `DiTConfig`.
      shape: (B, H, W, C) of the noise.
      mesh, attention, guidance: as in `parallel.sample`.
      dtype: of the state, which keys have too unless config.dtype says another.
    """
    n = token_shards(mesh)
    own = _own_bytes(config, shape, mesh, guidance, dtype)
    if attention == "ulysses":
        return 4 * own * (n - 1) // n
    if attention == "ulysses_ring":
        u, r = mesh.shape[SEQ], mesh.shape[RING]
        return 4 * own * (u - 1) // u + 2 * own * (r - 1)
    return 2 * own * (n - 1)


def buffer(config, shape, mesh, gather, guidance, dtype):
    """Bytes that stale attention keeps on one device between rows.

    late: 2 K L/n E B b for one's own, and one layer of everyone's, 2 L E B b. early: 2 K L E B b.
    """
    n, own = token_shards(mesh), _own_bytes(config, shape, mesh, guidance, dtype)
    return 2 * own * (config.depth + n if gather == "late" else config.depth * n)


def _own_bytes(config, shape, mesh, guidance, dtype):
    """L/n E B b: one device's keys of one layer."""
    tokens = shape[1] * shape[2] // config.patch**2
    local = -(-tokens // token_shards(mesh))
    batch = shape[0] // mesh.shape[DATA] * (2 if doubled(mesh, guidance) else 1)
    return local * config.width * batch * jnp.dtype(config.dtype or dtype).itemsize
