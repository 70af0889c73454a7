"""Copies of keys and values where each sample chooses its own steps.

`flowjax.sample_adaptive` evaluates all samples at once. Each sample is at its own time and at its
own stage of its own step, and a rejected step is taken back. So the keys and values that a device
knows of other devices belong to a sample. They are the carry of a model, with the batch first, and
`sample_adaptive` does not commit the carry of a sample when it rejects a step. Three rules follow.

Times. A history holds the last M evaluations that led to the accepted state. The copy that an
evaluation at time t sees is the polynomial through K_1, K_2, ... of these evaluations, at their
times t_1, t_2, ...:

    copy = sum_j K_j prod_{m != j} (t - t_m) / (t_j - t_m).

Its weights are computed on the device, since the times are chosen there. Two evaluations at one
time (the last stage of a step and the first stage of the next) count once; the newer one replaces
the older one.

Stages. The history counts the evaluations on the accepted path of each sample. The stage is this
count modulo the stages of a step; the solver passes nothing. A rejected step takes back the count
as well.

Synchronous steps. The error estimate of an embedded pair is sum_j e_j m_j with sum_j e_j = 0. It
does not see staleness that is equal in all m_j. A stale m_j beside a synchronous one looks like
curvature. So the evaluations of a step are all synchronous or all stale, as in
`parallel.stale.policies`. A step is synchronous if the worst relative staleness |KV - copy|/|KV|
of the step before exceeded a bound.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive import Tolerance, sample_adaptive
from flowjax.adaptive.pairs import Pair
from flowjax.errors import check_choice
from flowjax.sampling import Solution
from flowjax.schedules import Schedule
from flowjax.types import PyTree

HISTORIES = ("newest", "stage")
ESTIMATES = ("as it is", "synchronous")


class HistoryRule(NamedTuple):
    """How copies are made and when a step is synchronous. A pytree of arrays.

    One program serves all rules of one size: P stages a step, S histories, M evaluations in each.

    Attributes:
      history_of_stage: (P, S) bool with one True a row, the history that a stage reads and extends.
      used: (M,) bool, which of the last M evaluations make the copy, newest first.
      synchronous: (P,) bool, the stages that are synchronous in every step.
      bound: (), the staleness of a step above which the next step is synchronous.
      first_stage: (), the stage of evaluation 0.
      offset: (), the stage of evaluation i > 0 is (i - offset) mod P.
    """

    history_of_stage: np.ndarray
    used: np.ndarray
    synchronous: np.ndarray
    bound: np.ndarray
    first_stage: np.ndarray
    offset: np.ndarray


class History(NamedTuple):
    """The carry: what a sample knows on the way to its accepted state. All leaves have a leading B.

    Attributes:
      times: (B, S, M) of the evaluations in each history, newest first; NaN where there is none.
      values: a pytree of (B, S, M, ...), the values of these evaluations.
      count: (B,) evaluations.
      synced: (B,) synchronous evaluations.
      metered: (B,) the worst staleness in this step so far; infinite where there was no copy.
      step_synced: (B,) bool, whether this step is synchronous.
      worst: (B,) the worst staleness of a copy that a stale evaluation used.
    """

    times: jax.Array
    values: PyTree
    count: jax.Array
    synced: jax.Array
    metered: jax.Array
    step_synced: jax.Array
    worst: jax.Array


class StaleAdaptiveStats(NamedTuple):
    """Counts per sample, (B,): those of `flowjax.adaptive.AdaptiveStats`, and the staleness.

    Attributes:
      nfe, accepted, rejected, computed: int32, as in `AdaptiveStats`.
      grid: as in `AdaptiveStats`.
      committed: evaluations on the path to the result. Of a rejected step it counts the first
        evaluation only, which the next trial uses again.
      synced: how many of the committed evaluations were synchronous.
      staleness: the worst |KV - copy|/|KV|, over layers and tokens, of a copy that a committed
        evaluation used.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    computed: jax.Array
    grid: jax.Array | None
    committed: jax.Array
    synced: jax.Array
    staleness: jax.Array


