"""The sampler: one scan over the rows of a plan.

There is no other implementation of a fixed-step solver.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.plans.table import DEPTH, Plan
from flowjax.types import Array, PyTree, Velocity

OK, OUT_OF_EVALUATIONS, NOT_FINITE = 0, 1, 2  # Solution.status


class Stats(NamedTuple):
    """Counts per sample, (B,) int32: evaluations of the network, accepted and rejected steps."""

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array


class Solution(NamedTuple):
    """The result of a sampler.

    Attributes:
      x: (B, *D) the state at the end.
      status: (B,) int32: 0 ok, 1 out of evaluations, 2 not finite.
      stats: `Stats`.
      path: (steps+1, B, *D) the accepted states with the start first (of UniPC the predicted ones),
        or None. Where the plan is traced (an argument of jit) its number of steps is unknown and
        the path has rows+1 entries; those after the last step repeat the end.
      carry: the model's state after the last evaluation.
    """

    x: jax.Array
    status: jax.Array
    stats: Stats
    path: jax.Array | None
    carry: PyTree


def lift(model: Callable[..., Any], carry: PyTree) -> Callable[..., Any]:
    """A model that takes and returns a carry, from one that does not (where `carry` is None)."""
    if carry is not None:
        return model

    def with_carry(x, t, carry):
        return model(x, t), carry

    return with_carry


def draw_noise(key: jax.Array, ids: Sequence[int] | Array, shape: Sequence[int]) -> jax.Array:
    """Standard normal noise of the samples with the numbers `ids`.

    The noise of sample i depends on (key, i) alone, not on its batch or device.

    Args:
      key: one JAX key.
      ids: (B,) integers from 0 to 2**32 - 1, for example range(16).
      shape: shape of one sample, (*D,).

    Returns:
      (B, *D) in the default floating dtype: float32, or float64 in JAX's 64-bit mode, where the
      same key gives other noise.

    Raises:
      ValueError: several keys, or none; ids that are no vector of integers; a shape that is no
        tuple of integers.
    """
    name = "flowjax.draw_noise"
    if _as_keys(name, key).ndim:
        raise ValueError(f"{name}: key holds {np.shape(key)[0]} keys; wanted one key for all ids.")
    ids = ids if isinstance(ids, jax.Array) else np.asarray(ids)
    if ids.ndim != 1 or not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(
            f"{name}: ids has shape {ids.shape} and dtype {ids.dtype}; wanted a vector of "
            "integers, (B,): the numbers of the samples, for example range(16) for sixteen."
        )
    # A key takes 32 bits of a number, so another one would silently share the noise of these.
    known = np.zeros(0, int) if isinstance(ids, jax.core.Tracer) else np.asarray(ids)
    if known.size and not (0 <= known.min() and known.max() < 2**32):
        raise ValueError(
            f"{name}: ids from {known.min()} to {known.max()}; wanted numbers from 0 to 2**32 - 1."
        )
    try:
        shape = tuple(operator.index(size) for size in shape)
    except TypeError:
        raise ValueError(
            f"{name}: shape={shape!r}; wanted the sizes of one sample as a tuple, for example "
            "(32, 32, 3)."
        ) from None

    def draw(i):
        return jax.random.normal(jax.random.fold_in(key, i), shape)

    return jax.vmap(draw)(jnp.asarray(ids))


def sample(
    model: Velocity | Callable[..., tuple[jax.Array, PyTree]],
    noise: Array,
    plan: Plan,
    *,
    key: Array | None = None,
    carry: PyTree = None,
    data_hook: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    state_hook: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    save_path: bool = False,
) -> Solution:
    """Run a fixed-step solver, given as a plan, from `noise` at time plan.t[0].

    jit the outermost function that is called again, with parameters, labels, noise and plan as
    arguments: one compiled program then serves every plan of the same number of rows. Many plans
    are run by a loop over them, or by `jax.lax.map` over stacked plans in one call. `jax.vmap` runs
    them side by side, which pays where the batch is too small to fill the device; on a CPU it is
    slower once the arrays of an evaluation leave the cache.

    Args:
      model: (x, t) -> velocity (B, *D), t a scalar; with a carry, (x, t, carry) -> (velocity,
        carry).
      noise: (B, *D) the state to start from. Half precision is raised to float32; the model sees
        that dtype. A plan whose grid increases from t = 0 goes from data to noise: then this is the
        data.
      plan: a `flowjax.plans.Plan`.
      key: for plans that draw noise: one key (sample i then uses fold_in(key, i)), (B,) keys, or
        the noise itself (rows, B, *D). Row r of a sample with key k draws from fold_in(k, r).
      carry: initial state of a model that keeps one between evaluations.
      data_hook: (data, t) -> data, a correction of the data prediction (thresholding, inpainting);
        any plan takes it. Plans of the velocity take the path to be linear: elsewhere wrap them
        with `plans.with_path`.
      state_hook: (x, t, step) -> x, a correction of the accepted state after each step, step =
        1..N.
      save_path: keep the accepted states.

    Returns:
      `Solution`.

    Raises:
      ValueError: a model that is no function, a plan that is no plan, shapes that do not match; a
        plan that draws noise without a key (under jit, where the plan's numbers are unknown, the
        result is NaN and status 2 instead).
    """
    check_velocity(model, "flowjax.sample")
    _check_plan(plan)
    x = _start(noise)
    lifted = lift(model, carry)
    draw = _noise_source(key, plan, x)
    rows = in_dtype(plan, x.dtype)
    row_index = jnp.arange(plan.rows)
    step_index = jnp.cumsum(rows.ends_step)  # 1 in the rows of the first step

    def body(state, scanned):
        x, base, ring, carry = state
        row, i, step, slots = scanned
        # Evaluate the network, once a row.
        velocity, carry = lifted(x, row.label_time, carry)
        _check_answer(velocity, x)
        velocity = velocity.astype(x.dtype)
        if data_hook is not None:
            velocity = _corrected(data_hook, velocity, x, row)
        # Advance the history and the state.
        newest = row.p * x + row.q * velocity
        ring = jax.lax.dynamic_update_index_in_dim(ring, newest, slots[0], axis=0)
        history = [_entry(ring, slot) for slot in slots]
        x, base = _advanced(row, base, history, draw(row.s, i))
        # Correct an accepted state.
        if state_hook is not None:
            hooked = jnp.where(row.ends_step, state_hook(x, row.t_next, step), x)
            base = _hooked_base(row.c, base, x, hooked)
            x = hooked
        return (x, base, ring, carry), (x if save_path else None)

    ring = jnp.stack([jnp.zeros_like(x)] * DEPTH)
    scanned = (rows, row_index, step_index, _slots(plan.rows))
    (end, _, _, carry), states = jax.lax.scan(body, (x, x, ring, carry), scanned)
    path = _accepted(x, states, plan) if save_path else None
    status, stats = verdict(end, rows)
    return Solution(end, status, stats, path, carry)


# What a row does


def in_dtype(plan: Plan, dtype: Any) -> Plan:
    """The plan with its floating columns in `dtype`, as JAX arrays."""

    def cast(column):
        column = jnp.asarray(column)
        return column.astype(dtype) if jnp.issubdtype(column.dtype, jnp.floating) else column

    return jax.tree.map(cast, plan)


def update(
    row: Plan,
    velocity: jax.Array,
    x: jax.Array,
    base: jax.Array,
    history: tuple[jax.Array, ...],
    noise: jax.Array,
) -> tuple[jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """Apply a row once the network has answered, elementwise (the equations stand in plans.table).

    Args:
      row: one row of a plan, in the dtype of the state.
      velocity: the network's answer; this and the next two are of one shape.
      x: the state at which the network was evaluated.
      base: the state from which the step began.
      history: the last four m, newest first, each of that shape.
      noise: s z of this row.

    Returns:
      (x, base, history) after the row.
    """
    newest = row.p * x + row.q * velocity
    history = (newest, *history[:-1])
    x, base = _advanced(row, base, history, noise)
    return x, base, history


def verdict(end: jax.Array, plan: Plan) -> tuple[jax.Array, Stats]:
    """(status (B,), `Stats`) of the states (B, *D) in which a run of `plan` ended."""
    # Over all axes but the batch: (B,)
    finite = jnp.all(jnp.isfinite(end), axis=tuple(range(1, end.ndim)))
    counts = (jnp.sum(plan.counted), jnp.sum(plan.ends_step), 0)
    stats = Stats(*(jnp.broadcast_to(n, finite.shape).astype(jnp.int32) for n in counts))
    return jnp.where(finite, OK, NOT_FINITE).astype(jnp.int32), stats


def _advanced(row, base, history, noise):
    """(x, base) after the row: base' = a base + b.m + s z, and x' = c base' + d.m."""
    base = row.a * base + _combine(row.b, history) + noise
    return row.c * base + _combine(row.d, history), base


