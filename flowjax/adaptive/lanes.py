"""The adaptive loop, one evaluation at a time: judge, accept, place.

A lane holds one sample. Each lane is at its own time, and at its own stage of its own step. Every
turn of the loop evaluates the network once for all lanes, and `advance` then does three things:

    judge     where the evaluation completes a step, estimate the error of that step
    accept    move the accepted state, resize the step, jump to the end, settle the status
    place     lay out the next step, and find where to evaluate next

No lane waits for another lane to complete a step. A rejected step starts again from its second
stage, because the evaluation at its start stays valid. So a lane wastes evaluations only after it
has finished.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from flowjax.adaptive.control import (
    FAILURES,
    JUMP_STRICTNESS,
    Rule,
    arrives,
    choose,
    expand,
    finite,
    resize,
)
from flowjax.adaptive.jumps import jump_to_end
from flowjax.adaptive.pairs import Steps
from flowjax.adaptive.steps import combine, place_of_row, propose
from flowjax.sampling import NOT_FINITE, OK, OUT_OF_EVALUATIONS
from flowjax.schedules import predict
from flowjax.types import PyTree

RUNNING = -1


class Lanes(NamedTuple):
    """State of the samples that are being solved; every array has the leading axis B.

    Attributes:
      at, t_at: the state and time of the next evaluation.
      x, t: the accepted state and its time.
      h: size of the step from there, in the coordinate of the pair. For the jump from the start it
        is alpha/sigma of its end (sigma/alpha when inverting).
      t_next: end of that step.
      stage: of the evaluation at `at`; 0 is the start of the step.
      history: S arrays (B, *D), the evaluations of this step.
      steps: `Steps`, the coefficients of this step.
      low: the lower-order result of the last accepted step (controller="peers"), or None.
      failures: number of steps whose result was not finite.
      status: RUNNING, or as in `Solution`.
      nfe, accepted, rejected: counts.
      carry: of the model now.
      start_carry: of the model after the evaluation to which a rejected step falls back.
    """

    at: jax.Array
    t_at: jax.Array
    x: jax.Array
    t: jax.Array
    h: jax.Array
    t_next: jax.Array
    stage: jax.Array
    history: tuple[jax.Array, ...]
    steps: Steps
    low: jax.Array | None
    failures: jax.Array
    status: jax.Array
    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    carry: PyTree
    start_carry: PyTree


class Evaluation(NamedTuple):
    """What the newest evaluation of the network gave.

    Attributes:
      prediction: (B, *D) of the kind that the pair combines.
      end_prediction: (B, *D) of the end to which the span leads: data, or noise when inverting.
      history: S arrays (B, *D), the evaluations of each lane's step with this one.
      jumping: (B,) the lane's step is the jump from the start.
    """

    prediction: jax.Array
    end_prediction: jax.Array
    history: tuple[jax.Array, ...]
    jumping: jax.Array


class Judgement(NamedTuple):
    """What the error estimate says of each lane's step.

    Attributes:
      complete: (B,) the step has all its evaluations, so it is accepted or rejected now.
      accepted, rejected: (B,) complete with E <= 1; complete with another E.
      error: (B,) E, of use where the step is complete.
      high: (B, *D) the result of the higher order.
      low: (B, *D) that of the lower order (controller="peers"), or None.
    """

    complete: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    error: jax.Array
    high: jax.Array
    low: jax.Array | None


class Progress(NamedTuple):
    """Where each lane stands after its step was accepted or rejected.

    Attributes:
      x, t: the accepted state and its time.
      h: size of the next step.
      history: S arrays (B, *D). Its first is the evaluation at `x` where that is known.
      moved: (B,) the accepted state changed: an accepted step, or the jump to the end.
      at_start: (B,) the newest evaluation lies at the start of a step.
      reuses: (B,) the newest evaluation ended one step and starts the next.
      failures, status, nfe: as in `Lanes`.
    """

    x: jax.Array
    t: jax.Array
    h: jax.Array
    history: tuple[jax.Array, ...]
    moved: jax.Array
    at_start: jax.Array
    reuses: jax.Array
    failures: jax.Array
    status: jax.Array
    nfe: jax.Array


def begin(rule: Rule, x: jax.Array, carry: PyTree) -> Lanes:
    """Lanes at the start of the span, in states `x` (B, *D)."""
    size = x.shape[:1]
    t = jnp.full(size, rule.start, x.dtype)
    first = rule.first_jump(x.dtype) if rule.jumps_at_start else rule.first_step(x.dtype)
    h, t_next, steps = propose(rule, t, jnp.broadcast_to(first, size))
    zero = jnp.zeros(size, jnp.int32)
    return Lanes(
        at=x,
        t_at=t,
        x=x,
        t=t,
        h=h,
        t_next=t_next,
        stage=zero,
        history=(jnp.zeros_like(x),) * rule.pair.stages,
        steps=steps,
        low=x if rule.peers else None,
        failures=zero,
        status=zero + RUNNING,
        nfe=zero,
        accepted=zero,
        rejected=zero,
        carry=carry,
        start_carry=carry,
    )


def advance(rule: Rule, lanes: Lanes, velocity: jax.Array, carry: PyTree) -> Lanes:
    """Lanes after one evaluation of the network. Lanes that have finished stay as they are.

    Args:
      rule: of the run.
      lanes: before the evaluation.
      velocity: (B, *D) what the network returned at (lanes.at, lanes.t_at).
      carry: of the model after that evaluation.
    """
    evaluation = record(rule, lanes, velocity)
    judgement = judge(rule, lanes, evaluation)
    progress = accept(rule, lanes, evaluation, judgement)
    after = place(rule, lanes, judgement, progress, carry)
    running = lanes.status == RUNNING
    return choose(running, after, lanes)


def record(rule: Rule, lanes: Lanes, velocity: jax.Array) -> Evaluation:
    """The velocity (B, *D) as predictions, and as m_k in the history of a lane at stage k."""
    pair, dtype = rule.pair, lanes.x.dtype
    running = lanes.status == RUNNING
    jumping = lanes.t == rule.start if rule.jumps_at_start else jnp.zeros_like(running)

    prediction = predict(rule.schedule, pair.kind, velocity, lanes.at, lanes.t_at).astype(dtype)
    end_prediction = prediction
    end_kind = "data" if rule.start > rule.end else "noise"
    if (rule.jumps_at_start or rule.jumps_at_end) and pair.kind != end_kind:
        end_prediction = predict(rule.schedule, end_kind, velocity, lanes.at, lanes.t_at)
        end_prediction = end_prediction.astype(dtype)

    newest = choose(jumping, end_prediction, prediction)
    history = tuple(choose(lanes.stage == k, newest, m) for k, m in enumerate(lanes.history))
    return Evaluation(prediction, end_prediction, history, jumping)


def judge(rule: Rule, lanes: Lanes, evaluation: Evaluation) -> Judgement:
    """Estimate the error of each step that the newest evaluation completes.

    With the two results of the pair, in each sample:

        E = sqrt(mean(((high - low)/delta)^2))
        delta = max(atol, rtol max(|x before|, |x after|))

    A step is accepted if E <= 1. The peers' controller takes the lower-order states in delta. For
    the jump from the start E is multiplied by 5. A result that is not finite has an infinite error.
    """
    running = lanes.status == RUNNING
    last_stage = jnp.where(evaluation.jumping, 1, rule.pair.stages - 1)
    complete = running & (lanes.stage == last_stage)

    # The two results of the pair.
    high, _ = place_of_row(lanes.steps, lanes.stage, lanes.x, evaluation.history)
    no_decay = jnp.zeros_like(lanes.t)
    difference = combine(no_decay, lanes.steps.error, lanes.x, evaluation.history)
    low = high - difference if rule.peers else None

    # Their difference in units of the tolerance.
    delta = rule.delta(lanes.low, low) if rule.peers else rule.delta(lanes.x, high)
    in_tolerances = jnp.where(expand(finite(high), high), difference / delta, jnp.inf)
    strictness = jnp.where(evaluation.jumping, JUMP_STRICTNESS, 1.0).astype(lanes.x.dtype)
    error = rule.norm(in_tolerances) * strictness
    error = rule.combine_errors(jnp.where(jnp.isfinite(error), error, jnp.inf))

    passes = error <= 1
    return Judgement(complete, complete & passes, complete & ~passes, error, high, low)


def accept(rule: Rule, lanes: Lanes, evaluation: Evaluation, judgement: Judgement) -> Progress:
    """Move each lane whose step was accepted, resize the next step, and settle who has finished.

    An accepted step moves to (high, t_next); a rejected one stays at (x, t). In both cases the next
    step has the size 0.9 E^(-1/p) h. A lane whose evaluation lies at its accepted state then jumps
    to an end of infinite log-SNR, if the bound of `jump_to_end` is within the tolerance.
    """
    running = lanes.status == RUNNING
    accepted = judgement.accepted

    # Move to the end of an accepted step, and choose the size of the next one.
    here, there = (lanes.x, lanes.t), (judgement.high, lanes.t_next)
    x, t = choose(accepted, there, here)
    resized = resize(rule, lanes.h, judgement.error, evaluation.jumping)
    h = jnp.where(judgement.complete, resized, lanes.h)
    if rule.jumps_at_start:
        h = jnp.where(accepted & evaluation.jumping, rule.first_step(x.dtype), h)

    # Find the lanes whose newest evaluation lies at their accepted state, where a step starts.
    reuses = accepted & (evaluation.jumping | rule.pair.reuses_last)
    at_start = running & ((lanes.stage == 0) | reuses)
    first = choose(reuses, evaluation.prediction, evaluation.history[0])
    history = (first, *evaluation.history[1:])

    # Find the lanes that cannot go on: where a step starts, the prediction must be finite.
    not_finite = jnp.where(at_start & ~finite(evaluation.prediction), 1.0, 0.0)
    broken = rule.combine_errors(rule.mean_over_devices(not_finite)) > 0
    failures = lanes.failures + (judgement.rejected & jnp.isinf(judgement.error))

    # Jump to the end as soon as the error of the jump is within the tolerance.
    moved, arrived = accepted, accepted & arrives(rule, t)
    if rule.jumps_at_end:
        end, bound = jump_to_end(rule, x, t, evaluation.end_prediction)
        jumps = at_start & ~broken & (rule.combine_errors(bound) <= 1)
        x, t = choose(jumps, (end, jnp.full_like(t, rule.end)), (x, t))
        moved, arrived = moved | jumps, arrived | jumps

    # Settle the status. To arrive weighs most, then what is not finite, then the evaluations.
    nfe = lanes.nfe + 1
    status = jnp.where(nfe >= rule.max_evaluations, OUT_OF_EVALUATIONS, RUNNING)
    status = jnp.where(broken | (failures >= FAILURES), NOT_FINITE, status)
    status = jnp.where(arrived, OK, status).astype(jnp.int32)
    return Progress(x, t, h, history, moved, at_start, reuses, failures, status, nfe)


def place(
    rule: Rule, lanes: Lanes, judgement: Judgement, progress: Progress, carry: PyTree
) -> Lanes:
    """Lay out the next step of each lane, and find where the network is evaluated next.

    With the decay and weights of row stage-1 of the step from the accepted state x:

        at = decay x + sum_j weights_j m_j

    At stage 0 it is x itself. The carry of a rejected step is replaced by the one that the model
    had at the start of the step, so that the rejected evaluations leave no trace.
    """
    x, t, status = progress.x, progress.t, progress.status
    h, t_next, steps = propose(rule, t, progress.h)

    # The stage of the next evaluation: of a new step 0, or 1 if its start is evaluated already.
    stage_after_rejection = 0 if rule.peers else 1  # the public codes evaluate its start again
    stage_of_new_step = jnp.where(judgement.rejected, stage_after_rejection, 0)
    stage_of_new_step = jnp.where(progress.reuses, 1, stage_of_new_step)
    stage = jnp.where(judgement.complete, stage_of_new_step, lanes.stage + 1)

    # The state and time of that evaluation. A lane that has finished stays at its accepted state.
    at, t_at = place_of_row(steps, jnp.maximum(stage - 1, 0), x, progress.history)
    at, t_at = choose((stage == 0) | (status != RUNNING), (x, t), (at, t_at))

    # The carry of the model, taken back where a step is rejected or a sample does not arrive.
    commits = progress.moved if rule.peers else progress.at_start
    start_carry = choose(commits, carry, lanes.start_carry)
    carry = choose(judgement.rejected | (status > OK), start_carry, carry)

    return Lanes(
        at=at,
        t_at=t_at,
        x=x,
        t=t,
        h=h,
        t_next=t_next,
        stage=stage.astype(jnp.int32),
        history=progress.history,
        steps=steps,
        low=choose(progress.moved, judgement.low, lanes.low) if rule.peers else None,
        failures=progress.failures,
        status=status,
        nfe=progress.nfe,
        accepted=lanes.accepted + progress.moved,
        rejected=lanes.rejected + judgement.rejected,
        carry=carry,
        start_carry=start_carry,
    )
