"""What attention over devices moves and keeps: formulas, and a reader of the compiled program that they are held to.

Letters: B the batch on one device (twice that where it computes both branches of guidance), L tokens with padding, E width,
b bytes a number, n = devices that share an image. Per device and layer, received from others:

    gather, stale   2 (n-1)/n L E B b          keys and values of the others; where they travel in fewer bits (parallel.stale.precision)
                                               E b is heads times the bytes of one head's message
    ring            2 (n-1)/n L E B b          the same, a block at a time
    ulysses         4 (n-1)/n^2 L E B b        q, k, v one way and the output the other, each (n-1)/n of L/n tokens
    ulysses_ring    4 (u-1)/(u n) L E B b + 2 (r-1)/n L E B b,   n = u r

and per device and row, whatever the layers: pipefusion  L E B b of hidden states in M messages, n L E B b if synchronous.
"""

import jax.numpy as jnp
import numpy as np

from flowjax.parallel.mesh import DATA, PIPE, RING, SEQ, doubled, token_shards
from flowjax.parallel.stale.precision import bytes_of


def received(config, shape, mesh, attention, guidance, dtype, comm_dtype=None):
    """Bytes that one device receives in one layer of one row that exchanges.

    Args:
      config: the network's `DiTConfig`.
      shape: (B, H, W, C) of the noise.
      mesh, attention, guidance: as in `parallel.sample`.
      dtype: of the state, which keys have too unless config.dtype says another.
      comm_dtype: as in `parallel.sample`; synchronous rows travel whatever it says with None.
    """
    n = token_shards(mesh)
    own = _own_bytes(config, shape, mesh, guidance, dtype, comm_dtype)
    if attention == "ulysses":
        return 4 * own * (n - 1) // n
    if attention == "ulysses_ring":
        u, r = mesh.shape[SEQ], mesh.shape[RING]
        return 4 * own * (u - 1) // u + 2 * own * (r - 1)
    return 2 * own * (n - 1)


def a_row(config, shape, mesh, attention, guidance, dtype, way="late", comm_dtype=None, memory=1):
    """Bytes that one device receives for attention in a row: (stale and exchanging, synchronous).

    A synchronous row tells the next one what is not this row's keys and values as they are: late of one layer, early of all.

    Args:
      way: of parallel.stale.exchange.
      memory: M, the rows of which a forecast is made.
      others: as in `received`.
    """
    whole, told = (
        received(config, shape, mesh, attention, guidance, dtype, how) for how in (None, comm_dtype)
    )
    plain = memory == 1 and comm_dtype is None
    more = (
        0
        if plain or attention != "stale"
        else {"late": 1, "early": config.depth, "residual": 0}[way]
    )
    return config.depth * told, config.depth * whole + more * told


def buffer(config, shape, mesh, way, guidance, dtype, memory=1):
    """Bytes that stale attention keeps on one device between rows, of one stage.

    late: 2 M K L/n E B b for one's own, and one layer of everyone's, 2 L E B b. early: 2 K L E B b for everyone's, and
    2 (M - 1) K L/n E B b for one's own. residual: 2 M K L E B b.
    """
    n, own = token_shards(mesh), 2 * _own_bytes(config, shape, mesh, guidance, dtype)
    k = config.depth
    return (
        own
        * {"late": memory * k + n, "early": (memory - 1 + n) * k, "residual": memory * n * k}[way]
    )


def message(config, shape, mesh, guidance, dtype, patches):
    """L/M E B b: the hidden states of one of M patches, which a stage receives in each tick of PipeFusion.

    Args:
      dtype: of the state, which hidden states have, in float32 at least.
      patches: M; 1 for a synchronous row, which takes n such messages in n stages.
      others: as in `received`.
    """
    tokens = shape[1] * shape[2] // config.patch**2
    batch = shape[0] // mesh.shape[DATA] * (2 if doubled(mesh, guidance) else 1)
    return tokens // patches * config.width * batch * jnp.dtype(dtype).itemsize


def piped(config, shape, mesh, guidance, dtype, patches, table):
    """(N, 2) int64, bytes that one device receives in each row of PipeFusion if it is stale, and if it is synchronous.

    A stale row takes the messages from its first patch's entry to that of the next row, those of a pipe that fills or drains
    among them, so these sum up to the run's; a synchronous one would have taken M. It takes n of the whole image.

    Args:
      patches, table: M, and a `pipe.Table`.
      others: as in `received`.
    """
    synced, stages = table.rows.policy < 0, mesh.shape[PIPE]
    part, image = (
        message(config, shape, mesh, guidance, dtype, m) if stages > 1 else 0 for m in (patches, 1)
    )
    ticks = np.where(synced, patches, table.ticks.of_rows(len(synced)))
    return np.stack([part * ticks, np.full(len(synced), image * stages)], axis=1).astype(np.int64)


def pipe_buffer(config, shape, mesh, guidance, dtype, memory=1, stages=1):
    """2 R S K/n L E B b: bytes that PipeFusion keeps on one device, keys and values of its own layers for all tokens.

    Args:
      memory: R, the rows of which a forecast is made.
      stages: S, the most rows of a step.
      others: as in `received`.
    """
    own = 2 * _own_bytes(config, shape, mesh, guidance, dtype)
    return memory * stages * config.depth // mesh.shape[PIPE] * own


def _own_bytes(config, shape, mesh, guidance, dtype, comm_dtype=None):
    """L/n E B b: one device's keys of one layer, as they are or on the way."""
    tokens = shape[1] * shape[2] // config.patch**2
    local = -(-tokens // token_shards(mesh))
    batch = shape[0] // mesh.shape[DATA] * (2 if doubled(mesh, guidance) else 1)
    head = bytes_of(
        config.width // config.heads, comm_dtype, jnp.dtype(config.dtype or dtype).itemsize
    )
    return local * config.heads * batch * head
