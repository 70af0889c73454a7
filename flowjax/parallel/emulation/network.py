"""Exact and stale attention over n devices, computed on one device and in any precision.

This is the oracle of the programs on a mesh. It is written from the descriptions of displaced
patches (DistriFusion, Li et al. 2024, arXiv:2402.19481) and of PipeFusion (arXiv:2405.14430) for a
transformer, and not from the mesh code. So a difference between the two is a bug, and a difference
between stale and exact is staleness.

The tokens of an image are split into n parts: those of the devices, or the patches of PipeFusion.
In row i of a plan and layer l, with keys and values KV_i of that layer, a token attends to

    KV_i        of its own part; of all parts where the row is synchronous; and under PipeFusion,
                where parts follow each other through the layers, of all parts before its own
    the copy    of the other parts: a forecast to this row from the keys and values of the last
                rows that were sent, which were themselves computed with copies

in one softmax over all of these scores. A plan with several rows a step has one history for each
substep: the second row of a step uses those of the second rows of earlier steps. No compiled
program here depends on n, the warm-up, the policy, the order of the forecast's polynomial or the
bits of a message. They are data (`Exchange`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import guidance as guiding
from flowjax.models.card import Model
from flowjax.parallel.options import EXACT, Options, check, check_patches, from_keywords
from flowjax.parallel.stale.forecast import predict
from flowjax.parallel.stale.precision import bits_of, rounded
from flowjax.parallel.stale.rows import RowSchedule, row_schedule
from flowjax.plans.table import Plan
from flowjax.sampling import Solution, sample
from flowjax.types import Array, PyTree, Scalar

NAME = "parallel.emulate"


class Exchange(NamedTuple):
    """What the parts send to each other, row by row. A pytree of arrays.

    Attributes:
      shards: (L,) int, the part of each token.
      fresh: (n, n) bool, with n at least the number of parts: whether part i sees the keys and
        values of part j of this row, even in a stale row.
      rows: the `RowSchedule`.
      gain_groups: (n or L, L) bool. The tokens that are marked in one row have their fitted gains
        in common; each token is marked in one row.
      bits: (), of a number in a message (see parallel.stale.precision); 0 sends it unchanged.
      residual: () bool, whether a message is the error of the forecast instead of the forecast.
    """

    shards: np.ndarray
    fresh: np.ndarray
    rows: RowSchedule
    gain_groups: np.ndarray
    bits: np.ndarray
    residual: np.ndarray


class Meter(NamedTuple):
    """What each row metered. Staleness is |KV - copy|^2 / |KV|^2.

    Attributes:
      synced: (rows,) bool, the synchronous rows.
      staleness: (rows,) over layers, samples and tokens; 0 where no part used a copy, as in
        synchronous rows and on one device.
      layers: (rows, K) of each layer, over samples and tokens, whether the copy was used or not; 0
        where there was none.
      worst: (rows,) of the sample where it is largest, over layers and tokens, whether the copy was
        used or not; infinite where there was none.
    """

    synced: jax.Array
    staleness: jax.Array
    layers: jax.Array
    worst: jax.Array


class EmulationStats(NamedTuple):
    """Counts of `flowjax.sample`, and the `Meter` of the run.

    Attributes:
      nfe, accepted, rejected: (B,) int32.
      synced, staleness, layers, worst: as in `Meter`.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    synced: jax.Array
    staleness: jax.Array
    layers: jax.Array
    worst: jax.Array


class EmulationCarry(NamedTuple):
    """The state between rows.

    Attributes:
      row: (), the number of the next row.
      histories: a pytree of (S, M, K, B, L, ...), the values of the last M rows of each substep,
        newest first.
      meter: the `Meter` of the rows so far.
    """

    row: jax.Array
    histories: PyTree
    meter: Meter


# (copy, synced) -> (velocity, values): copy and values are pytrees of (K, B, L, ...)
EvaluateRow = Callable[[PyTree, jax.Array], tuple[jax.Array, PyTree]]


