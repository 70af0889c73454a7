"""The sampler over a mesh: `flowjax.sample` on each device's tokens, inside one jit of one `jax.shard_map`.

Every solver update is elementwise, so the state, the noise and the solver's history stay on the device that holds their
tokens from start to end; only the network's attention, and guidance, speak to other devices (see parallel.device).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from flowjax.models import dit
from flowjax.parallel import traffic
from flowjax.parallel.device import Setup, body
from flowjax.parallel.mesh import DATA, token_axes, token_shards
from flowjax.parallel.options import check_layers, check_run, from_keywords
from flowjax.parallel.pipeline import stage as pipe
from flowjax.parallel.stale import model as stale
from flowjax.parallel.stale.rows import kinds_of, row_schedule
from flowjax.sampling import Solution


class Stats(NamedTuple):
    """Counts of a run on a mesh, and what its staleness was. Staleness is |KV - told|^2 / |KV|^2 (see `stale.Said`).

    Attributes:
      nfe, accepted, rejected: (B,) int32, as in `flowjax.sample`.
      synced: (N,) bool, the rows in which every query saw this row's keys and values.
      staleness: (N,) of what was used; 0 in synchronous rows.
      layers, worst: (N, K) of each layer, and (N,) of the worst sample, whether used or not; None where attention is exact.
      received: (N, 2) int64, bytes that one device would receive from others for attention if the row were stale, and
        if it were synchronous, as parallel.traffic counts them.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    synced: jax.Array
    staleness: jax.Array
    layers: jax.Array | None
    worst: jax.Array | None
    received: np.ndarray

    @property
    def bytes(self):
        """(N,) int64, what one device received from others in each row for attention. It waits for the run to end."""
        return np.where(self.synced, *self.received.T[::-1])


def sample(model, noise, label, plan, mesh, *, key=None, **options):
    """Run a plan over a mesh. The samples do not depend on the mesh, but for what stale attention changes.

    The first call with a model, a mesh and these options compiles; later ones reuse the program, whatever the numbers in
    the plan, `warmup`, `policy` and (from 2 on) `refresh`. Call it outside jit. On several processes each gives the same
    arguments.

    Args:
      model: what `models.load` returned; `place` first puts its parameters on the mesh, which else happens in each call.
      noise: (B, H, W, C), from `flowjax.draw_noise`.
      label: (B,) integers, or None for the null label.
      plan: a `Plan` with known numbers.
      mesh: from `make_mesh`.
      **options: the fields of `parallel.options.Options`, each by its name.
      key: for plans that draw noise, as in `flowjax.sample`; each device draws a sample's noise and keeps its tokens.

    Returns:
      `Solution`, with `Stats`; path and carry are None. x (B, H, W, C) is laid out over the data axis; on several
      processes `jax.experimental.multihost_utils.process_allgather(x, tiled=True)` brings all of it to each.

    Raises:
      ValueError: what does not fit, before anything compiles.
    """
    options = from_keywords("parallel.sample", options)
    run, args, rows = _program(model, noise, label, plan, mesh, options, key)
    x, status, counts, said = run(*args)
    attention, guidance, comm_dtype = options.attention, options.guidance, options.comm_dtype
    if attention == "pipefusion":
        received = traffic.piped(
            model.card.config, np.shape(noise), mesh, guidance, x.dtype, options.patches, rows
        )
        return Solution(x, status, Stats(*counts, *said, received), None, None)
    extra = (options.exchange_method, comm_dtype, rows.forecast.weights.shape[1]) if rows else ()
    row = traffic.a_row(
        model.card.config, np.shape(noise), mesh, attention, guidance, x.dtype, *extra
    )
    received = np.tile(np.array(row, np.int64), (plan.rows, 1))
    if rows is None:
        said = stale.Said(np.ones(plan.rows, bool), np.zeros(plan.rows), None, None)
    else:
        received[~rows.sent, 0] = 0
    return Solution(x, status, Stats(*counts, *said, received), None, None)


def program(model, noise, label, plan, mesh, *, key=None, **options):
    """The program that `sample` runs: (jitted function, its arguments laid out on the mesh, the plan's `RowSchedule`).

    `run.lower(*args).compile()` shows what was compiled. Arguments as in `sample`; where noise is a `jax.ShapeDtypeStruct`,
    and the parameters too, nothing is laid out and the arguments are shapes: all that compiling needs, and all that there
    can be where the devices of the mesh are not here (see parallel.analysis.overlap). The rows are None where attention is exact, and
    of "pipefusion" a `pipe.Table`.
    """
    options = from_keywords("parallel.program", options)
    return _program(model, noise, label, plan, mesh, options, key)


