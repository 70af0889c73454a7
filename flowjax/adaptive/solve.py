"""Error-controlled sampling: each sample chooses its steps from a tolerance, in one compiled loop.

**Steps.** Every sample has its own time, step size and counts, so its result does not depend on its
batch. One turn of the loop is one evaluation of the network for the whole batch, with each sample
at the stage that it has reached. Samples that have finished stay as they are, and `stats.computed`
counts what they cost. A rejected step reuses the evaluation at its start.

**Error of a step.** An embedded pair gives two results from the same evaluations, `high` and `low`.
Per sample, with means over its numbers,

    E = sqrt(mean(((high - low)/delta)^2))
    delta = max(atol, rtol max(|x before|, |x after|))

A step is accepted if E <= 1, and then `high` is the new state.

**Size of a step.** The next step is 0.9 E^(-1/order) times as long, within a factor of 5 in both
directions, and at most 2 in log-SNR. The first step is (atol + rtol)^(1/order)/2, in log-SNR for
the DPM-Solver methods and in t for "runge_kutta".

**Ends of infinite log-SNR** (t = 0, and t = 1 on paths that reach pure noise) are reached exactly,
by one step of order 1, a jump, whose error counts inside the tolerance.

- Away from t = 1: the error of the jump is |alpha1 (m_1 - m_0)|/2, with the data predictions m_0 at
  its start and m_1 at its end, where the next step starts. The jump is shortened until this is
  within delta/5. It is a fifth because the jump keeps its result of the lower order.
- Into t = 0: the jump is taken as soon as all that it can change, max(|jump|, sigma), is within
  delta. See `jumps.jump_to_end`.

**The same steps as a plan.** `plans.dpm_solver_pp(schedule, grid, order, method="singlestep")` on
the saved grid of a sample gives its result again.

**Several devices.** Under `jax.jit` over sharded arrays, the loop asks all devices at every turn
whether one of them still runs. Inside `jax.shard_map` the only collectives are those of the options
`axis_name` and `split`, and each device stops when its own samples have finished.

**The controller of the public codes.** controller="peers" repeats the public DPM-Solver codes step
for step in float64, for which the span must have finite log-SNR. Its first step is 0.05, the growth
of a step has no limit, delta uses the lower-order states, a rejected step is evaluated again from
its start, the run ends within 1e-5 of the end, and all samples take the same steps.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.adaptive.control import Tolerance
from flowjax.adaptive.lanes import RUNNING, advance, begin
from flowjax.adaptive.options import check_carry, check_model, check_noise, make_rule
from flowjax.adaptive.varying import vary, varying_axes
from flowjax.sampling import Solution, check_velocity, lift
from flowjax.schedules import Schedule
from flowjax.types import Array, PyTree

AxisNames = str | tuple[str, ...]


class AdaptiveStats(NamedTuple):
    """Counts per sample, (B,) int32.

    Attributes:
      nfe: evaluations that the sample used.
      accepted, rejected: steps.
      computed: evaluations that ran on the sample's lane, also those after it had finished: the
        cost of the sample.
      grid: (slots, B) times of the accepted states. The start comes first, and the last time is
        repeated up to the end of the array. None unless save_grid.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    computed: jax.Array
    grid: jax.Array | None = None