# The history of the scan is a ring, (DEPTH, B, *D): row i writes its m over the oldest one, in slot
# i mod DEPTH. A tuple whose entries move up would be copied in every row, which takes as long as
# the arithmetic of the row. The ring is read after it is written: an entry that is read before
# would be copied as well, since the write is in place.


def _slots(rows):
    """For each age from 0, the newest, to DEPTH - 1: the slot of that m in every row, (rows,)."""
    # Constants of an unsigned type: slots that are computed in the loop, or may be negative, take
    # a quarter longer to compile.
    return tuple(np.uint32((np.arange(rows) - age) % DEPTH) for age in range(DEPTH))


def _entry(ring, slot):
    """The m (B, *D) in that slot of the ring."""
    return jax.lax.dynamic_index_in_dim(ring, slot, axis=0, keepdims=False)


def _combine(weights, history):
    """sum_j weights_j m_{i-j}, the newest m first."""
    return sum(weights[j] * m for j, m in enumerate(history))


def _hooked_base(c, base, x, hooked):
    """The base with which this row's update gives the hooked state."""
    # The row gave x = c base + d.m, and we want base' with c base' + d.m = hooked. So
    #
    #     base' = base + (hooked - x)/c.
    #
    # Where c = 0 the state does not depend on the base, which no later row uses, and base stays.
    inverse = jnp.where(c == 0, 0.0, 1 / jnp.where(c == 0, 1.0, c))
    return base + inverse * (hooked - x)