def _program(model, noise, label, plan, mesh, options, key):
    """`program` with its options as `Options`."""
    plan = jax.tree.map(np.asarray, plan)
    lay = _shaped if isinstance(noise, jax.ShapeDtypeStruct) else _placed
    noise = noise if lay is _shaped else jnp.asarray(noise)
    label = check_run(model, noise, label, plan, mesh, options)
    attention, guidance = options.attention, options.guidance
    rows, card = None, _Same(model.card)
    if attention == "pipefusion":
        setup = pipe.Setup(card, mesh, float(guidance), options.patches, options.gains_per)
        rows = pipe.table(row_schedule(plan, options), setup)
    elif attention == "stale":
        rows = row_schedule(plan, options)
        how = (
            options.exchange_method,
            kinds_of(options.refresh),
            options.comm_dtype,
            options.gains_per,
        )
        setup = Setup(card, mesh, attention, float(guidance), *how)
    else:
        setup = Setup(card, mesh, attention, float(guidance), None, None, None, None)
    places = dit.positions(model.card.config, noise.shape[1:3])
    places = np.pad(places, ((0, -len(places) % token_shards(mesh)), (0, 0)))
    args = (model.params, noise, label, _keys(key, plan, noise), plan, rows, places)
    args = (
        _laid(lay, mesh, spec, arg)
        for spec, arg in zip(_specs(model.card, setup)[0], args, strict=True)
    )
    return _compiled(setup), tuple(args), rows


def place(model, mesh):
    """The model with its parameters on the devices of the mesh, so that calls need not bring them there.

    On every device, but for the layers, which lie over the axis pipe and must divide by it.
    """
    check_layers("parallel.place", mesh, model.card.config)
    return model._replace(
        params=_laid(_placed, mesh, pipe.parameters(model.card, mesh), model.params)
    )


def _specs(card, setup):
    """How things lie on the mesh: parameters, noise, label, keys, plan, rows and positions; and images, status, counts, said."""
    same, batch, tokens = (
        PartitionSpec(),
        PartitionSpec(DATA),
        PartitionSpec(token_axes(setup.mesh)),
    )
    if isinstance(setup, pipe.Setup):
        params = pipe.parameters(card, setup.mesh)
        return (params, batch, batch, batch, same, same, same), (batch, batch, batch, pipe.SAID)
    return (same, batch, batch, batch, same, same, tokens), (batch, batch, batch, same)


def _laid(lay, mesh, specs, arg):
    """The argument laid out as its specs, one for all of it or one for each part of it, say."""
    return jax.tree.map(lambda spec, part: lay(part, NamedSharding(mesh, spec)), specs, arg)


class _Same:
    """Equal to what wraps the very same object: a card holds dictionaries, so it cannot itself key a cache."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value is other.value

    def __hash__(self):
        return id(self.value)


@functools.lru_cache(maxsize=32)
def _compiled(setup):
    """The jitted function of a setup, whose card is `_Same`; the cache is what makes a second call free of compilation."""
    setup = setup._replace(card=setup.card.value)
    into, out = _specs(setup.card, setup)
    one = functools.partial(pipe.body if isinstance(setup, pipe.Setup) else body, setup)
    return jax.jit(jax.shard_map(one, mesh=setup.mesh, in_specs=into, out_specs=out))


def _keys(key, plan, noise):
    """One key a sample, (B,), or the noise itself with the batch first, (B, N, H, W, C); None where none is drawn."""
    if not np.any(plan.s != 0):
        return None
    if key is None:
        raise ValueError(
            "parallel.sample: this plan draws noise in its steps but key is None; pass key=jax.random.key(0)."
        )
    if jnp.issubdtype(key.dtype, jnp.floating):
        if key.shape != (plan.rows, *noise.shape):
            raise ValueError(
                f"parallel.sample: the noise given as key has shape {key.shape}; wanted {(plan.rows, *noise.shape)}."
            )
        return jnp.moveaxis(jnp.asarray(key), 0, 1)
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    key = key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(noise)))
    if key.shape != noise.shape[:1]:
        raise ValueError(
            f"parallel.sample: {key.shape} keys for a batch of {len(noise)}; give one key, or one a sample."
        )
    return key


def _shaped(tree, sharding):
    """The shapes of the arrays of `tree`, to be laid out so."""
    shape = lambda leaf: jax.ShapeDtypeStruct(
        np.shape(leaf), jax.dtypes.canonicalize_dtype(leaf.dtype), sharding=sharding
    )
    return jax.tree.map(shape, tree)


def _placed(tree, sharding):
    """The arrays of `tree` laid out so; on several processes each brings its part of the array that all of them hold."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf):
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf)
            )
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree)
