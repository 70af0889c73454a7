"""Data parallelism by `jax.pmap`, the older interface: the baseline of a mesh of data alone."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowjax import Plan, models
from flowjax import guidance as guiding
from flowjax.sampling import sample
from flowjax.types import Array


def sample_pmap(
    model: models.Model,
    noise: Array,
    label: Array,
    plan: Plan,
    *,
    devices: int,
    guidance: float = 1.0,
) -> jax.Array:
    """Run a plan; each of the first `devices` devices takes its part of the batch, no collectives.

    Args:
      model: what `models.load` returned.
      noise: (B, H, W, C), B a multiple of `devices`.
      label: (B,) integers.
      plan: a `Plan` that draws no noise.
      devices: n.
      guidance: the scale of classifier-free guidance, by doubling the batch.

    Returns:
      x (B, H, W, C).

    Raises:
      ValueError: the batch does not divide into `devices`, or there are fewer devices.
    """
    noise, label = jnp.asarray(noise), jnp.asarray(label)
    if len(noise) % devices or devices > jax.local_device_count():
        raise ValueError(
            f"benchmarks.sample_pmap: a batch of {len(noise)} on devices={devices} of "
            f"{jax.local_device_count()}; wanted a batch that divides, and no more devices than "
            "there are."
        )

    def divided(array):
        return array.reshape(devices, -1, *array.shape[1:])  # (n, B/n, ...)

    run = _compiled(model.apply, model.card.null_label, float(guidance), devices)
    x = run(model.params, divided(noise), divided(label), plan)
    return x.reshape(noise.shape)


# `jax.pmap` compiles again for every new function, so that a second call must find the first one's.
@functools.lru_cache(maxsize=8)
def _compiled(apply: Callable, null_label: int, guidance: float, devices: int) -> Callable:
    """The pmapped function of one model and scale."""

    def one(params, noise, label, plan):
        network = functools.partial(apply, params)
        return sample(guiding.classifier_free(network, label, null_label, guidance), noise, plan).x

    return jax.pmap(one, in_axes=(None, 0, 0, None), devices=jax.local_devices()[:devices])
