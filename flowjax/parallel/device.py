"""What one device does where devices share the tokens of images.

It takes images and returns images, and in between it has only its own tokens: `flowjax.sample` runs
the plan on these. This file has the model that `flowjax.sample` calls, and the code around it.
Collectives:

    attention   per layer, see parallel.attention, parallel.stale.exchange and parallel.linear
    the meter   one all-reduce a row, of two numbers a layer and sample, where attention is stale
    guidance    one all-reduce a row, of the velocity, where the mesh has cfg=2
    at the end  one all-gather of the images' tokens, and one all-reduce of the status
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flowjax import guidance as guiding
from flowjax.models import networks
from flowjax.models.card import Card
from flowjax.parallel import linear
from flowjax.parallel.attention import exact
from flowjax.parallel.mesh import CFG, DATA, doubled, token_axes, token_shards
from flowjax.parallel.stale import model as stale
from flowjax.parallel.stale.exchange import METHODS
from flowjax.parallel.stale.meter import MeterReadings
from flowjax.parallel.stale.rows import RowSchedule
from flowjax.parallel.stale.shard import TokenShard
from flowjax.plans.table import Plan
from flowjax.sampling import Solution, Stats, sample
from flowjax.types import PyTree


class ExchangeSetup(NamedTuple):
    """The options of stale attention that are compiled into the program.

    Attributes:
      method: a name in `stale.exchange.METHODS`.
      kinds: the kinds of row that occur, from `stale.rows.kinds_of`.
      comm_dtype, gains_per: of `Options`.
    """

    method: str
    kinds: tuple[int, ...]
    comm_dtype: str | None
    gains_per: str


class DeviceSetup(NamedTuple):
    """What is fixed when the program is compiled; shapes are those of the arguments.

    Attributes:
      card: the model's `Card`.
      mesh: the mesh.
      guidance: the scale of guidance.
      attention: the name of the attention.
      exchange: of stale attention, else None.
    """

    card: Card
    mesh: Mesh
    guidance: float
    attention: str
    exchange: ExchangeSetup | None


def exact_body(
    setup: DeviceSetup,
    params: PyTree,
    noise: jax.Array,
    label: jax.Array,
    keys: jax.Array | None,
    plan: Plan,
    schedule: None,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array, Stats, None]:
    """(images, status, counts, None) of this device's part of the batch, with exact attention.

    The arguments are those that `parallel.sampling` lays out; there is no schedule of rows.
    """
    # The state is in float32 at least, also where the noise is not.
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    tokens = setup.card.patchify(noise).shape[1]  # L without padding
    is_token = _is_token(setup, positions, tokens)
    network = functools.partial(_network, setup, params, positions, is_token)
    attention = _exact_attention(setup, noise, tokens)

    def evaluate(x, t, label):
        return network(x, t, label, attention, None)[0]

    model = guided(setup, evaluate, label)
    found = _sample(setup, model, noise, keys, plan, len(positions), None)
    images, status = _joined(setup, found, noise.shape[1:3], tokens)
    return images, status, found.stats, None


def stale_body(
    setup: DeviceSetup,
    params: PyTree,
    noise: jax.Array,
    label: jax.Array,
    keys: jax.Array | None,
    plan: Plan,
    schedule: RowSchedule,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array, Stats, MeterReadings]:
    """(images, status, counts, readings) of this device's part of the batch, with stale attention.

    The arguments are those that `parallel.sampling` lays out.
    """
    # The state is in float32 at least, also where the noise is not.
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    tokens = setup.card.patchify(noise).shape[1]  # L without padding
    is_token = _is_token(setup, positions, tokens)
    network = functools.partial(_network, setup, params, positions, is_token)
    model, carry = _stale_model(setup, network, schedule, noise, tokens, len(positions))
    evaluate = functools.partial(stale.evaluate, model)
    model = guided(setup, evaluate, label)
    found = _sample(setup, model, noise, keys, plan, len(positions), carry)
    images, status = _joined(setup, found, noise.shape[1:3], tokens)
    return images, status, found.stats, found.carry.meter


def guided(
    setup: NamedTuple, network: Callable[..., jax.Array], label: jax.Array
) -> Callable[..., jax.Array]:
    """A guided model from a network, by the mesh axis cfg or by a batch of twice the size.

    Args:
      setup: has card, mesh and guidance.
      network: (x, t, label[, carry]) -> velocity[, carry].
      label: (B,), or a `Condition`.

    Returns:
      (x, t[, carry]) -> velocity[, carry].
    """
    scale = setup.guidance
    # Either each half of the devices computes one branch of guidance.
    if setup.mesh.shape[CFG] == 2:
        return functools.partial(_one_branch, setup, network, label)
    # Or every device computes both, in one batch of twice the size.
    if scale != 1:
        return guiding.classifier_free(network, *setup.card.branches(label), scale)

    def conditional(x, t, *carry):
        return network(x, t, label, *carry)

    return conditional


def _exact_attention(setup, noise, tokens):
    """What the network takes for its attention, exact over the token axes of the mesh."""
    config = setup.card.config
    if networks.is_linear(config):
        columns = networks.tokens_together(config, noise.shape[1:3])
        return linear.exact_mixing(setup.mesh, tokens, columns)
    return exact(setup.attention, setup.mesh, tokens)


def draws(
    keys: jax.Array | None,
    plan: Plan,
    noise: jax.Array,
    own: Callable[[jax.Array], jax.Array],
) -> jax.Array | None:
    """This device's tokens of the noise of every row, (N, B, L/n, P); None without keys.

    A device draws the noise of whole images, as `flowjax.sample` does, and keeps its tokens. So the
    noise does not depend on the mesh.

    Args:
      keys: (B,) keys, or the noise itself, (B, N, H, W, C).
      plan: the plan.
      noise: (B, H, W, C), the state at the start.
      own: (B, H, W, C) -> (B, L/n, P), which cuts out this device's tokens.
    """
    if keys is None:
        return None
    # The caller gave the noise itself. The batch is its first axis, since devices split the batch.
    if jnp.issubdtype(keys.dtype, jnp.floating):
        return jax.lax.map(own, jnp.moveaxis(keys, 1, 0).astype(noise.dtype))

    def draw(key):
        return jax.random.normal(key, noise.shape[1:], noise.dtype)

    def row(i):
        keys_of_row = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        return own(jax.vmap(draw)(keys_of_row))

    # Row by row, so that the noise of all tokens is held for one row only.
    return jax.lax.map(row, jnp.arange(plan.rows))


def _sample(setup, model, noise, keys, plan, local, carry) -> Solution:
    """Run the plan on this device's tokens."""
    own = functools.partial(_own_patches, setup, local)
    key = draws(keys, plan, noise, own)
    return sample(model, own(noise), plan, key=key, carry=carry)


