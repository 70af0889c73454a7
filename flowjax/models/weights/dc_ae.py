"""The files of diffusers' AutoencoderDC: a config.json, and one tensor for each array of ours.

Published kernels are (out, in) or (out, in, rows, columns); ours are (in, out) and (rows, columns,
in, out).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from flowjax.errors import check_choice
from flowjax.models.dc_ae import (
    ACTIVATIONS,
    BLOCKS,
    NORMS,
    AutoencoderDC,
    AutoencoderDCConfig,
    Stage,
)
from flowjax.models.weights.autoencoder import AXES, Shapes, check_tensors, put
from flowjax.models.weights.files import Tensors

NAME = "models.dc_ae"
# What diffusers' AutoencoderDC may leave out of its config.json.
DEFAULTS = {
    "in_channels": 3,
    "latent_channels": 32,
    "attention_head_dim": 32,
    "encoder_block_types": "ResBlock",
    "decoder_block_types": "ResBlock",
    "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
    "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
    "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "upsample_block_type": "pixel_shuffle",
    "downsample_block_type": "pixel_unshuffle",
    "decoder_norm_types": "rms_norm",
    "decoder_act_fns": "silu",
    "encoder_out_shortcut": True,
    "decoder_in_shortcut": True,
    "decoder_conv_act_fn": "relu",
    "scaling_factor": 1.0,
}
# A tensor of torch's batch norm that counts the steps of the training.
COUNTER = ".num_batches_tracked"


def from_tensors(tensors: Tensors, config: dict[str, Any]) -> AutoencoderDC:
    """The `AutoencoderDC`, in float32, of a published diffusers AutoencoderDC.

    Args:
      tensors: of the file.
      config: its config.json, a dictionary.

    Raises:
      ValueError: the config is not known, or tensors are missing, unexpected or of another shape;
        each is named.
    """
    sizes = config_from_diffusers(config)
    names = [name for name in tensors.shapes if not name.endswith(COUNTER)]
    check_tensors(NAME, {name: tensors.shapes[name] for name in names}, shapes(sizes))
    params = {}
    for name in names:
        tensor = np.asarray(tensors.read(name), np.float32)
        put(params, name, jnp.asarray(tensor.transpose(AXES[tensor.ndim])))
    return AutoencoderDC(params, sizes)


def config_from_diffusers(config: dict[str, Any]) -> AutoencoderDCConfig:
    """The `AutoencoderDCConfig` of a diffusers config.json, a dictionary.

    Raises:
      ValueError: it describes another network than that of models/dc_ae.py.
    """
    for option in config:
        if not option.startswith("_"):
            check_choice(NAME, "the option of config.json", option, DEFAULTS)
    options = DEFAULTS | config
    check_choice(NAME, "decoder_conv_act_fn", options["decoder_conv_act_fn"], ACTIVATIONS)
    encoder = _stages("encoder", options, norms="rms_norm", activations="silu")
    decoder = _stages(
        "decoder",
        options,
        norms=options["decoder_norm_types"],
        activations=options["decoder_act_fns"],
    )
    if len(encoder) != len(decoder):
        raise ValueError(
            f"{NAME}: {len(encoder)} stages of the encoder and {len(decoder)} of the decoder; "
            "wanted as many."
        )
    return AutoencoderDCConfig(
        encoder=encoder,
        decoder=decoder,
        channels=options["in_channels"],
        latent_channels=options["latent_channels"],
        head=options["attention_head_dim"],
        # As in diffusers, any other word means a convolution of stride 2, or no interpolation.
        unshuffle=options["downsample_block_type"] == "pixel_unshuffle",
        shuffle=options["upsample_block_type"] != "interpolate",
        out_shortcut=options["encoder_out_shortcut"],
        in_shortcut=options["decoder_in_shortcut"],
        activation=options["decoder_conv_act_fn"],
        scale=options["scaling_factor"],
    )


def _stages(half: str, options: dict[str, Any], norms: Any, activations: Any) -> tuple[Stage, ...]:
    """The stages of the encoder or the decoder."""
    widths = options[f"{half}_block_out_channels"]
    count = len(widths)
    columns = {
        "layers_per_block": options[f"{half}_layers_per_block"],
        "block_types": _repeated(options[f"{half}_block_types"], count),
        "qkv_multiscales": options[f"{half}_qkv_multiscales"],
        "norm_types": _repeated(norms, count),
        "act_fns": _repeated(activations, count),
    }
    for option, values in columns.items():
        if len(values) != count:
            raise ValueError(
                f"{NAME}: {half}_{option} has {len(values)} entries for {count} stages; wanted one "
                "each."
            )
    stages = []
    for i, (layers, block, scales, norm, activation) in enumerate(
        zip(*columns.values(), strict=True)
    ):
        check_choice(NAME, f"{half}_block_types", block, BLOCKS)
        check_choice(NAME, "decoder_norm_types", norm, NORMS)
        check_choice(NAME, "decoder_act_fns", activation, ACTIVATIONS)
        # Without blocks there is no resampling either, so the resolutions would not fit.
        if layers == 0 and 0 < i < count - 1 or count < 2:
            raise ValueError(
                f"{NAME}: {half}_layers_per_block={list(columns['layers_per_block'])}; only the "
                "first or the last of several stages may be without layers."
            )
        if any(side % 2 == 0 for side in scales):
            raise ValueError(
                f"{NAME}: {half}_qkv_multiscales has {list(scales)}; wanted odd sides."
            )
        stages.append(Stage(widths[i], layers, block, tuple(scales), norm, activation))
    return tuple(stages)


def _repeated(value: Any, count: int) -> Any:
    """One value for all stages, or one for each."""
    return (value,) * count if isinstance(value, str) else value


# The tensors of a file. Each function gives name -> shape of one part.


def shapes(config: AutoencoderDCConfig) -> Shapes:
    """The tensors of a published file: name -> shape, kernels as (out, in, rows, columns)."""
    return _encoder(config) | _decoder(config)


def _encoder(config: AutoencoderDCConfig) -> Shapes:
    stages, part = config.encoder, "encoder.down_blocks"
    quarter = 4 if config.unshuffle else 1  # channels that a resampling's convolution leaves out
    if stages[0].layers:
        found = _conv("encoder.conv_in", config.channels, stages[0].width)
    else:
        found = _conv("encoder.conv_in.conv", config.channels, stages[1].width // quarter)
    for i, stage in enumerate(stages):
        for j in range(stage.layers):
            found |= _block(f"{part}.{i}.{j}", stage, config.head)
        if stage.layers and i < len(stages) - 1:
            name = f"{part}.{i}.{stage.layers}.conv"
            found |= _conv(name, stage.width, stages[i + 1].width // quarter)
    return found | _conv("encoder.conv_out", stages[-1].width, config.latent_channels)


def _decoder(config: AutoencoderDCConfig) -> Shapes:
    stages, part = config.decoder, "decoder.up_blocks"
    four = 4 if config.shuffle else 1  # times as many channels as go into pixels
    found = _conv("decoder.conv_in", config.latent_channels, stages[-1].width)
    for i, stage in enumerate(stages):
        # The resampling comes before the blocks.
        samples = bool(stage.layers) and i < len(stages) - 1
        if samples:
            found |= _conv(f"{part}.{i}.0.conv", stages[i + 1].width, stage.width * four)
        for j in range(stage.layers):
            found |= _block(f"{part}.{i}.{j + samples}", stage, config.head)
    if stages[0].layers:
        found |= _norm("decoder.norm_out", stages[0].width, "rms_norm")
        return found | _conv("decoder.conv_out", stages[0].width, config.channels)
    found |= _norm("decoder.norm_out", stages[1].width, "rms_norm")
    return found | _conv("decoder.conv_out.conv", stages[1].width, config.channels * four)


def _block(name: str, stage: Stage, head: int) -> Shapes:
    width = stage.width
    if stage.block == "ResBlock":
        found = _conv(f"{name}.conv1", width, width)
        found |= _conv(f"{name}.conv2", width, width, bias=False)
        return found | _norm(f"{name}.norm", width, stage.norm)
    # The attention: `inner` channels of queries, of keys and of values at each scale.
    inner = width // head * head
    found = {f"{name}.attn.{part}.weight": (inner, width) for part in ("to_q", "to_k", "to_v")}
    for i, side in enumerate(stage.scales):
        scale = f"{name}.attn.to_qkv_multiscale.{i}"
        found[f"{scale}.proj_in.weight"] = (3 * inner, 1, side, side)
        found[f"{scale}.proj_out.weight"] = (3 * inner, head, 1, 1)
    found[f"{name}.attn.to_out.weight"] = (width, inner * (1 + len(stage.scales)))
    found |= _norm(f"{name}.attn.norm_out", width, stage.norm)
    # The gated convolution, four times as wide.
    found |= _conv(f"{name}.conv_out.conv_inverted", width, 8 * width, side=1)
    found |= _conv(f"{name}.conv_out.conv_depth", 1, 8 * width)
    found |= _conv(f"{name}.conv_out.conv_point", 4 * width, width, side=1, bias=False)
    return found | _norm(f"{name}.conv_out.norm", width, "rms_norm")


def _conv(name: str, inputs: int, outputs: int, side: int = 3, bias: bool = True) -> Shapes:
    found = {f"{name}.weight": (outputs, inputs, side, side)}
    return found | ({f"{name}.bias": (outputs,)} if bias else {})


def _norm(name: str, width: int, kind: str) -> Shapes:
    parts = ["weight", "bias"]
    if kind == "batch_norm":
        parts += ["running_mean", "running_var"]
    return {f"{name}.{part}": (width,) for part in parts}
