"""The KL autoencoder of latent diffusion (Rombach et al. 2022, arXiv:2112.10752), diffusers' AutoencoderKL.

Plain functions on a tree of parameters, the checkpoint's own names cut at the dots, kernels as (row, column, in, out).
Images are (B, H, W, 3) in about [-1, 1]; latents (B, h, w, c) with h = H/f, w = W/f and f = 2^(blocks - 1), 8 in the
public ones.

The last layers of a decoder hold 128 to 256 numbers a pixel, several times: 3.8 GB for 1024 x 1024 pixels, 15 GB for 2048 x
2048 (the public sizes, XLA's account on a CPU). With `tile` the part at the latent's own resolution, where the only
attention is, runs whole, and the other layers in windows (models/tiles.py): 0.6 GB for tile=256, and 1.3 GB for that first
part at 2048 x 2048. What lies between layers is then the host's, 2 GB and 9 GB.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.models import tiles

EPSILON = 1e-6  # added to the variance in every GroupNorm
QUERIES = (
    1024  # pixels that attend at once: the scores of all of a 256 x 256 latent's would be 17 GB
)
OLD_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}

# config.json: what it must say where it says it, and its names of the sizes.
KNOWN = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
    "latents_mean": None,
    "latents_std": None,
}
NAMES = {
    "block_out_channels": "widths",
    "layers_per_block": "layers",
    "norm_num_groups": "groups",
    "latent_channels": "latent_channels",
    "in_channels": "channels",
    "out_channels": "out_channels",
    "mid_block_add_attention": "attention",
    "use_quant_conv": "quant",
    "use_post_quant_conv": "post_quant",
    "scaling_factor": "scale",
    "shift_factor": "shift",
}


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes of an autoencoder; the defaults are diffusers'.

    Attributes:
      widths: channels of each block, from the image's resolution down.
      layers: ResNets in a block of the encoder; the decoder has one more.
      groups: of every GroupNorm.
      latent_channels: c.
      channels, out_channels: of the images that are encoded and decoded.
      attention: whether the two middle blocks attend.
      quant, post_quant: whether a 1 x 1 convolution follows the encoder, precedes the decoder.
      scale, shift: a latent as the diffusion sees it is (z - shift) scale.
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

    @property
    def factor(self):
        """f, image pixels to a latent pixel in each direction."""
        return 2 ** (len(self.widths) - 1)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["config"])
@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """An autoencoder: a pytree whose leaves are its parameters, so that it is an argument of what is jitted.

        images = jax.jit(Autoencoder.to_images)(vae, latents)

    Attributes:
      params: nested dictionaries of arrays; their dtype is what is computed in.
      config: an `AutoencoderConfig`.
    """

    params: dict
    config: AutoencoderConfig

    def to_images(self, latents, *, tile=None):
        """Images (B, f h, f w, 3) of latents (B, h, w, c) as a diffusion samples them; not clipped to [-1, 1]."""
        return self.decode(latents / self.config.scale + self.config.shift, tile=tile)

    def to_latents(self, images):
        """Latents (B, H/f, W/f, c) as a diffusion sees them of images in [-1, 1]: the posterior's mean, scaled."""
        return (self.encode(images)[0] - self.config.shift) * self.config.scale

    def decode(self, z, *, tile=None):
        """The decoder by itself, on latents that are not scaled.

        Args:
          z: (B, h, w, c).
          tile: None; or the side in pixels of the tiles in which layers run, for images too large for the device. Equal to
            the whole decode to rounding. Then not to be called inside jit, and the result is a numpy array.

        Returns:
          (B, f h, f w, 3).
        """
        _check("decode", z, self.config.latent_channels)
        if tile is None:
            return _up(
                self.params, self.config, _middle(self.params, self.config, z), _run, _moments
            )
        if isinstance(z, jax.core.Tracer) or tile < 1:
            raise ValueError(
                f"Autoencoder.decode: tile={tile!r}; wanted a number of pixels, and a call outside jit: tiles pass through the "
                "host. Inside jit leave tile=None."
            )
        x = np.asarray(_middle_jit(self.params, self.config, z))
        return _up(self.params, self.config, x, functools.partial(tiles.run, tile), tiles.moments)

    def encode(self, images):
        """Mean and log-variance (B, H/f, W/f, c) of the posterior, latents that are not scaled; log-variance in [-30, 20].

        Args:
          images: (B, H, W, 3) in [-1, 1], H and W multiples of f.
        """
        _check("encode", images, self.config.channels, self.config.factor)
        params, groups, x = (
            self.params["encoder"],
            self.config.groups,
            images.astype(_dtype(self.params)),
        )
        x = _conv(params["conv_in"], x)
        for block in _list(params["down_blocks"]):
            for resnet in _list(block["resnets"]):
                x = _resnet(resnet, x, groups)
            if "downsamplers" in block:  # the original pads below and to the right only
                x = _conv(block["downsamplers"]["0"]["conv"], x, stride=2, padding=((0, 1), (0, 1)))
        x = _attentive(params["mid_block"], x, groups)
        x = _norm_conv(
            dict(
                norm=params["conv_norm_out"], conv=params["conv_out"], moments=_moments(x, groups)
            ),
            x,
        )
        if self.config.quant:
            x = _conv(self.params["quant_conv"], x)
        mean, log_variance = jnp.split(x, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30, 20)


