"""The modes of sampling on a mesh: what each kind of attention does, in one table.

To add a kind of attention, add an entry to `MODES` here and to `USES` in `parallel.options`. Exact
attention also needs its function in `attention.EXACT` and its formula in `traffic.LAYER_BYTES`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh, PartitionSpec

from flowjax.models import networks
from flowjax.models.card import Card
from flowjax.models.dit import DiTConfig
from flowjax.parallel import device, linear, traffic
from flowjax.parallel.device import DeviceSetup, ExchangeSetup
from flowjax.parallel.mesh import DATA, PIPE, RING, SEQ, token_axes, token_shards
from flowjax.parallel.options import Options
from flowjax.parallel.pipeline import setup as pipeline
from flowjax.parallel.pipeline import stage
from flowjax.parallel.pipeline.setup import PipelineSetup, PipelineTable
from flowjax.parallel.stale.rows import RowSchedule, kinds_of, row_schedule
from flowjax.plans.table import Plan
from flowjax.types import PyTree


class Mode(NamedTuple):
    """What one kind of attention does.

    Attributes:
      check: (name, mesh, config, tokens, options) refuses what does not fit the mesh, in the name
        of the public function `name`.
      prepare: (card, mesh, plan, options) -> (setup, table). The setup is hashable and fixed in the
        compiled program. The table is a pytree of arrays, or None, and is an argument of it.
      specs: (card, mesh) -> (specs of the arguments, specs of the results), the layout on the mesh
        of what the body takes and returns.
      body: (setup, params, noise, label, keys, plan, table, positions) -> (images, status, counts,
        readings of the meter or None), on one device.
      received: (config, shape of the noise, mesh, options, dtype, plan, table) -> (N, 2) int64, the
        bytes that one device receives for attention in each row: if it is stale, and if it is
        synchronous.
    """

    check: Callable[[str, Mesh, DiTConfig, int, Options], None]
    prepare: Callable[[Card, Mesh, Plan, Options], tuple[NamedTuple, PyTree]]
    specs: Callable[[Card, Mesh], tuple[PyTree, PyTree]]
    body: Callable[..., tuple]
    received: Callable[..., np.ndarray]


# Devices that share tokens


def check_tokens(
    name: str,
    mesh: Mesh,
    config: DiTConfig,
    tokens: int,
    options: Options,
) -> None:
    """Refuse a mesh that splits the layers."""
    if mesh.shape[PIPE] > 1:
        raise ValueError(
            f"{name}: pipe={mesh.shape[PIPE]}, but attention={options.attention!r} does not split "
            "the layers; take pipe=1, or attention='pipefusion'."
        )


def check_ulysses(
    name: str,
    mesh: Mesh,
    config: DiTConfig,
    tokens: int,
    options: Options,
) -> None:
    """Refuse heads that do not divide over the devices that share the tokens."""
    check_tokens(name, mesh, config, tokens, options)
    # Each device attends with its own heads to all tokens.
    _check_heads(name, config, options, token_shards(mesh))


def check_ulysses_ring(
    name: str,
    mesh: Mesh,
    config: DiTConfig,
    tokens: int,
    options: Options,
) -> None:
    """Refuse a mesh without a ring, and heads that do not divide over the groups."""
    check_tokens(name, mesh, config, tokens, options)
    if RING not in mesh.shape:
        raise ValueError(
            f"{name}: attention={options.attention!r} wants a mesh whose seq is a pair, as in "
            f"make_mesh(seq=(2, 2)); this one has seq={mesh.shape[SEQ]}."
        )
    # Heads divide inside a group only; the ring splits none.
    _check_heads(name, config, options, mesh.shape[SEQ])


def _check_heads(name, config, options, parts):
    """Refuse heads that do not divide into so many parts."""
    if config.heads % parts:
        fits = [k for k in range(1, parts) if config.heads % k == 0]
        raise ValueError(
            f"{name}: attention={options.attention!r} splits heads, and {config.heads} heads do "
            f"not divide into {parts} parts; take {' or '.join(map(str, fits))} devices there, or "
            "attention='ring', which splits no heads."
        )


def prepare_exact(
    card: Card,
    mesh: Mesh,
    plan: Plan,
    options: Options,
) -> tuple[DeviceSetup, None]:
    """The setup of exact attention; it needs no table."""
    return DeviceSetup(card, mesh, float(options.guidance), options.attention, None), None


def prepare_stale(
    card: Card,
    mesh: Mesh,
    plan: Plan,
    options: Options,
) -> tuple[DeviceSetup, RowSchedule]:
    """The setup of stale attention, and the schedule of rows."""
    exchange = ExchangeSetup(
        method=options.exchange_method,
        kinds=kinds_of(options.refresh),
        comm_dtype=options.comm_dtype,
        gains_per=options.gains_per,
    )
    setup = DeviceSetup(card, mesh, float(options.guidance), options.attention, exchange)
    return setup, row_schedule(plan, options)


def token_specs(card: Card, mesh: Mesh) -> tuple[PyTree, PyTree]:
    """The layout where devices share tokens: each has all parameters and its own positions."""
    # Noise and labels lie over the data axis alone: a device cuts out its tokens itself, since the
    # tokens of an image need not divide by n.
    every, batch, tokens = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(token_axes(mesh))
    # params, noise, label, keys, plan, table, positions -> images, status, counts, readings
    return (every, batch, batch, batch, every, every, tokens), (batch, batch, batch, every)


def received_exact(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    options: Options,
    dtype: np.dtype,
    plan: Plan,
    table: None,
) -> np.ndarray:
    """The bytes that one device receives in each row of exact attention, (N, 2)."""
    return traffic.exact_rows(
        config, shape, mesh, options.attention, options.guidance, dtype, plan.rows
    )


def received_stale(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    options: Options,
    dtype: np.dtype,
    plan: Plan,
    table: RowSchedule,
) -> np.ndarray:
    """The bytes that one device receives in each row of stale attention, (N, 2)."""
    method = options.exchange_method
    return traffic.stale_rows(
        config, shape, mesh, options.guidance, dtype, table, method, options.comm_dtype
    )


# Devices that share the rows of an image, for a network with linear attention


def check_linear_stale(
    name: str,
    mesh: Mesh,
    config: networks.Config,
    tokens: int,
    options: Options,
) -> None:
    """Refuse a mesh that splits the layers, and options that are made for keys and values."""
    check_tokens(name, mesh, config, tokens, options)
    linear.check_options(name, options)


def received_linear(
    config: networks.Config,
    shape: tuple[int, ...],
    mesh: Mesh,
    options: Options,
    dtype: np.dtype,
    plan: Plan,
    table: RowSchedule | None,
) -> np.ndarray:
    """The bytes that one device receives in each row of linear attention, (N, 2)."""
    exchanges = np.ones(plan.rows, bool) if table is None else table.sent
    return traffic.linear_rows(config, shape, mesh, options.guidance, dtype, exchanges)


# Devices that share layers


def prepare_pipeline(
    card: Card,
    mesh: Mesh,
    plan: Plan,
    options: Options,
) -> tuple[PipelineSetup, PipelineTable]:
    """The setup of a pipeline, and its table of rows and ticks."""
    return pipeline.prepare(card, mesh, plan, options)


def pipeline_specs(card: Card, mesh: Mesh) -> tuple[PyTree, PyTree]:
    """The layout of a pipeline: each stage has its layers, and all positions."""
    every, batch = PartitionSpec(), PartitionSpec(DATA)
    params = pipeline.parameter_specs(card, mesh)
    # Stage 0 cuts patches at any place, so no positions are split.
    # params, noise, label, keys, plan, table, positions -> images, status, counts, readings
    into = (params, batch, batch, batch, every, every, every)
    return into, (batch, batch, batch, pipeline.METER_SPECS)


def received_pipeline(
    config: DiTConfig,
    shape: tuple[int, ...],
    mesh: Mesh,
    options: Options,
    dtype: np.dtype,
    plan: Plan,
    table: PipelineTable,
) -> np.ndarray:
    """The bytes that one device receives in each row of a pipeline, (N, 2)."""
    patches = options.patches
    return traffic.pipeline_rows(
        config, shape, mesh, options.guidance, dtype, patches, table.rows, table.ticks
    )


def _exact(check):
    """The mode of an exact attention."""
    return Mode(check, prepare_exact, token_specs, device.exact_body, received_exact)


MODES = {
    "gather": _exact(check_tokens),
    "ulysses": _exact(check_ulysses),
    "ring": _exact(check_tokens),
    "ulysses_ring": _exact(check_ulysses_ring),
    "stale": Mode(check_tokens, prepare_stale, token_specs, device.stale_body, received_stale),
    "pipefusion": Mode(
        pipeline.check, prepare_pipeline, pipeline_specs, stage.body, received_pipeline
    ),
}
# The modes of a network with linear attention: "gather" is the exact one, by sums.
LINEAR_MODES = {
    "gather": Mode(check_tokens, prepare_exact, token_specs, device.exact_body, received_linear),
    "stale": Mode(
        check_linear_stale, prepare_stale, token_specs, device.stale_body, received_linear
    ),
}


def mode_of(name: str, config: networks.Config, attention: str) -> Mode:
    """The mode of a kind of attention for the network of this configuration.

    Raises:
      ValueError: in the name of the function `name`, where the network does not have it.
    """
    if not networks.is_linear(config):
        return MODES[attention]
    if attention not in LINEAR_MODES:
        raise ValueError(
            f"{name}: attention={attention!r} moves queries, keys and values or layers between "
            "devices, and the attention of this network is linear: its tokens see each other "
            "through sums over keys. Take attention='gather', which adds these up exactly, or "
            "'stale'."
        )
    return LINEAR_MODES[attention]
