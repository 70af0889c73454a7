"""Images from a trained model: those of training's pictures, and the pairs of reflow."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from flowjax import Plan, checkpoint, files, grids, guidance, plans
from flowjax.models import Card, Model
from flowjax.types import PyTree

CHECKED = 32  # pairs for which the step of the solver is halved


def sampler(
    card: Card, plan: Plan, scale: float
) -> Callable[[PyTree, jax.Array, jax.Array], jax.Array]:
    """The compiled function (params, noise, label) -> images.

    Args:
      card: of the network.
      plan: the solver.
      scale: of classifier-free guidance.

    Raises:
      ValueError: a scale that is not 1, of a network without a null label.
    """
    # Without guidance the null label is never evaluated, and the network need not have one.
    null = card.null_label if scale != 1 else 0

    @jax.jit
    def images(params: PyTree, noise: jax.Array, label: jax.Array) -> jax.Array:
        def network(x: jax.Array, t: jax.Array, label: jax.Array) -> jax.Array:
            return card.velocity(params, x, t, label)

        model = guidance.classifier_free(network, label, null, scale)
        return flowjax.sample(model, noise, plan).x

    return images


def noise_for(key: jax.Array, ids: np.ndarray, card: Card) -> jax.Array:
    """Normal noise (B, H, W, C) float32 of the samples `ids` (B,)."""
    shape = (*card.config.size, card.config.channels)

    def draw(i: jax.Array) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32)

    return jax.vmap(draw)(jnp.asarray(ids))


def settings_of(teacher: Model, config: Any) -> dict[str, Any]:
    """What tells the pairs of one run from those of another: a dictionary for JSON.

    Args:
      teacher: the model. It is known by a digest of its parameters, since a network that is trained
        again has the name of the one before.
      config: as in `make_pairs`, and its seed.
    """
    digest = hashlib.sha256()
    for name, array in checkpoint.flatten(teacher.params).items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    names = ("pairs", "pair_steps", "pair_guidance", "seed")
    settings = {name: getattr(config, name) for name in names}
    return {"parameters of the teacher": digest.hexdigest()[:16], **settings}


def settings_in(path: str | os.PathLike) -> dict[str, Any] | None:
    """The `settings_of` the pairs in a file; None for a file that does not have them."""
    found = files.read_npz(path)
    return json.loads(str(found["settings"])) if "settings" in found else None


def make_pairs(
    path: str | os.PathLike, teacher: Model, config: Any, key: jax.Array, chunk: int = 256
) -> None:
    """Write pairs of noise and the teacher's image from it to an .npz file.

    They are the coupling of reflow (Liu et al. 2022, arXiv:2209.03003, algorithm 1), solved by the
    classical Runge-Kutta method. How far the first images move when its step is halved is printed.
    The file keeps their `settings_of` too.

    Args:
      path: the file.
      teacher: the model.
      config: gives pairs, pair_steps and pair_guidance (see configs/train_digits.py).
      key: of the noise.
      chunk: pairs that are made together.
    """
    card, params = teacher.card, teacher.params
    coarse = plans.rk4(grids.uniform(config.pair_steps))
    fine = plans.rk4(grids.uniform(2 * config.pair_steps))
    run = sampler(card, coarse, config.pair_guidance)
    label = np.arange(config.pairs, dtype=np.int32) % card.config.classes

    noises, images = [], []
    for first in range(0, config.pairs, chunk):
        ids = np.arange(first, min(first + chunk, config.pairs))
        noise = noise_for(key, ids, card)
        noises.append(np.asarray(noise))
        images.append(np.asarray(run(params, noise, label[ids])))
        print(f"pairs: {ids[-1] + 1}/{config.pairs}", file=sys.stderr)

    # The change under half the step bounds the error of these pairs.
    few = slice(0, min(CHECKED, chunk, config.pairs))
    check = sampler(card, fine, config.pair_guidance)
    change = check(params, noises[0][few], label[few]) - images[0][few]
    print(
        f"pairs: {config.pairs} in {config.pair_steps} steps; "
        f"half the step moves them by {jnp.sqrt(jnp.mean(change**2)):.1e}"
    )
    with files.replacing(path) as temporary:
        np.savez(
            temporary,
            noise=np.concatenate(noises),
            images=np.concatenate(images),
            labels=label,
            settings=json.dumps(settings_of(teacher, config)),
        )
