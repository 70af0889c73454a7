"""PipeFusion (arXiv:2405.14430) on a mesh: layers lie over the devices, and patches of an image follow each other through them.

With K layers over n stages and L tokens in M patches, patch m of a *stale* row attends, in every layer,

    to this row's keys and values     of patches 0 .. m,
    to the row before's, or a forecast from the last few (parallel.stale.forecast),     of patches m+1 .. M-1,

which is all that a stage has when patch m comes, so no key or value ever leaves its stage, and the result depends on M
alone, not on n. (A plan with several rows a step has a memory for each stage of the step, as in parallel.stale.) A
*synchronous* row takes the whole image through the stages, one after the other. Which patch is where in which tick is a
table (parallel.pipeline.ticks), and one scan reads it. Stage 0 keeps the state and the solver's history: it embeds the patches that
enter, and takes those that come round through the head of the network and the row of the plan. Collectives:

    hop         a tick: one collective-permute of a patch's hidden states, (B, L/M, E), each stage to the next, the last to
                stage 0. Where M >= 2 n it is under way while the stages work on the next patches (h = 2 in parallel.pipeline.ticks)
    whole       a synchronous row: n collective-permutes of the image's, (B, L, E)
    guidance    a tick: one all-reduce of the velocity of what came round, where the mesh has cfg=2
    at the end  one all-reduce over the stages, of the image, which stage 0 has, and of the meter's sums; two of the meter's
                over data and cfg, the sum and the maximum of samples
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from flowjax.models import dit
from flowjax.models.card import CLOCKS
from flowjax.parallel import device
from flowjax.parallel.attention import corrected
from flowjax.parallel.mesh import CFG, DATA, PIPE, doubled
from flowjax.parallel.pipeline.ticks import Ticks, schedule
from flowjax.parallel.stale import forecast
from flowjax.parallel.stale.model import Said
from flowjax.parallel.stale.rows import RowSchedule
from flowjax.plans.table import DEPTH, Plan
from flowjax.sampling import in_dtype, update, verdict

SAID = Said(
    PartitionSpec(), PartitionSpec(), PartitionSpec(None, PIPE), PartitionSpec()
)  # how it lies on the mesh


class Table(NamedTuple):
    """What a run does: row by row, a `RowSchedule`, and tick by tick, a `ticks.Ticks`."""

    rows: RowSchedule
    ticks: Ticks


class Setup(NamedTuple):
    """What is fixed when the program is compiled. Its shapes are those of the arguments."""

    card: object
    mesh: jax.sharding.Mesh
    guidance: float
    patches: int
    gains_per: str

    @property
    def stages(self):
        """n."""
        return self.mesh.shape[PIPE]

    @property
    def hop(self):
        """h of parallel.pipeline.ticks: 2 where a message may be under way for a tick and still no stage waits."""
        return 2 if self.patches >= 2 * self.stages > 2 else 1

    @property
    def groups(self):
        """The axes that share samples and branches of guidance."""
        return (DATA, CFG) if self.mesh.shape[CFG] == 2 else (DATA,)

    def zeros(self, shape, dtype):
        """Zeros where every device will have its own."""
        return jax.lax.pcast(jnp.zeros(shape, dtype), (*self.groups, PIPE), to="varying")


class Stage(NamedTuple):
    """What a device knows from start to end.

    Attributes:
      setup: `Setup`.
      params: the network's, with this stage's layers only.
      label: (B,) of the samples.
      told: (b,) labels of the samples that the network sees: twice as many where both branches of guidance are here.
      positions: (L, E).
      plan: in the dtype of the state.
      rows: `RowSchedule`.
      draws: (N, B, L, P) the noise of every row, or None.
      here: (), this stage's number.
    """

    setup: Setup
    params: dict
    label: jax.Array
    told: jax.Array
    positions: jax.Array
    plan: Plan
    rows: RowSchedule
    draws: jax.Array | None
    here: jax.Array


class State(NamedTuple):
    """What a device has between ticks; x, base and history are right on stage 0 alone.

    Attributes:
      x, base, history: (B, L, P), (B, L, P) and four of (B, L, P), of `flowjax.sample`.
      kept: (S, K/n, R, 2, b, L, heads, d) keys and values of the last R rows, newest first, as each token's patch passed.
      sums: (N, 2, K/n, b) of |KV - what others saw|^2 and |KV|^2.
      inbox, outbox: (b, L/M, E) the hidden states that have come, and those that go if a hop takes a tick of its own.
    """

    x: jax.Array
    base: jax.Array
    history: tuple
    kept: jax.Array
    sums: jax.Array
    inbox: jax.Array
    outbox: jax.Array


def table(rows, setup):
    """`Table` of a run, from `RowSchedule` of a policy without tolerance."""
    return Table(rows, schedule(rows.policy < 0, setup.patches, setup.stages, setup.hop))


def parameters(card, mesh):
    """How parameters lie on the mesh: layers over the stages, the rest on every device."""
    split = PartitionSpec(PIPE) if mesh.shape[PIPE] > 1 else PartitionSpec()
    return {
        name: split if name == "blocks" else PartitionSpec()
        for name in dit.network(card.config).shapes()
    }


def body(setup, params, noise, label, keys, plan, table, positions):
    """(images, status, counts, `stale.Said`) of this device's part of the batch: what it does from images to images."""
    card, mesh = setup.card, setup.mesh
    noise = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    null = jnp.full_like(label, card.null_label)
    told = jnp.concatenate([label, null]) if doubled(mesh, setup.guidance) else label
    if mesh.shape[CFG] == 2:
        told = jnp.where(jax.lax.axis_index(CFG) == 0, label, null)
    draws = device.draws(keys, plan, noise, card.patchify)
    plan = in_dtype(plan, noise.dtype)
    positions = positions.astype(noise.dtype)
    stage = Stage(
        setup, params, label, told, positions, plan, table.rows, draws, jax.lax.axis_index(PIPE)
    )

    def tick(state, now):
        kinds = (functools.partial(kind, stage) for kind in (whole, patch))
        return jax.lax.cond(now.whole, *kinds, state, now), None

    state, _ = jax.lax.scan(tick, start(stage, card.patchify(noise)), table.ticks)
    end = jax.lax.psum(jnp.where(stage.here == 0, state.x, 0), PIPE)
    return card.unpatchify(end, noise.shape[1:3]), *verdict(end, plan), said(stage, state.sums)


