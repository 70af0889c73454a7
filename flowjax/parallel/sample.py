"""The sampler over a mesh: `flowjax.sample` on each device's tokens, inside one jit of one `jax.shard_map`.

Every solver update is elementwise, so the state, the noise and the solver's history stay on the device that holds their
tokens from start to end; only the network's attention, and guidance, speak to other devices. Collectives of the program:

    attention   per layer, as parallel.attention and parallel.stale say
    guidance    one all-reduce a row, of the velocity, where the mesh has cfg=2
    at the end  one all-gather of the images' tokens, and one all-reduce of the status, where an image is shared
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from flowjax import guidance as guiding
from flowjax.models import dit
from flowjax.parallel import stale, traffic
from flowjax.parallel.attention import exact
from flowjax.parallel.check import check
from flowjax.parallel.mesh import CFG, DATA, token_axes, token_shards
from flowjax.sample import Solution
from flowjax.sample import sample as run_plan


class Stats(NamedTuple):
    """Counts of a run on a mesh.

    Attributes:
      nfe, accepted, rejected: (B,) int32, as in `flowjax.sample`.
      synced: (N,) bool, the rows in which every query saw this row's keys and values.
      bytes: (N,) int64, what one device receives from others in a row for attention, as parallel.traffic counts it.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    synced: np.ndarray
    bytes: np.ndarray


class Setup(NamedTuple):
    """What is fixed when the program is compiled. Its shapes are those of the arguments."""

    card: object
    mesh: jax.sharding.Mesh
    attention: str
    guidance: float
    gather: str
    kinds: tuple
    stages: int


def sample(
    model, noise, label, plan, mesh, *, guidance=1.0, attention="gather", warmup=1, refresh=1, gather=None, key=None
):
    """Run a plan over a mesh. The samples do not depend on the mesh, but for what stale attention changes.

    The first call with a model, a mesh and these options compiles; later ones reuse the program, whatever the numbers in
    the plan, `warmup` and (from 2 on) `refresh`. Call it outside jit. On several processes each gives the same arguments.

    Args:
      model: what `models.load` returned; `place` first puts its parameters on the mesh, which else happens in each call.
      noise: (B, H, W, C), from `flowjax.draw_noise`.
      label: (B,) integers, or None for the null label.
      plan: a `Plan` with known numbers.
      mesh: from `make_mesh`.
      guidance: the scale of classifier-free guidance. Its branches are two halves of the mesh where that has cfg=2, and
        else two halves of the batch.
      attention: "gather", "ulysses", "ring" or "ulysses_ring", which are exact; "stale" attends to this device's own keys
        and values of this row, and to the others' of the row before.
      warmup: for "stale", the number of synchronous steps at the start, exactly; at least 1.
      refresh: for "stale", exchange in every so-manieth step after the warm-up; None: never again ("no_sync").
      gather: for "stale", "late" (carry one's own keys and values, gather a layer ahead) or "early" (carry everyone's). By
        default late where refresh=1, which alone it can do.
      key: for plans that draw noise, as in `flowjax.sample`; each device draws a sample's noise and keeps its tokens.

    Returns:
      `Solution`, with `Stats`; x (B, H, W, C) is laid out over the data axis. path and carry are None.

    Raises:
      ValueError: what does not fit, before anything compiles.
    """
    run, args, rows = program(
        model, noise, label, plan, mesh, guidance=guidance, attention=attention, warmup=warmup, refresh=refresh,
        gather=gather, key=key,
    )  # fmt: skip
    x, status, stats = run(*args)
    received = traffic.received(model.card.config, np.shape(noise), mesh, attention, _doubled(mesh, guidance), x.dtype)
    counts = np.where(rows.kind == stale.HOLD, 0, received * model.card.config.depth)
    return Solution(x, status, Stats(*stats, rows.kind == stale.SYNC, counts), None, None)


def program(
    model, noise, label, plan, mesh, *, guidance=1.0, attention="gather", warmup=1, refresh=1, gather=None, key=None
):
    """The program that `sample` runs: (jitted function, its arguments laid out on the mesh, the plan's `stale.Rows`).

    `run.lower(*args).compile()` shows what was compiled. Arguments as in `sample`.
    """
    plan = jax.tree.map(np.asarray, plan)
    noise = jnp.asarray(noise)
    gather = gather or ("late" if refresh == 1 else "early")
    label = check(model, noise, label, plan, mesh, guidance, attention, warmup, refresh, gather)
    if attention == "stale":
        rows, kinds = stale.rows(plan, warmup, refresh), stale.kinds_of(refresh)
    else:
        rows, kinds = stale.Rows(*np.full((2, plan.rows), stale.SYNC, np.int32)), ()
    stages = int(rows.stage.max()) + 1
    run = _compiled(_Same(model.card), mesh, attention, float(guidance), gather, kinds, stages)
    places = dit.positions(model.card.config, noise.shape[1:3])
    places = np.pad(places, ((0, -len(places) % token_shards(mesh)), (0, 0)))
    args = (model.params, noise, label, _keys(key, plan, noise), plan, rows, places)
    args = (_placed(arg, NamedSharding(mesh, spec)) for arg, spec in zip(args, _specs(mesh), strict=True))
    return run, tuple(args), rows


def place(model, mesh):
    """The model with its parameters on every device of the mesh, so that calls need not bring them there."""
    return model._replace(params=_placed(model.params, NamedSharding(mesh, PartitionSpec())))


def _specs(mesh):
    """How parameters, noise, label, keys, plan, `stale.Rows` and positions lie on the mesh."""
    same, batch, tokens = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(token_axes(mesh))
    return same, batch, batch, batch, same, same, tokens


