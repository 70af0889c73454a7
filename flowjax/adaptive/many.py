"""Error-controlled sampling of more samples than run at a time: lanes that finish are refilled."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.adaptive.control import Rule, Tolerance, choose
from flowjax.adaptive.lanes import RUNNING, Lanes, advance, begin
from flowjax.adaptive.options import check_model, check_noise, make_rule
from flowjax.adaptive.solve import AdaptiveStats, one_runs, same_values
from flowjax.adaptive.varying import vary, varying_axes
from flowjax.sampling import Solution, check_velocity
from flowjax.schedules import Schedule
from flowjax.types import Array


class Results(NamedTuple):
    """What is known of all samples, with leading axis M."""

    x: jax.Array
    status: jax.Array
    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array


class Queue(NamedTuple):
    """State of the loop.

    Attributes:
      lanes: the samples that run.
      ids: (lanes,) the sample of each lane, or M where none was left to take.
      waiting: () the next sample to take.
      results: of all samples.
      turns: () turns of the loop so far.
    """

    lanes: Lanes
    ids: jax.Array
    waiting: jax.Array
    results: Results
    turns: jax.Array


def sample_adaptive_many(
    model: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    noise: Array,
    schedule: Schedule,
    tolerance: Tolerance,
    *,
    lanes: int,
    order: int,
    span: tuple[float, float],
    max_evaluations: int,
    method: str = "dpm_solver_pp",
    variant: str = "midpoint",
) -> Solution:
    """`sample_adaptive` for more samples than run at a time.

    A lane whose sample has finished takes the next sample that waits. So lanes are idle only at the
    very end, and `computed` stays near `nfe` however much the samples differ.

    Args:
      model: (x, t, ids) -> velocity, all with leading axis `lanes`. The ids are the indices of the
        samples in `noise`, with which the model finds the label, or whatever else belongs to a
        sample.
      noise: (M, *D), all samples.
      lanes: how many samples run at a time.
      schedule, tolerance, order, span, max_evaluations, method, variant: as in `sample_adaptive`.

    Returns:
      `Solution` of the M samples in their order. It equals that of `sample_adaptive` up to
      rounding. `stats.computed` (M,) is the mean cost of a sample: turns of the loop times lanes
      over M.

    Raises:
      ValueError: an option, a tolerance, a span or shapes that are not possible.
    """
    name = "flowjax.sample_adaptive_many"

    # Check what was given.
    check_velocity(model, name)
    x = check_noise(name, noise)
    count = len(x)
    if isinstance(lanes, (bool, float)) or lanes not in range(1, count + 1):
        raise ValueError(
            f"{name}: lanes={lanes!r} for {count} samples; wanted a whole number from 1 to {count}."
        )
    rule = make_rule(
        name,
        schedule,
        tolerance,
        order=order,
        span=span,
        max_evaluations=max_evaluations,
        method=method,
        variant=variant,
        controller="default",
        combine_errors=same_values,
        mean_over_devices=same_values,
    )

    def with_ids(x, t, ids):
        return model(x, t, ids), ids

    ids = jnp.arange(lanes)
    velocity = check_model(name, with_ids, x[:lanes], rule.start, ids)
    axes = varying_axes(x, velocity)

    # The loop: the model sees an existing sample in lanes that found none left.
    def turn(queue):
        """One evaluation of the network for all lanes; those that have finished are refilled."""
        running = queue.lanes
        velocity = model(running.at, running.t_at, jnp.minimum(queue.ids, count - 1))
        queue = queue._replace(lanes=advance(rule, running, velocity, None), turns=queue.turns + 1)
        return vary(_refill(rule, x, queue), axes)

    zero = jnp.zeros(count, jnp.int32)
    start = Queue(
        lanes=begin(rule, x[:lanes], None),
        ids=ids,
        waiting=jnp.asarray(lanes, ids.dtype),
        results=Results(x, zero, zero, zero, zero),
        turns=jnp.int32(0),
    )
    end = jax.lax.while_loop(one_runs, turn, vary(start, axes))

    # The cost of all lanes in all turns, divided among the samples and rounded up.
    results = end.results
    mean_cost = (end.turns * lanes + count - 1) // count
    computed = jnp.zeros_like(results.nfe) + mean_cost
    stats = AdaptiveStats(results.nfe, results.accepted, results.rejected, computed)
    return Solution(results.x, results.status, stats, None, None)


def _refill(rule: Rule, x: jax.Array, queue: Queue) -> Queue:
    """The queue after each finished lane wrote its result and took the next sample of `x`."""
    lanes, ids, waiting = queue.lanes, queue.ids, queue.waiting
    count = len(x)
    done = lanes.status != RUNNING

    # The index `count` is out of range, so that the lanes that still run write nothing.
    where = jnp.where(done, ids, count)
    found = Results(lanes.x, lanes.status, lanes.nfe, lanes.accepted, lanes.rejected)
    results = jax.tree.map(
        lambda every, new: every.at[where].set(new, mode="drop"), queue.results, found
    )

    # The k-th lane that is done takes the k-th sample that waits, while there is one.
    next_ids = jnp.minimum(waiting + jnp.cumsum(done) - 1, count)
    ids = jnp.where(done, next_ids, ids)
    fresh = begin(rule, x[jnp.minimum(ids, count - 1)], None)
    lanes = choose(done & (ids < count), fresh, lanes)
    return queue._replace(lanes=lanes, ids=ids, waiting=waiting + jnp.sum(done), results=results)
