"""Stale attention with steps that each sample chooses, on one device and in any precision.

The solver is `flowjax.sample_adaptive`, unchanged; the model that it calls keeps what the devices know of each other in its
carry (see `parallel.stale.history`). What we found on 4 devices, beside the synchronous run (field: exact, of 12 data):

- The estimate of the DPM-Solver pairs does not see held copies, whose error all stages share: the steps stay and the
  error is that of an order-1 method. Field, order 3, tolerance 1e-5: 75 steps either way, error 267 tolerances for 0.5.
- The estimate of Dormand-Prince sees them, since its stages lie unequally far from what they see, and steps shrink. Field,
  tolerance 1e-6: 66 steps for 11, and the error is still 470 tolerances.
- A cure by stage, fresh evaluations where the estimate has a weight, saves none of a DPM-Solver pair's, 16 % of Dormand-
  Prince's.
- The polynomial through the newest evaluations, taken at each one's own time, is a cure where it is stable: what is missed
  shrinks with the step that is tried. Order 2 and a straight line: the same steps to 1 %, the same error to 6 %, and one
  synchronous evaluation, at tolerances from 1e-2 to 1e-5. Order 3 and a parabola: the same steps, 1 to 7 times the error.
- On the trained digits over 8 devices it is not stable: 59 steps for 9 at tolerance 0.03, and in vain. The bound makes the
  step after a bad one synchronous: with 0.1, 9.4 steps and 1.2 times the error, 37 % of it stale. A tighter tolerance
  wants a tighter bound and leaves less: at 0.01 with 0.05, 17 steps for 14, 1.9 times the error, 39 % stale.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive import sample_adaptive
from flowjax.adaptive.pairs import pair as find_pair
from flowjax.parallel.emulation.field import answer
from flowjax.parallel.emulation.network import contiguous, mixed_attention, tokens_of
from flowjax.parallel.stale.history import begin, remembering, told


class Stats(NamedTuple):
    """Counts per sample, (B,), as `flowjax.adaptive.AdaptiveStats`, and what was stale.

    Attributes:
      nfe, accepted, rejected, computed: int32.
      grid: as in `AdaptiveStats`.
      kept: evaluations on the way to the result; those of rejected steps, but for the first of each, are not.
      synced: how many of these were synchronous.
      staleness: the worst |KV - copy|/|KV|, over layers and tokens, of a copy that these used.
    """

    nfe: jax.Array
    accepted: jax.Array
    rejected: jax.Array
    computed: jax.Array
    grid: jax.Array | None
    kept: jax.Array
    synced: jax.Array
    staleness: jax.Array


def emulate_adaptive(
    model, noise, label, schedule, tolerance, *, devices, order, span, max_evaluations, staleness, method="dpm_solver_pp",
    attention="stale", forecast=1, history="newest", estimate="as it is", **options,
):  # fmt: skip
    """`flowjax.sample_adaptive` on one device as `devices` of them would run it.

    Args:
      model: a `flowjax.models.Model`.
      noise: (B, H, W, C) states at span[0]; float64 is computed in float64.
      label: (B,) integers, or None for the null label.
      schedule, tolerance, order, span, max_evaluations, method: as in `flowjax.sample_adaptive`.
      devices: n. Tokens lie on them as `parallel.emulation.network.contiguous` says.
      staleness: relative staleness that the next step can bear; above it, it is synchronous. Infinite: any.
      attention, forecast, history, estimate: as in `parallel.stale.history.told`.
      **options: variant, lockstep, save_grid of `flowjax.sample_adaptive`.

    Returns:
      `Solution` whose stats are `Stats`, and whose carry is None.
    """
    pair = find_pair("parallel.emulate_adaptive", method, order, options.get("variant", "midpoint"))
    how = told(
        "parallel.emulate_adaptive", pair, schedule, span, attention=attention, forecast=forecast, history=history,
        estimate=estimate, staleness=staleness,
    )  # fmt: skip
    shards = contiguous(tokens_of(model, noise), devices)
    options |= {"order": order, "span": span, "max_evaluations": max_evaluations, "method": method}
    return emulate_adaptive_with(model, noise, label, schedule, tolerance, shards, how, **options)


def emulate_adaptive_with(model, noise, label, schedule, tolerance, shards, how, **options):
    """`emulate_adaptive` with any parts and any `memory.Told`, which may be traced, as may all other arrays.

    Args:
      model, noise, label, schedule, tolerance: as in `emulate_adaptive`.
      shards: (L,) int, the device of each token.
      how: `memory.Told`, made for the same pair, schedule and span.
      **options: of `flowjax.sample_adaptive`.
    """
    config, tokens = model.card.config, tokens_of(model, noise)
    if np.shape(shards) != (tokens,):
        raise ValueError(
            f"parallel.emulate_adaptive: shards {np.shape(shards)} for {tokens} tokens; wanted one part a token."
        )
    same = jnp.asarray(shards)[:, None] == jnp.asarray(shards)[None]

    def evaluate(x, t, copy, now):
        fresh = now[:, None, None, None] | same[None, None]  # (B, 1, L, L): of this evaluation
        copy = jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), copy)  # layers first
        velocity, new = model.apply(
            model.params,
            x,
            t,
            label,
            attention=mixed_attention(copy, fresh),
            carry=jax.tree.map(jnp.zeros_like, copy),
        )
        return velocity, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), new)

    dtype = jnp.promote_types(jnp.asarray(noise).dtype, jnp.float32)
    shape = len(noise), config.depth, tokens, config.heads, config.width // config.heads
    like = jnp.zeros(shape, config.dtype or dtype)
    return solve(
        evaluate, noise, schedule, tolerance, how, begin(how, (like, like), dtype), **options
    )


def emulate_adaptive_field(field, noise, tolerance, shards, how, **options):
    """The same of the exact field of a finite data set, of which devices know inner products (see `parallel.emulation.field`).

    Args:
      field: a `flowjax.fields.DataSet`.
      noise: (B, *D).
      tolerance: as in `flowjax.sample_adaptive`.
      shards: (F,) int, the device of each number of a sample, whose values are known.
      how, **options: as in `emulate_adaptive_with`.
    """
    devices = int(np.max(shards)) + 1

    def evaluate(x, t, copy, now):
        fresh = now[:, None, None] | jnp.eye(devices, dtype=bool)[None]
        return answer(field, shards, x, t, copy.swapaxes(0, 1), fresh)

    noise = jnp.asarray(noise)
    dtype = jnp.promote_types(noise.dtype, jnp.float32)
    like = jnp.zeros((len(noise), devices, len(field.offsets)), dtype)
    return solve(
        evaluate, noise, field.schedule, tolerance, how, begin(how, like, dtype), **options
    )


def solve(evaluate, noise, schedule, tolerance, how, memory, *, whole=lambda sums: sums, **options):
    """`flowjax.sample_adaptive` of the model that `memory.remembering` makes of `evaluate`, with `Stats`.

    Args:
      evaluate, whole: as there.
      memory: from `memory.begin`.
    """
    model = remembering(how, evaluate, whole)
    found = sample_adaptive(model, noise, schedule, tolerance, carry=memory, **options)
    memory = found.carry
    return found._replace(
        stats=Stats(*found.stats, memory.count, memory.synced, memory.used), carry=None
    )
