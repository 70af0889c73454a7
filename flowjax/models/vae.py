"""The KL autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752).

It is diffusers' AutoencoderKL, as plain functions on a tree of parameters: the names of the
checkpoint split at the dots, kernels as (row, column, in, out). `models.weights.autoencoder` reads
its files.

Images are (B, H, W, 3) in about [-1, 1]; latents are (B, h, w, c) with h = H/f, w = W/f and
f = 2^(blocks - 1), which is 8 in the public networks.

The last layers of a decoder hold 128 to 256 numbers for each pixel, several times over. For images
too large for the device, `decode(z, tile=256)` runs them in windows (models/tiles.py), and only the
part at the latent's own resolution, where the attention is, on the complete image. docs/findings.md
has the memory that each takes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_number, check_whole
from flowjax.models import tiles
from flowjax.types import Array, PyTree

EPSILON = 1e-6  # added to the variance in every GroupNorm
QUERIES = 1024  # pixels that attend at once: all scores of a 256 x 256 latent would take 17 GB


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder; the defaults are diffusers'.

    Attributes:
      widths: channels of each block, from the image's resolution down.
      layers: ResNets in a block of the encoder. A block of the decoder has one more.
      groups: of every GroupNorm.
      latent_channels: c.
      channels, out_channels: of the images that are encoded, and of those that are decoded.
      attention: whether the two middle blocks attend.
      quant, post_quant: whether a 1 x 1 convolution follows the encoder, and precedes the decoder.
      scale, shift: the diffusion's latents are (z - shift) scale, with z those of the encoder.
    """

    widths: tuple[int, ...]
    layers: int
    groups: int = 32
    latent_channels: int = 4
    channels: int = 3
    out_channels: int = 3
    attention: bool = True
    quant: bool = True
    post_quant: bool = True
    scale: float = 0.18215
    shift: float = 0.0

    def __post_init__(self):
        """Refuse what is no size, and sizes that do not fit together."""
        name = "AutoencoderConfig"
        for option in ("layers", "groups", "latent_channels", "channels", "out_channels"):
            check_whole(name, option, getattr(self, option), 1)
        check_number(name, "scale", self.scale, 0, above=True)
        check_number(name, "shift", self.shift)
        if not isinstance(self.widths, tuple) or not self.widths:
            raise ValueError(f"{name}: widths={self.widths!r}; wanted the channels of each block.")
        for width in self.widths:
            check_whole(name, "widths", width, 1)
            if width % self.groups:
                raise ValueError(
                    f"{name}: a width of {width} does not divide into groups={self.groups}."
                )

    @property
    def factor(self) -> int:
        """f, the number of image pixels for one latent pixel in each direction."""
        return 2 ** (len(self.widths) - 1)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """An autoencoder: a pytree of its parameters, so it can be an argument of a jitted function.

        images = jax.jit(Autoencoder.to_images)(vae, latents)

    Attributes:
      params: nested dictionaries of arrays. All is computed in their dtype.
      config: an `AutoencoderConfig`.
    """

    params: PyTree
    config: AutoencoderConfig

    def to_images(self, latents: Array, *, tile: int | None = None) -> Array:
        """Images (B, f h, f w, 3) of the diffusion's latents (B, h, w, c); not clipped to [-1, 1].

        `tile` is as for `decode`.
        """
        return self.decode(latents / self.config.scale + self.config.shift, tile=tile)

    def to_latents(self, images: Array) -> Array:
        """The diffusion's latents (B, H/f, W/f, c) of images in [-1, 1]: the scaled mean."""
        mean, _ = self.encode(images)
        return (mean - self.config.shift) * self.config.scale

    def decode(self, z: Array, *, tile: int | None = None) -> Array:
        """The decoder by itself, on latents that are not scaled.

        Args:
          z: (B, h, w, c).
          tile: the side in pixels of the tiles in which the layers run, for images too large for
            the device; or None. The result equals the decoding in one piece to rounding, is a numpy
            array, and cannot be computed inside jit.

        Returns:
          (B, f h, f w, 3).
        """
        _check("decode", z, self.config.latent_channels)
        if tile is None:
            x = _middle(self.params, self.config, z)
            return _up(self.params, self.config, x, IN_ONE_PIECE)
        if isinstance(z, jax.core.Tracer) or tile < 1:
            raise ValueError(
                f"Autoencoder.decode: tile={tile!r}; wanted a number of pixels, and a call outside "
                "jit: tiles pass through the host. Inside jit leave tile=None."
            )
        # The part with the attention needs all pixels at once; it runs at the latent's resolution.
        in_tiles = Method(functools.partial(tiles.run, tile), tiles.moments)
        x = np.asarray(_middle_jit(self.params, self.config, z))
        return _up(self.params, self.config, x, in_tiles)

    def encode(self, images: Array) -> tuple[jax.Array, jax.Array]:
        """Mean and log-variance (B, H/f, W/f, c) of the posterior of latents that are not scaled.

        The log-variance is clipped to [-30, 20].

        Args:
          images: (B, H, W, 3) in [-1, 1], H and W multiples of f.
        """
        _check("encode", images, self.config.channels, self.config.factor)
        images = images.astype(_dtype(self.params))
        x = _down(self.params, self.config, images)  # (B, H/f, W/f, 2 c)
        if self.config.quant:
            x = _conv(self.params["quant_conv"], x)
        mean, log_variance = jnp.split(x, 2, axis=-1)  # (B, H/f, W/f, c) each
        return mean, jnp.clip(log_variance, -30, 20)