def start(stage, x):
    """`State` before the first tick. Zeros in `kept` are never seen: the first row of each stage of a step is synchronous."""
    setup, config = stage.setup, stage.setup.card.config
    each, memory = len(stage.told), stage.rows.forecast.weights.shape[1]
    own = len(stage.params["blocks"]["query"]["bias"])  # K/n
    tokens, heads = x.shape[1], (config.heads, config.width // config.heads)
    x = jax.lax.pcast(x, PIPE, to="varying")
    kept = setup.zeros(
        (len(stage.rows.first_of_substep), own, memory, 2, each, tokens, *heads), config.dtype or x.dtype
    )
    message = setup.zeros((each, tokens // setup.patches, config.width), x.dtype)
    sums = setup.zeros((len(stage.rows.substep), 2, own, each), x.dtype)
    return State(x, x, (jnp.zeros_like(x),) * DEPTH, kept, sums, message, message)


def patch(stage, state, now):
    """A tick in which every stage has a patch, or none, and the solver another."""
    size = state.inbox.shape[1]
    here = jax.tree.map(lambda column: column[stage.here], now._replace(whole=now.busy))
    hidden, state = work(stage, state, size, here.patch * size, here.row, here.busy, state.inbox)
    arrived = hop(stage, hidden if stage.setup.hop == 1 else state.outbox)
    state = state._replace(inbox=arrived, outbox=hidden)
    return solve(stage, state, now.patch[-1] * size, now.row[-1], now.busy[-1], arrived)


def whole(stage, state, now):
    """A tick in which the image goes through all stages: each in its turn works, and the others wait."""
    tokens, row = state.x.shape[1], now.row[0]

    def turn(carry, at):
        hidden, state = carry
        hidden, state = work(stage, state, tokens, 0, row, at == stage.here, hidden)
        return (hop(stage, hidden), state), None

    nothing = jnp.concatenate([jnp.zeros_like(state.inbox)] * stage.setup.patches, axis=1)
    (hidden, state), _ = jax.lax.scan(turn, (nothing, state), jnp.arange(stage.setup.stages))
    return solve(stage, state, 0, row, True, hidden)


def hop(stage, hidden):
    """The hidden states of the stage before: one collective-permute."""
    stages = stage.setup.stages
    return jax.lax.ppermute(hidden, PIPE, [(s, (s + 1) % stages) for s in range(stages)])


def work(stage, state, size, first, row, busy, message):
    """This stage's layers on the tokens first .. first + size - 1 in `row`, or no work: (hidden states, state).

    The layers read what is kept and give what is new, which is written once, after them: a write in each layer would make
    XLA copy all that is kept, in each layer.
    """
    count, memory, _, each, _, *head = state.kept.shape[1:]
    nothing = (
        stage.setup.zeros((count, 2, each, size, *head), state.kept.dtype),
        stage.setup.zeros((2, count, each), state.sums.dtype),
    )

    def layers(message):
        x = _cut(state.x, first, size)
        x = jnp.concatenate([x] * (len(stage.told) // len(x)))
        tokens, condition = _embedded(stage, x, stage.plan.label_time[row], stage.told, first)
        tokens = jnp.where(stage.here == 0, tokens, message)
        attend = _attention(stage, state.kept, first, row)
        return dit.network(stage.setup.card.config).part(
            "layers", stage.params, tokens, condition, attend, nothing
        )

    hidden, (own, squares) = jax.lax.cond(busy, layers, lambda message: (message, nothing), message)
    place = [jnp.asarray(i, jnp.int32) for i in (stage.rows.substep[row], 0, 0, 0, 0, first, 0, 0)]
    past = jax.lax.dynamic_slice(state.kept, place, (1, count, memory, *own.shape[1:]))
    newest = jnp.concatenate([own[None, :, None], past[:, :, :-1]], axis=2)
    kept = jax.lax.dynamic_update_slice(state.kept, jnp.where(busy, newest, past), place)
    return hidden, state._replace(kept=kept, sums=state.sums.at[row].set(state.sums[row] + squares))


def solve(stage, state, first, row, acts, hidden):
    """The tokens first .. that have come round through the head, guidance and row of the plan: the state after it."""
    setup, size = stage.setup, hidden.shape[1]

    def network(x, t, label):
        condition = _embedded(stage, x, t, label, first)[1]
        out = dit.network(setup.card.config).part("head", stage.params, hidden, condition)
        return setup.card.velocity_of_output(out, x, t)

    told = jax.tree.map(lambda column: column[row], stage.plan)
    before = state.x, state.base, state.history
    x, base, history = jax.tree.map(lambda a: _cut(a, first, size), before)
    velocity = device.guided(setup, network, stage.label)(x, told.label_time).astype(x.dtype)
    noise = 0 if stage.draws is None else told.s * _cut(stage.draws[row], first, size)
    after = update(told, velocity, x, base, history, noise)
    kept = jax.tree.map(lambda new, old: jnp.where(acts, new, old), after, (x, base, history))
    put = lambda all, one: jax.lax.dynamic_update_slice_in_dim(all, one, first, 1)
    x, base, history = jax.tree.map(put, before, kept)
    return state._replace(x=x, base=base, history=history)


def said(stage, sums):
    """`stale.Said` of the run, its layers those of this stage, from the sums (N, 2, K/n, b)."""
    rows, groups = stage.rows, stage.setup.groups
    synced = rows.policy < 0
    begins = jnp.arange(len(synced)) == rows.first_of_substep[rows.substep]
    layers = jax.lax.psum(sums.sum(3), groups)  # (N, 2, K/n)
    samples = jax.lax.psum(sums.sum(2), PIPE)  # (N, 2, b)
    total = jax.lax.psum(layers.sum(2), PIPE)  # (N, 2)
    worst = jax.lax.pmax(jnp.max(samples[:, 0] / samples[:, 1], axis=1), groups)
    used = ~synced & (stage.setup.patches > 1)
    return Said(
        synced,
        jnp.where(used, total[:, 0] / total[:, 1], 0),
        jnp.where(begins[:, None], 0, layers[:, 0] / layers[:, 1]),
        jnp.where(begins, jnp.inf, worst),
    )


def _attention(stage, kept, first, row):
    """Attention as models.dit describes; its carry is the keys and values (K/n, 2, b, l, heads, d), and sums (2, K/n, b)."""
    kind, memory, tokens = stage.rows.substep[row], kept.shape[2], kept.shape[5]
    run = (
        1 if stage.setup.gains_per == "token" else tokens // stage.setup.patches
    )  # tokens that share gains

    def pool(sums):
        runs = sums.reshape(*sums.shape[:-1], -1, run)
        return jnp.broadcast_to(runs.sum(-1, keepdims=True), runs.shape).reshape(sums.shape)

    def forecasted(past):
        """(R, 2, b, T, heads, d) -> (2, b, T, heads, d)."""
        if memory == 1:
            return past[0]
        return jnp.concatenate(
            forecast.predict(stage.rows.forecast, row, (past[:, 0, None], past[:, 1, None]), pool)
        )

    def attention(q, k, v, layer, carry):
        own, size = jnp.stack([k, v]), k.shape[1]
        known = kept[kind, layer]
        seen, new = known[0], own.astype(carry[1].dtype)
        expected = forecasted(jax.lax.dynamic_slice_in_dim(known, first, size, 3))
        squares = [jnp.sum(jnp.square(a), axis=(0, 2, 3, 4)) for a in (new - expected, new)]
        if memory > 1 and size < tokens:
            passed = jnp.arange(tokens) < first
            seen = jnp.where(passed[None, None, :, None, None], seen, forecasted(known))
        seen = jax.lax.dynamic_update_slice_in_dim(seen, own, first, 2)
        carry = carry[0].at[layer].set(own), carry[1].at[:, layer].set(jnp.stack(squares))
        if stage.rows.correction is None or size == tokens:
            return dit.softmax_attention(q, *seen)[0], carry
        came = jnp.arange(tokens) < first + size
        return corrected(q, seen, k, v - expected[1], came, stage.rows.correction), carry

    return attention


def _embedded(stage, patches, t, label, first):
    """(tokens (b, l, E), condition (b, E)) of patches (b, l, P) of the state."""
    card = stage.setup.card
    clock = jnp.broadcast_to(CLOCKS[card.clock](card.schedule, t), label.shape)
    positions = jax.lax.dynamic_slice_in_dim(stage.positions, first, patches.shape[1])
    return dit.network(card.config).part("embed", stage.params, patches, clock, label, positions)


def _cut(values, first, size):
    """Some tokens of (B, L, ...)."""
    return jax.lax.dynamic_slice_in_dim(values, first, size, 1)