def _own_patches(setup, local, images):
    """(B, H, W, C) -> this device's patches (B, L/n, P), with zeros after the last token."""
    patches = setup.card.patchify(images)  # (B, L, P)
    # All devices have arrays of one shape, so the last ones may hold padding.
    padding = token_shards(setup.mesh) * local - patches.shape[1]
    patches = jnp.pad(patches, ((0, 0), (0, padding), (0, 0)))
    first = jax.lax.axis_index(token_axes(setup.mesh)) * local
    return jax.lax.dynamic_slice_in_dim(patches, first, local, 1)


def _joined(setup, found, size, tokens):
    """(images, status) of all tokens.

    One all-gather, since the caller wants images. One all-reduce: a sample is finite if all of its
    parts are.
    """
    axes = token_axes(setup.mesh)
    patches = jax.lax.all_gather(found.x, axes, axis=1, tiled=True, to="invarying")
    status = jax.lax.pmax(found.status, axes)
    return setup.card.unpatchify(patches[:, :tokens], size), status


def _is_token(setup, positions, tokens):
    """(L/n,) bool, which of this device's tokens are not padding."""
    local = len(positions)
    first = jax.lax.axis_index(token_axes(setup.mesh)) * local
    return first + jnp.arange(local) < tokens


def _network(setup, params, positions, is_token, x, t, label, attention, carry):
    """(velocity, carry) of this device's tokens; the velocity of padding is 0, so padding rests."""
    velocity, carry = setup.card.velocity_of_patches(
        params, x, t, label, positions, attention, carry
    )
    return jnp.where(is_token[None, :, None], velocity, 0), carry


def _stale_model(setup, network, schedule, noise, tokens, local):
    """The `StaleModel` of this device, and the `StaleCarry` with which it starts."""
    mesh, config, exchange = setup.mesh, setup.card.config, setup.exchange
    axes = token_axes(mesh)
    branches = 2 if doubled(mesh, setup.guidance) else 1  # of guidance, on this device
    batch = len(noise) * branches
    shard = TokenShard(
        axes, tokens, local, config.depth, schedule, exchange.comm_dtype, exchange.gains_per
    )
    if networks.is_linear(config):
        columns = networks.tokens_together(config, noise.shape[1:3])
        attention = functools.partial(linear.stale_mixing, columns)
        method = linear.METHOD
        buffers = linear.sum_buffers(config.depth, batch, config, noise.dtype)
    else:
        attention, method = stale.stale_attention, METHODS[exchange.method]
        shape = (batch, local, config.heads, config.width // config.heads)  # of keys
        buffers = method.buffers(shard, shape, config.dtype or noise.dtype)
    carry = stale.start(schedule, buffers, config.depth, noise.dtype)

    # The compiler must know that these zeros will differ between devices.
    varying = (DATA, *axes, CFG) if mesh.shape[CFG] == 2 else (DATA, *axes)

    def vary(leaf):
        return jax.lax.pcast(leaf, varying, to="varying")

    no_sums = vary(jnp.zeros((2, config.depth, batch), noise.dtype))
    carry = carry._replace(buffers=jax.tree.map(vary, carry.buffers))
    return stale.StaleModel(network, shard, method, exchange.kinds, no_sums, attention), carry


def _one_branch(setup, network, label, x, t, *carry):
    """Guidance by the axis cfg: v = w v(label) + (1 - w) v(null), one term on each half of it.

    One all-reduce, of the velocity.
    """
    scale = setup.guidance
    is_conditional = jax.lax.axis_index(CFG) == 0
    # Both halves start from one state; from here on they differ.
    x = jax.lax.pcast(x, CFG, to="varying")
    given, null = setup.card.branches(label)
    label = jax.tree.map(lambda a, b: jnp.where(is_conditional, a, b), given, null)
    found = network(x, t, label, *carry)
    velocity, *carry_after = found if carry else (found,)
    weight = jnp.where(is_conditional, scale, 1 - scale).astype(velocity.dtype)
    velocity = jax.lax.psum(weight * velocity, CFG)
    return (velocity, *carry_after) if carry else velocity
