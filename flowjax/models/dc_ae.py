"""The deep compression autoencoder of SANA (DC-AE, Chen et al. 2025, arXiv:2410.10733).

It is diffusers' AutoencoderDC, as plain functions on a tree of parameters: the names of the
checkpoint split at the dots, kernels as (row, column, in, out). `models.weights.dc_ae` reads its
files.

Images are (B, H, W, 3) in about [-1, 1]; latents are (B, h, w, c) with h = H/f, w = W/f and
f = 2^(stages - 1), which is 32 in SANA's. There is no posterior: a latent is a function of its
image.

A stage consists of residual blocks, or of EfficientViT blocks: a linear attention over the whole
image on queries, keys and values at several scales, then a gated convolution. Stages are joined by
resamplings, whose shortcuts have no parameters: they put pixels into channels or channels into
pixels, and average or repeat them.

`decode(z, tile=256)` runs every layer in windows (models/tiles.py). The attention needs the rest of
the image only as a sum over pixels, which is taken over the whole image first. So the result equals
the decoding in one piece to rounding.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.models import tiles
from flowjax.models.sana import key_value_sums, weighted
from flowjax.types import Array, PyTree

EPSILON = 1e-5  # added to the variance or to the mean square in every norm
ROWS = 64  # rows of pixels whose keys and values are summed at once in a tiled decoding

ACTIVATIONS: dict[str, Callable[[Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "mish": jax.nn.mish,
}
NORMS = ("rms_norm", "batch_norm")
BLOCKS = ("ResBlock", "EfficientViTBlock")


class Stage(NamedTuple):
    """Blocks at one resolution.

    Attributes:
      width: channels.
      layers: number of blocks.
      block: their kind, one of `BLOCKS`.
      scales: sides of the convolutions of queries, keys and values, for EfficientViT blocks.
      norm: one of `NORMS`.
      activation: of residual blocks, a key of `ACTIVATIONS`.
    """

    width: int
    layers: int
    block: str
    scales: tuple[int, ...]
    norm: str
    activation: str


@dataclasses.dataclass(frozen=True)
class AutoencoderDCConfig:
    """Sizes of an autoencoder.

    Attributes:
      encoder, decoder: their stages, both from the image's resolution down. A first stage without
        layers is skipped: then the first convolution already halves the resolution.
      channels: of the images.
      latent_channels: c.
      head: numbers of one head of the attention.
      unshuffle: whether the encoder's resampling is a convolution at the finer resolution, whose
        pixels go into channels; otherwise it is a convolution of stride 2.
      shuffle: whether the decoder's resampling is a convolution at the coarser resolution, whose
        channels go into pixels; otherwise pixels are repeated before a convolution.
      out_shortcut, in_shortcut: whether the encoder's last and the decoder's first convolution have
        a shortcut.
      activation: before the decoder's last convolution, a key of `ACTIVATIONS`.
      scale: the diffusion's latents are z scale, with z those of the encoder.
    """

    encoder: tuple[Stage, ...]
    decoder: tuple[Stage, ...]
    channels: int
    latent_channels: int
    head: int
    unshuffle: bool
    shuffle: bool
    out_shortcut: bool
    in_shortcut: bool
    activation: str
    scale: float

    @property
    def factor(self) -> int:
        """f, the number of image pixels for one latent pixel in each direction."""
        return 2 ** (len(self.encoder) - 1)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class AutoencoderDC:
    """An autoencoder: a pytree of its parameters, so it can be an argument of a jitted function.

        images = jax.jit(AutoencoderDC.to_images)(vae, latents)

    Attributes:
      params: nested dictionaries of arrays. All is computed in their dtype.
      config: an `AutoencoderDCConfig`.
    """

    params: PyTree
    config: AutoencoderDCConfig

    def to_images(self, latents: Array, *, tile: int | None = None) -> Array:
        """Images (B, f h, f w, 3) of the diffusion's latents (B, h, w, c); not clipped to [-1, 1].

        `tile` is as for `decode`.
        """
        return self.decode(latents / self.config.scale, tile=tile)

    def to_latents(self, images: Array) -> Array:
        """The diffusion's latents (B, H/f, W/f, c) of images in [-1, 1]."""
        return self.encode(images) * self.config.scale

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
            return _decode(self.params["decoder"], self.config, z, IN_ONE_PIECE)
        if isinstance(z, jax.core.Tracer) or tile < 1:
            raise ValueError(
                f"AutoencoderDC.decode: tile={tile!r}; wanted a number of pixels, and a call "
                "outside jit: tiles pass through the host. Inside jit leave tile=None."
            )
        in_tiles = Method(functools.partial(tiles.run, tile), _sums_by_rows)
        return _decode(self.params["decoder"], self.config, np.asarray(z), in_tiles)

    def encode(self, images: Array) -> jax.Array:
        """The latents (B, H/f, W/f, c), not scaled, of images (B, H, W, 3) in [-1, 1].

        H and W are multiples of f.
        """
        _check("encode", images, self.config.channels, self.config.factor)
        return _encode(self.params["encoder"], self.config, images)


