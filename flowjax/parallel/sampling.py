"""The sampler over a mesh: `flowjax.sample` on each device, inside one jit of one `jax.shard_map`.

Every solver update is elementwise. So the state, the noise and the solver's history stay on the
device that holds their tokens from start to end. Only the network's attention, and guidance,
communicate (see `parallel.device` and `parallel.pipeline.stage`). What depends on the kind of
attention stands in `parallel.modes`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from flowjax.models import condition as conditions
from flowjax.models import networks
from flowjax.models.card import Card, Model
from flowjax.models.condition import Condition
from flowjax.parallel.mesh import check_branches, check_mesh, token_shards
from flowjax.parallel.modes import mode_of
from flowjax.parallel.options import check as check_options
from flowjax.parallel.options import from_keywords
from flowjax.parallel.pipeline.setup import check_layers, parameter_specs
from flowjax.parallel.stale.meter import exact_readings
from flowjax.plans.table import Plan
from flowjax.sampling import Solution, sample_keys
from flowjax.types import Array, PyTree


class ParallelStats(NamedTuple):
    """Counts of a run on a mesh, and its measured staleness |KV - copy| / |KV|.

    Attributes:
      nfe, accepted, rejected: (B,) int32, as in `flowjax.sample`.
      synced: (N,) bool, the rows in which every query saw this row's keys and values.
      staleness: (N,) of the copies that were used; 0 in synchronous rows.
      layers: (N, K) of each layer, whether copies were used or not; None where attention is exact.
      worst: (N,) of the worst sample, likewise.
      received: (N, 2) int64, the bytes that one device would receive from others for attention if
        the row were stale, and if it were synchronous, by the formulas of `parallel.traffic`.
    """

    nfe: Array
    accepted: Array
    rejected: Array
    synced: Array
    staleness: Array
    layers: Array | None
    worst: Array | None
    received: np.ndarray

    @property
    def bytes(self) -> np.ndarray:
        """(N,) int64, the bytes that one device received for attention in each row.

        It waits for the run to end.
        """
        if_stale, if_synchronous = self.received.T
        return np.where(self.synced, if_synchronous, if_stale)


def sample(
    model: Model,
    noise: Array,
    label: Array | Condition | None,
    plan: Plan,
    mesh: Mesh,
    *,
    key: jax.Array | None = None,
    **options: Any,
) -> Solution:
    """Run a plan over a mesh. Only stale attention makes the samples depend on the mesh.

    The first call with a model, a mesh and these options compiles. Later calls reuse the program,
    whatever the numbers in the plan, `warmup`, `policy` and (from 2 on) `refresh`. Call it outside
    jit. On several processes, each one gives the same arguments.

    Args:
      model: what `models.load` returned. `place` puts its parameters on the mesh once; else each
        call does.
      noise: (B, H, W, C), from `flowjax.draw_noise`.
      label: (B,) integers, or None for the null label. A network that draws for a text takes a
        `Condition`, with negative embeddings where there is guidance.
      plan: a `Plan` with known numbers.
      mesh: from `make_mesh`. The tokens of a network with a convolution are split by rows.
      key: for plans that draw noise, as in `flowjax.sample`. Each device draws a sample's noise and
        keeps its own tokens.
      **options: the fields of `parallel.options.Options`, each by its name, such as
        attention="stale", guidance=1.5 or warmup=2. That class has their defaults and meanings.

    Returns:
      `Solution`, with `ParallelStats`; path and carry are None. x (B, H, W, C) is laid out over the
      data axis. On several processes
      `jax.experimental.multihost_utils.process_allgather(x, tiled=True)` brings all of it to each.

    Raises:
      ValueError: what does not fit, before anything compiles.
    """
    # Compile, or find the program of an earlier call.
    name = "parallel.sample"
    chosen = from_keywords(name, options)
    run, arguments, table = _prepared(name, model, noise, label, plan, mesh, chosen, key)
    x, status, counts, readings = run(*arguments)

    # Report staleness and bytes. Exact attention has no meter.
    readings = exact_readings(plan.rows) if readings is None else readings
    config = model.card.config
    received = mode_of(name, config, chosen.attention).received(
        config, np.shape(noise), mesh, chosen, x.dtype, plan, table
    )
    stats = ParallelStats(*counts, *readings, received)
    return Solution(x, status, stats, path=None, carry=None)


def program(
    model: Model,
    noise: Array | jax.ShapeDtypeStruct,
    label: Array | Condition | None,
    plan: Plan,
    mesh: Mesh,
    *,
    key: jax.Array | None = None,
    **options: Any,
) -> tuple[Callable[..., tuple], tuple, PyTree]:
    """The program that `sample` runs.

    `run.lower(*arguments).compile()` shows what was compiled. If noise is a `jax.ShapeDtypeStruct`,
    and the parameters are too, then nothing is laid out and the arguments are shapes. That is all
    that compiling needs, and all that there can be where the devices of the mesh are not here (see
    `parallel.analysis.overlap`).

    Args:
      model, noise, label, plan, mesh, key: as in `sample`.
      **options: the fields of `parallel.options.Options`, each by its name.

    Returns:
      (jitted function, its arguments laid out on the mesh, table). The table is a `RowSchedule` for
      "stale", a `PipelineTable` for "pipefusion", and None where attention is exact.
    """
    name = "parallel.program"
    chosen = from_keywords(name, options)
    return _prepared(name, model, noise, label, plan, mesh, chosen, key)


def place(model: Model, mesh: Mesh) -> Model:
    """The model with its parameters on the devices of the mesh, so that calls need not bring them.

    Every device has all of them, except for the layers: these lie over the axis pipe, which must
    divide their number.
    """
    check_layers("parallel.place", mesh, model.card.config)
    specs = parameter_specs(model.card, mesh)
    return model._replace(params=_laid_out(_placed, mesh, specs, model.params))


def _prepared(name, model, noise, label, plan, mesh, options, key):
    """`program` with its options as `Options`; refusals speak in the name of `name`."""
    card = model.card
    # The schedule of rows is made on the host, so the plan must have known numbers.
    plan = jax.tree.map(np.asarray, plan)
    only_shapes = isinstance(noise, jax.ShapeDtypeStruct)
    noise = noise if only_shapes else jnp.asarray(noise)

    # Refuse what does not fit.
    check_options(name, options, plan)
    mode = mode_of(name, card.config, options.attention)
    label = _checked_label(name, card, noise, label, options.guidance)
    tokens = card.patchify(np.zeros(noise.shape, bool)).shape[1]  # L; refuses a wrong shape
    size = noise.shape[1:3]
    together = networks.tokens_together(card.config, size)
    check_mesh(name, mesh, len(noise), tokens, together)
    has_null = card.config.has_null and not networks.takes_text(card.config)
    check_branches(name, mesh, has_null, options.guidance)
    mode.check(name, mesh, card.config, tokens, options)

    # Lay out the arguments.
    setup, table = mode.prepare(_ById(card), mesh, plan, options)
    positions = networks.positions(card.config, size)  # (L, E)
    padding = -len(positions) % (token_shards(mesh) * together)
    positions = np.pad(positions, ((0, padding), (0, 0)))
    keys = _keys(name, key, plan, noise)
    arguments = (model.params, noise, label, keys, plan, table, positions)
    specs, _ = mode.specs(card, mesh)
    lay = _shaped if only_shapes else _placed
    laid_out = tuple(
        _laid_out(lay, mesh, spec, argument)
        for spec, argument in zip(specs, arguments, strict=True)
    )
    return _compiled(options.attention, setup), laid_out, table


def _checked_label(name, card: Card, noise, label, guidance):
    """The labels (B,) or the `Condition`, or a refusal of noise or labels that do not fit."""
    if noise.ndim != 4 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"{name}: noise has shape {noise.shape} and dtype {noise.dtype}; wanted floating "
            "(B, H, W, C)."
        )
    batch = len(noise)
    if networks.takes_text(card.config):
        return _checked_text(name, card, batch, label, guidance)
    label = np.asarray(card.null_label if label is None else label)
    if label.shape not in ((), (batch,)) or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(f"{name}: label is {label.dtype}{label.shape}; wanted {batch} integers.")
    if np.any((label < 0) | (label >= card.config.labels)):
        raise ValueError(f"{name}: labels {label.ravel()[:8].tolist()}; wanted {card.label_words}.")
    return np.broadcast_to(label, (batch,))


def _checked_text(name, card, batch, condition, guidance):
    """The `Condition` of the batch, without negative embeddings where there is no guidance."""
    condition = conditions.checked(name, condition, card.config.caption)
    if len(condition.embeddings) != batch:
        raise ValueError(
            f"{name}: {len(condition.embeddings)} texts for {batch} samples; wanted one each."
        )
    if guidance == 1:
        condition = condition._replace(negative=None, negative_mask=None)
    else:
        conditions.branches(name, condition)  # refuses a condition without negative embeddings
    return jax.tree.map(jnp.asarray, condition)


def _keys(name, key, plan, noise):
    """One key a sample, (B,), or the noise itself with the batch first, (B, N, H, W, C).

    None if the plan draws no noise.
    """
    if not np.any(plan.s != 0):
        return None
    if key is None:
        raise ValueError(
            f"{name}: this plan draws noise in its steps but key is None; pass "
            "key=jax.random.key(0)."
        )
    keys = sample_keys(name, key, plan.rows, noise.shape)
    # The batch comes first, as in keys: it is the axis that lies over the mesh.
    is_noise = jnp.issubdtype(keys.dtype, jnp.floating)
    return jnp.moveaxis(keys, 0, 1) if is_noise else keys


class _ById:
    """Equal only to a wrapper of the very same object.

    A card holds dictionaries, so it cannot itself be the key of a cache.
    """

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value is other.value

    def __hash__(self):
        return id(self.value)


@functools.lru_cache(maxsize=32)
def _compiled(attention, setup):
    """The jitted function of a setup, whose card is a `_ById`.

    The cache makes a second call free of compilation.
    """
    setup = setup._replace(card=setup.card.value)  # inside the program, the card itself
    mode = mode_of("parallel.program", setup.card.config, attention)
    into, out = mode.specs(setup.card, setup.mesh)
    body = functools.partial(mode.body, setup)
    return jax.jit(jax.shard_map(body, mesh=setup.mesh, in_specs=into, out_specs=out))


def _laid_out(lay, mesh, specs, argument):
    """The argument laid out on the mesh; the specs are a tree like it, or one for all of it."""

    def lay_part(spec, part):
        return lay(part, NamedSharding(mesh, spec))

    return jax.tree.map(lay_part, specs, argument)


def _shaped(tree, sharding):
    """The shapes of the arrays of a tree, with their layout."""

    def shape(leaf):
        dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
        return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


def _placed(tree, sharding):
    """The arrays of a tree, laid out.

    On several processes each one has all of the array, and brings the parts for its own devices.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf):
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        # Typed keys have no numpy form; their numbers have.
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            numbers = put(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(leaf))
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return jax.tree.map(put, tree)
