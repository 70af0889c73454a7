"""PipeFusion (arXiv:2405.14430) on a mesh: layers over devices, and patches that follow each other.

With K layers over n stages and L tokens in M patches, patch m of a *stale* row attends, in every
layer,

    to this row's keys and values                   of the patches 0 .. m,
    to those of the row before, or a forecast
    from the last few (parallel.stale.forecast),    of the patches m+1 .. M-1,

which is all that a stage has when patch m arrives. So no key or value ever leaves its stage, and
the result depends on M, not on n. (A plan with several rows a step has a buffer for each substep,
as in `parallel.stale`.) A *synchronous* row takes the whole image through the stages, one after the
other. A table says which patch is where in which tick (`parallel.pipeline.ticks`), and one scan
reads it. Stage 0 keeps the state and the solver's history. It embeds the patches that enter, and
takes those that come around through the head of the network and the row of the plan. Collectives:

    patch tick         one collective-permute of a patch's hidden states, (B, L/M, E), from each
                       stage to the next, and from the last one to stage 0. Where M >= 2 n it is
                       under way while the stages work on the next patches (h = 2 in
                       parallel.pipeline.ticks)
    synchronous tick   n collective-permutes of the image's hidden states, (B, L, E)
    guidance           one all-reduce a tick, of the velocity of what came around, where the mesh
                       has cfg=2
    at the end         one all-reduce over the stages, of the image, which stage 0 has, and of the
                       meter's sums; two of the meter's over data and cfg, the sum and the maximum
                       over samples
"""

import functools

import jax
import jax.numpy as jnp

from flowjax.models import dit
from flowjax.parallel import device
from flowjax.parallel.mesh import CFG, PIPE, doubled
from flowjax.parallel.pipeline.layers import Stage, State, Work, cut, embedded, run_layers
from flowjax.parallel.pipeline.setup import PipelineSetup, PipelineTable
from flowjax.parallel.pipeline.ticks import Ticks
from flowjax.parallel.stale.meter import MeterReadings
from flowjax.plans.table import DEPTH, Plan
from flowjax.sampling import Stats, in_dtype, update, verdict
from flowjax.types import PyTree


def body(
    setup: PipelineSetup,
    params: PyTree,
    noise: jax.Array,
    label: jax.Array,
    keys: jax.Array | None,
    plan: Plan,
    table: PipelineTable,
    positions: jax.Array,
) -> tuple[jax.Array, jax.Array, Stats, MeterReadings]:
    """(images, status, counts, readings) of this device's part of the batch, from images to images.

    The arguments are those that `parallel.sampling` lays out.
    """
    card = setup.card
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    draws = device.draws(keys, plan, noise, card.patchify)
    plan = in_dtype(plan, noise.dtype)
    stage = Stage(
        setup=setup,
        params=params,
        label=label,
        network_label=_network_label(setup, label),
        positions=positions.astype(noise.dtype),
        plan=plan,
        rows=table.rows,
        draws=draws,
        here=jax.lax.axis_index(PIPE),
    )

    def tick(state, now):
        branches = (functools.partial(kind, stage) for kind in (synchronous_tick, patch_tick))
        return jax.lax.cond(now.synchronous, *branches, state, now), None

    # One scan over all ticks of the run.
    state, _ = jax.lax.scan(tick, start(stage, card.patchify(noise)), table.ticks)
    # Stage 0 alone has the state; the sum brings it to all.
    end = jax.lax.psum(jnp.where(stage.here == 0, state.x, 0), PIPE)
    status, counts = verdict(end, plan)
    images = card.unpatchify(end, noise.shape[1:3])
    return images, status, counts, readings(stage, state.sums)


