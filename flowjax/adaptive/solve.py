"""Error-controlled sampling: each sample chooses its own steps from a tolerance, in one compiled loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive.control import Rule, Tolerance, choose
from flowjax.adaptive.lanes import RUNNING, advance, begin
from flowjax.adaptive.pairs import pair as find_pair
from flowjax.errors import check_choice
from flowjax.sampling import Solution, lift


class AdaptiveStats(NamedTuple):
    """Counts per sample, (B,) int32.

    Attributes:
      nfe: evaluations that the sample used.
      accepted, rejected: steps.
      computed: evaluations that ran on the sample's lane, those after its end included: what they cost.
      grid: (slots, B) times of the accepted states, the start first, padded with the last one; None unless save_grid.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    computed: jax.Array
    grid: jax.Array | None = None


def sample_adaptive(
    model, noise, schedule, tolerance, *, order, span, max_evaluations, method="dpm_solver_pp", variant="midpoint",
    lockstep=False, axis_name=None, split=None, controller="default", carry=None, save_grid=False,
):  # fmt: skip
    """Solve from span[0] to span[1] with steps chosen so that the estimated error of each stays within `tolerance`.

    Every sample has its own time, step size and count, so its result does not depend on its batch. One turn of the loop
    is one evaluation of the network for the whole batch, each sample at the stage it has reached; samples that have
    finished are frozen, and `stats.computed` says what they cost. A rejected step keeps the evaluation at its start.

    Error of a step, per sample: E = sqrt(mean(((high - low)/delta)^2)), delta = max(atol, rtol max(|x before|, |x
    after|)), accepted if E <= 1; `high` is kept. The next step is .9 E^(-1/order) times as long, within a factor of 5
    either way and at most 2 in log-SNR. The first is half of (atol + rtol)^(1/order), in log-SNR (in t: "runge_kutta").

    Ends where log-SNR is infinite (t = 0; t = 1 on paths that reach pure noise) are reached exactly, by one step of order
    1 whose error counts inside the tolerance. Away from t = 1 its length is tried until the change of the data prediction
    over it says that its error, |alpha1 (m_1 - m_0)|/2, is within delta/5 (m_1 is also where the next step starts; a
    fifth, because the lower order is what is kept). Into t = 0 it is taken as soon as all that it can change,
    max(|leap|, sigma), is within delta: see `control.leap_in`. The plan `plans.dpm_solver_pp(schedule, grid, order,
    method="singlestep")` on the saved grid of a sample gives its result again.

    Under `jax.jit` over sharded arrays the loop asks all devices at every turn whether one still runs. Inside
    `jax.shard_map` it holds no collective but those of axis_name and split, and each device stops when its own samples are done.

    Args:
      model: (x, t) -> velocity (B, *D), t (B,); with a carry, (x, t, carry) -> (velocity, carry).
      noise: (B, *D) states at span[0]. Half precision is raised to float32.
      schedule: the path that the velocity belongs to.
      tolerance: `Tolerance(atol, rtol)`.
      order: of the higher result: 2 or 3; "runge_kutta" also 5.
      span: (start, end) in [0, 1]; increasing to invert data to noise.
      max_evaluations: for each sample; where they are used up the sample has status 1 and its last accepted state.
      method: "dpm_solver_pp" and "dpm_solver" step in log-SNR, with data and noise prediction; "runge_kutta" steps in t
        on the velocity: Heun-Euler, Bogacki-Shampine or Dormand-Prince.
      variant: of the DPM-Solver updates, "midpoint" or "taylor", as in `plans.dpm_solver_pp`.
      lockstep: the error is the maximum over the batch, and all samples take the same steps.
      axis_name: with lockstep inside shard_map, the mesh axis (or axes) over which the maximum is taken too: one scalar
        for each evaluation, because the devices must agree on every step.
      split: inside shard_map, the mesh axis (or axes) over which each sample's numbers lie in equal parts: its error is then
        that of the whole sample, at three scalars a sample for each evaluation, and all parts take the same steps.
      controller: "default", or "peers": the one of the public DPM-Solver codes, step for step in float64. Its first step is
        0.05, growth has no limit, delta uses the lower-order states, a rejected step is evaluated again from its start,
        it is within 1e-5 of the end when it stops, and it is in lockstep. The span must have finite log-SNR.
      carry: state of the model, a pytree with leading axis B: a rejected step is not committed, sample by sample.
      save_grid: keep the accepted times in `stats.grid`.

    Returns:
      `Solution` with `AdaptiveStats`. Status 2: the network's answer was not finite at an accepted state, or inside ten
      steps, each of which was tried again at a fifth of its length; x is the last accepted state. `carry` is that of the
      last evaluation, or of the last one at the start of a step where a sample did not arrive.

    Raises:
      ValueError: an option, a tolerance, a span or shapes that do not fit.
    """
    name = "flowjax.sample_adaptive"
    x = _state(name, noise)
    for leaf in jax.tree.leaves(carry):
        if np.shape(leaf)[:1] != x.shape[:1]:
            raise ValueError(
                f"{name}: carry has a leaf of shape {np.shape(leaf)} for a batch of {x.shape[0]}; wanted leading axis B, so "
                "that a rejected step can be taken back for one sample alone."
            )
    lockstep = lockstep or controller == "peers"
    if axis_name is not None and not lockstep:
        raise ValueError(
            f"{name}: axis_name={axis_name!r} without lockstep=True; samples of their own need no axis."
        )
    share = _maximum(axis_name) if lockstep else _same
    whole = _same if split is None else lambda mean: jax.lax.pmean(mean, split)
    rule = _rule(
        name,
        schedule,
        tolerance,
        order,
        span,
        max_evaluations,
        method,
        variant,
        controller,
        share,
        whole,
    )
    model = lift(model, carry)
    velocity, _ = _check_model(name, model, x, rule.start, carry)
    vary = _varying(x, velocity, carry)

    def body(state):
        lanes, grid, turns = state
        velocity, carry = model(lanes.at, lanes.t_at, lanes.carry)
        lanes = advance(rule, lanes, velocity, carry)
        if save_grid:
            grid = grid.at[lanes.accepted, jnp.arange(x.shape[0])].set(lanes.t, mode="drop")
        return vary((lanes, grid, turns + 1))

    lanes = begin(rule, x, jax.tree.map(jnp.asarray, carry))
    grid = jnp.full((_slots(rule), x.shape[0]), rule.start, x.dtype) if save_grid else None
    start = vary((lanes, grid, jnp.int32(0)))
    lanes, grid, turns = jax.lax.while_loop(
        lambda state: jnp.any(state[0].status == RUNNING), body, start
    )
    if save_grid:
        grid = jnp.where(
            jnp.arange(len(grid))[:, None] <= lanes.accepted[None], grid, lanes.t[None]
        )
    computed = jnp.zeros_like(lanes.nfe) + turns
    stats = AdaptiveStats(lanes.nfe, lanes.accepted, lanes.rejected, computed, grid)
    return Solution(lanes.x, lanes.status, stats, None, lanes.carry)


