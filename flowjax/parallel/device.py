"""What one device does: its part of the batch from images to images, and in between only its tokens.

`flowjax.sample` runs the plan on these tokens; here stand the model that it calls and what surrounds it. Collectives:

    attention   per layer, as parallel.attention and parallel.stale.exchange say
    the meter   one all-reduce a row, of two numbers a layer and sample, where attention is stale
    guidance    one all-reduce a row, of the velocity, where the mesh has cfg=2
    at the end  one all-gather of the images' tokens, and one all-reduce of the status
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax import guidance as guiding
from flowjax.parallel.attention import exact
from flowjax.parallel.mesh import CFG, DATA, doubled, token_axes, token_shards
from flowjax.parallel.stale import exchange as ways
from flowjax.parallel.stale import model as stale
from flowjax.sampling import sample


class Setup(NamedTuple):
    """What is fixed when the program is compiled. Its shapes are those of the arguments."""

    card: object
    mesh: jax.sharding.Mesh
    attention: str
    guidance: float
    way: str
    kinds: tuple
    comm_dtype: str | None
    gains_per: str


def body(setup, params, noise, label, keys, plan, rows, positions):
    """(images, status, counts, `stale.Said` or None) of this device's part of the batch.

    The arguments are what `parallel.sample` lays out.
    """
    card, axes, size = setup.card, token_axes(setup.mesh), noise.shape[1:3]
    local = len(positions)
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))

    def own(images):
        """(B, H, W, C) -> this device's patches (B, L/n, P), zero beyond the last."""
        patches = card.patchify(images)
        patches = jnp.pad(
            patches, ((0, 0), (0, token_shards(setup.mesh) * local - patches.shape[1]), (0, 0))
        )
        return jax.lax.dynamic_slice_in_dim(patches, jax.lax.axis_index(axes) * local, local, 1)

    tokens = card.patchify(noise).shape[1]
    model, carry = _model(setup, params, label, rows, positions, tokens, noise)
    found = sample(model, own(noise), plan, key=draws(keys, plan, noise, own), carry=carry)
    # One all-gather: the caller wants images. One all-reduce: a sample is finite if all of its parts are.
    patches = jax.lax.all_gather(found.x, axes, axis=1, tiled=True, to="invarying")[:, :tokens]
    status = jax.lax.pmax(found.status, axes)
    return (
        card.unpatchify(patches, size),
        status,
        found.stats,
        None if carry is None else found.carry.said,
    )


def _model(setup, params, label, rows, positions, tokens, noise):
    """The model of `flowjax.sample` for this device's tokens, and the carry it begins with."""
    card, mesh, axes = setup.card, setup.mesh, token_axes(setup.mesh)
    valid = jax.lax.axis_index(axes) * len(positions) + jnp.arange(len(positions)) < tokens

    def network(x, t, label, attention, buffers):
        velocity, buffers = card.velocity_of_patches(
            params, x, t, label, positions, attention, buffers
        )
        return jnp.where(
            valid[None, :, None], velocity, 0
        ), buffers  # padding stays where it began, at 0

    if setup.attention != "stale":
        attention = exact(setup.attention, mesh, tokens)
        return guided(
            setup, lambda x, t, label: network(x, t, label, attention, None)[0], label
        ), None
    config, batch = card.config, len(noise) * (2 if doubled(mesh, setup.guidance) else 1)
    line = ways.Line(axes, tokens, len(positions), rows, setup.comm_dtype, setup.gains_per)
    way = ways.WAYS[setup.way](line, config.depth)
    shape = batch, len(positions), config.heads, config.width // config.heads
    carry = stale.start(
        rows, way.start(shape, config.dtype or noise.dtype), config.depth, noise.dtype
    )
    varying = (DATA, *axes, CFG) if mesh.shape[CFG] == 2 else (DATA, *axes)
    vary = lambda tree: jax.tree.map(lambda leaf: jax.lax.pcast(leaf, varying, to="varying"), tree)
    sums = vary(jnp.zeros((2, config.depth, batch), noise.dtype))
    switched = stale.model(network, rows, way, setup.kinds, line, sums)
    return guided(setup, switched, label), carry._replace(buffers=vary(carry.buffers))


def guided(setup, network, label):
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
        velocity = jax.lax.psum(
            jnp.where(conditional, scale, 1 - scale).astype(velocity.dtype) * velocity, CFG
        )
        return (velocity, *after) if carry else velocity

    return branch


def draws(keys, plan, noise, own):
    """This device's tokens of the noise of every row, (N, B, L/n, P), as `flowjax.sample` draws it for whole images."""
    if keys is None:
        return None
    if jnp.issubdtype(keys.dtype, jnp.floating):
        return jax.lax.map(own, jnp.moveaxis(keys, 1, 0).astype(noise.dtype))

    def row(i):
        draw = lambda key: jax.random.normal(
            jax.random.fold_in(key, i), noise.shape[1:], noise.dtype
        )
        return own(jax.vmap(draw)(keys))

    return jax.lax.map(row, jnp.arange(plan.rows))
