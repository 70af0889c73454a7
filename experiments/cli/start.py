"""Image to image: the image from which a run starts, read, checked, encoded and noised.

The run does the last steps of the grid only. Its start is alpha(t) data + sigma(t) noise at the
time t at which these steps begin (SDEdit, Meng et al. 2022, arXiv:2108.01073).
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from flowjax import Plan
from flowjax.compat.scheduler_lists import steps_of_strength
from flowjax.models import Card


def check(config: Any) -> None:
    """Refuse an image without a strength and the other way round, no file, and a wrong strength."""
    if config.image is None and config.strength is None:
        return
    if config.image is None or config.strength is None:
        raise ValueError(
            f"image={config.image!r} with strength={config.strength!r}: image to image needs both. "
            "The strength is the fraction of the steps that are taken, such as 0.6."
        )
    if not pathlib.Path(config.image).is_file():
        raise ValueError(f"image={config.image!r} cannot be read (there is no such file).")
    steps_taken(config)


def steps_taken(config: Any) -> int:
    """How many of the last steps of the grid the run takes: all without a strength."""
    if config.strength is None:
        return config.steps
    return steps_of_strength("sample", config.steps, config.strength)


def state_of(config: Any, card: Card, shape: Sequence[int]) -> jax.Array | None:
    """The data from which a run starts, shaped like a state; None without an image.

    Args:
      config: of experiments.sample.
      card: of the model; its autoencoder encodes images to latents, without drawing noise.
      shape: (H, W, C) of a state.

    Returns:
      (H, W, C) float32.

    Raises:
      ValueError: the model draws latents and has no autoencoder, the file is no image, or the
        image has another size than the model's images.
    """
    if config.image is None:
        return None
    # The image as pixels, and whether the model can take them.
    factor = card.vae.config.factor if card.vae is not None else 1
    channels = card.vae.config.channels if card.vae is not None else shape[-1]
    if channels not in (1, 3):
        raise ValueError(
            f"image={config.image!r}: {card.name} draws latents of {channels} channels and came "
            "without an autoencoder, which would encode the image; give a pipeline's folder, with "
            "vae/ beside transformer/."
        )
    size = (shape[0] * factor, shape[1] * factor)
    pixels = _read(config.image, channels)  # (H, W, 1 or 3) in [-1, 1]
    # The size, which is never changed here: cropping and resizing are the caller's decisions.
    if pixels.shape[:2] != size:
        height, width = pixels.shape[:2]
        least = factor * card.config.patch
        is_multiple = height % least == 0 and width % least == 0
        other = f", or give --config.size={height},{width}" if is_multiple else ""
        raise ValueError(
            f"image={config.image!r} has {height} x {width} pixels (height x width), and "
            f"{card.name} draws {size[0]} x {size[1]} here; resize the image{other}."
        )
    # The state: the pixels, or the mean of the autoencoder's posterior.
    if card.vae is None:
        return jnp.asarray(pixels)
    latents = jax.jit(type(card.vae).to_latents)(card.vae, jnp.asarray(pixels)[None])
    return latents[0].astype(jnp.float32)


def noised(data: jax.Array, noise: jax.Array, plan: Plan, card: Card) -> jax.Array:
    """The states (B, H, W, C) at which the plan begins, from one image and the noise of each.

    Args:
      data: (H, W, C), from `state_of`.
      noise: (B, H, W, C) float32.
      plan: its first time is that of the start.
      card: of the model, whose path tells how much of both.
    """
    every = jnp.broadcast_to(data, noise.shape)
    # x = alpha(t) data + sigma(t) noise; the weights are float64, and the state stays float32.
    return card.schedule.add_noise(every, noise, plan.t[0]).astype(noise.dtype)


def _read(path: str, channels: int) -> np.ndarray:
    """An image file as (H, W, channels) float32 in [-1, 1], transparent parts on white."""
    try:
        with Image.open(path) as image:
            opaque = ImageOps.exif_transpose(image).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Pillow raises the first also for a file that is no image.
        raise ValueError(f"image={path!r} cannot be read as an image ({error}).") from None
    white = Image.new("RGBA", opaque.size, "white")
    shown = Image.alpha_composite(white, opaque).convert("RGB" if channels == 3 else "L")
    # Pillow's size is (width, height).
    levels = np.asarray(shown, np.float32).reshape(*shown.size[::-1], channels)
    return levels / 127.5 - 1