def _corrected(hook, velocity, x, row):
    """The velocity whose data prediction is the hook's.

    Where the data prediction does not depend on the velocity (t = 0), the velocity stays.
    """
    data = hook(row.data_x * x + row.data_v * velocity, row.t)
    safe = jnp.where(row.data_v == 0, 1.0, row.data_v)
    # data = data_x x + data_v velocity, solved for the velocity
    return jnp.where(row.data_v == 0, velocity, (data - row.data_x * x) / safe)


def _accepted(start, states, plan):
    """The accepted states among the rows' states, start first.

    (steps+1, B, *D), or (rows+1, B, *D) for a traced plan.
    """
    # jnp.nonzero needs a static size; what exceeds the number of steps repeats the last row.
    size = plan.rows if _is_traced(plan.ends_step) else plan.steps
    ends = jnp.nonzero(plan.ends_step, size=size, fill_value=plan.rows - 1)[0]
    return jnp.concatenate([start[None], states[ends]])


# Noise that is drawn in the steps


def _noise_source(key, plan, x):
    """Function (weight, row index) -> weighted noise (B, *D) for the rows of `plan`."""
    if key is None:
        return _no_noise(plan, x)
    keys = sample_keys("flowjax.sample", key, plan.rows, x.shape)
    if jnp.issubdtype(keys.dtype, jnp.floating):
        given = keys.astype(x.dtype)
        return lambda weight, i: weight * given[i]

    def draw(weight, i):
        def of_sample(key):
            return jax.random.normal(jax.random.fold_in(key, i), x.shape[1:], x.dtype)

        return weight * jax.vmap(of_sample)(keys)

    return draw