def _check(name: str, x: Array, channels: int, multiple: int = 1) -> None:
    """Refuse an array that is not (B, H, W, channels) with H and W multiples of `multiple`."""
    if x.ndim != 4 or x.shape[-1] != channels or x.shape[1] % multiple or x.shape[2] % multiple:
        sizes = f", H and W multiples of {multiple}: crop or pad the images" if multiple > 1 else ""
        raise ValueError(
            f"AutoencoderDC.{name}: shape {x.shape}; wanted (B, H, W, {channels}){sizes}."
        )


class Method(NamedTuple):
    """How layers run: on the complete image on the device, or in tiles of arrays on the host.

    Attributes:
      run: (layer, p, *arrays, reach=1) -> the layer's result.
      sums: the sums of the attention (B, heads, d, d + 1) over all pixels of queries, keys and
        values (B, h, w, heads, 3, d), given flat as (B, h, w, C) with d.
    """

    run: Callable[..., Array]
    sums: Callable[[Array, int], jax.Array]


# Layers. Those that may run in windows take (p, *arrays): the arrays are cut, and p is not.


def _conv(p: PyTree, x: Array, stride: int = 1, groups: int = 1) -> jax.Array:
    """A convolution (B, H, W, C) -> (B, H/stride, W/stride, C'), padded with zeros on all sides."""
    kernel = p["weight"]
    side = kernel.shape[0] // 2
    x = jax.lax.conv_general_dilated(
        x.astype(kernel.dtype),
        kernel,
        window_strides=(stride, stride),
        padding=((side, side), (side, side)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return x + p["bias"][None, None, None] if "bias" in p else x


def _norm(p: PyTree, x: jax.Array, kind: str) -> jax.Array:
    """The norm of each pixel over its channels; "batch_norm" has the statistics of training."""
    if kind == "batch_norm":
        centre, square = p["running_mean"][None, None, None], p["running_var"][None, None, None]
    else:
        centre, square = 0, jnp.mean(jnp.square(x), -1, keepdims=True)
    x = (x - centre) * jax.lax.rsqrt(square + EPSILON)
    return x * p["weight"][None, None, None] + p["bias"][None, None, None]


@functools.partial(jax.jit, static_argnames="activation")
def _conv_activation(p: PyTree, x: Array, *, activation: str) -> jax.Array:
    return ACTIVATIONS[activation](_conv(p, x))


@functools.partial(jax.jit, static_argnames="norm")
def _conv_norm_add(p: PyTree, x: Array, skip: Array, *, norm: str) -> jax.Array:
    """skip + norm(conv(x))."""
    return _norm(p["norm"], _conv(p["conv2"], x), norm) + skip


@functools.partial(jax.jit, static_argnames="head")
def _queries_keys_values(p: PyTree, x: Array, *, head: int) -> jax.Array:
    """Queries, keys and values at all scales: (B, h, w, C) -> (B, h, w, 3 C (1 + scales)).

    A scale is a convolution of each channel, then one of 1 x 1 inside each group of `head`
    channels.
    """
    one = jnp.concatenate([x @ p[name]["weight"] for name in ("to_q", "to_k", "to_v")], axis=-1)
    found = [one]
    for scale in _by_number(p.get("to_qkv_multiscale", {})):
        y = _conv(scale["proj_in"], one, groups=one.shape[-1])
        found.append(_conv(scale["proj_out"], y, groups=one.shape[-1] // head))
    return jnp.concatenate(found, axis=-1)


@functools.partial(jax.jit, static_argnames=("head", "norm"))
def _attend(p: PyTree, qkv: Array, skip: Array, *, head: int, norm: str) -> jax.Array:
    """skip + norm(linear(attention)), with the sums over all pixels in p["sums"]."""
    q, _, _ = _heads(qkv, head)
    out = weighted(q, p["sums"]).reshape(*skip.shape[:3], -1)  # (B, h, w, heads d)
    return _norm(p["norm_out"], out @ p["to_out"]["weight"], norm) + skip


@jax.jit
def _gated_convolution(p: PyTree, x: Array) -> jax.Array:
    """x plus the norm of: a dense layer, a 3 x 3 convolution by channel, a gate, a dense layer."""
    y = jax.nn.silu(_conv(p["conv_inverted"], x))
    y, gate = jnp.split(_conv(p["conv_depth"], y, groups=y.shape[-1]), 2, axis=-1)
    return x + _norm(p["norm"], _conv(p["conv_point"], y * jax.nn.silu(gate)), "rms_norm")


@functools.partial(jax.jit, static_argnames=("shuffle", "shortcut"))
def _upsample(p: PyTree, x: Array, *, shuffle: bool, shortcut: bool) -> jax.Array:
    """(B, h, w, C) -> (B, 2h, 2w, C')."""
    if shuffle:
        y = _pixels_of_channels(_conv(p["conv"], x))
    else:
        y = _conv(p["conv"], x.repeat(2, axis=1).repeat(2, axis=2))
    if not shortcut:
        return y
    # The same channels in other places: each one repeated, then channels into pixels.
    repeats = 4 * y.shape[-1] // x.shape[-1]
    return y + _pixels_of_channels(x.repeat(repeats, axis=-1))


@functools.partial(jax.jit, static_argnames="activation")
def _norm_activation(p: PyTree, x: Array, *, activation: str) -> jax.Array:
    return ACTIVATIONS[activation](_norm(p, x, "rms_norm"))


_conv_jit = jax.jit(_conv)


@jax.jit
def _conv_repeat(p: PyTree, x: Array) -> jax.Array:
    """A convolution, plus x with each channel repeated."""
    y = _conv(p, x)
    return y + x.repeat(y.shape[-1] // x.shape[-1], axis=-1)


def _downsample(p: PyTree, x: jax.Array, unshuffle: bool, shortcut: bool) -> jax.Array:
    """(B, H, W, C) -> (B, H/2, W/2, C')."""
    y = _channels_of_pixels(_conv(p["conv"], x)) if unshuffle else _conv(p["conv"], x, stride=2)
    # Pixels into channels, then means of neighbouring channels.
    return y + _means(_channels_of_pixels(x), y.shape[-1]) if shortcut else y


def _channels_of_pixels(x: jax.Array) -> jax.Array:
    """(B, 2h, 2w, C) -> (B, h, w, 4 C), channels in the order (channel, row, column)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = x.transpose(0, 1, 3, 5, 2, 4)  # (B, h, w, C, 2, 2)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def _pixels_of_channels(x: jax.Array) -> jax.Array:
    """(B, h, w, 4 C) -> (B, 2h, 2w, C), the inverse of `_channels_of_pixels`."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // 4, 2, 2)
    x = x.transpose(0, 1, 4, 2, 5, 3)  # (B, h, 2, w, 2, C)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)


def _means(x: jax.Array, channels: int) -> jax.Array:
    """Means of neighbouring channels: (B, h, w, C) -> (B, h, w, channels)."""
    return x.reshape(*x.shape[:3], channels, -1).mean(-1)


def _by_number(blocks: dict[str, PyTree]) -> list[PyTree]:
    """The values of a dictionary with whole numbers as keys, by number: jax sorts keys as text."""
    return [blocks[name] for name in sorted(blocks, key=int)]


def _heads(qkv: Array, head: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys and values (B, h w, heads, d) of (B, h, w, heads 3 d).

    A head is a run of 3 d channels of the concatenated queries, keys and values, as in
    EfficientViT.
    """
    by_head = jnp.reshape(qkv, (len(qkv), -1, qkv.shape[-1] // (3 * head), 3, head))
    return by_head[..., 0, :], by_head[..., 1, :], by_head[..., 2, :]


@functools.partial(jax.jit, static_argnums=1)
def _sums(qkv: Array, head: int) -> jax.Array:
    """The sums of the attention over all pixels, (B, heads, d, d + 1)."""
    _, k, v = _heads(qkv, head)
    return key_value_sums(k, v)


def _sums_by_rows(qkv: np.ndarray, head: int) -> jax.Array:
    """`_sums` of an array on the host, some rows at a time."""
    parts = [_sums(qkv[:, i : i + ROWS], head) for i in range(0, qkv.shape[1], ROWS)]
    return sum(parts)


def _run(layer: Callable[..., jax.Array], p: PyTree, *arrays: Array, reach: int = 1) -> jax.Array:
    return layer(p, *arrays)


IN_ONE_PIECE = Method(_run, _sums)


# Blocks, the encoder and the decoder.


def _block(p: PyTree, x: Array, stage: Stage, head: int, method: Method) -> Array:
    """One block of a stage: (B, h, w, C) -> (B, h, w, C)."""
    if stage.block == "ResBlock":
        first = functools.partial(_conv_activation, activation=stage.activation)
        y = method.run(first, p["conv1"], x)
        second = functools.partial(_conv_norm_add, norm=stage.norm)
        return method.run(second, p, y, x)
    # EfficientViT: the attention with its sums over all pixels, then the convolution.
    p_attention = dict(p["attn"])
    reach = max(stage.scales, default=1) // 2
    project = functools.partial(_queries_keys_values, head=head)
    qkv = method.run(project, p_attention, x, reach=reach)
    p_attention["sums"] = method.sums(qkv, head)
    attend = functools.partial(_attend, head=head, norm=stage.norm)
    x = method.run(attend, p_attention, qkv, x)
    return method.run(_gated_convolution, p["conv_out"], x)


def _encode(p: PyTree, config: AutoencoderDCConfig, x: Array) -> jax.Array:
    """Images (B, H, W, 3) -> (B, H/f, W/f, c)."""
    stages = config.encoder
    down = functools.partial(_downsample, unshuffle=config.unshuffle)
    # A first stage without layers is skipped.
    skips = stages[0].layers == 0
    x = down(p["conv_in"], x, shortcut=False) if skips else _conv(p["conv_in"], x)
    for i, stage in enumerate(stages):
        blocks = _by_number(p["down_blocks"].get(str(i), {}))
        for block in blocks[: stage.layers]:
            x = _block(block, x, stage, config.head, IN_ONE_PIECE)
        for sampler in blocks[stage.layers :]:
            x = down(sampler, x, shortcut=True)
    y = _conv(p["conv_out"], x)
    return y + _means(x, config.latent_channels) if config.out_shortcut else y


def _decode(p: PyTree, config: AutoencoderDCConfig, z: Array, method: Method) -> Array:
    """Latents (B, h, w, c) -> (B, f h, f w, 3)."""
    stages = config.decoder
    up = functools.partial(_upsample, shuffle=config.shuffle)
    x = method.run(_conv_repeat if config.in_shortcut else _conv_jit, p["conv_in"], z)
    for i, stage in reversed(list(enumerate(stages))):
        blocks = _by_number(p["up_blocks"].get(str(i), {}))
        samplers = len(blocks) - stage.layers
        for sampler in blocks[:samplers]:
            x = method.run(functools.partial(up, shortcut=True), sampler, x)
        for block in blocks[samplers:]:
            x = _block(block, x, stage, config.head, method)
    last = functools.partial(_norm_activation, activation=config.activation)
    x = method.run(last, p["norm_out"], x)
    if stages[0].layers == 0:
        return method.run(functools.partial(up, shortcut=False), p["conv_out"], x)
    return method.run(_conv_jit, p["conv_out"], x)
