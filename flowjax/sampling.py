"""The sampler: one scan over the rows of a plan. There is no other implementation of a fixed-step solver."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.plans.table import DEPTH

OK, OUT_OF_EVALUATIONS, NOT_FINITE = 0, 1, 2  # Solution.status


class Stats(NamedTuple):
    """Counts per sample, (B,) int32: evaluations of the network, accepted and rejected steps."""

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array


class Solution(NamedTuple):
    """What a sampler returns.

    Attributes:
      x: (B, *D) the state at the end.
      status: (B,) int32: 0 ok, 1 out of evaluations, 2 not finite.
      stats: `Stats`.
      path: (steps+1, B, *D) the accepted states with the start first (of UniPC the predicted ones), or None. Where the
        plan is traced (an argument of jit) its number of steps is unknown and the path has rows+1 entries; those after
        the last step repeat the end.
      carry: the model's state after the last evaluation.
    """

    x: jax.Array
    status: jax.Array
    stats: Stats
    path: jax.Array | None
    carry: Any


def lift(model, carry):
    """A model with a carry, `model(x, t, carry) -> (velocity, carry)`, from one without (where `carry` is None)."""
    return model if carry is not None else lambda x, t, carry: (model(x, t), carry)


def draw_noise(key, ids, shape):
    """Standard normal noise of samples `ids`: sample i's depends on (key, i) alone, not on its batch or device.

    Args:
      key: one JAX key.
      ids: (B,) integers.
      shape: shape of one sample, (*D,).

    Returns:
      (B, *D) in the default floating dtype.
    """
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape))(
        jnp.asarray(ids)
    )


def sample(
    model, noise, plan, *, key=None, carry=None, data_hook=None, state_hook=None, save_path=False
):
    """Run a fixed-step solver, given as a plan, from `noise` at time plan.t[0].

    jit the outermost function that is called again, with parameters, labels, noise and plan as arguments: one compiled
    program then serves every plan of the same number of rows, and `jax.vmap` over stacked plans runs many at once.

    Args:
      model: (x, t) -> velocity (B, *D), t a scalar; with a carry, (x, t, carry) -> (velocity, carry).
      noise: (B, *D) the state to start from. Half precision is raised to float32; the model sees that dtype.
      plan: a `flowjax.plans.Plan`.
      key: for plans that draw noise: one key (sample i then uses fold_in(key, i)), (B,) keys, or the noise itself
        (rows, B, *D). Row r of a sample with key k draws from fold_in(k, r).
      carry: initial state of a model that keeps one between evaluations.
      data_hook: (data, t) -> data, a correction of the data prediction (thresholding, inpainting); any plan takes it. Plans
        of the velocity take the path to be linear: elsewhere wrap them with `plans.with_path`.
      state_hook: (x, t, step) -> x, a correction of the accepted state after each step, step = 1..N.
      save_path: keep the accepted states.

    Returns:
      `Solution`.

    Raises:
      ValueError: shapes that do not match; a plan that draws noise without a key (under jit, where the plan's numbers
        are unknown, the result is NaN and status 2 instead).
    """
    noise = jnp.asarray(noise)
    if noise.ndim < 2 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"flowjax.sample: noise has shape {noise.shape} and dtype {noise.dtype}; wanted floating (B, *D), batch first."
        )
    x = noise.astype(jnp.promote_types(noise.dtype, jnp.float32))
    model = lift(model, carry)
    draw = _noise_source(key, plan, x)
    rows = in_dtype(plan, x.dtype)
    row_index = jnp.arange(plan.rows)
    step_index = jnp.cumsum(rows.ends_step)

    def body(state, scanned):
        x, base, history, carry = state
        row, i, step = scanned
        velocity, carry = model(x, row.label_time, carry)
        if velocity.shape != x.shape:
            raise ValueError(
                f"flowjax.sample: the model returned shape {velocity.shape} for a state of shape {x.shape}; wanted the same."
            )
        velocity = velocity.astype(x.dtype)
        if data_hook is not None:
            velocity = _corrected(data_hook, velocity, x, row)
        x, base, history = update(row, velocity, x, base, history, draw(row.s, i))
        if state_hook is not None:
            hooked = jnp.where(row.ends_step, state_hook(x, row.t_next, step), x)
            # Move base so that this row's update still gives the hooked state; c = 0 only where base is not used again.
            base = base + jnp.where(row.c == 0, 0.0, 1 / jnp.where(row.c == 0, 1.0, row.c)) * (
                hooked - x
            )
            x = hooked
        return (x, base, history, carry), (x if save_path else None)

    start = (x, x, (jnp.zeros_like(x),) * DEPTH, carry)
    (end, _, _, carry), states = jax.lax.scan(body, start, (rows, row_index, step_index))
    path = _accepted(x, states, plan) if save_path else None
    return Solution(end, *verdict(end, rows), path, carry)


def in_dtype(plan, dtype):
    """The plan with its floating columns in `dtype`, as JAX arrays."""

    def cast(column):
        column = jnp.asarray(column)
        return column.astype(dtype) if jnp.issubdtype(column.dtype, jnp.floating) else column

    return jax.tree.map(cast, plan)


def update(row, velocity, x, base, history, noise):
    """What a row does once the network has answered, elementwise: (x, base, history) after it (see plans.table).

    Args:
      row: one row of a plan, in the dtype of the state.
      velocity, x, base: of one shape.
      history: the last four m, newest first, each of that shape.
      noise: s z of this row.
    """
    history = (row.p * x + row.q * velocity, *history[:-1])
    base = row.a * base + _combine(row.b, history) + noise
    return row.c * base + _combine(row.d, history), base, history


def verdict(end, plan):
    """(status (B,), `Stats`) of the states (B, *D) that a run of `plan` ended in."""
    finite = jnp.all(jnp.isfinite(end), axis=tuple(range(1, end.ndim)))
    counts = (jnp.sum(plan.counted), jnp.sum(plan.ends_step), 0)
    stats = Stats(*(jnp.broadcast_to(n, finite.shape).astype(jnp.int32) for n in counts))
    return jnp.where(finite, OK, NOT_FINITE).astype(jnp.int32), stats


def _combine(weights, history):
    return sum(weights[j] * m for j, m in enumerate(history))


def _corrected(hook, velocity, x, row):
    """The velocity whose data prediction is the hook's. Where data does not depend on it (t = 0) it stays."""
    data = hook(row.data_x * x + row.data_v * velocity, row.t)
    safe = jnp.where(row.data_v == 0, 1.0, row.data_v)
    return jnp.where(row.data_v == 0, velocity, (data - row.data_x * x) / safe)