def _check(name, x, channels, multiple=1):
    if x.ndim != 4 or x.shape[-1] != channels or x.shape[1] % multiple or x.shape[2] % multiple:
        sizes = f", H and W multiples of {multiple}: crop or pad the images" if multiple > 1 else ""
        raise ValueError(
            f"Autoencoder.{name}: shape {x.shape}; wanted (B, H, W, {channels}){sizes}."
        )


def _dtype(params):
    return jax.tree.leaves(params)[0].dtype


def _list(blocks):
    """The values of a dictionary with keys "0", "1", ..., by number: jax sorts keys as words."""
    return [blocks[str(i)] for i in range(len(blocks))]


# The layers. Those that may run in windows (models/tiles.py) take (p, *arrays): p is not cut, the arrays are.


def _conv(p, x, stride=1, padding="SAME"):
    x = jax.lax.conv_general_dilated(
        x, p["weight"], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return x + p["bias"][None, None, None]


def _moments(x, groups):
    """Mean and variance (B, groups) over the pixels and the channels of a group."""
    x = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    return jnp.mean(x, axis=(1, 3)), jnp.var(x, axis=(1, 3))


def _norm(p, x, moments):
    """GroupNorm with the given mean and variance (B, groups)."""
    mean, variance = (
        jnp.repeat(m, x.shape[-1] // m.shape[1], axis=1)[:, None, None] for m in moments
    )  # (B, 1, 1, C)
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * p["weight"][None, None, None] + p[
        "bias"
    ][None, None, None]


@jax.jit
def _norm_conv(p, x, skip=None):
    """conv(silu(norm(x))), plus `skip` or its 1 x 1 convolution p["shortcut"]."""
    x = _conv(p["conv"], jax.nn.silu(_norm(p["norm"], x, p["moments"])))
    if skip is None:
        return x
    return x + (skip if p["shortcut"] is None else _conv(p["shortcut"], skip))


@jax.jit
def _upsample(p, x):
    """Each pixel four times, then a convolution: (B, h, w, C) -> (B, 2h, 2w, C)."""
    return _conv(p, x.repeat(2, axis=1).repeat(2, axis=2))


def _run(layer, p, *arrays):
    return layer(p, *arrays)


def _resnet(p, x, groups, run=_run, moments=_moments):
    y = run(_norm_conv, dict(norm=p["norm1"], conv=p["conv1"], moments=moments(x, groups)), x)
    second = dict(
        norm=p["norm2"],
        conv=p["conv2"],
        shortcut=p.get("conv_shortcut"),
        moments=moments(y, groups),
    )
    return run(_norm_conv, second, y, x)


def _attention(p, x, groups):
    """Attention of one head between all pixels, added to x (B, h, w, C)."""
    flat = _norm(p["group_norm"], x, _moments(x, groups)).reshape(
        x.shape[0], -1, x.shape[-1]
    )  # (B, L, C)
    q, k, v = (
        flat @ p[name]["weight"] + p[name]["bias"][None, None] for name in ("to_q", "to_k", "to_v")
    )

    def attend(query):  # (B, C)
        weights = jax.nn.softmax(jnp.einsum("bc,blc->bl", query, k) * k.shape[-1] ** -0.5, axis=-1)
        return jnp.einsum("bl,blc->bc", weights, v)

    out = jax.lax.map(attend, q.swapaxes(0, 1), batch_size=QUERIES).swapaxes(0, 1)
    out = out @ p["to_out"]["0"]["weight"] + p["to_out"]["0"]["bias"][None, None]
    return x + out.reshape(x.shape)


def _attentive(p, x, groups):
    """The middle block: ResNet, attention, ResNet."""
    x = _resnet(p["resnets"]["0"], x, groups)
    if "attentions" in p:
        x = _attention(p["attentions"]["0"], x, groups)
    return _resnet(p["resnets"]["1"], x, groups)


def _middle(params, config, z):
    """The decoder's part at the latent's resolution: z (B, h, w, c) -> (B, h, w, C)."""
    z = z.astype(_dtype(params))
    if config.post_quant:
        z = _conv(params["post_quant_conv"], z)
    return _attentive(
        params["decoder"]["mid_block"], _conv(params["decoder"]["conv_in"], z), config.groups
    )


_middle_jit = jax.jit(_middle, static_argnums=1)


def _up(params, config, x, run, moments):
    """The rest of the decoder: (B, h, w, C) -> (B, f h, f w, 3). `run` applies a layer, `moments` gives its statistics."""
    params = params["decoder"]
    for block in _list(params["up_blocks"]):
        for resnet in _list(block["resnets"]):
            x = _resnet(resnet, x, config.groups, run, moments)
        if "upsamplers" in block:
            x = run(_upsample, block["upsamplers"]["0"]["conv"], x)
    last = dict(
        norm=params["conv_norm_out"], conv=params["conv_out"], moments=moments(x, config.groups)
    )
    return run(_norm_conv, last, x)


# Published files.


def shapes(config):
    """The tensors of a published file: name -> shape, kernels as (out, in, rows, columns)."""

    def linear(name, width):
        return {f"{name}.weight": (width, width), f"{name}.bias": (width,)}

    def norm(name, width):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    def conv(name, inputs, outputs, side=3):
        return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}

    def resnet(name, inputs, outputs):
        return {
            **norm(f"{name}.norm1", inputs),
            **conv(f"{name}.conv1", inputs, outputs),
            **norm(f"{name}.norm2", outputs),
            **conv(f"{name}.conv2", outputs, outputs),
            **(conv(f"{name}.conv_shortcut", inputs, outputs, 1) if inputs != outputs else {}),
        }

    def half(name, direction, layers, widths, inputs, outputs):
        """Encoder or decoder, `widths` in the order of its blocks."""
        middle, attention = config.widths[-1], f"{name}.mid_block.attentions.0"
        parts = [
            conv(f"{name}.conv_in", inputs, widths[0]),
            conv(f"{name}.conv_out", widths[-1], outputs),
        ]
        parts += [norm(f"{name}.conv_norm_out", widths[-1])]
        parts += [resnet(f"{name}.mid_block.resnets.{j}", middle, middle) for j in range(2)]
        if config.attention:
            parts += [norm(f"{attention}.group_norm", middle)]
            parts += [
                linear(f"{attention}.{part}", middle)
                for part in ("to_q", "to_k", "to_v", "to_out.0")
            ]
        for i, (before, width) in enumerate(itertools.pairwise((widths[0], *widths))):
            block = f"{name}.{direction}_blocks.{i}"
            parts += [
                resnet(f"{block}.resnets.{j}", width if j else before, width) for j in range(layers)
            ]
            if i < len(widths) - 1:
                parts += [conv(f"{block}.{direction}samplers.0.conv", width, width)]
        return functools.reduce(dict.__or__, parts)

    c = config.latent_channels
    return {
        **half("encoder", "down", config.layers, config.widths, config.channels, 2 * c),
        **half("decoder", "up", config.layers + 1, config.widths[::-1], c, config.out_channels),
        **(conv("quant_conv", 2 * c, 2 * c, 1) if config.quant else {}),
        **(conv("post_quant_conv", c, c, 1) if config.post_quant else {}),
    }


def config_from_diffusers(config):
    """The `AutoencoderConfig` of a diffusers config.json, a dictionary; what is not the network of this file is refused."""
    for name, wanted in KNOWN.items():
        values = config.get(name, wanted)
        if any(value != wanted for value in (values if isinstance(values, list) else [values])):
            raise ValueError(
                f"models.vae: config.json has {name}={values!r}, which is not known; wanted {wanted!r}."
            )
    if not {"block_out_channels", "layers_per_block"} <= config.keys():
        raise ValueError(
            "models.vae: config.json lacks block_out_channels or layers_per_block; wanted that of an AutoencoderKL."
        )
    ours = {
        NAMES[name]: value for name, value in config.items() if name in NAMES and value is not None
    }
    return AutoencoderConfig(**ours | {"widths": tuple(ours["widths"])})


def from_diffusers(tensors, config):
    """The `Autoencoder`, in float32, of a published diffusers AutoencoderKL.

    Args:
      tensors: name -> numpy array as in the file, any floating dtype. Early files name the attention's matrices query, key,
        value and proj_attn, or keep them as 1 x 1 convolutions: both are read.
      config: its config.json, a dictionary.

    Raises:
      ValueError: a config that is not known; tensors that are missing, unexpected or misshapen, each by name.
    """
    config = config_from_diffusers(config)
    expected, found = shapes(config), {}
    for name, tensor in tensors.items():
        for old, new in OLD_ATTENTION.items():
            name = name.replace(old, new)
        found[name] = (
            tensor[:, :, 0, 0] if "attentions" in name and tensor.shape[2:] == (1, 1) else tensor
        )
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unexpected {name}" for name in found if name not in expected]
    wrong += [
        f"{name} has shape {found[name].shape}, wanted {shape}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    if wrong:
        raise ValueError(
            f"models.vae: {len(wrong)} of the autoencoder's tensors do not fit: {'; '.join(wrong)}."
        )
    params = {}
    for name, tensor in found.items():
        *path, last = name.split(".")
        node = functools.reduce(lambda inner, key: inner.setdefault(key, {}), path, params)
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[
            tensor.ndim
        ]  # (out, in, ...) -> (..., in, out)
        node[last] = jnp.asarray(np.asarray(tensor, np.float32).transpose(axes))
    return Autoencoder(params, config)