def sample_adaptive_many(
    model, noise, schedule, tolerance, *, lanes, order, span, max_evaluations, method="dpm_solver_pp", variant="midpoint"
):  # fmt: skip
    """`sample_adaptive` for more samples than run at a time: a lane whose sample is done takes the next one that waits.

    So lanes idle only at the very end, and `computed` stays near `nfe` however much samples differ.

    Args:
      model: (x, t, ids) -> velocity, all with leading axis `lanes`; ids are the samples' places in `noise`, to look up
        labels and whatever else belongs to a sample.
      noise: (M, *D), all samples.
      lanes: samples that run at a time.
      schedule, tolerance, order, span, max_evaluations, method, variant: as in `sample_adaptive`.

    Returns:
      `Solution` of the M samples, in their order, equal to that of `sample_adaptive` to rounding. `stats.computed` is
      (M,): each sample's share, turns of the loop times lanes over M.
    """
    name = "flowjax.sample_adaptive_many"
    x = _state(name, noise)
    count = x.shape[0]
    if lanes not in range(1, count + 1):
        raise ValueError(
            f"{name}: lanes={lanes!r} for {count} samples; wanted a whole number from 1 to {count}."
        )
    rule = _rule(
        name,
        schedule,
        tolerance,
        order,
        span,
        max_evaluations,
        method,
        variant,
        "default",
        _same,
        _same,
    )
    lifted = lambda x, t, ids: (model(x, t, ids), ids)
    ids = jnp.arange(lanes)
    velocity, _ = _check_model(name, lifted, x[:lanes], rule.start, ids)
    vary = _varying(x, velocity, None)

    def body(state):
        running, ids, waiting, results, turns = state
        running = advance(
            rule, running, model(running.at, running.t_at, jnp.minimum(ids, count - 1)), None
        )
        done = running.status != RUNNING
        where = jnp.where(done, ids, count)  # count is out of range: nothing is written
        found = running.x, running.status, running.nfe, running.accepted, running.rejected
        results = jax.tree.map(lambda all, new: all.at[where].set(new, mode="drop"), results, found)
        ids = jnp.where(done, jnp.minimum(waiting + jnp.cumsum(done) - 1, count), ids)
        fresh = begin(rule, x[jnp.minimum(ids, count - 1)], None)
        running = choose(done & (ids < count), fresh, running)
        return vary((running, ids, waiting + jnp.sum(done), results, turns + 1))

    zero = jnp.zeros(count, jnp.int32)
    start = (
        begin(rule, x[:lanes], None),
        ids,
        jnp.asarray(lanes, ids.dtype),
        (x, zero, zero, zero, zero),
        jnp.int32(0),
    )
    keep_going = lambda state: jnp.any(state[0].status == RUNNING)
    *_, (end, status, nfe, accepted, rejected), turns = jax.lax.while_loop(
        keep_going, body, vary(start)
    )
    computed = jnp.zeros_like(nfe) + (turns * lanes + count - 1) // count
    return Solution(end, status, AdaptiveStats(nfe, accepted, rejected, computed), None, None)


