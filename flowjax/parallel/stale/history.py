"""What stale attention remembers when each sample chooses its own steps.

`flowjax.sample_adaptive` evaluates all samples at once, each at its own time and stage of its own step, and takes a
rejected step back. So what a part knows of the others' keys and values belongs to a sample: it is the carry of a model,
with the batch first, which `sample_adaptive` does not commit when it rejects. Three things follow.

Times. Copies come from evaluations that led to the accepted state. The copy that an evaluation at time t sees is the
polynomial through those of the last M of them, K1, K2, ... at t1, t2, ...,

    copy = sum_j K_j prod_{m != j} (t - t_m) / (t_j - t_m),

found on the device, since the times are. Two evaluations at one time (the last stage of a step and the first of the
next) count once, the newer one.

Stages. The number of evaluations that a sample has behind it on its accepted path says at which stage of a step it is,
because a rejected step is taken back, count and all: no word of the solver is needed.

Synchronous steps. The error estimate of an embedded pair is sum_j e_j m_j with sum_j e_j = 0. What staleness adds to all
m_j alike it does not see; a stale m_j beside a fresh one it takes for curvature. So all evaluations of a step are
synchronous or all are stale, as in `parallel.stale.policies`: those of the step after one in which the worst relative
staleness |KV - copy|/|KV| passed a bound.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice

HISTORIES = ("newest", "stage")


class Told(NamedTuple):
    """How a run remembers. A pytree of arrays: one program serves all of one size.

    Attributes:
      history: (P, S) bool, one True a line: which of S histories the evaluations of a stage read and extend; P stages a step.
      reach: (M,) bool: which of the last M evaluations of a history make the copy, the newest first.
      fresh: (P,) bool: stages that are synchronous in every step.
      bound: () the staleness that the step after can bear.
      first, offset: () the stage of evaluation 0; those after are (number - offset) mod P.
    """

    history: np.ndarray
    reach: np.ndarray
    fresh: np.ndarray
    bound: np.ndarray
    first: np.ndarray
    offset: np.ndarray


class Memory(NamedTuple):
    """The carry: of each sample, and all of it on the way to its accepted state. Leading axis B.

    Attributes:
      times: (B, S, M) of the evaluations remembered, the newest first; NaN where there is none.
      values: pytree of (B, S, M, ...), theirs.
      count, synced: (B,) evaluations, and how many of them were synchronous.
      step: (B,) the worst staleness metered in this step so far; infinite where there was no copy to compare.
      now: (B,) bool, this step is synchronous.
      used: (B,) the worst staleness of a copy that was used.
    """

    times: jax.Array
    values: Any
    count: jax.Array
    synced: jax.Array
    step: jax.Array
    now: jax.Array
    used: jax.Array


def told(
    name, pair, schedule, span, *, attention, forecast, history, estimate, staleness, slots=None
):
    """`Told` of a run with the embedded pair `pair`; `name` is the public function that a refusal speaks for.

    Args:
      pair, schedule, span: as `flowjax.sample_adaptive` uses them.
      attention: "stale", or "gather": every evaluation is synchronous.
      forecast: 0, 1 or 2: copies are held, or extrapolated from the last two or three evaluations.
      history: "newest": of all evaluations; "stage": each stage from its own in the steps before.
      estimate: "as it is", or "synchronous": stages that enter the error estimate are synchronous in every step.
      staleness: the bound of `Told`, at least 0; infinite: no step is synchronous but for what nothing is known of yet.
      slots: M, at least forecast + 1, and then S = P: runs of one size share a compiled program.
    """
    check_choice(name, "attention", attention, ("stale", "gather"))
    check_choice(name, "forecast", forecast, (0, 1, 2))
    check_choice(name, "history", history, HISTORIES)
    check_choice(name, "estimate", estimate, ("as it is", "synchronous"))
    if not (isinstance(staleness, (int, float, np.number)) and staleness >= 0):
        raise ValueError(
            f"{name}: staleness={staleness!r}; wanted a relative staleness |KV - copy|/|KV| of at least 0 that a step can "
            "bear, such as 0.1; numpy.inf bears any."
        )
    period = pair.stages - pair.reuses_last
    leaps = pair.in_log_snr and not np.isfinite(schedule.log_snr(float(span[0])))
    stage = np.arange(period) if history == "stage" else np.zeros(period, int)
    histories = period if slots or history == "stage" else 1
    fresh = np.full(period, attention == "gather")
    if estimate == "synchronous":
        fresh |= in_estimate(pair, schedule)
    return Told(
        stage[:, None] == np.arange(histories)[None],
        np.arange(slots or forecast + 1) <= forecast,
        fresh,
        np.float64(staleness),
        np.int64(
            period - 1 if pair.reuses_last else 0
        ),  # a pair that reuses its last stage begins with one
        np.int64(pair.reuses_last or leaps),
    )


def in_estimate(pair, schedule):
    """(P,) bool: which evaluations of a step have a weight in its error estimate."""
    weights = pair.steps(schedule, *(jnp.asarray([t]) for t in (0.6, 0.5))).error[0]
    found = np.zeros(pair.stages - pair.reuses_last, bool)
    np.logical_or.at(
        found, (np.arange(pair.stages) - pair.reuses_last) % len(found), np.asarray(weights) != 0
    )
    return found


def begin(told, like, dtype):
    """`Memory` of nothing.

    Args:
      told: `Told`.
      like: a pytree of (B, ...), an evaluation's values; only shapes and dtypes count.
      dtype: of the state, float32 at least: times are told apart in it.
    """
    batch = len(jax.tree.leaves(like)[0])
    shape = batch, told.history.shape[1], len(told.reach)
    values = jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape[1:]), leaf.dtype), like)
    zero, never = jnp.zeros(batch, jnp.int32), jnp.full(batch, jnp.inf, dtype)
    times, now = jnp.full(shape, jnp.nan, dtype), jnp.ones(batch, bool)
    return Memory(times, values, zero, zero, never, now, jnp.zeros_like(never))


def remembering(told, evaluate, whole=lambda sums: sums):
    """The model of `flowjax.sample_adaptive` whose carry is a `Memory`.

    Args:
      told: `Told`.
      evaluate: (x, t, copy, now) -> (velocity, this evaluation's values); copy and values are pytrees of (B, ...), and `now`
        (B,) bool says which samples are synchronous, so that everyone sees everyone's values of this evaluation.
      whole: sums (B,) over the values that are here -> over all of a sample's.

    Returns:
      (x, t, memory) -> (velocity, memory).
    """

    def model(x, t, memory):
        history, reach, fresh, *_ = (jnp.asarray(part) for part in told)
        stage = jnp.where(memory.count == 0, told.first, (memory.count - told.offset) % len(fresh))
        each, place = jnp.arange(len(stage)), jnp.argmax(history, axis=1)[stage]
        times, past = (
            memory.times[each, place],
            jax.tree.map(lambda all: all[each, place], memory.values),
        )
        weights = extrapolation(jnp.where(reach[None], times, jnp.nan), t)
        copy = jax.tree.map(lambda values: _combined(weights, values), past)
        unknown, begins = jnp.isnan(times[:, 0]), stage == 0
        now = jnp.where(begins, memory.step > told.bound, memory.now)
        synced = now | unknown | fresh[stage]
        velocity, new = evaluate(x, t, copy, synced)

        gap, size = (whole(_square(part)) for part in (jax.tree.map(jnp.subtract, new, copy), new))
        metered = jnp.where(unknown, jnp.inf, jnp.sqrt(gap / jnp.where(size > 0, size, 1))).astype(
            memory.step.dtype
        )
        again = (
            jnp.abs(times[:, 0] - t) <= 8 * jnp.finfo(t.dtype).eps
        )  # at the newest one's time: it takes its place
        push = lambda old, one: jnp.where(
            _like(again, old),
            old.at[:, 0].set(one),
            jnp.concatenate([one[:, None], old[:, :-1]], axis=1),
        )
        keep = lambda all, old, one: all.at[each, place].set(push(old, one.astype(all.dtype)))
        return velocity, Memory(
            keep(memory.times, times, t),
            jax.tree.map(keep, memory.values, past, new),
            memory.count + 1,
            memory.synced + synced,
            jnp.where(begins, metered, jnp.maximum(memory.step, metered)),
            now,
            jnp.where(synced, memory.used, jnp.maximum(memory.used, metered)),
        )

    return model


def extrapolation(times, t):
    """Weights (B, M) of values at `times` (B, M), NaN where there is none, in the polynomial through them at `t` (B,)."""
    known = jnp.isfinite(times)
    ahead = jnp.where(known, t[:, None] - times, 1)  # (B, M)
    apart = jnp.where(known[:, :, None] & known[:, None], times[:, :, None] - times[:, None], 1)
    factors = jnp.where(
        known[:, None], ahead[:, None] / jnp.where(apart == 0, 1, apart), 1
    )  # of j: over m
    others = ~jnp.eye(times.shape[1], dtype=bool)[None]
    return jnp.where(known, jnp.prod(jnp.where(others, factors, 1), axis=2), 0)


def _combined(weights, values):
    """sum_m weights_m values_m in their dtype: (B, M), (B, M, ...) -> (B, ...)."""
    wide = jnp.promote_types(values.dtype, jnp.float32)
    total = sum(
        _like(weights[:, m].astype(wide), values[:, m]) * values[:, m]
        for m in range(weights.shape[1])
    )
    return total.astype(values.dtype)


def _square(tree):
    """Sum of squares of each sample, (B,), in float32 at least."""
    wide = lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    return sum(
        jnp.sum(jnp.square(wide(leaf)), axis=tuple(range(1, leaf.ndim)))
        for leaf in jax.tree.leaves(tree)
    )


def _like(values, array):
    """(B,) values shaped to act on (B, ...)."""
    return values.reshape(values.shape + (1,) * (array.ndim - 1))
