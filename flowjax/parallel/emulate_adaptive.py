"""Stale attention with steps that each sample chooses, on one device and in any precision.

The solver is `flowjax.sample_adaptive`, unchanged; the model that it calls keeps what the devices know of each other in its
carry (see `parallel.memory`). What we found, in units of the tolerance and beside the synchronous run:

- The estimate of the DPM-Solver pairs does not see held copies, whose error all stages share: the steps are those of the
  synchronous run, and the error falls with their length, far above the tolerance.
- That of the Runge-Kutta pairs sees them, since their stages lie unequally far from what they see, and takes more steps.
- The cure by stage saves nothing: every evaluation of a DPM-Solver pair enters its estimate, and all but one of Dormand-
  Prince. What does save is to extrapolate from the newest evaluations, to each one's own time, so that staleness shrinks
  with the step that is tried; a pair of order p wants p - 1 as the order of the forecast, which is p of its error.
- On a trained network over many devices extrapolation is unstable, steps shrink without end, and the bound `staleness` is
  what stops that: it makes whole steps synchronous when the copies were bad.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.adaptive import sample_adaptive
from flowjax.adaptive.pairs import pair as find_pair
from flowjax.parallel.emulate import contiguous, mixed_attention, tokens_of
from flowjax.parallel.emulate_field import answer
from flowjax.parallel.memory import begin, remembering, told


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
      devices: n. Tokens lie on them as `parallel.emulate.contiguous` says.
      staleness: relative staleness that the next step can bear; above it, it is synchronous. Infinite: any.
      attention, forecast, history, estimate: as in `parallel.memory.told`.
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
            model.params, x, t, label, attention=mixed_attention(copy, fresh), carry=jax.tree.map(jnp.zeros_like, copy)
        )
        return velocity, jax.tree.map(lambda leaf: leaf.swapaxes(0, 1), new)

    dtype = config.dtype or jnp.promote_types(jnp.asarray(noise).dtype, jnp.float32)
    like = jnp.zeros((len(noise), config.depth, tokens, config.heads, config.width // config.heads), dtype)
    return solve(evaluate, noise, schedule, tolerance, how, begin(how, (like, like)), **options)


def emulate_adaptive_field(field, noise, tolerance, shards, how, **options):
    """The same of the exact field of a finite data set, of which devices know inner products (see `parallel.emulate_field`).

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
    return solve(evaluate, noise, field.schedule, tolerance, how, begin(how, like), **options)


def solve(evaluate, noise, schedule, tolerance, how, memory, *, whole=lambda sums: sums, **options):
    """`flowjax.sample_adaptive` of the model that `memory.remembering` makes of `evaluate`, with `Stats`.

    Args:
      evaluate, whole: as there.
      memory: from `memory.begin`.
    """
    model = remembering(how, evaluate, whole)
    found = sample_adaptive(model, noise, schedule, tolerance, carry=memory, **options)
    memory = found.carry
    return found._replace(stats=Stats(*found.stats, memory.count, memory.synced, memory.used), carry=None)