def emulate(
    model: Model,
    noise: Array,
    label: Array | None,
    plan: Plan,
    *,
    devices: int,
    key: jax.Array | None = None,
    **options: Any,
) -> Solution:
    """The result of `parallel.sample` on `devices` devices, computed on one.

    It takes the options of `parallel.sample`, refuses them in the same cases, and has `devices` in
    place of the mesh. Limits of a mesh, as heads that divide by n, do not apply. Like
    `flowjax.sample` it is not jitted: jit the function that is called again (`emulate_with` takes
    all numbers as arguments).

    Args:
      model: a `flowjax.models.Model`.
      noise: (B, H, W, C) the state to start from; float64 is computed in float64.
      label: (B,) integers, or None for the null label (then without guidance).
      plan: a `Plan` with known numbers.
      devices: n. `contiguous` says which tokens lie on which device. With "pipefusion", the number
        of stages, which changes nothing; without `patches` it is the number of patches as well.
      key: for plans that draw noise, as in `flowjax.sample`. It does not depend on n.
      **options: the fields of `parallel.options.Options`, each by its name. All exact kinds of
        attention give the same numbers, and so do gather="late" and "early".

    Returns:
      `Solution` with `EmulationStats`, whose carry is None.

    Raises:
      ValueError: an option, a number of devices or shapes that do not fit.
    """
    given = from_keywords(NAME, options)
    check(NAME, given, plan)
    made = _exchange(plan, tokens_of(model, noise), devices, given)
    return emulate_with(model, noise, label, plan, made, guidance=given.guidance, key=key)