class _Same:
    """Equal to what wraps the very same object: a card holds dictionaries, so it cannot itself key a cache."""

    def __init__(self, value):
        self.value = value

    def __eq__(self, other):
        return self.value is other.value

    def __hash__(self):
        return id(self.value)


@functools.lru_cache(maxsize=32)
def _compiled(card, *setup):
    """The jitted function of a setup; the cache is what makes a second call free of compilation."""
    setup = Setup(card.value, *setup)
    specs, body = _specs(setup.mesh), functools.partial(_body, setup)
    return jax.jit(jax.shard_map(body, mesh=setup.mesh, in_specs=specs, out_specs=PartitionSpec(DATA)))


def _body(setup, params, noise, label, keys, plan, rows, positions):
    """What one device does: its part of the batch from images to images, its tokens in between."""
    card, axes, size = setup.card, token_axes(setup.mesh), noise.shape[1:3]
    local = len(positions)
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))

    def own(images):
        """(B, H, W, C) -> this device's patches (B, L/n, P), zero beyond the last."""
        patches = card.patchify(images)
        patches = jnp.pad(patches, ((0, 0), (0, token_shards(setup.mesh) * local - patches.shape[1]), (0, 0)))
        return jax.lax.dynamic_slice_in_dim(patches, jax.lax.axis_index(axes) * local, local, 1)

    tokens = card.patchify(noise).shape[1]
    model, carry = _model(setup, params, label, rows, positions, tokens, noise)
    found = run_plan(model, own(noise), plan, key=_draws(keys, plan, noise, own), carry=carry)
    # One all-gather: the caller wants images. One all-reduce: a sample is finite if all of its parts are.
    patches = jax.lax.all_gather(found.x, axes, axis=1, tiled=True, to="invarying")[:, :tokens]
    status = jax.lax.pmax(found.status, axes)
    return card.unpatchify(patches, size), status, found.stats


def _model(setup, params, label, rows, positions, tokens, noise):
    """The model of `flowjax.sample` for this device's tokens, and the carry it begins with."""
    card, mesh, axes = setup.card, setup.mesh, token_axes(setup.mesh)
    valid = jax.lax.axis_index(axes) * len(positions) + jnp.arange(len(positions)) < tokens

    def network(x, t, label, attention, buffers):
        velocity, buffers = card.velocity_of_patches(params, x, t, label, positions, attention, buffers)
        return jnp.where(valid[None, :, None], velocity, 0), buffers  # padding stays where it began, at 0

    if setup.attention != "stale":
        attention = exact(setup.attention, mesh, tokens)
        return _guided(setup, lambda x, t, label: network(x, t, label, attention, None)[0], label), None
    attentions = stale.attentions(setup.gather, axes, tokens, card.config.depth)
    switched = stale.model(network, rows, attentions, setup.kinds)
    shape = traffic.local_keys(card.config, noise.shape[0], len(positions), _doubled(mesh, setup.guidance))
    dtype = card.config.dtype or noise.dtype
    carry = stale.start(setup.gather, setup.stages, card.config.depth, token_shards(mesh), shape, dtype)
    varying = (DATA, *axes, CFG) if mesh.shape[CFG] == 2 else (DATA, *axes)
    buffers = jax.tree.map(lambda b: jax.lax.pcast(b, varying, to="varying"), carry.buffers)
    return _guided(setup, switched, label), carry._replace(buffers=buffers)


def _guided(setup, network, label):
    """(x, t[, carry]) -> velocity[, carry] from (x, t, label[, carry]), guided by the cfg axis or by doubling the batch."""
    null, scale = setup.card.null_label, setup.guidance
    if setup.mesh.shape[CFG] == 1:
        if scale == 1:
            return lambda x, t, *carry: network(x, t, label, *carry)
        return guiding.classifier_free(network, label, null, scale)

    def branch(x, t, *carry):
        """One all-reduce, of the velocity: v = w v(label) + (1 - w) v(null), each half of the devices giving one term."""
        conditional = jax.lax.axis_index(CFG) == 0
        x = jax.lax.pcast(x, CFG, to="varying")
        found = network(x, t, jnp.where(conditional, label, null), *carry)
        velocity, *after = found if carry else (found,)
        velocity = jax.lax.psum(jnp.where(conditional, scale, 1 - scale).astype(velocity.dtype) * velocity, CFG)
        return (velocity, *after) if carry else velocity

    return branch


def _doubled(mesh, guidance):
    """Whether each device computes both branches of guidance, in a batch of twice the size."""
    return mesh.shape[CFG] == 1 and guidance != 1


def _keys(key, plan, noise):
    """One key a sample, (B,), or the noise itself with the batch first, (B, rows, H, W, C); None where nothing is drawn."""
    if not np.any(plan.s != 0):
        return None
    if key is None:
        raise ValueError(
            "parallel.sample: this plan draws noise in its steps but key is None; pass key=jax.random.key(0)."
        )
    if jnp.issubdtype(key.dtype, jnp.floating):
        return jnp.moveaxis(jnp.asarray(key), 0, 1)
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(noise)))


def _draws(keys, plan, noise, own):
    """This device's tokens of the noise of every row, (N, B, L/n, P), as `flowjax.sample` draws it for whole images."""
    if keys is None:
        return None
    if jnp.issubdtype(keys.dtype, jnp.floating):
        return jax.lax.map(own, jnp.moveaxis(keys, 1, 0).astype(noise.dtype))

    def row(i):
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, i), noise.shape[1:], noise.dtype)
        return own(jax.vmap(draw)(keys))

    return jax.lax.map(row, jnp.arange(plan.rows))


def _placed(tree, sharding):
    """The arrays of `tree` laid out so; on several processes each brings its part of the array that all of them hold."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def put(leaf):
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree)