def _check(name: str, x: Array, channels: int, multiple: int = 1) -> None:
    """Refuse an array that is not (B, H, W, channels) with H and W multiples of `multiple`."""
    if x.ndim != 4 or x.shape[-1] != channels or x.shape[1] % multiple or x.shape[2] % multiple:
        sizes = f", H and W multiples of {multiple}: crop or pad the images" if multiple > 1 else ""
        raise ValueError(
            f"Autoencoder.{name}: shape {x.shape}; wanted (B, H, W, {channels}){sizes}."
        )


def _dtype(params: PyTree) -> Any:
    return jax.tree.leaves(params)[0].dtype


def _by_number(blocks: dict[str, PyTree]) -> list[PyTree]:
    """The values of a dictionary with keys "0", "1", ..., by number: jax sorts keys as text."""
    return [blocks[str(i)] for i in range(len(blocks))]


# Layers. Those that may run in windows take (p, *arrays): the arrays are cut, and p is not.


def _conv(
    p: PyTree, x: Array, stride: int = 1, padding: str | tuple[tuple[int, int], ...] = "SAME"
) -> jax.Array:
    """A convolution (B, H, W, C) -> (B, H/stride, W/stride, C')."""
    x = jax.lax.conv_general_dilated(
        x,
        p["weight"],
        window_strides=(stride, stride),
        padding=padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return x + p["bias"][None, None, None]


def _moments(x: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and variance (B, groups) over the pixels and the channels of each group."""
    x = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)  # (B, H W, groups, C/groups)
    return jnp.mean(x, axis=(1, 3)), jnp.var(x, axis=(1, 3))


def _norm(p: PyTree, x: Array, moments: tuple[Array, Array]) -> jax.Array:
    """GroupNorm with the given mean and variance (B, groups)."""
    channels = x.shape[-1]
    mean, variance = (
        jnp.repeat(m, channels // m.shape[1], axis=1)[:, None, None]  # (B, 1, 1, C)
        for m in moments
    )
    weight, bias = p["weight"][None, None, None], p["bias"][None, None, None]
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * weight + bias


@jax.jit
def _norm_conv(p: PyTree, x: Array, skip: Array | None = None) -> jax.Array:
    """conv(silu(norm(x))), plus `skip` or its 1 x 1 convolution p["shortcut"]."""
    x = _conv(p["conv"], jax.nn.silu(_norm(p["norm"], x, p["moments"])))
    if skip is None:
        return x
    if p["shortcut"] is not None:
        skip = _conv(p["shortcut"], skip)
    return x + skip


@jax.jit
def _upsample(p: PyTree, x: Array) -> jax.Array:
    """Each pixel four times, then a convolution: (B, h, w, C) -> (B, 2h, 2w, C)."""
    return _conv(p, x.repeat(2, axis=1).repeat(2, axis=2))


class Method(NamedTuple):
    """How layers run: on the complete image on the device, or in tiles of arrays on the host.

    Attributes:
      run: (layer, p, *arrays) -> the layer's result.
      moments: (x, groups) -> the statistics of a norm.
    """

    run: Callable[..., Array]
    moments: Callable[..., tuple[Array, Array]]


def _run(layer: Callable[..., jax.Array], p: PyTree, *arrays: Array) -> jax.Array:
    return layer(p, *arrays)


IN_ONE_PIECE = Method(_run, _moments)


# Blocks.


def _resnet(p: PyTree, x: Array, groups: int, method: Method = IN_ONE_PIECE) -> Array:
    """x (B, H, W, C) plus two convolutions of it, each after a norm; the result may be wider."""
    first = dict(norm=p["norm1"], conv=p["conv1"], moments=method.moments(x, groups))
    y = method.run(_norm_conv, first, x)  # (B, H, W, C')
    second = dict(
        norm=p["norm2"],
        conv=p["conv2"],
        shortcut=p.get("conv_shortcut"),
        moments=method.moments(y, groups),
    )
    # Adds x, or its 1 x 1 convolution where the width changes.
    return method.run(_norm_conv, second, y, x)


def _attention(p: PyTree, x: jax.Array, groups: int) -> jax.Array:
    """Attention with one head between all pixels, added to x (B, h, w, C)."""
    normed = _norm(p["group_norm"], x, _moments(x, groups))
    flat = normed.reshape(x.shape[0], -1, x.shape[-1])  # (B, L, C) with L = h w
    q = _linear(p["to_q"], flat)
    k = _linear(p["to_k"], flat)
    v = _linear(p["to_v"], flat)  # (B, L, C) each

    def attend(query):
        """One pixel of each image: query (B, C) -> (B, C)."""
        scores = jnp.einsum("bc,blc->bl", query, k) * k.shape[-1] ** -0.5  # (B, L)
        weights = jax.nn.softmax(scores, axis=-1)
        return jnp.einsum("bl,blc->bc", weights, v)

    # In parts of QUERIES pixels, so that the scores of all pixels are never in memory at once.
    by_pixel = jax.lax.map(attend, q.swapaxes(0, 1), batch_size=QUERIES)  # (L, B, C)
    out = _linear(p["to_out"]["0"], by_pixel.swapaxes(0, 1))
    return x + out.reshape(x.shape)


def _linear(p: PyTree, x: jax.Array) -> jax.Array:
    """(B, L, C) -> (B, L, C)."""
    return x @ p["weight"] + p["bias"][None, None]


def _resnets_and_attention(p: PyTree, x: jax.Array, groups: int) -> jax.Array:
    """The middle block: ResNet, attention, ResNet."""
    x = _resnet(p["resnets"]["0"], x, groups)
    if "attentions" in p:
        x = _attention(p["attentions"]["0"], x, groups)
    return _resnet(p["resnets"]["1"], x, groups)


# The encoder, and the decoder in two parts.


def _down(params: PyTree, config: AutoencoderConfig, x: jax.Array) -> jax.Array:
    """The encoder: images (B, H, W, 3) -> (B, H/f, W/f, 2 c)."""
    params, groups = params["encoder"], config.groups
    x = _conv(params["conv_in"], x)  # (B, H, W, widths[0])
    for block in _by_number(params["down_blocks"]):
        for resnet in _by_number(block["resnets"]):
            x = _resnet(resnet, x, groups)
        if "downsamplers" in block:
            # The original pads below and to the right only.
            x = _conv(block["downsamplers"]["0"]["conv"], x, stride=2, padding=((0, 1), (0, 1)))
    x = _resnets_and_attention(params["mid_block"], x, groups)
    return _last(params, config, x, IN_ONE_PIECE)


def _middle(params: PyTree, config: AutoencoderConfig, z: Array) -> jax.Array:
    """The decoder's part at the latent's resolution: z (B, h, w, c) -> (B, h, w, C)."""
    z = z.astype(_dtype(params))
    if config.post_quant:
        z = _conv(params["post_quant_conv"], z)
    x = _conv(params["decoder"]["conv_in"], z)  # (B, h, w, widths[-1])
    return _resnets_and_attention(params["decoder"]["mid_block"], x, config.groups)


_middle_jit = jax.jit(_middle, static_argnums=1)


def _up(params: PyTree, config: AutoencoderConfig, x: Array, method: Method) -> Array:
    """The rest of the decoder: (B, h, w, C) -> (B, f h, f w, 3)."""
    params = params["decoder"]
    for block in _by_number(params["up_blocks"]):
        for resnet in _by_number(block["resnets"]):
            x = _resnet(resnet, x, config.groups, method)
        if "upsamplers" in block:  # in all blocks but the last
            x = method.run(_upsample, block["upsamplers"]["0"]["conv"], x)
    return _last(params, config, x, method)


def _last(params: PyTree, config: AutoencoderConfig, x: Array, method: Method) -> Array:
    """The last norm and convolution of the encoder or decoder."""
    p = dict(
        norm=params["conv_norm_out"],
        conv=params["conv_out"],
        moments=method.moments(x, config.groups),
    )
    return method.run(_norm_conv, p, x)