def emulate_with(
    model: Model,
    noise: Array,
    label: Array | None,
    plan: Plan,
    exchange: Exchange,
    *,
    guidance: Scalar = 1.0,
    key: jax.Array | None = None,
) -> Solution:
    """`emulate` with any parts and any policy; all of it may be traced.

    Args:
      model, noise, label, plan, key: as in `emulate`.
      exchange: an `Exchange`. The first row of each substep must be synchronous, since the
        histories begin as zeros.
      guidance: the scale of classifier-free guidance; 1 is none. Each branch sees its own copies.

    Raises:
      ValueError: an exchange of other tokens or rows, or guidance without labels.
    """
    tokens = tokens_of(model, noise)
    if exchange.shards.shape != (tokens,) or exchange.rows.policy.shape != (plan.rows,):
        raise ValueError(
            f"{NAME}: shards {exchange.shards.shape} and policy {exchange.rows.policy.shape} for "
            f"{tokens} tokens and {plan.rows} rows; wanted one part a token, one threshold a row."
        )
    is_guided = not (isinstance(guidance, int | float) and guidance == 1)
    if is_guided and label is None:
        raise ValueError(
            f"{NAME}: guidance needs label; None is the null label itself. Give (B,) integers."
        )
    noise = jnp.asarray(noise)
    batch = len(noise)

    def network(x, t, label, carry):
        def evaluate(copy, synced):
            return _evaluate(model, exchange, x, t, label, copy, synced)

        return run_row(exchange, carry, evaluate)

    def unguided(x, t, carry):
        return network(x, t, label, carry)

    run = unguided
    if is_guided:
        label = jnp.broadcast_to(jnp.asarray(label), (batch,))
        null = jnp.full_like(label, model.card.null_label)
        run = guiding.classifier_free(network, label, null, guidance)
        batch = 2 * batch  # both branches in one batch
    config = model.card.config
    dtype = config.dtype or jnp.promote_types(noise.dtype, jnp.float32)
    shape = (config.depth, batch, tokens, config.heads, config.width // config.heads)
    keys = jnp.zeros(shape, dtype)
    return sample_with_exchange(run, noise, plan, exchange, (keys, keys), key)


def contiguous(tokens: int, devices: int, name: str = NAME) -> np.ndarray:
    """The device of each token, (tokens,): runs of ceil(tokens/devices) tokens.

    The last runs may be shorter, or empty. A refusal speaks in the name of `name`.
    """
    if not _is_count(devices) or devices > tokens:
        raise ValueError(
            f"{name}: {devices} devices for {tokens} tokens; wanted from 1 to as many devices as "
            "tokens."
        )
    return np.arange(tokens) // -(-tokens // devices)


def _is_count(value):
    """Whether `value` is an integer from 1."""
    is_integer = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return is_integer and value >= 1


def exchange(
    plan: Plan, tokens: int, devices: int, *, slots: int | None = None, **options: Any
) -> Exchange:
    """The `Exchange` of a run.

    Args:
      plan: a `Plan` with known numbers.
      tokens: L.
      devices: the number of parts: devices, or patches of "pipefusion".
      slots: the size of the tables, at least the number of parts; by default that number.
        Exchanges of one size share a compiled program.
      **options: the fields of `parallel.options.Options`, each by its name. Here attention is
        "stale" by default, and comm_dtype may also be a number of bits.

    Raises:
      ValueError: options or a number of parts that do not fit.
    """
    given = from_keywords(NAME, {"attention": "stale"} | options)
    has_bits = isinstance(given.comm_dtype, int)
    check(NAME, given._replace(comm_dtype=None) if has_bits else given, plan)
    return _exchange(plan, tokens, devices, given, slots)


def _exchange(
    plan: Plan, tokens: int, devices: int, options: Options, slots: int | None = None
) -> Exchange:
    """`exchange` with options that are checked."""
    parts = devices
    if options.attention == "pipefusion":
        parts = devices if options.patches is None else options.patches
        check_patches(NAME, options._replace(patches=parts), tokens, devices)
        if not _is_count(devices):
            raise ValueError(f"{NAME}: devices={devices!r}; wanted a number of stages, at least 1.")
    shards = contiguous(tokens, parts)
    everyone = np.arange(slots or parts)
    if options.attention in EXACT:
        options = options._replace(warmup=plan.steps, refresh=1)

    # In a pipeline the parts before a part passed through the layer in this row already.
    if options.attention == "pipefusion":
        fresh = everyone[:, None] >= everyone[None]
    else:
        fresh = everyone[:, None] == everyone[None]
    if options.gains_per == "token":
        gain_groups = np.eye(tokens, dtype=bool)
    else:
        gain_groups = shards[None] == everyone[:, None]
    bits = options.comm_dtype
    if not isinstance(bits, int):
        bits = bits_of(NAME, bits)
    return Exchange(
        shards=shards,
        fresh=fresh,
        rows=row_schedule(plan, options),
        gain_groups=gain_groups,
        bits=np.float64(bits),
        residual=np.bool_(options.residual),
    )


def tokens_of(model: Model, noise: Array) -> int:
    """L, the number of tokens of an image of the noise's shape."""
    image = jax.ShapeDtypeStruct(np.shape(noise), np.float32)
    return jax.eval_shape(model.card.patchify, image).shape[1]


def sample_with_exchange(
    model: Callable[..., tuple[jax.Array, EmulationCarry]],
    noise: jax.Array,
    plan: Plan,
    exchange: Exchange,
    like: PyTree,
    key: jax.Array | None,
) -> Solution:
    """`flowjax.sample` of a model whose carry is an `EmulationCarry`.

    Args:
      model: (x, t, carry) -> (velocity, carry).
      noise, plan, key: as in `flowjax.sample`.
      exchange: the `Exchange`.
      like: the values of one row, a pytree of (K, B, L, ...); only shapes and dtypes count.

    Returns:
      `Solution` with `EmulationStats`, whose carry is None.
    """
    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    substeps = len(exchange.rows.first_of_substep)
    memory = exchange.rows.forecast.weights.shape[1]
    layers = len(jax.tree.leaves(like)[0])

    def empty(leaf: jax.Array) -> jax.Array:
        return jnp.zeros((substeps, memory, *leaf.shape), leaf.dtype)

    meter = Meter(
        synced=jnp.zeros(plan.rows, bool),
        staleness=jnp.zeros(plan.rows, dtype),
        layers=jnp.zeros((plan.rows, layers), dtype),
        worst=jnp.zeros(plan.rows, dtype),
    )
    carry = EmulationCarry(jnp.zeros((), int), jax.tree.map(empty, like), meter)
    found = sample(model, noise, plan, key=key, carry=carry)
    return found._replace(stats=EmulationStats(*found.stats, *found.carry.meter), carry=None)


def run_row(
    exchange: Exchange, carry: EmulationCarry, evaluate: EvaluateRow
) -> tuple[jax.Array, EmulationCarry]:
    """One row: forecast the copy, decide whether the row is synchronous, evaluate, meter, store.

    Args:
      exchange: the `Exchange`.
      carry: the `EmulationCarry`.
      evaluate: (copy, synced) -> (velocity, the values of this row); copy and values are pytrees of
        (K, B, L, ...).

    Returns:
      (velocity, `EmulationCarry`).
    """
    exchange = jax.tree.map(jnp.asarray, exchange)
    row = carry.row
    substep = exchange.rows.substep[row]
    past = jax.tree.map(lambda leaf: leaf[substep], carry.histories)  # (M, K, B, L, ...)

    pool = functools.partial(_pool, exchange)
    expected = predict(exchange.rows.forecast, row, past, pool)
    copy = _copy(exchange, expected)
    synced = _is_synchronous(exchange.rows, row, carry.meter)
    velocity, values = evaluate(copy, synced)

    meter = _metered(exchange, carry.meter, row, synced, values, copy)
    arrived = _arrived(exchange, values, expected, synced)
    is_sent = synced | exchange.rows.sent[row]
    history = jax.tree.map(lambda old, new: _pushed(old, new, is_sent), past, arrived)
    histories = jax.tree.map(lambda all, one: all.at[substep].set(one), carry.histories, history)
    return velocity, EmulationCarry(row + 1, histories, meter)


def _evaluate(model, exchange, x, t, label, copy, synced):
    """(velocity, (keys, values) of all layers) of the network in one row."""
    shards = jnp.asarray(exchange.shards)
    fresh = synced | jnp.asarray(exchange.fresh)[shards[:, None], shards[None]]  # (L, L)
    own = None
    if exchange.rows.correction is not None:
        own = (shards[:, None] == shards[None])[None, None]
    return model.apply(
        model.params,
        x,
        t,
        label,
        attention=mixed_attention(copy, fresh[None, None], own, exchange.rows.correction),
        carry=jax.tree.map(jnp.zeros_like, copy),
    )


def _pool(exchange, sums):
    """(K, B, L) -> (K, B, L): each token has the sum over the tokens of its gain group."""
    groups = exchange.gain_groups.astype(sums.dtype)
    total = jnp.einsum("kbl,nl->kbn", sums, groups)
    return jnp.einsum("kbn,nl->kbl", total, groups)


def _in_fewer_bits(exchange, values):
    """`values` as they arrive in messages of so many bits a number."""
    wide = values.astype(jnp.promote_types(values.dtype, jnp.float32))
    return rounded(wide, exchange.bits).astype(values.dtype)


def _copy(exchange, expected):
    """The copy that other parts see, from the forecast `expected`.

    With residuals every part makes the same forecast itself, so it sees it in full precision.
    """

    def seen(values):
        return jnp.where(exchange.residual, values, _in_fewer_bits(exchange, values))

    return jax.tree.map(seen, expected)


def _is_synchronous(rows, row, meter):
    """Whether the staleness that the step before metered exceeds the threshold of this row."""
    decided_by = rows.decided_by[row]
    metered = jnp.where(decided_by < 0, jnp.inf, jnp.sqrt(meter.worst[decided_by]))
    return metered > rows.policy[row]


def _metered(exchange, meter, row, synced, values, copy):
    """The `Meter` with this row's staleness."""
    dtype = meter.staleness.dtype
    gap = _squares(jax.tree.map(jnp.subtract, values, copy), dtype)  # (K, B)
    size = _squares(values, dtype)
    is_first = row == exchange.rows.first_of_substep[exchange.rows.substep[row]]  # no copy exists

    # Copies are used by any two occupied parts of which one does not see the other's values.
    occupied = jnp.any(exchange.shards[:, None] == jnp.arange(len(exchange.fresh))[None], axis=0)
    both_occupied = occupied[:, None] & occupied[None]
    is_used = ~synced & ~jnp.all(exchange.fresh | ~both_occupied)

    staleness = jnp.where(is_used, gap.sum() / size.sum(), 0)
    layers = jnp.where(is_first, 0, gap.sum(1) / size.sum(1))
    worst = jnp.where(is_first, jnp.inf, jnp.max(gap.sum(0) / size.sum(0)))
    return Meter(
        synced=meter.synced.at[row].set(synced),
        staleness=meter.staleness.at[row].set(staleness),
        layers=meter.layers.at[row].set(layers),
        worst=meter.worst.at[row].set(worst),
    )


def _squares(tree, dtype):
    """Sums of squares of each layer and sample, (K, B), over the leaves of (K, B, ...)."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        axes = tuple(range(2, leaf.ndim))
        total += jnp.sum(jnp.square(leaf.astype(dtype)), axis=axes)
    return total


def _arrived(exchange, values, expected, synced):
    """The values that enter the history.

    A part knows its own values in full precision. With residuals it keeps what the other parts
    reconstruct, so that its next residual includes what this one lost. Synchronous rows send the
    values themselves.
    """
    is_exact = synced | ~exchange.residual

    def one(new, forecast):
        reconstructed = forecast + _in_fewer_bits(exchange, new - forecast)
        return jnp.where(is_exact, new, reconstructed)

    return jax.tree.map(one, values, expected)


def _pushed(history, newest, is_sent):
    """The history (M, ...) with `newest` in front and without its oldest, if the row was sent."""
    shifted = jnp.concatenate([newest[None], history[:-1]])
    return jnp.where(is_sent, shifted, history)


def mixed_attention(
    copy: tuple[jax.Array, jax.Array],
    fresh: jax.Array,
    own: jax.Array | None = None,
    correction: Scalar | None = None,
) -> Callable[..., tuple[jax.Array, tuple[jax.Array, jax.Array]]]:
    """Attention of queries that see keys and values of this row, or copies of them.

    Args:
      copy: (keys, values) of all layers as other parts see them, (K, B, L, heads, d) each.
      fresh: (B or 1, 1, L, L) bool, whether the query sees the key of this row.
      own: None, or (1, 1, L, L) bool, whether the key belongs to the query's own part, which knows
        the miss of its copies.
      correction: with `own`, (), the fraction of the part's own miss that is added to the stale
        part of the output. The miss is the mean of (value - copy) over the own part, weighted as
        the query attends to that part, times the query's weight of copies.

    Returns:
      Attention as `flowjax.models.dit` takes it; its carry collects the (keys, values) of all
      layers.
    """

    def attention(q, k, v, layer, carry):
        wide = jnp.promote_types(q.dtype, jnp.float32)
        copy_k, copy_v = copy[0][layer], copy[1][layer]

        def scores(keys):
            products = jnp.einsum("bqhd,bkhd->bhqk", q, keys, preferred_element_type=wide)
            return products * q.shape[-1] ** -0.5

        def mean(weights, values):
            weights = weights.astype(v.dtype)
            return jnp.einsum("bhqk,bkhd->bqhd", weights, values, preferred_element_type=wide)

        # One softmax over the scores of keys of this row and of copies.
        weights = jax.nn.softmax(jnp.where(fresh, scores(k), scores(copy_k)), axis=-1)
        out = mean(jnp.where(fresh, weights, 0), v) + mean(jnp.where(~fresh, weights, 0), copy_v)
        if own is not None:
            own_weights = jax.nn.softmax(jnp.where(own, scores(k), -jnp.inf), axis=-1)
            stale_weight = jnp.where(fresh, 0, weights).sum(-1)  # (B, heads, L)
            stale_weight = jnp.moveaxis(stale_weight, 1, 2)[..., None]  # (B, L, heads, 1)
            out += correction * stale_weight * mean(own_weights, v - copy_v)
        return out.astype(v.dtype), (carry[0].at[layer].set(k), carry[1].at[layer].set(v))

    return attention