def sample_keys(name: str, key: Any, rows: int, shape: tuple[int, ...]) -> jax.Array:
    """The keys of the samples, (B,), or the noise itself, (rows, B, *D), from the argument `key`.

    Args:
      name: the public function that an error speaks for.
      key: one key (sample i then has fold_in(key, i)), (B,) keys, or the noise itself.
      rows: of the plan.
      shape: (B, *D), of the state.
    """
    if hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jnp.floating):
        wanted = (rows, *shape)
        if key.shape != wanted:
            raise ValueError(
                f"{name}: the noise given as key has shape {key.shape}; wanted (rows, B, *D) = "
                f"{wanted}."
            )
        return jnp.asarray(key)
    keys = _as_keys(name, key)
    batch = shape[0]
    if keys.shape not in ((), (batch,)):
        raise ValueError(
            f"{name}: {keys.shape} keys for a batch of {batch}; give one key, or one a sample."
        )
    if keys.ndim:
        return keys
    # One key for the batch: sample i has fold_in(key, i), whatever the other samples are.
    return jax.vmap(jax.random.fold_in, (None, 0))(keys, jnp.arange(batch))


def _no_noise(plan, x):
    """The noise of a plan that draws none: zero in every row."""
    if not _is_traced(plan.s) and np.any(np.asarray(plan.s) != 0):
        raise ValueError(
            "flowjax.sample: this plan draws noise in its steps (SDE or eta > 0) but key is None; "
            "pass key=jax.random.key(0)."
        )

    # A traced plan that draws noise cannot be refused, so its rows that do give NaN and status 2.
    def draw(weight, i):
        return jnp.where(weight == 0, 0.0, jnp.nan).astype(x.dtype)

    return draw


def _as_keys(name, key):
    """`key` as an array of typed keys, or a ValueError if it holds none."""
    is_seed = isinstance(key, int | np.integer) or (
        hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jnp.integer) and np.ndim(key) == 0
    )
    if is_seed:
        raise ValueError(f"{name}: key={key!r} is not a key; pass key=jax.random.key({key!r}).")
    if not hasattr(key, "dtype"):
        raise ValueError(
            f"{name}: key={key!r} is not a key; pass one that jax.random.key(0) or "
            "jax.random.split made."
        )
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    return jax.random.wrap_key_data(key)


# Checks


def check_velocity(model: Any, name: str) -> None:
    """Check that `model` is a function, for every sampler that takes a velocity.

    Args:
      model: what the caller gave.
      name: the public function that the error speaks for.

    Raises:
      ValueError: it is a field, a `models.Model`, an array or something else that cannot be called.
    """
    if callable(model):
        return
    kind = type(model).__name__
    if callable(getattr(model, "velocity", None)):
        hint = f"the {kind} has it as a method: pass field.velocity"
    elif callable(getattr(model, "apply", None)) and hasattr(model, "params"):
        hint = (
            f"bind the parameters and labels of the {kind}: "
            "lambda x, t: model.apply(model.params, x, t, label)"
        )
    elif isinstance(model, np.ndarray | jax.Array):
        hint = "an array stands in its place: the model comes first, then noise and plan"
    else:
        hint = f"a {kind} cannot be called"
    raise ValueError(f"{name}: model must be a function (x, t) -> velocity; {hint}.")


def _check_plan(plan):
    if not isinstance(plan, Plan):
        raise ValueError(
            f"flowjax.sample: plan is a {type(plan).__name__}; wanted a plan, for example "
            "flowjax.plans.euler(grid)."
        )


def _start(noise):
    """`noise` as a batch in float32 or more, or a ValueError."""
    noise = jnp.asarray(noise)
    if noise.ndim < 2 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"flowjax.sample: noise has shape {noise.shape} and dtype {noise.dtype}; wanted "
            "floating (B, *D), batch first."
        )
    return noise.astype(jnp.promote_types(noise.dtype, jnp.float32))


def _check_answer(velocity, x):
    """Check what the model returned for a state of shape `x.shape`."""
    if not hasattr(velocity, "shape"):
        raise ValueError(
            f"flowjax.sample: the model returned a {type(velocity).__name__}; wanted the velocity, "
            "an array. A model that returns (velocity, carry) needs its first carry: pass carry=."
        )
    if velocity.shape != x.shape:
        raise ValueError(
            f"flowjax.sample: the model returned shape {velocity.shape} for a state of shape "
            f"{x.shape}; wanted the same."
        )


def _is_traced(array):
    return isinstance(array, jax.core.Tracer)
