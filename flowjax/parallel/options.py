"""Refusals of `parallel.sample`: in words, and before anything compiles."""

import math

import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.parallel.mesh import CFG, DATA, PIPE, RING, SEQ, token_shards
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.forecast import FORECASTS, correction_of
from flowjax.parallel.stale.precision import bits_of

ATTENTIONS = ("gather", "ulysses", "ring", "ulysses_ring", "stale", "pipefusion")


def check(model, noise, label, plan, mesh, guidance, attention, options):
    """Raise a ValueError about the first argument of `parallel.sample` that does not fit; return the labels, (B,)."""
    card = model.card
    check_choice("parallel.sample", "attention", attention, ATTENTIONS)
    if noise.ndim != 4 or not jnp.issubdtype(noise.dtype, jnp.floating):
        raise ValueError(
            f"parallel.sample: noise has shape {noise.shape} and dtype {noise.dtype}; wanted floating (B, H, W, C)."
        )
    if not isinstance(guidance, (int, float)) or not math.isfinite(guidance):
        raise ValueError(f"parallel.sample: guidance={guidance!r}; wanted a number, 1 for none.")
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
    if attention == "stale":
        check_stale(plan, options)
        if options.patches is not None:
            raise ValueError(
                f"parallel.sample: patches={options.patches!r} with attention='stale', whose parts are the devices'; leave it, "
                "or take attention='pipefusion'."
            )
    elif attention == "pipefusion":
        check_stale(plan, options)
        check_pipe(mesh, card.config, tokens, options)
    else:
        check_exact(attention, options)
    return np.broadcast_to(label, noise.shape[:1])


def check_exact(attention, options):
    """Raise a ValueError if exact attention is asked for what only stale attention does."""
    asked = {
        "policy": options.policy is not None,
        "forecast": options.forecast != 0,
        "correction": bool(options.correction),
        "comm_dtype": options.comm_dtype is not None,
        "residual": options.residual,
        "patches": options.patches is not None,
    }
    for name in (name for name, is_asked in asked.items() if is_asked):
        raise ValueError(
            f"parallel.sample: {name}={getattr(options, name)!r} with attention={attention!r}, which is exact in every row; "
            "leave it, or take attention='stale'."
        )


def check_stale(plan, options):
    """Raise a ValueError if stale attention cannot run `plan` so; `options` are `stale.Options`."""
    name, (warmup, policy, refresh, gather, *_) = "parallel.sample", options
    whole = lambda value: isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if gather is not None:
        check_choice(name, "gather", gather, ("late", "early"))
    check_choice(name, "forecast", options.forecast, FORECASTS)
    correction_of(options.forecast, options.correction)
    bits_of(name, options.comm_dtype)
    check_choice(name, "share", options.share, ("device", "token"))
    if not whole(warmup) or not 1 <= warmup <= plan.steps:
        raise ValueError(
            f"{name}: warmup={warmup!r} of {plan.steps} steps; wanted a whole number from 1, since the first step "
            f"has nothing stale to attend to, to {plan.steps}, where every step is synchronous."
        )
    if policy is not None:
        policies.check(name, policy, plan.steps)
        if warmup != 1:
            raise ValueError(
                f"{name}: warmup={warmup} and a policy, which says itself what is synchronous; leave warmup, or "
                f"take np.minimum(policy, policies.warm_up({plan.steps}, {warmup}))."
            )
    if refresh is not None and (not whole(refresh) or refresh < 1):
        raise ValueError(
            f"{name}: refresh={refresh!r}; wanted a whole number from 1, or None: never again."
        )
    if refresh != 1 and (policy is not None or options.forecast != 0 or options.residual):
        raise ValueError(
            f"{name}: refresh={refresh} with a policy, forecast or residual; these want what is told in every step: take "
            "refresh=1."
        )
    if gather == "late" and (refresh != 1 or options.residual):
        what = "residual=True" if options.residual else f"refresh={refresh}"
        raise ValueError(
            f"{name}: gather='late' keeps nobody else's keys and values; with {what}, which needs them kept, take "
            "gather='early'."
        )


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
    other = {"refresh": 1, "gather": None, "comm_dtype": None, "residual": False}
    for option in (option for option, usual in other.items() if getattr(options, option) != usual):
        raise ValueError(
            f"{name} with {option}={getattr(options, option)!r}, but no stage tells another its keys and values; leave it."
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
