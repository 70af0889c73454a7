"""Data parallelism by `jax.pmap`, the older interface: the baseline of `parallel.sample` on a mesh of data alone."""

import functools

import jax
import jax.numpy as jnp

from flowjax import guidance as guiding
from flowjax.sampling import sample


def sample_pmap(model, noise, label, plan, *, devices, guidance=1.0):
    """Run a plan with each of the first `devices` devices taking its part of the batch. No collective is needed.

    Args:
      model: what `models.load` returned.
      noise: (B, H, W, C), B a multiple of `devices`.
      label: (B,) integers.
      plan: a `Plan` that draws no noise.
      devices: n.
      guidance: the scale of classifier-free guidance, by doubling the batch.

    Returns:
      x (B, H, W, C).
    """
    noise, label = jnp.asarray(noise), jnp.asarray(label)
    if len(noise) % devices or devices > jax.local_device_count():
        raise ValueError(
            f"parallel.sample_pmap: a batch of {len(noise)} on devices={devices} of {jax.local_device_count()}; wanted a "
            "batch that divides, and no more devices than there are."
        )
    parts = lambda array: array.reshape(devices, -1, *array.shape[1:])
    x = _compiled(model.apply, model.card.null_label, float(guidance), devices)(
        model.params, parts(noise), parts(label), plan
    )
    return x.reshape(noise.shape)


@functools.lru_cache(maxsize=8)
def _compiled(apply, null_label, guidance, devices):
    """The pmapped function of one model and scale."""

    def one(params, noise, label, plan):
        network = functools.partial(apply, params)
        return sample(guiding.classifier_free(network, label, null_label, guidance), noise, plan).x

    return jax.pmap(one, in_axes=(None, 0, 0, None), devices=jax.local_devices()[:devices])