# (x, t, copy, synced) -> (velocity, values): copy and values are pytrees of (B, ...)
Evaluate = Callable[[jax.Array, jax.Array, PyTree, jax.Array], tuple[jax.Array, PyTree]]


def history_rule(
    name: str,
    pair: Pair,
    schedule: Schedule,
    span: tuple[float, float],
    *,
    attention: str,
    forecast: int,
    history: str,
    estimate: str,
    staleness: float,
    slots: int | None = None,
) -> HistoryRule:
    """The `HistoryRule` of a run with an embedded pair.

    Args:
      name: the public function in whose name a refusal speaks.
      pair: the embedded pair of `flowjax.sample_adaptive`.
      schedule: the path.
      span: (start, end).
      attention: "stale", or "gather", where every evaluation is synchronous.
      forecast: 0 holds the newest evaluation; 1 and 2 extrapolate the last two or three.
      history: "newest": copies come from the newest evaluations of any stage; "stage": each stage
        uses its own evaluations in earlier steps.
      estimate: "as it is"; or "synchronous": the stages that have a weight in the error estimate
        are synchronous in every step.
      staleness: the bound, at least 0. Infinite: only evaluations without a copy are synchronous.
      slots: M, at least forecast + 1; then also S = P, so that runs of one size share a compiled
        program.

    Raises:
      ValueError: the first option that does not fit.
    """
    check_choice(name, "attention", attention, ("stale", "gather"))
    check_choice(name, "forecast", forecast, (0, 1, 2))
    check_choice(name, "history", history, HISTORIES)
    check_choice(name, "estimate", estimate, ESTIMATES)
    if not (isinstance(staleness, (int, float, np.number)) and staleness >= 0):
        raise ValueError(
            f"{name}: staleness={staleness!r}; wanted the relative staleness |KV - copy|/|KV|, at "
            "least 0, above which the next step is synchronous, such as 0.1; numpy.inf allows any."
        )
    # A pair that reuses its last evaluation has P = stages - 1 new ones a step, and one more at the
    # start of the run: that one counts as the last stage of a step before the first.
    period = pair.stages - pair.reuses_last
    first_stage = period - 1 if pair.reuses_last else 0
    # The jump from infinite log-SNR takes one evaluation of its own before the first step.
    jumps = pair.in_log_snr and not np.isfinite(schedule.log_snr(float(span[0])))

    own_history = history == "stage"
    histories = period if slots or own_history else 1
    history_of_stage = np.arange(period) if own_history else np.zeros(period, int)
    synchronous = np.full(period, attention == "gather")
    if estimate == "synchronous":
        synchronous |= in_estimate(pair, schedule)
    return HistoryRule(
        history_of_stage=history_of_stage[:, None] == np.arange(histories)[None],
        used=np.arange(slots or forecast + 1) <= forecast,
        synchronous=synchronous,
        bound=np.float64(staleness),
        first_stage=np.int64(first_stage),
        offset=np.int64(pair.reuses_last or jumps),
    )


def in_estimate(pair: Pair, schedule: Schedule) -> np.ndarray:
    """(P,) bool: which evaluations of a step have a weight in its error estimate."""
    start, end = jnp.asarray([0.6]), jnp.asarray([0.5])  # any step shows which weights are 0
    weights = np.asarray(pair.steps(schedule, start, end).error[0])
    found = np.zeros(pair.stages - pair.reuses_last, bool)
    stage = (np.arange(pair.stages) - pair.reuses_last) % len(found)
    np.logical_or.at(found, stage, weights != 0)  # a reused evaluation has two weights
    return found