def sample_adaptive(
    model: Callable,
    noise: Array,
    schedule: Schedule,
    tolerance: Tolerance,
    *,
    order: int,
    span: tuple[float, float],
    max_evaluations: int,
    method: str = "dpm_solver_pp",
    variant: str = "midpoint",
    lockstep: bool = False,
    axis_name: AxisNames | None = None,
    split: AxisNames | None = None,
    controller: str = "default",
    carry: PyTree = None,
    save_grid: bool = False,
) -> Solution:
    """Solve from span[0] to span[1] in steps whose estimated error stays within `tolerance`.

    The docstring of the module `flowjax.adaptive.solve` explains the method.

    Args:
      model: (x, t) -> velocity (B, *D), with t (B,). With a carry: (x, t, carry) -> (velocity,
        carry).
      noise: (B, *D) states at span[0]. Half precision is raised to float32.
      schedule: the path that the velocity belongs to.
      tolerance: `Tolerance(atol, rtol)`, the error allowed in one step.
      order: of the higher result: 2 or 3; "runge_kutta" also has 5.
      span: (start, end) in [0, 1]; increasing to invert data to noise.
      max_evaluations: for each sample. A sample that has used them up has status 1 and keeps its
        last accepted state.
      method: "dpm_solver_pp" and "dpm_solver" step in log-SNR, with the data and the noise
        prediction. "runge_kutta" steps in t on the velocity: Heun-Euler (order 2),
        Bogacki-Shampine (3) or Dormand-Prince (5).
      variant: of the DPM-Solver updates, "midpoint" or "taylor", as in `plans.dpm_solver_pp`.
      lockstep: all samples take the same steps, and the error that decides is the largest one of
        the batch.
      axis_name: with lockstep inside shard_map, the mesh axis (or axes) over which the largest
        error is taken too. It costs one scalar for each evaluation, because the devices must agree
        on every step.
      split: inside shard_map, the mesh axis (or axes) over which the numbers of each sample lie, in
        equal parts. The error is then that of the complete sample, and all parts take the same
        steps. It costs three scalars a sample for each evaluation.
      controller: "default", or "peers": that of the public DPM-Solver codes.
      carry: state of the model, a pytree of arrays with leading axis B. What a rejected step did to
        it is taken back, sample by sample.
      save_grid: return the accepted times in `stats.grid`.

    Returns:
      `Solution` with `AdaptiveStats`. Status 2: the model's output was not finite at an accepted
      state, or in ten steps, each of which was repeated at a fifth of its length; x is the last
      accepted state. `carry` is that of the last evaluation; where a sample did not arrive, it is
      that of the last evaluation at the start of a step.

    Raises:
      ValueError: an option, a tolerance, a span or shapes that are not possible.
    """
    name = "flowjax.sample_adaptive"

    # Check what was given.
    check_velocity(model, name)
    x = check_noise(name, noise)
    check_carry(name, carry, len(x))
    lockstep = lockstep or controller == "peers"
    if axis_name is not None and not lockstep:
        raise ValueError(
            f"{name}: axis_name={axis_name!r} without lockstep=True; samples that choose their own "
            "steps need no axis. Leave it out, or give lockstep=True."
        )

    # How the steps of one sample depend on other samples, and on other devices.
    combine_errors, mean_over_devices = same_values, same_values
    if lockstep:
        combine_errors = functools.partial(_largest_everywhere, axis_name=axis_name)
    if split is not None:
        mean_over_devices = functools.partial(jax.lax.pmean, axis_name=split)

    rule = make_rule(
        name,
        schedule,
        tolerance,
        order=order,
        span=span,
        max_evaluations=max_evaluations,
        method=method,
        variant=variant,
        controller=controller,
        combine_errors=combine_errors,
        mean_over_devices=mean_over_devices,
    )
    model = lift(model, carry)
    velocity = check_model(name, model, x, rule.start, carry)
    axes = varying_axes(x, velocity, carry)

    # The loop: its state is (lanes, accepted times, turns so far).
    def turn(state):
        """One evaluation of the network for all lanes."""
        lanes, grid, turns = state
        velocity, carry = model(lanes.at, lanes.t_at, lanes.carry)
        lanes = advance(rule, lanes, velocity, carry)
        if save_grid:
            # Until the next step is accepted, the time is written again into the same slot.
            grid = grid.at[lanes.accepted, jnp.arange(len(x))].set(lanes.t, mode="drop")
        return vary((lanes, grid, turns + 1), axes)

    lanes = begin(rule, x, jax.tree.map(jnp.asarray, carry))
    grid = jnp.full((_slots(rule), len(x)), rule.start, x.dtype) if save_grid else None
    start = vary((lanes, grid, jnp.int32(0)), axes)
    lanes, grid, turns = jax.lax.while_loop(one_runs, turn, start)

    if save_grid:
        # The slots after the last accepted state repeat its time.
        written = jnp.arange(len(grid))[:, None] <= lanes.accepted[None]
        grid = jnp.where(written, grid, lanes.t[None])

    # Every lane runs in every turn, so all samples cost the same.
    computed = jnp.zeros_like(lanes.nfe) + turns
    stats = AdaptiveStats(lanes.nfe, lanes.accepted, lanes.rejected, computed, grid)
    return Solution(lanes.x, lanes.status, stats, None, lanes.carry)


def one_runs(state: tuple) -> jax.Array:
    """Whether a lane still runs; the state of the loop begins with the lanes."""
    return jnp.any(state[0].status == RUNNING)


def _slots(rule):
    """How many accepted states a sample can have: a bound from the evaluations.

    A step costs its stages, or one less where it reuses an evaluation. A jump costs one.
    """
    least_cost = rule.pair.stages - rule.pair.reuses_last
    return rule.max_evaluations // least_cost + 3


def same_values(values: jax.Array) -> jax.Array:
    """`values`: what `Rule` takes where samples, or devices, do not depend on each other."""
    return values


def _largest_everywhere(errors, *, axis_name):
    """The largest error of the batch, and of the mesh axes if they are named, in each lane: (B,).

    The collective is a pmax, because the devices must agree on every step.
    """
    largest = jnp.max(errors)
    if axis_name is not None:
        largest = jax.lax.pmax(largest, axis_name)
    return jnp.broadcast_to(largest, errors.shape)