def start(stage: Stage, x: jax.Array) -> State:
    """The `State` before the first tick, from the patches x (B, L, P) of the noise.

    The zeros in the buffer are never seen: the first row of each substep is synchronous.
    """
    setup = stage.setup
    config = setup.card.config
    tokens = x.shape[1]
    batch = len(stage.network_label)
    layers = len(stage.params["blocks"]["query"]["bias"])  # K/n
    rows_used = stage.rows.forecast.weights.shape[1]  # R
    substeps = len(stage.rows.first_of_substep)  # S
    head = (config.heads, config.width // config.heads)

    x = jax.lax.pcast(x, PIPE, to="varying")
    shape = (substeps, layers, rows_used, 2, batch, tokens, *head)
    buffer = setup.zeros(shape, config.dtype or x.dtype)
    message = setup.zeros((batch, tokens // setup.patches, config.width), x.dtype)
    sums = setup.zeros((len(stage.rows.substep), 2, layers, batch), x.dtype)
    history = (jnp.zeros_like(x),) * DEPTH
    return State(x, x, history, buffer, sums, inbox=message, outbox=message)


def patch_tick(stage: Stage, state: State, now: Ticks) -> State:
    """A tick in which every stage has a patch or none, and the solver has another one or none.

    Args:
      stage: the `Stage`.
      state: before the tick.
      now: one row of the `Ticks`.
    """
    size = state.inbox.shape[1]

    # Every stage works on its own patch.
    row = now.row[stage.here]
    busy = now.busy[stage.here]
    first = now.patch[stage.here] * size
    hidden, state = run_layers(stage, state, Work(first, size, row, busy), state.inbox)

    # Send what is finished; where a hop takes a tick, send what was finished a tick ago.
    message = hidden if stage.setup.hop == 1 else state.outbox
    arrived = send(stage, message)
    state = state._replace(inbox=arrived, outbox=hidden)

    # The solver takes the patch that has come around.
    returned = Work(now.patch[-1] * size, size, now.row[-1], now.busy[-1])
    return finish_patch(stage, state, returned, arrived)


def synchronous_tick(stage: Stage, state: State, now: Ticks) -> State:
    """A tick in which the whole image goes through all stages: one works, and the others wait.

    Args:
      stage: the `Stage`.
      state: before the tick.
      now: one row of the `Ticks`.
    """
    tokens = state.x.shape[1]
    row = now.row[0]

    def turn(carry, at_work):
        hidden, state = carry
        work = Work(0, tokens, row, at_work == stage.here)
        hidden, state = run_layers(stage, state, work, hidden)
        return (send(stage, hidden), state), None

    # Stage 0 reads the state, not a message, so the first message may be anything.
    nothing = jnp.concatenate([jnp.zeros_like(state.inbox)] * stage.setup.patches, axis=1)
    stages = jnp.arange(stage.setup.stages)
    (hidden, state), _ = jax.lax.scan(turn, (nothing, state), stages)
    return finish_patch(stage, state, Work(0, tokens, row, True), hidden)


def send(stage: Stage, hidden: jax.Array) -> jax.Array:
    """Send hidden states to the next stage, and receive those of the stage before.

    One collective-permute.
    """
    stages = stage.setup.stages
    following = [(s, (s + 1) % stages) for s in range(stages)]
    return jax.lax.ppermute(hidden, PIPE, following)


def finish_patch(
    stage: Stage,
    state: State,
    work: Work,
    hidden: jax.Array,
) -> State:
    """Take tokens that have come around through the head, guidance and the row of the plan.

    Args:
      stage: the `Stage`.
      state: before.
      work: which tokens, in which row; where it is not busy, the state stays as it is.
      hidden: (b, size, E) the hidden states after the last layer.
    """
    setup = stage.setup
    first, size = work.first, work.size

    def network(x, t, label):
        # The head needs the condition; the embedded tokens are not used again.
        condition = embedded(stage, x, t, label, first)[1]
        out = dit.network(setup.card.config).part("head", stage.params, hidden, condition)
        return setup.card.velocity_of_output(out, x, t)

    # The row of the plan acts on these tokens alone: its update is elementwise.
    row = jax.tree.map(lambda column: column[work.row], stage.plan)
    before = state.x, state.base, state.history
    x, base, history = jax.tree.map(lambda a: cut(a, first, size), before)
    velocity = device.guided(setup, network, stage.label)(x, row.label_time).astype(x.dtype)
    noise = 0
    if stage.draws is not None:
        noise = row.s * cut(stage.draws[work.row], first, size)
    updated = update(row, velocity, x, base, history, noise)

    def write(all_tokens, old, new):
        new = jnp.where(work.busy, new, old)
        return jax.lax.dynamic_update_slice_in_dim(all_tokens, new, first, 1)

    x, base, history = jax.tree.map(write, before, (x, base, history), updated)
    return state._replace(x=x, base=base, history=history)


def readings(stage: Stage, sums: jax.Array) -> MeterReadings:
    """The meter's readings of the run, of this stage's layers, from the sums (N, 2, K/n, b)."""
    rows, groups = stage.rows, stage.setup.groups
    synced = rows.policy < 0
    is_first = jnp.arange(len(synced)) == rows.first_of_substep[rows.substep]
    layers = jax.lax.psum(sums.sum(3), groups)  # (N, 2, K/n)
    samples = jax.lax.psum(sums.sum(2), PIPE)  # (N, 2, b)
    total = jax.lax.psum(layers.sum(2), PIPE)  # (N, 2)
    worst = jax.lax.pmax(jnp.max(_staleness(samples), axis=1), groups)
    # With one patch every query sees all keys of its own row.
    copies_used = ~synced & (stage.setup.patches > 1)
    return MeterReadings(
        synced=synced,
        staleness=jnp.where(copies_used, _staleness(total), 0),
        layers=jnp.where(is_first[:, None], 0, _staleness(layers)),
        worst=jnp.where(is_first, jnp.inf, worst),
    )


def _staleness(sums):
    """|KV - copy| / |KV| from the sums of squares of both, on axis 1."""
    return jnp.sqrt(sums[:, 0] / sums[:, 1])


def _network_label(setup, label):
    """The labels that the network receives on this device, (b,)."""
    is_doubled = doubled(setup.mesh, setup.guidance)
    if setup.mesh.shape[CFG] == 1 and not is_doubled:
        return label
    null = jnp.full_like(label, setup.card.null_label)
    if setup.mesh.shape[CFG] == 2:
        return jnp.where(jax.lax.axis_index(CFG) == 0, label, null)
    return jnp.concatenate([label, null])