def begin(rule: HistoryRule, like: PyTree, dtype: Any) -> History:
    """The empty `History`.

    Args:
      rule: a `HistoryRule`.
      like: a pytree of (B, ...), the values of one evaluation; only shapes and dtypes count.
      dtype: of the state, at least float32: it must separate the times of two evaluations.
    """
    batch = len(jax.tree.leaves(like)[0])
    shape = batch, rule.history_of_stage.shape[1], len(rule.used)  # (B, S, M)
    zero = jnp.zeros(batch, jnp.int32)

    def empty(leaf: jax.Array) -> jax.Array:
        return jnp.zeros((*shape, *leaf.shape[1:]), leaf.dtype)

    return History(
        times=jnp.full(shape, jnp.nan, dtype),
        values=jax.tree.map(empty, like),
        count=zero,
        synced=zero,
        metered=jnp.full(batch, jnp.inf, dtype),
        step_synced=jnp.ones(batch, bool),
        worst=jnp.zeros(batch, dtype),
    )


def sample_with_history(
    evaluate: Evaluate,
    noise: jax.Array,
    schedule: Schedule,
    tolerance: Tolerance,
    rule: HistoryRule,
    history: History,
    *,
    sum_over_devices: Callable[[jax.Array], jax.Array] | None = None,
    **options: Any,
) -> Solution:
    """`flowjax.sample_adaptive` of the model that `with_history` makes of `evaluate`.

    Args:
      evaluate, rule, sum_over_devices: as in `with_history`.
      noise, schedule, tolerance: as in `flowjax.sample_adaptive`.
      history: from `begin`.
      **options: of `flowjax.sample_adaptive`.

    Returns:
      `Solution` with `StaleAdaptiveStats`, whose carry is None.
    """
    model = with_history(rule, evaluate, sum_over_devices)
    found = sample_adaptive(model, noise, schedule, tolerance, carry=history, **options)
    end = found.carry
    # The carry at the end counts committed evaluations, since rejected steps were taken back.
    stats = StaleAdaptiveStats(*found.stats, end.count, end.synced, end.worst)
    return found._replace(stats=stats, carry=None)


def with_history(
    rule: HistoryRule,
    evaluate: Evaluate,
    sum_over_devices: Callable[[jax.Array], jax.Array] | None = None,
) -> Callable[[jax.Array, jax.Array, History], tuple[jax.Array, History]]:
    """The model of `flowjax.sample_adaptive` whose carry is a `History`.

    Args:
      rule: a `HistoryRule`.
      evaluate: (x, t, copy, synced) -> (velocity, the values of this evaluation). Copy and values
        are pytrees of (B, ...). `synced` (B,) bool says for which samples all devices see all
        values of this evaluation.
      sum_over_devices: from sums (B,) over the values of one device to sums over those of all
        devices. None: one device has all values.

    Returns:
      (x, t, history) -> (velocity, history).
    """

    def model(x: jax.Array, t: jax.Array, history: History) -> tuple[jax.Array, History]:
        table = jax.tree.map(jnp.asarray, rule)
        stage = _stage(table, history.count)
        own = _place(table, stage)
        times = history.times[own]  # (B, M)
        values = jax.tree.map(lambda leaf: leaf[own], history.values)  # (B, M, ...)

        # The first evaluation of a step decides for all of them. A history that is empty gives no
        # copy, so the evaluation is synchronous then.
        copy = _copy(table, times, values, t)
        no_copy = jnp.isnan(times[:, 0])
        begins = stage == 0
        step_synced = jnp.where(begins, history.metered > table.bound, history.step_synced)
        synced = step_synced | no_copy | table.synchronous[stage]
        velocity, new = evaluate(x, t, copy, synced)

        staleness = _staleness(new, copy, sum_over_devices)
        staleness = jnp.where(no_copy, jnp.inf, staleness).astype(history.metered.dtype)
        replaces = _same_time(times[:, 0], t)
        return velocity, History(
            times=_push(history.times, own, replaces, t),
            values=jax.tree.map(
                lambda all, leaf: _push(all, own, replaces, leaf), history.values, new
            ),
            count=history.count + 1,
            synced=history.synced + synced,
            metered=jnp.where(begins, staleness, jnp.maximum(history.metered, staleness)),
            step_synced=step_synced,
            worst=jnp.where(synced, history.worst, jnp.maximum(history.worst, staleness)),
        )

    return model