def _noise_source(key, plan, x):
    """Function (weight, row index) -> weighted noise (B, *D) for the rows of `plan`."""
    if key is None:
        if not isinstance(plan.s, jax.core.Tracer) and np.any(np.asarray(plan.s) != 0):
            raise ValueError(
                "flowjax.sample: this plan draws noise in its steps (SDE or eta > 0) but key is None; pass key=jax.random.key(0)."
            )
        return lambda weight, i: jnp.where(weight == 0, 0.0, jnp.nan).astype(x.dtype)
    keys = sample_keys("flowjax.sample", key, plan.rows, x.shape)
    if jnp.issubdtype(keys.dtype, jnp.floating):
        given = jnp.asarray(keys, x.dtype)
        return lambda weight, i: weight * given[i]
    return lambda weight, i: (
        weight
        * jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, i), x.shape[1:], x.dtype))(
            keys
        )
    )


def sample_keys(name, key, rows, shape):
    """The keys of the samples, (B,), or the noise itself, (rows, B, *D), from the argument `key`.

    Args:
      name: the public function in whose name a refusal speaks.
      key: one key (sample i then has fold_in(key, i)), (B,) keys, or the noise itself.
      rows: of the plan.
      shape: (B, *D), of the state.
    """
    is_number = not hasattr(key, "dtype")
    if is_number or (jnp.issubdtype(key.dtype, jnp.integer) and np.ndim(key) == 0):
        raise ValueError(
            f"{name}: key={key!r} is not a key; pass key=jax.random.key({key!r}), or the noise "
            "itself."
        )
    if jnp.issubdtype(key.dtype, jnp.floating):
        if key.shape != (rows, *shape):
            raise ValueError(
                f"{name}: the noise given as key has shape {key.shape}; wanted (rows, B, *D) = "
                f"{(rows, *shape)}."
            )
        return jnp.asarray(key)
    key = key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)
    batch = shape[0]
    if key.shape not in ((), (batch,)):
        raise ValueError(
            f"{name}: {key.shape} keys for a batch of {batch}; give one key, or one a sample."
        )
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))


def _accepted(start, states, plan):
    """The accepted states among the rows' states, start first: (steps+1, B, *D), or (rows+1, ...) for a traced plan."""
    size = plan.rows if isinstance(plan.ends_step, jax.core.Tracer) else plan.steps
    where = jnp.nonzero(plan.ends_step, size=size, fill_value=plan.rows - 1)[0]
    return jnp.concatenate([start[None], states[where]])
