"""The options of sampling on many devices: each one once, with its default, its meaning and its refusals.

`parallel.sample`, `parallel.program` and `parallel.emulate` take these options as keywords and build `Options` from them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.parallel.mesh import CFG, DATA, PIPE, RING, SEQ, token_shards
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import FORECASTS
from flowjax.parallel.stale.precision import bits_of
from flowjax.plans.table import Plan


class Options(NamedTuple):
    """How an image is sampled on many devices.

    Attributes:
      attention: how queries reach the keys and values of other devices.
        "gather", "ulysses", "ring" and "ulysses_ring" are exact (see `parallel.attention`).
        "stale" attends to this device's own keys and values of this row, and to those of other
        devices from the step before; in a plan with several rows a step, from the same substep
        (see `parallel.stale.model`).
        "pipefusion" splits the layers over the mesh axis pipe, and patches of the image follow
        each other through them (see `parallel.pipeline.stage`).
      guidance: the scale of classifier-free guidance; 1 is none. The two branches are two halves
        of the mesh where it has cfg=2, and two halves of the batch elsewhere.
      warmup: the number of synchronous steps at the start, exactly; at least 1. For "stale" and
        "pipefusion".
      policy: (steps,) from `parallel.stale.policies`, in place of warmup: which steps are
        synchronous, or the tolerance that decides it. For "stale", and for "pipefusion" where no
        step depends on a tolerance.
      refresh: the number of steps between two exchanges after the last synchronous step; None: no
        more exchanges. For "stale".
      gather: "late" (keep this device's keys and values, gather those of others one layer ahead)
        or "early" (keep the copies of all devices). None: "late" where it is possible, that is
        with refresh=1 and residual=False. For "stale".
      forecast: what other devices receive: 0, the newest keys and values; 1, 2 or "tuned": their
        extrapolation to the row in which they are used (see `parallel.stale.forecast`). For
        "stale" and "pipefusion".
      correction: the fraction, from 0 to 1, of its own miss that a device adds to the stale part of
        attention's output (see `parallel.attention.corrected`). None: `forecast.CORRECTION` with
        forecast="tuned", else 0. For "stale" and "pipefusion".
      comm_dtype: the number format of messages: None (that of the keys), "bfloat16", "int8" or
        "int4" (see `parallel.stale.precision`). For "stale".
      residual: send the error of the forecast instead of the forecast. Every device then keeps the
        keys and values of all devices, of as many rows as the forecast uses. For "stale".
      gains_per: which tokens have a gain in common with forecast="tuned": those of one "device"
        (with "pipefusion", of one patch), or none: each "token" has its own gain. For "stale" and
        "pipefusion".
      patches: the number M of patches of "pipefusion", which divides the number of tokens. The
        samples depend on M, not on the number of stages.
    """

    attention: str = "gather"
    guidance: float = 1.0
    warmup: int = 1
    policy: Any = None
    refresh: int | None = 1
    gather: str | None = None
    forecast: int | str = 0
    correction: float | None = None
    comm_dtype: str | None = None
    residual: bool = False
    gains_per: str = "device"
    patches: int | None = None

    @property
    def exchange_method(self) -> str:
        """The name of the method in `parallel.stale.exchange`: "late", "early" or "residual"."""
        if self.residual:
            return "residual"
        return self.gather or ("late" if self.refresh == 1 else "early")


class Use(NamedTuple):
    """Which options a kind of attention refuses, and the sentence that explains it.

    Attributes:
      refused: names of the options that must have their defaults.
      reason: the end of the refusal, after "with attention='...'".
    """

    refused: tuple[str, ...]
    reason: str


_EXACT = Use(
    ("policy", "forecast", "correction", "comm_dtype", "residual", "patches"),
    ", which is exact in every row; leave it, or take attention='stale'",
)
USES = {
    "gather": _EXACT,
    "ulysses": _EXACT,
    "ring": _EXACT,
    "ulysses_ring": _EXACT,
    "stale": Use(
        ("patches",),
        ", which splits an image over devices and not over time; leave it, or take attention='pipefusion'",
    ),
    "pipefusion": Use(
        ("refresh", "gather", "comm_dtype", "residual"),
        ", where no stage sends keys and values to another; leave it",
    ),
}
ATTENTIONS = tuple(USES)
EXACT = tuple(name for name, use in USES.items() if use is _EXACT)


def from_keywords(name: str, keywords: Mapping[str, Any]) -> Options:
    """`Options` from the keywords of the public function `name`; an unknown one is refused."""
    for keyword in keywords:
        check_choice(name, "the keyword", keyword, Options._fields)
    return Options(**keywords)


def check(name: str, options: Options, plan: Plan, attentions: Sequence[str] = ATTENTIONS) -> None:
    """Refuse options that do not fit each other or the plan. Nothing here depends on a mesh.

    Args:
      name: the public function in whose name the refusal speaks.
      options: `Options`.
      plan: a `Plan` with known numbers.
      attentions: the kinds of attention that this function has.

    Raises:
      ValueError: the first option that does not fit.
    """
    check_choice(name, "attention", options.attention, attentions)
    check_guidance(name, options.guidance)
    use = USES[options.attention]
    for option in use.refused:
        value = getattr(options, option)
        # correction=0 and forecast=False ask for nothing, as their defaults do.
        if not _is_default(option, value):
            raise ValueError(
                f"{name}: {option}={value!r} with attention={options.attention!r}{use.reason}."
            )
    if options.attention not in EXACT:
        check_stale(name, options, plan)


def check_guidance(name: str, guidance: float) -> None:
    """Refuse a scale of guidance that is not a finite number."""
    if not isinstance(guidance, (int, float)) or not math.isfinite(guidance):
        raise ValueError(f"{name}: guidance={guidance!r}; wanted a number, 1 for none.")


def check_stale(name: str, options: Options, plan: Plan) -> None:
    """Refuse options of stale attention that do not fit each other or the plan."""
    if options.gather is not None:
        check_choice(name, "gather", options.gather, ("late", "early"))
    check_choice(name, "forecast", options.forecast, FORECASTS)
    check_correction(name, options.correction)
    bits_of(name, options.comm_dtype)
    check_choice(name, "gains_per", options.gains_per, ("device", "token"))
    _check_synchronous_steps(name, options, plan.steps)
    _check_exchange(name, options)


def check_correction(name: str, correction: float | None) -> None:
    """Refuse a correction that is not a fraction from 0 to 1, or None."""
    if correction is None:
        return
    is_number = isinstance(correction, (int, float)) and not isinstance(correction, bool)
    if not is_number or not 0 <= correction <= 1:
        raise ValueError(
            f"{name}: correction={correction!r}; wanted a fraction from 0 to 1 of what a device's own values missed, "
            "or None."
        )


def _check_synchronous_steps(name, options, steps):
    """Refuse a warm-up or a policy that does not fit the steps, or both together."""
    warmup, policy = options.warmup, options.policy
    if not _is_integer(warmup) or not 1 <= warmup <= steps:
        raise ValueError(
            f"{name}: warmup={warmup!r} of {steps} steps; wanted an integer from 1, since the first step has no copies to "
            f"attend to, to {steps}, where every step is synchronous."
        )
    if policy is None:
        return
    policies.check(name, policy, steps)
    if warmup != 1:
        raise ValueError(
            f"{name}: warmup={warmup} and a policy, which decides by itself what is synchronous; leave warmup, or take "
            f"np.minimum(policy, policies.warm_up({steps}, {warmup}))."
        )


def _check_exchange(name, options):
    """Refuse a refresh that is no number of steps, and what needs an exchange in every step or copies that are kept."""
    refresh = options.refresh
    if refresh is not None and (not _is_integer(refresh) or refresh < 1):
        raise ValueError(
            f"{name}: refresh={refresh!r}; wanted an integer from 1, or None: no exchange after the warm-up."
        )
    if refresh != 1 and (options.policy is not None or options.forecast != 0 or options.residual):
        raise ValueError(
            f"{name}: refresh={refresh} with a policy, forecast or residual; these want an exchange in every step: take "
            "refresh=1."
        )
    if options.gather == "late" and (refresh != 1 or options.residual):
        what = "residual=True" if options.residual else f"refresh={refresh}"
        raise ValueError(
            f"{name}: gather='late' keeps no keys and values of other devices; {what} needs them: take gather='early'."
        )


def _is_default(option, value):
    """Whether the option has its default, or a value that asks for the same."""
    if value is None or isinstance(value, np.ndarray):
        return value is Options._field_defaults[option]
    if option == "correction":
        return not value
    return bool(value == Options._field_defaults[option])


def _is_integer(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def check_run(model, noise, label, plan, mesh, options):
    """Raise a ValueError about the first argument of `parallel.sample` that does not fit; return the labels, (B,)."""
    card, attention = model.card, options.attention
    check("parallel.sample", options, plan)
    if noise.ndim != 4 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"parallel.sample: noise has shape {noise.shape} and dtype {noise.dtype}; wanted floating (B, H, W, C)."
        )
    label = np.asarray(card.null_label if label is None else label)
    if label.shape not in ((), noise.shape[:1]) or not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"parallel.sample: label is {label.dtype}{label.shape}; wanted {len(noise)} integers."
        )
    if np.any((label < 0) | (label > card.null_label)):
        raise ValueError(
            f"parallel.sample: labels {label.ravel()[:8].tolist()}; wanted integers from 0 to {card.null_label - 1}, or "
            f"{card.null_label}, the null label."
        )
    tokens = card.patchify(np.zeros(noise.shape, bool)).shape[1]
    check_mesh(mesh, card.config, len(noise), tokens, attention)
    if attention == "pipefusion":
        check_pipe(mesh, card.config, tokens, options)
    return np.broadcast_to(label, noise.shape[:1])


def check_layers(name, mesh, config):
    """Raise a ValueError that begins with `name` if the layers do not divide over the axis pipe."""
    stages = mesh.shape[PIPE]
    if config.depth % stages:
        fits = [k for k in range(1, config.depth + 1) if config.depth % k == 0]
        raise ValueError(
            f"{name} splits layers, and {config.depth} layers do not divide into pipe={stages} stages; take pipe="
            f"{' or '.join(map(str, fits))}."
        )


def check_pipe(mesh, config, tokens, options):
    """Raise a ValueError in words if a pipeline of layers cannot run so; `options` are `stale.Options`."""
    name, stages, patches = (
        "parallel.sample: attention='pipefusion'",
        mesh.shape[PIPE],
        options.patches,
    )
    if token_shards(mesh) > 1:
        raise ValueError(
            f"{name} cuts an image's tokens in time, not over devices; take seq=1, and the rest for pipe."
        )
    check_layers(name, mesh, config)
    if not isinstance(patches, (int, np.integer)) or patches < 1 or tokens % patches:
        fits = [k for k in range(1, tokens + 1) if tokens % k == 0]
        raise ValueError(
            f"{name} with patches={patches!r} of {tokens} tokens; wanted one of {fits}. From pipe={stages} on no stage waits, "
            f"and from {2 * stages} on not for messages either."
        )
    policy = np.asarray(policies.NEVER if options.policy is None else options.policy)
    if np.any((policy >= 0) & (policy < policies.NEVER)):
        raise ValueError(
            f"{name} with a policy by tolerance: when the pipe drains is settled before the run. Take a policy of fixed steps, "
            "or attention='stale'."
        )


def check_mesh(mesh, config, batch, tokens, attention):
    """Raise a ValueError in words if `mesh` does not fit the network, the batch, the tokens or the kind of attention.

    Args:
      mesh: of `make_mesh`.
      config: the network's `DiTConfig`.
      batch, tokens: B and L.
      attention: as in `parallel.sample`.
    """
    missing = {DATA, CFG, SEQ, PIPE} - set(mesh.shape)
    if missing:
        raise ValueError(
            f"parallel.sample: the mesh lacks the axes {sorted(missing)}; make it with parallel.make_mesh."
        )
    n = token_shards(mesh)
    if n > tokens:
        raise ValueError(
            f"parallel.sample: {n} devices share {tokens} tokens; take seq at most {tokens}, and the rest for data."
        )
    if batch % mesh.shape[DATA]:
        raise ValueError(
            f"parallel.sample: a batch of {batch} does not divide into data={mesh.shape[DATA]} parts; take a batch of "
            f"{batch + -batch % mesh.shape[DATA]}, or data={math.gcd(batch, mesh.shape[DATA])}."
        )
    if mesh.shape[PIPE] > 1 and attention != "pipefusion":
        raise ValueError(
            f"parallel.sample: pipe={mesh.shape[PIPE]}, but attention={attention!r} does not split the layers; take pipe=1, "
            "or attention='pipefusion'."
        )
    if attention == "ulysses_ring" and RING not in mesh.shape:
        raise ValueError(
            f"parallel.sample: attention='ulysses_ring' wants a mesh whose seq is a pair, as make_mesh(seq=(2, 2)); "
            f"this one has seq={mesh.shape[SEQ]}."
        )
    share = {"ulysses": n, "ulysses_ring": mesh.shape[SEQ]}.get(attention, 1)
    if config.heads % share:
        fits = [k for k in range(1, share) if config.heads % k == 0]
        raise ValueError(
            f"parallel.sample: attention={attention!r} splits heads, and {config.heads} heads do not divide into {share} "
            f"parts; take {' or '.join(map(str, fits))} devices there, or attention='ring', which splits no heads."
        )
