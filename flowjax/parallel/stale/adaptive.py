"""Error-controlled sampling over a mesh, with attention that may be stale.

`flowjax.sample_adaptive` runs on each device's tokens, inside one jit of one `jax.shard_map`; what devices know of each other
is the carry of its model (see `parallel.stale.history`). Collectives, over the devices that share an image's tokens:

    error       three numbers a sample for each evaluation are added up, so that all parts of a sample take one step
    meter       two more; these five travel in two all-reduces
    attention   stale: one all-gather a layer of the copies, of the next layer's while this one computes, and one before the
                first: when the steps are not known before, nobody could have sent it earlier
                synchronous: one all-gather a layer, used at once
    at the end  two all-reduces, of status and counts

A batch is evaluated at once, so an evaluation waits for its gathers if one of its samples is synchronous; there each
sample's owner sends what that sample is to see, this evaluation's keys and values or the copy.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from flowjax.adaptive import Tolerance
from flowjax.adaptive.pairs import pair as find_pair
from flowjax.models import dit
from flowjax.parallel.attention import TOKENS, attend, gathered
from flowjax.parallel.emulation.adaptive import Stats, solve
from flowjax.parallel.mesh import CFG, DATA, PIPE, token_axes, token_shards
from flowjax.parallel.stale.history import begin, told
from flowjax.sampling import Solution


def sample_adaptive(
    model, noise, label, schedule, tolerance, mesh, *, order, span, max_evaluations, staleness, method="dpm_solver_pp",
    variant="midpoint", lockstep=False, attention="stale", forecast=1, history="newest", estimate="as it is",
):  # fmt: skip
    """Solve with steps that keep the estimated error within `tolerance`, over a mesh. Not jitted: jit what is called again.

    Args:
      model: what `models.load` returned.
      noise: (B, H, W, C) states at span[0]; B divides by the mesh's data, the tokens by its seq.
      label: (B,) integers, or None for the null label. One that is out of range gives status 2.
      schedule, tolerance, order, span, max_evaluations, method, variant: as in `flowjax.sample_adaptive`.
      mesh: from `make_mesh`, with cfg = pipe = 1.
      staleness: relative staleness that the next step can bear; above it, it is synchronous. Infinite: any.
      lockstep: all samples take the same steps. Then, or with one sample for each part of data, evaluations are stale or
        synchronous as a whole.
      attention, forecast, history, estimate: as in `parallel.stale.history.told`.

    Returns:
      `Solution` with `parallel.emulate_adaptive.Stats`; path and carry are None.
    """
    name = "parallel.sample_adaptive"
    noise = jnp.asarray(noise)
    tokens = jax.eval_shape(model.card.patchify, noise).shape[1]
    _check(name, mesh, len(noise), tokens)
    pair = find_pair(name, method, order, variant)
    how = told(
        name, pair, schedule, span, attention=attention, forecast=forecast, history=history, estimate=estimate,
        staleness=staleness,
    )  # fmt: skip
    options = {
        "order": order,
        "span": span,
        "max_evaluations": max_evaluations,
        "method": method,
        "variant": variant,
    }
    axes = token_axes(mesh)
    options |= {"split": axes, "lockstep": lockstep, "axis_name": DATA if lockstep else None}
    label = jnp.broadcast_to(
        jnp.asarray(model.card.null_label if label is None else label), noise.shape[:1]
    )
    places = dit.positions(model.card.config, noise.shape[1:3])
    patches = model.card.patchify(noise)
    same, batch, split = PartitionSpec(), PartitionSpec(DATA), PartitionSpec(DATA, axes)
    specs = same, split, batch, PartitionSpec(axes), same, same
    args = model.params, patches, label, jnp.asarray(places), how, Tolerance(*tolerance)
    args = (
        jax.device_put(arg, NamedSharding(mesh, spec))
        for arg, spec in zip(args, specs, strict=True)
    )
    one = functools.partial(_device, model.card, schedule, axes, tokens, options)
    run = jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=(split, batch))
    found, (status, stats) = run(*args)
    return Solution(
        model.card.unpatchify(found, noise.shape[1:3]), status, Stats(*stats), None, None
    )


def _check(name, mesh, batch, tokens):
    """Refuse what this program cannot lay out."""
    shards = token_shards(mesh)
    if mesh.shape[CFG] > 1 or mesh.shape[PIPE] > 1:
        raise ValueError(
            f"{name}: the mesh has cfg={mesh.shape[CFG]} and pipe={mesh.shape[PIPE]}; wanted 1 and 1, and its devices in "
            "data or seq."
        )
    if batch % mesh.shape[DATA] or tokens % shards:
        raise ValueError(
            f"{name}: {batch} samples of {tokens} tokens on data={mesh.shape[DATA]} and seq={shards}; wanted numbers that "
            "divide, since a step's error is a mean over equal parts."
        )


def _device(
    card, schedule, axes, tokens, options, params, patches, label, positions, how, tolerance
):
    """(this device's patches at the end, (status, `Stats`)) from its patches (B, L/n, P) at the start."""
    config, (batch, local) = card.config, patches.shape[:2]
    whole = lambda sums: jax.lax.psum(sums, axes)

    def evaluate(x, t, copy, now):
        copy = jnp.moveaxis(copy, 0, 2)  # (K, 2, B, L/n, heads, d)

        def branch(attention, carry):
            found = card.velocity_of_patches(params, x, t, label, positions, attention, carry)
            return found[0], jnp.moveaxis(found[1][0], 2, 0)

        late = lambda: branch(_stale(axes, tokens, copy), (copy, gathered(copy[0], axes)))
        sync = lambda: branch(_synchronous(axes, tokens, copy, now), (copy,))
        return jax.lax.cond(jnp.any(now), sync, late)

    dtype = jnp.promote_types(patches.dtype, jnp.float32)
    like = jnp.zeros(
        (batch, config.depth, 2, local, config.heads, config.width // config.heads),
        config.dtype or dtype,
    )
    memory = jax.tree.map(
        lambda leaf: jax.lax.pcast(leaf, (DATA, *axes), to="varying"), begin(how, like, dtype)
    )
    found = solve(evaluate, patches, schedule, tolerance, how, memory, whole=whole, **options)
    # All parts of a sample agree on its counts; one all-reduce tells the compiler so.
    agreed = jax.tree.map(lambda count: jax.lax.pmax(count, axes), (found.status, found.stats))
    return found.x, agreed


def _stale(axes, tokens, copy):
    """Attention to one's own keys and values and everyone else's copy; its carry is (kept, everyone's copy of this layer)."""

    def attention(q, k, v, layer, carry):
        kept, everyone = carry
        # Waits for nothing in this layer. The last layer's is of layer 0, and in vain.
        ahead = gathered(
            jax.lax.dynamic_index_in_dim(copy, (layer + 1) % len(copy), keepdims=False), axes
        )
        own = jnp.stack([k, v])
        first = jax.lax.axis_index(axes) * k.shape[1]
        seen = jax.lax.dynamic_update_slice_in_dim(everyone, own, first, TOKENS)
        return attend(q, seen, tokens), (kept.at[layer].set(own), ahead)

    return attention


def _synchronous(axes, tokens, copy, now):
    """The same where samples `now` (B,) see this evaluation's keys and values of everyone."""

    def attention(q, k, v, layer, carry):
        own = jnp.stack([k, v])
        everyone = gathered(jnp.where(now[None, :, None, None, None], own, copy[layer]), axes)
        first = jax.lax.axis_index(axes) * k.shape[1]
        seen = jax.lax.dynamic_update_slice_in_dim(everyone, own, first, TOKENS)
        return attend(q, seen, tokens), (carry[0].at[layer].set(own),)

    return attention
