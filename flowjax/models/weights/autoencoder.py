"""The files of diffusers' AutoencoderKL: a config.json, and one tensor for each array of ours.

Published kernels are (out, in) or (out, in, rows, columns); ours are (in, out) and (rows, columns,
in, out).
"""

import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from flowjax.models.vae import Autoencoder, AutoencoderConfig
from flowjax.types import PyTree

Shapes = dict[str, tuple[int, ...]]

# Options of config.json that must have these values where they are given.
REQUIRED = {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
    "latents_mean": None,
    "latents_std": None,
}
# Names of the sizes: in config.json, and in `AutoencoderConfig`.
SIZES = {
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
# Names of the attention's matrices in early files, and now.
OLD_ATTENTION = {
    ".query.": ".to_q.",
    ".key.": ".to_k.",
    ".value.": ".to_v.",
    ".proj_attn.": ".to_out.0.",
}
# The transposition of a published tensor into ours, by its number of axes.
AXES = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}


def from_diffusers(tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Autoencoder:
    """The `Autoencoder`, in float32, of a published diffusers AutoencoderKL.

    Args:
      tensors: name -> numpy array as in the file, of any floating dtype. Early files name the
        matrices of the attention query, key, value and proj_attn, or store them as 1 x 1
        convolutions. Both are read.
      config: its config.json, a dictionary.

    Raises:
      ValueError: the config is not known, or tensors are missing, unexpected or of another shape;
        each is named.
    """
    sizes = config_from_diffusers(config)
    # Early files have other names of the attention, and store its matrices as convolutions.
    current = {_current_name(name): tensor for name, tensor in tensors.items()}
    current = {name: _without_pixels(name, tensor) for name, tensor in current.items()}
    found = {name: tensor.shape for name, tensor in current.items()}
    check_tensors("models.vae", found, shapes(sizes))
    params = {}
    for name, tensor in current.items():
        ours = np.asarray(tensor, np.float32).transpose(AXES[tensor.ndim])
        put(params, name, jnp.asarray(ours))
    return Autoencoder(params, sizes)


def config_from_diffusers(config: dict[str, Any]) -> AutoencoderConfig:
    """The `AutoencoderConfig` of a diffusers config.json, a dictionary.

    Raises:
      ValueError: it describes another network than that of models/vae.py.
    """
    for name, wanted in REQUIRED.items():
        values = config.get(name, wanted)
        # The types of the blocks are lists, which must all be the one type.
        listed = values if isinstance(values, list) else [values]
        if any(value != wanted for value in listed):
            raise ValueError(
                f"models.vae: config.json has {name}={values!r}, which is not known; wanted "
                f"{wanted!r}."
            )
    if not {"block_out_channels", "layers_per_block"} <= config.keys():
        raise ValueError(
            "models.vae: config.json lacks block_out_channels or layers_per_block; wanted that of "
            "an AutoencoderKL."
        )
    # diffusers writes null for an option that is not used.
    ours = {
        SIZES[name]: value for name, value in config.items() if name in SIZES and value is not None
    }
    try:
        ours["widths"] = tuple(ours["widths"])
        return AutoencoderConfig(**ours)
    except (KeyError, TypeError, ValueError) as error:
        # A size that is null, of another type, or that does not fit the others.
        raise ValueError(f"models.vae: the sizes in config.json are refused: {error}.") from None


def _current_name(name: str) -> str:
    for old, new in OLD_ATTENTION.items():
        name = name.replace(old, new)
    return name


def _without_pixels(name: str, tensor: np.ndarray) -> np.ndarray:
    """A matrix of the attention that is stored as a 1 x 1 convolution, as a matrix."""
    is_convolution = "attentions" in name and tensor.shape[2:] == (1, 1)
    return tensor[:, :, 0, 0] if is_convolution else tensor


def check_tensors(module: str, found: Shapes, expected: Shapes) -> None:
    """Refuse a file that lacks a tensor, has another one, or one of another shape.

    The refusal speaks in the name of `module`.
    """
    wrong = [f"missing {name}" for name in expected if name not in found]
    wrong += [f"unexpected {name}" for name in found if name not in expected]
    wrong += [
        f"{name} has shape {found[name]}, wanted {shape}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        raise ValueError(
            f"{module}: {len(wrong)} of the autoencoder's tensors do not fit: {'; '.join(wrong)}."
        )


def put(tree: PyTree, name: str, leaf: Any) -> None:
    """Put a leaf into nested dictionaries, at its name split at the dots."""
    *path, last = name.split(".")
    for key in path:
        tree = tree.setdefault(key, {})
    tree[last] = leaf


# The tensors of a file. Each function gives name -> shape of one part.


def shapes(config: AutoencoderConfig) -> Shapes:
    """The tensors of a published file: name -> shape, kernels as (out, in, rows, columns)."""
    latent = config.latent_channels
    found = _half("encoder", "down", config, config.channels, 2 * latent)
    found |= _half("decoder", "up", config, latent, config.out_channels)
    if config.quant:
        found |= _conv("quant_conv", 2 * latent, 2 * latent, side=1)
    if config.post_quant:
        found |= _conv("post_quant_conv", latent, latent, side=1)
    return found


def _half(
    name: str, direction: str, config: AutoencoderConfig, inputs: int, outputs: int
) -> Shapes:
    """The encoder (direction "down") or the decoder ("up")."""
    down = direction == "down"
    widths = config.widths if down else config.widths[::-1]  # in the order of its blocks
    resnets = config.layers if down else config.layers + 1
    found = _conv(f"{name}.conv_in", inputs, widths[0])
    found |= _conv(f"{name}.conv_out", widths[-1], outputs)
    found |= _norm(f"{name}.conv_norm_out", widths[-1])
    found |= _middle(f"{name}.mid_block", config)
    widths_before = (widths[0], *widths)
    for i, (before, width) in enumerate(itertools.pairwise(widths_before)):
        block = f"{name}.{direction}_blocks.{i}"
        for j in range(resnets):
            # The first ResNet of a block changes the width.
            found |= _resnet(f"{block}.resnets.{j}", width if j else before, width)
        if i < len(widths) - 1:  # the last block keeps its resolution
            found |= _conv(f"{block}.{direction}samplers.0.conv", width, width)
    return found


def _middle(name: str, config: AutoencoderConfig) -> Shapes:
    width = config.widths[-1]
    found = _resnet(f"{name}.resnets.0", width, width)
    found |= _resnet(f"{name}.resnets.1", width, width)
    if config.attention:
        attention = f"{name}.attentions.0"
        found |= _norm(f"{attention}.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            found |= _linear(f"{attention}.{part}", width)
    return found


def _resnet(name: str, inputs: int, outputs: int) -> Shapes:
    found = _norm(f"{name}.norm1", inputs)
    found |= _conv(f"{name}.conv1", inputs, outputs)
    found |= _norm(f"{name}.norm2", outputs)
    found |= _conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        found |= _conv(f"{name}.conv_shortcut", inputs, outputs, side=1)
    return found


def _conv(name: str, inputs: int, outputs: int, side: int = 3) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, side, side), f"{name}.bias": (outputs,)}


def _linear(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width, width), f"{name}.bias": (width,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
