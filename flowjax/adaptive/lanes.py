"""One evaluation of the network, for lanes that are each at their own place in their own step.

A lane holds one sample. Every turn of the loop evaluates the network once for all lanes, and each lane uses its answer
for the stage it is at: no lane waits for another to finish a step, and a rejected step restarts from its first stage
with the evaluation that it has. So a lane wastes an evaluation only when it has finished.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from flowjax.adaptive.control import (
    FAILURES,
    STRICT,
    arrives,
    choose,
    expand,
    far,
    finite,
    leap_in,
    resize,
)
from flowjax.adaptive.pairs import Steps, leap_out
from flowjax.sampling import NOT_FINITE, OK, OUT_OF_EVALUATIONS
from flowjax.schedules import predict

RUNNING = -1


class Lanes(NamedTuple):
    """State of the samples that are being solved, all (B, ...).

    Attributes:
      at, t_at: where the network is evaluated next.
      x, t: the accepted state and its time.
      h: size of the step from there, in the variable of the pair; on the leap out, alpha/sigma (sigma/alpha) of its end.
      t_next: end of that step.
      stage: of the evaluation at `at`, 0 is the start of the step.
      history: S arrays (B, *D), the evaluations of this step.
      steps: `Steps`, the coefficients of this step.
      low: the lower-order state of the last accepted step (controller="peers").
      failures: steps that were not finite.
      status: RUNNING, or as in `Solution`.
      nfe, accepted, rejected: counts.
      carry, start_carry: of the model now, and after the evaluation that a rejected step falls back to.
    """

    at: jax.Array
    t_at: jax.Array
    x: jax.Array
    t: jax.Array
    h: jax.Array
    t_next: jax.Array
    stage: jax.Array
    history: tuple
    steps: Steps
    low: jax.Array | None
    failures: jax.Array
    status: jax.Array
    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    carry: Any
    start_carry: Any


def combine(decay, weights, x, history):
    """decay x + sum_j weights_j m_j for each lane: weights (B, S). What has weight 0 may be anything."""
    total = expand(decay, x) * x
    for j, m in enumerate(history):
        weight = expand(weights[:, j], x)
        total = total + jnp.where(weight == 0, 0.0, weight * m)
    return total


def place_after(steps, stage, x, history):
    """The place that row `stage` (B,) of each lane's steps leads to, and its time."""
    row = lambda table: jnp.take_along_axis(table, expand(stage, table), axis=1)[:, 0]
    return combine(row(steps.decay), row(steps.weights), x, history), row(steps.times)


def propose(rule, t, h):
    """(size of the step, end of the step, its coefficients) from `t`, where `h` is wanted: it stops at the end exactly."""
    last, now = rule.place(jnp.full_like(t, rule.end)), rule.place(t)
    left = (far(t.dtype) if rule.leaps_in else rule.sign * last) - rule.sign * now
    left = jnp.maximum(left, 0.0)
    leaping = t == rule.start if rule.leaps_out else False
    h = jnp.where(leaping, h, jnp.minimum(h, left))
    target = jnp.where(leaping, rule.sign * jnp.log(h), now + rule.sign * h)
    stops = rule.sign * (last - target) <= 1e-6 * h
    between = jnp.minimum if rule.end > rule.start else jnp.maximum
    t_next = jnp.where(stops, rule.end, between(rule.pair.time(rule.schedule, target), rule.end))
    steps = rule.pair.steps(rule.schedule, t, t_next)
    if rule.leaps_out:
        leap = leap_out(rule.schedule, rule.pair.stages, rule.start > rule.end, t, t_next)
        steps = choose(leaping, leap, steps)
    return h, t_next, Steps(*(part.astype(t.dtype) for part in steps))


def begin(rule, x, carry):
    """Lanes at the start of the span, in states `x` (B, *D)."""
    size = x.shape[:1]
    t = jnp.full(size, rule.start, x.dtype)
    step, leap = rule.first(x.dtype)
    h, t_next, steps = propose(rule, t, jnp.broadcast_to(leap if rule.leaps_out else step, size))
    zero = jnp.zeros(size, jnp.int32)
    return Lanes(
        at=x, t_at=t, x=x, t=t, h=h, t_next=t_next, stage=zero,
        history=(jnp.zeros_like(x),) * rule.pair.stages, steps=steps,
        low=x if rule.peers else None,
        failures=zero, status=zero + RUNNING, nfe=zero, accepted=zero, rejected=zero, carry=carry, start_carry=carry,
    )  # fmt: skip


