"""What attention over devices receives and keeps: formulas, checked against compiled programs.

B is the batch on one device (twice that where it computes both branches of guidance), L the tokens
with padding, E the width, b the bytes of a number, and n devices share an image. In each layer, one
device receives from others:

    gather, stale   2 (n-1)/n L E B b      the others' keys and values; in messages of fewer bits
                                           (parallel.stale.precision), E b is the number of heads
                                           times the bytes of one head's message
    ring            2 (n-1)/n L E B b      the same, a block at a time
    ulysses         4 (n-1)/n^2 L E B b    q, k, v one way and the output the other way, each
                                           (n-1)/n of L/n tokens
    ulysses_ring    4 (u-1)/(u n) L E B b + 2 (r-1)/n L E B b,    n = u r

A network with linear attention receives in each layer, with heads of d numbers of b_s bytes, and
rows of C tokens whose MLP has 2 F channels,

    sums            2 (n-1)/n heads d (d+1) B b_s     one all-reduce, counted as a ring
    rows            4 C F B b                         two collective-permutes of one row each

of which a stale row without an exchange receives the rows alone.

In a row of PipeFusion, whatever the layers, it receives L E B b of hidden states in M messages, and
n L E B b if the row is synchronous.
"""

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from flowjax.errors import check_choice
from flowjax.models.dit import DiTConfig
from flowjax.models.sana_sizes import SanaConfig
from flowjax.parallel.mesh import DATA, PIPE, RING, SEQ, doubled, token_shards
from flowjax.parallel.pipeline.ticks import Ticks
from flowjax.parallel.stale.precision import bytes_of
from flowjax.parallel.stale.rows import RowSchedule


def received(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    attention: str,
    guidance: float,
    dtype: DTypeLike,
    comm_dtype: str | None = None,
) -> int:
    """The bytes that one device receives in one layer of one row that exchanges.

    Args:
      config: the network's `DiTConfig`.
      shape: (B, H, W, C) of the noise, B of all devices.
      mesh, attention, guidance: as in `parallel.sample`.
      dtype: of the state; keys have it too, unless config.dtype is another.
      comm_dtype: as in `parallel.sample`. In synchronous rows messages travel as with None.
    """
    check_choice("parallel.traffic.received", "attention", attention, tuple(LAYER_BYTES))
    own = _own_bytes(config, shape, mesh, guidance, dtype, comm_dtype)
    return LAYER_BYTES[attention](own, mesh)


def _keys_and_values(own, mesh):
    """Keys and values of the n - 1 other devices."""
    return 2 * own * (token_shards(mesh) - 1)


def _all_to_all(own, mesh):
    """Three arrays one way and one the other way, of each (n-1)/n comes from others."""
    n = token_shards(mesh)
    return 4 * own * (n - 1) // n


def _all_to_all_and_ring(own, mesh):
    """The all-to-alls of groups of u devices, and r - 1 hops of keys and values."""
    u = mesh.shape[SEQ]
    r = mesh.shape[RING]
    return 4 * own * (u - 1) // u + 2 * own * (r - 1)


# (bytes of one device's keys of one layer, mesh) -> bytes received in a layer
LAYER_BYTES = {
    "gather": _keys_and_values,
    "stale": _keys_and_values,
    "ring": _keys_and_values,
    "ulysses": _all_to_all,
    "ulysses_ring": _all_to_all_and_ring,
}


def exact_rows(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    attention: str,
    guidance: float,
    dtype: DTypeLike,
    rows: int,
) -> np.ndarray:
    """The bytes that one device receives in each row of exact attention: (N, 2), twice the same.

    Args:
      rows: N.
      config, shape, mesh, attention, guidance, dtype: as in `received`.
    """
    layer = received(config, shape, mesh, attention, guidance, dtype)
    return np.full((rows, 2), config.depth * layer, np.int64)


