"""What is fixed before a pipeline runs: sizes, tables of rows and ticks, the layout of arrays."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from flowjax.errors import is_whole
from flowjax.models import networks
from flowjax.models.card import Card
from flowjax.models.dit import DiTConfig
from flowjax.parallel.mesh import CFG, DATA, PIPE, token_shards
from flowjax.parallel.options import Options
from flowjax.parallel.pipeline.ticks import Ticks, schedule
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.meter import MeterReadings
from flowjax.parallel.stale.rows import RowSchedule, row_schedule
from flowjax.plans.table import Plan

# How the meter's readings lie on the mesh: a stage has the readings of its own layers.
METER_SPECS = MeterReadings(
    synced=PartitionSpec(),
    staleness=PartitionSpec(),
    layers=PartitionSpec(None, PIPE),
    worst=PartitionSpec(),
)


class PipelineTable(NamedTuple):
    """What a run does: row by row, a `RowSchedule`, and tick by tick, a `Ticks`."""

    rows: RowSchedule
    ticks: Ticks


class PipelineSetup(NamedTuple):
    """What is fixed when the program is compiled; shapes are those of the arguments.

    Attributes:
      card: the model's `Card`.
      mesh: the mesh.
      guidance: the scale of guidance.
      patches: M.
      gains_per: of `Options`.
    """

    card: Card
    mesh: Mesh
    guidance: float
    patches: int
    gains_per: str

    @property
    def stages(self) -> int:
        """The number n of stages."""
        return self.mesh.shape[PIPE]

    @property
    def hop(self) -> int:
        """h of `pipeline.ticks`: 2 if a message may travel for a tick and still no stage waits."""
        return 2 if self.patches >= 2 * self.stages > 2 else 1

    @property
    def groups(self) -> tuple[str, ...]:
        """The mesh axes over which samples and branches of guidance differ."""
        return (DATA, CFG) if self.mesh.shape[CFG] == 2 else (DATA,)

    def zeros(self, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
        """Zeros, marked as different on every device."""
        return jax.lax.pcast(jnp.zeros(shape, dtype), (*self.groups, PIPE), to="varying")


def prepare(
    card: Card,
    mesh: Mesh,
    plan: Plan,
    options: Options,
) -> tuple[PipelineSetup, PipelineTable]:
    """The setup of a run, and its table."""
    setup = PipelineSetup(card, mesh, float(options.guidance), options.patches, options.gains_per)
    rows = row_schedule(plan, options)
    # No threshold lies between ALWAYS and NEVER here, so the rows are known before the run.
    synced = rows.policy < 0
    ticks = schedule(synced, setup.patches, setup.stages, setup.hop)
    return setup, PipelineTable(rows, ticks)


def parameter_specs(card: Card, mesh: Mesh) -> dict[str, PartitionSpec]:
    """How parameters lie on the mesh: layers over the stages, the others on every device."""
    # With one stage every device has all layers.
    over_stages = PartitionSpec(PIPE) if mesh.shape[PIPE] > 1 else PartitionSpec()
    names = networks.network(card.config).shapes()
    return {name: over_stages if name == "blocks" else PartitionSpec() for name in names}


def check_layers(name: str, mesh: Mesh, config: DiTConfig) -> None:
    """Refuse, in the name of the function `name`, layers that do not divide over the axis pipe."""
    stages = mesh.shape[PIPE]
    if config.depth % stages:
        fits = [k for k in range(1, config.depth + 1) if config.depth % k == 0]
        raise ValueError(
            f"{name} splits layers, and {config.depth} layers do not divide into pipe={stages} "
            f"stages; take pipe={' or '.join(map(str, fits))}."
        )


def check(
    name: str,
    mesh: Mesh,
    config: DiTConfig,
    tokens: int,
    options: Options,
) -> None:
    """Refuse what a pipeline of layers cannot run, in the name of the function `name`."""
    if token_shards(mesh) > 1:
        raise ValueError(
            f"{name}: attention='pipefusion' splits an image's tokens over time, not over devices; "
            "take seq=1, and use the other devices for pipe."
        )
    check_layers(f"{name}: attention='pipefusion'", mesh, config)
    check_patches(name, tokens, options, mesh.shape[PIPE])


def check_patches(name: str, tokens: int, options: Options, stages: int) -> None:
    """Refuse patches and a policy that no pipeline can run, on a mesh or emulated.

    Args:
      name: the public function in whose name the refusal speaks.
      tokens: L.
      options: `Options` with attention="pipefusion".
      stages: n.
    """
    name, patches = f"{name}: attention='pipefusion'", options.patches
    if not is_whole(patches, 1) or tokens % patches:
        fits = [k for k in range(1, tokens + 1) if tokens % k == 0]
        raise ValueError(
            f"{name} with patches={patches!r} of {tokens} tokens; wanted one of {fits}. With "
            f"{stages} patches or more no stage waits for work, and with {2 * stages} or more no "
            "stage waits for messages either."
        )
    policy = np.asarray(policies.NEVER if options.policy is None else options.policy)
    # The table of ticks is made on the host, before anything is metered.
    depends_on_meter = (policy >= 0) & (policy < policies.NEVER)
    if np.any(depends_on_meter):
        raise ValueError(
            f"{name} with a policy by tolerance: the ticks are fixed before the run, so the meter "
            "cannot decide which steps are synchronous. Take a policy of fixed steps, or "
            "attention='stale'."
        )