def judge(rule, lanes, history, leaping):
    """(higher-order result, lower-order one for the peers, error) of a step whose evaluations are all in `history`."""
    high, _ = place_after(lanes.steps, lanes.stage, lanes.x, history)
    difference = combine(jnp.zeros_like(lanes.t), lanes.steps.error, lanes.x, history)
    low = high - difference if rule.peers else None
    delta = rule.delta(lanes.low, low) if rule.peers else rule.delta(lanes.x, high)
    size = jnp.where(expand(finite(high), high), difference / delta, jnp.inf)
    error = rule.norm(size) * jnp.where(leaping, STRICT, 1.0).astype(lanes.x.dtype)
    return high, low, rule.share(jnp.where(jnp.isfinite(error), error, jnp.inf))


def advance(rule, lanes, velocity, carry):
    """Lanes after the network answered `velocity` at (lanes.at, lanes.t_at)."""
    pair, dtype = rule.pair, lanes.x.dtype
    running, stage = lanes.status == RUNNING, lanes.stage
    leaping = lanes.t == rule.start if rule.leaps_out else jnp.zeros_like(running)
    toward = "data" if rule.start > rule.end else "noise"
    prediction = predict(rule.schedule, pair.kind, velocity, lanes.at, lanes.t_at).astype(dtype)
    nearest = prediction
    if (rule.leaps_out or rule.leaps_in) and pair.kind != toward:
        nearest = predict(rule.schedule, toward, velocity, lanes.at, lanes.t_at).astype(dtype)
    newest = choose(leaping, nearest, prediction)
    history = tuple(choose(stage == k, newest, m) for k, m in enumerate(lanes.history))

    # The result and its error, where this was the last stage of a step.
    closes = running & (stage == jnp.where(leaping, 1, pair.stages - 1))
    high, low, error = judge(rule, lanes, history, leaping)
    accept, reject = closes & (error <= 1), closes & ~(error <= 1)
    x, t = choose(accept, (high, lanes.t_next), (lanes.x, lanes.t))
    h = jnp.where(closes, resize(rule, lanes.h, error, leaping), lanes.h)
    if rule.leaps_out:
        h = jnp.where(accept & leaping, rule.first(dtype)[0], h)

    # Lanes that now know the prediction at their accepted state, where a step starts.
    kept = accept & (leaping | pair.reuses_last)
    starts = running & ((stage == 0) | kept)
    history = (choose(kept, prediction, history[0]), *history[1:])
    broken = rule.share(rule.whole(jnp.where(starts & ~finite(prediction), 1.0, 0.0))) > 0
    failures = lanes.failures + (reject & jnp.isinf(error))
    arrived = accept & arrives(rule, t)
    if rule.leaps_in:
        end, bound = leap_in(rule, x, t, nearest)
        leaps = starts & ~broken & (rule.share(bound) <= 1)
        x, t = choose(leaps, (end, jnp.full_like(t, rule.end)), (x, t))
        arrived, accept = arrived | leaps, accept | leaps

    nfe = lanes.nfe + 1
    status = jnp.where(nfe >= rule.max_evaluations, OUT_OF_EVALUATIONS, RUNNING)
    status = jnp.where(broken | (failures >= FAILURES), NOT_FINITE, status)
    status = jnp.where(arrived, OK, status).astype(jnp.int32)

    # Where to evaluate next.
    h, t_next, steps = propose(rule, t, h)
    again = 0 if rule.peers else 1  # the peers evaluate the start of a rejected step again
    stage = jnp.where(closes, jnp.where(kept, 1, jnp.where(reject, again, 0)), stage + 1)
    at, t_at = place_after(steps, jnp.maximum(stage - 1, 0), x, history)
    at, t_at = choose((stage == 0) | (status != RUNNING), (x, t), (at, t_at))
    start_carry = choose(accept if rule.peers else starts, carry, lanes.start_carry)
    carry = choose(reject | (status > OK), start_carry, carry)
    new = Lanes(
        at=at, t_at=t_at, x=x, t=t, h=h, t_next=t_next, stage=stage.astype(jnp.int32), history=history, steps=steps,
        low=choose(accept, low, lanes.low) if rule.peers else None,
        failures=failures, status=status, nfe=nfe, accepted=lanes.accepted + accept, rejected=lanes.rejected + reject,
        carry=carry, start_carry=start_carry,
    )  # fmt: skip
    return choose(running, new, lanes)