def _rule(
    name,
    schedule,
    tolerance,
    order,
    span,
    max_evaluations,
    method,
    variant,
    controller,
    share,
    whole,
):
    check_choice(name, "controller", controller, ("default", "peers"))
    pair = find_pair(name, method, order, variant)
    try:
        start, end = (float(t) for t in span)
    except (TypeError, ValueError):
        start = end = np.nan
    if not (0 <= start <= 1 and 0 <= end <= 1 and start != end):
        raise ValueError(
            f"{name}: span={span!r}; wanted two different times in [0, 1], such as (1.0, 0.0) from noise to data."
        )
    tolerance = Tolerance(*tolerance)
    if not any(isinstance(value, jax.core.Tracer) for value in tolerance):
        atol, rtol = (float(value) for value in tolerance)
        if not (0 <= atol < np.inf and 0 <= rtol < np.inf and atol + rtol > 0):
            raise ValueError(
                f"{name}: tolerance has atol={atol:g} and rtol={rtol:g}; wanted finite numbers of at least 0, one of them "
                "positive, such as Tolerance(1e-3, 1e-2)."
            )
    infinite = [not np.isfinite(schedule.log_snr(t)) for t in (start, end)]
    if controller == "peers" and (not pair.in_log_snr or any(infinite)):
        raise ValueError(
            f"{name}: controller='peers' with method={method!r} and span={span!r}; the public codes have the DPM-Solver "
            "methods only and cannot reach an infinite log-SNR: end and start inside, such as (0.999, 0.001), or use the "
            "default controller."
        )
    leaps_out, leaps_in = (pair.in_log_snr and end for end in infinite)
    least = pair.stages + leaps_out + leaps_in
    if (
        isinstance(max_evaluations, bool)
        or int(max_evaluations) != max_evaluations
        or max_evaluations < least
    ):
        raise ValueError(
            f"{name}: max_evaluations={max_evaluations!r}; a single step and the ends of order {order} take {least}, and a "
            "usual run some hundred: give a whole number of at least that, for example 1000."
        )
    return Rule(
        pair, schedule, tolerance, start, end, leaps_out, leaps_in, controller == "peers", share, whole,
        int(max_evaluations),
    )  # fmt: skip


def _state(name, noise):
    noise = jnp.asarray(noise)
    if noise.ndim < 2 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"{name}: noise has shape {noise.shape} and dtype {noise.dtype}; wanted floating (B, *D), batch first."
        )
    return noise.astype(jnp.promote_types(noise.dtype, jnp.float32))


def _check_model(name, model, x, start, carry):
    answer = jax.eval_shape(model, x, jnp.full(x.shape[:1], start, x.dtype), carry)
    if answer[0].shape != x.shape:
        raise ValueError(
            f"{name}: the model returned shape {answer[0].shape} for a state of shape {x.shape}; wanted the same."
        )
    return answer


def _same(values):
    return values


def _maximum(axis_name):
    """Errors (B,) -> their maximum over the batch, and over a mesh axis if it is named, in every lane."""

    def share(error):
        most = jnp.max(error)
        return jnp.broadcast_to(
            most if axis_name is None else jax.lax.pmax(most, axis_name), error.shape
        )

    return share


def _axes(leaf):
    """Mesh axes that an array inside shard_map varies over, in either spelling of its type."""
    kind = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    if hasattr(kind, "vma"):
        return frozenset(kind.vma or ())
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(manual.varying if manual else ())


def _varying(*arrays):
    """Function that types all leaves as varying over every mesh axis that `arrays` vary over, as loops in shard_map need."""
    axes = frozenset().union(*map(_axes, jax.tree.leaves(arrays)))

    def vary(leaf):
        missing = tuple(sorted(axes - _axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return lambda tree: jax.tree.map(vary, tree)


def _slots(rule):
    """Accepted states that a sample can have: a step costs its stages, less one if it reuses one; ends cost one."""
    return rule.max_evaluations // (rule.pair.stages - rule.pair.reuses_last) + 3