def linear_rows(
    config: SanaConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    guidance: float,
    dtype: DTypeLike,
    exchanges: np.ndarray,
) -> np.ndarray:
    """The bytes that one device receives in each row of a network with linear attention.

    Stale sums move in as many bytes as exact ones; they only need not be waited for.

    Args:
      exchanges: (N,) bool, whether sums are added up in the row.
      config, shape, mesh, guidance, dtype: as in `received`.

    Returns:
      (N, 2) int64: if the row is stale, and if it is synchronous.
    """
    n = token_shards(mesh)
    if n == 1:
        return np.zeros((len(exchanges), 2), np.int64)
    head = config.width // config.heads
    batch = _batch(shape, mesh, guidance)
    # Sums are in float32 at least; rows travel in the dtype of matrix products.
    of_rows = jnp.dtype(config.dtype or dtype)
    of_sums = jnp.promote_types(of_rows, jnp.float32)
    sums = config.heads * head * (head + 1) * batch * of_sums.itemsize
    columns = shape[2] // config.patch
    rows = 2 * columns * 2 * config.hidden * batch * of_rows.itemsize
    synchronous = config.depth * (2 * (n - 1) * sums // n + rows)
    stale = np.where(exchanges, synchronous, config.depth * rows)
    return np.stack([stale, np.full(len(exchanges), synchronous)], axis=1).astype(np.int64)


def stale_rows(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    guidance: float,
    dtype: DTypeLike,
    schedule: RowSchedule,
    method: str,
    comm_dtype: str | None,
) -> np.ndarray:
    """The bytes that one device receives in each row of stale attention.

    Args:
      schedule: the `RowSchedule`.
      method: of `parallel.stale.exchange`.
      config, shape, mesh, guidance, dtype, comm_dtype: as in `received`.

    Returns:
      (N, 2) int64: if the row is stale, and if it is synchronous.
    """
    rows_used = schedule.forecast.weights.shape[1]
    row = stale_row(config, shape, mesh, guidance, dtype, method, comm_dtype, rows_used)
    bytes_of_rows = np.tile(np.array(row, np.int64), (len(schedule.sent), 1))
    bytes_of_rows[~schedule.sent, 0] = 0  # a stale row that holds its copies
    return bytes_of_rows


def stale_row(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    guidance: float,
    dtype: DTypeLike,
    method: str = "late",
    comm_dtype: str | None = None,
    rows_used: int = 1,
) -> tuple[int, int]:
    """The bytes that one device receives in a row: (stale and exchanging, synchronous).

    A synchronous row also sends the copies for the next row, unless these are its keys and values
    unchanged: "late" those of one layer, "early" those of all layers.

    Args:
      method: of `parallel.stale.exchange`.
      rows_used: R, the rows that a forecast uses.
      config, shape, mesh, guidance, dtype, comm_dtype: as in `received`.
    """
    unrounded = received(config, shape, mesh, "stale", guidance, dtype)
    message = received(config, shape, mesh, "stale", guidance, dtype, comm_dtype)
    # Layers whose copies for the next row are not what the row has gathered anyway.
    layers_sent_again = {"late": 1, "early": config.depth, "residual": 0}[method]
    if rows_used == 1 and comm_dtype is None:
        layers_sent_again = 0
    synchronous = config.depth * unrounded + layers_sent_again * message
    return config.depth * message, synchronous


def buffer(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    method: str,
    guidance: float,
    dtype: DTypeLike,
    rows_used: int = 1,
) -> int:
    """The bytes that stale attention keeps on one device between rows, of one substep.

    late      2 R K L/n E B b for its own, and 2 L E B b for the copies of one layer
    early     2 K L E B b for the copies of all layers, and 2 (R - 1) K L/n E B b for its own
    residual  2 R K L E B b

    Args:
      method: of `parallel.stale.exchange`.
      rows_used: R, the rows that a forecast uses.
      config, shape, mesh, guidance, dtype: as in `received`.
    """
    n = token_shards(mesh)
    layers = config.depth
    # In units of one device's keys and values of one layer.
    shards_kept = {
        "late": rows_used * layers + n,
        "early": (rows_used - 1 + n) * layers,
        "residual": rows_used * n * layers,
    }
    keys_and_values = 2 * _own_bytes(config, shape, mesh, guidance, dtype)
    return keys_and_values * shards_kept[method]


def message(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    guidance: float,
    dtype: DTypeLike,
    patches: int,
) -> int:
    """L/M E B b: the hidden states of one patch, which a stage receives in each tick of PipeFusion.

    Args:
      dtype: of the state, which hidden states have, in float32 at least.
      patches: M; 1 for a synchronous row, which takes n such messages in n stages.
      config, shape, mesh, guidance: as in `received`.
    """
    tokens = _tokens(config, shape) // patches
    batch = _batch(shape, mesh, guidance)
    return tokens * config.width * batch * jnp.dtype(dtype).itemsize


def pipeline_rows(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    guidance: float,
    dtype: DTypeLike,
    patches: int,
    schedule: RowSchedule,
    ticks: Ticks,
) -> np.ndarray:
    """The bytes that one device receives in each row of PipeFusion.

    A stale row receives the messages from the entry of its first patch to that of the next row. So
    the messages of a pipeline that fills or drains count, and the rows add up to the run. A
    synchronous row would have received M messages if it were stale; it receives n of the whole
    image.

    Args:
      patches: M.
      schedule, ticks: of the run.
      config, shape, mesh, guidance, dtype: as in `received`.

    Returns:
      (N, 2) int64: if the row is stale, and if it is synchronous.
    """
    synced = schedule.policy < 0
    stages = mesh.shape[PIPE]
    # A single stage passes its messages to itself.
    if stages == 1:
        return np.zeros((len(synced), 2), np.int64)
    of_patch = message(config, shape, mesh, guidance, dtype, patches)
    of_image = message(config, shape, mesh, guidance, dtype, 1)
    # Rows that are known to be synchronous would take M messages if they were stale.
    messages = np.where(synced, patches, ticks.of_rows(len(synced)))
    synchronous = np.full(len(synced), of_image * stages)
    return np.stack([of_patch * messages, synchronous], axis=1).astype(np.int64)


def pipeline_buffer(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    guidance: float,
    dtype: DTypeLike,
    rows_used: int = 1,
    substeps: int = 1,
) -> int:
    """2 R S K/n L E B b: the bytes of keys and values that PipeFusion keeps on one device.

    They are those of the device's own layers, for all tokens.

    Args:
      rows_used: R, the rows that a forecast uses.
      substeps: S, the most rows of a step.
      config, shape, mesh, guidance, dtype: as in `received`.
    """
    layers = config.depth // mesh.shape[PIPE]
    keys_and_values = 2 * _own_bytes(config, shape, mesh, guidance, dtype)
    return rows_used * substeps * layers * keys_and_values


def _own_bytes(config, shape, mesh, guidance, dtype, comm_dtype=None):
    """L/n E B b: one device's keys of one layer, as they are kept or as they travel."""
    # Tokens are padded to a multiple of n, and padding travels too.
    local = -(-_tokens(config, shape) // token_shards(mesh))
    # Keys have the compute dtype of the network, or else the dtype of the state.
    itemsize = jnp.dtype(config.dtype or dtype).itemsize
    head = bytes_of(config.width // config.heads, comm_dtype, itemsize)
    return local * config.heads * _batch(shape, mesh, guidance) * head


def _tokens(config, shape):
    """L without padding."""
    return shape[1] * shape[2] // config.patch**2


def _batch(shape, mesh, guidance):
    """B, the batch on one device, with both branches of guidance if it computes both."""
    return shape[0] // mesh.shape[DATA] * (2 if doubled(mesh, guidance) else 1)