def extrapolation(times: jax.Array, t: jax.Array) -> jax.Array:
    """Weights (B, M) of values in the value at `t` of the polynomial through them.

    Args:
      times: (B, M) of the values; NaN where there is none.
      t: (B,).
    """
    known = jnp.isfinite(times)
    both_known = known[:, :, None] & known[:, None]
    ahead = jnp.where(known, t[:, None] - times, 1)  # t - t_m, (B, M)
    apart = jnp.where(both_known, times[:, :, None] - times[:, None], 1)  # t_j - t_m, (B, M, M)
    apart = jnp.where(apart == 0, 1, apart)
    factors = jnp.where(known[:, None], ahead[:, None] / apart, 1)
    others = ~jnp.eye(times.shape[1], dtype=bool)[None]  # m != j
    return jnp.where(known, jnp.prod(jnp.where(others, factors, 1), axis=2), 0)


def _stage(rule, count):
    """(B,) the stage of the evaluation after `count` others."""
    later = (count - rule.offset) % len(rule.synchronous)
    return jnp.where(count == 0, rule.first_stage, later)


def _place(rule, stage):
    """The index (sample, history) of the history that each sample reads and extends."""
    history_of_stage = jnp.argmax(rule.history_of_stage, axis=1)
    return jnp.arange(len(stage)), history_of_stage[stage]


def _copy(rule, times, values, t):
    """The polynomial through the used values, at `t`: a pytree of (B, ...)."""
    weights = extrapolation(jnp.where(rule.used[None], times, jnp.nan), t)
    return jax.tree.map(lambda leaf: _combined(weights, leaf), values)


def _staleness(new, copy, sum_over_devices):
    """|new - copy|/|new| of each sample, (B,)."""
    gap = _square(jax.tree.map(jnp.subtract, new, copy))
    size = _square(new)
    if sum_over_devices is not None:
        gap, size = sum_over_devices(gap), sum_over_devices(size)
    return jnp.sqrt(gap / jnp.where(size > 0, size, 1))


def _same_time(newest, t):
    """Whether an evaluation is at the time of the newest one, up to rounding of the solver."""
    return jnp.abs(newest - t) <= 8 * jnp.finfo(t.dtype).eps


def _push(all_values, place, replaces, newest):
    """The histories (B, S, M, ...) with `newest` (B, ...) in front of those at `place`.

    Where `replaces` (B,), it takes the place of the newest; elsewhere the oldest goes.
    """
    # Both outcomes are formed, since the choice differs from sample to sample.
    newest = newest.astype(all_values.dtype)
    old = all_values[place]  # (B, M, ...)
    replaced = old.at[:, 0].set(newest)
    shifted = jnp.concatenate([newest[:, None], old[:, :-1]], axis=1)
    return all_values.at[place].set(jnp.where(_like(replaces, old), replaced, shifted))


def _combined(weights, values):
    """sum_m weights_m values_m in the dtype of the values: (B, M), (B, M, ...) -> (B, ...)."""
    wide = jnp.promote_types(values.dtype, jnp.float32)
    terms = (
        _like(weights[:, m].astype(wide), values[:, m]) * values[:, m]
        for m in range(weights.shape[1])
    )
    return sum(terms).astype(values.dtype)


def _square(tree):
    """The sum of squares of each sample, (B,), in float32 at least."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        total += jnp.sum(jnp.square(wide), axis=tuple(range(1, leaf.ndim)))
    return total


def _like(values, array):
    """(B,) values with trailing axes of size 1, to act on an array (B, ...)."""
    return values.reshape(values.shape + (1,) * (array.ndim - 1))
