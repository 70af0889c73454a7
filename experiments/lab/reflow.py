"""What a trained model turns noise into: the guided sampler of training's pictures, and the pairs of reflow."""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from experiments.cli.images import whole_file
from flowjax import grids, guidance, plans


def sampler(card, plan, scale):
    """The compiled function (params, noise, label) -> images, guided by `scale`."""

    @jax.jit
    def images(params, noise, label):
        network = lambda x, t, label: card.velocity(params, x, t, label)
        model = guidance.classifier_free(
            network, label, jnp.full_like(label, card.null_label), scale
        )
        return flowjax.sample(model, noise, plan).x

    return images


def noise_for(key, ids, card):
    """Normal noise (B, H, W, C) float32 of samples `ids`."""
    shape = (*card.config.size, card.config.channels)
    return jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), shape, jnp.float32))(
        jnp.asarray(ids)
    )


def make_pairs(path, teacher, config, key, chunk=256):
    """Write the pairs (noise, what the teacher makes of it) of reflow (arXiv:2209.03003, algorithm 1) to an .npz file.

    Solved by the classical Runge-Kutta method; how far halving its step moves the first images is printed.
    """
    card = teacher.card
    run, fine = (
        sampler(card, plans.rk4(grids.uniform(n * config.pair_steps)), config.pair_guidance)
        for n in (1, 2)
    )
    label = np.arange(config.pairs, dtype=np.int32) % card.config.classes
    made = []
    for first in range(0, config.pairs, chunk):
        ids = np.arange(first, min(first + chunk, config.pairs))
        noise = noise_for(key, ids, card)
        made.append((np.asarray(noise), np.asarray(run(teacher.params, noise, label[ids]))))
        print(f"pairs: {ids[-1] + 1}/{config.pairs}", file=sys.stderr)
    first = slice(0, min(32, chunk, config.pairs))
    change = fine(teacher.params, made[0][0][first], label[first]) - made[0][1][first]
    print(
        f"pairs: {config.pairs} in {config.pair_steps} steps; half the step moves them by {jnp.sqrt(jnp.mean(change**2)):.1e}"
    )
    noise, images = (np.concatenate(part) for part in zip(*made))
    with whole_file(path) as file:
        np.savez(file, noise=noise, images=images, labels=label)
