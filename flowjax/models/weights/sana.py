"""Public files of SANA: folders and pipelines of diffusers, and NVlabs' original state dicts.

Both layouts are those of models/weights/layouts.py. The names of the original ones follow
scripts/convert_sana_to_diffusers.py of diffusers, and the values are computed as diffusers does:
in the original code the linear attention adds 1e-8 to its denominator instead of 1e-15, and the
norms of the attention to the text add 1e-6 instead of 1e-5.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Any

import numpy as np

from flowjax.errors import check_choice
from flowjax.models.card import Card, Model, model
from flowjax.models.dit import FREQUENCIES
from flowjax.models.sana_sizes import QK_NORMS, SANA_SIZES, SanaConfig
from flowjax.models.weights import dc_ae, layouts
from flowjax.models.weights.files import Tensors, open_tensors, read_json
from flowjax.models.weights.layouts import Layout, Source, convolution, linear, part_of
from flowjax.schedules import Linear

TRANSFORMER, AUTOENCODER, PIPELINE = "SanaTransformer2DModel", "AutoencoderDC", "SanaPipeline"
# What diffusers' SANA may leave out of its config.json. None for out_channels means in_channels.
DEFAULTS = {
    "in_channels": 32,
    "out_channels": 32,
    "num_attention_heads": 70,
    "attention_head_dim": 32,
    "num_layers": 20,
    "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112,
    "cross_attention_dim": 2240,
    "caption_channels": 2304,
    "mlp_ratio": 2.5,
    "dropout": 0.0,
    "attention_bias": False,
    "sample_size": 32,
    "patch_size": 1,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "interpolation_scale": None,
    "guidance_embeds": False,
    "guidance_embeds_scale": 0.1,
    "qk_norm": None,
    "timestep_scale": 1.0,
}
# A tensor that only the original SANA has.
MARK = "blocks.0.mlp.inverted_conv.conv.weight"
# Tensors of original files that sampling does not use: the learned null text, for which sampling
# takes the embeddings of the empty text, and a variance that only training uses.
UNUSED = ("y_embedder.y_embedding", "logvar_linear.weight", "logvar_linear.bias")
LINEAR_HEAD = 32  # numbers of a head of the linear attention in all original networks


# Folders of diffusers.


def diffusers(folder: pathlib.Path, dtype: str | None, params_dtype: str) -> Model:
    """The `Model` of a folder of diffusers' SanaTransformer2DModel.

    Args:
      folder: with config.json and the tensors.
      dtype, params_dtype: as for `models.load`.
    """
    path = folder / "config.json"
    options = _options(path)
    config = _config(path, options, dtype)
    layout = diffusers_layout(config)
    params = layouts.gather(open_tensors(folder), config, layout, params_dtype)
    details = {}
    if config.guidance_embeds:
        details["guidance_embeds_scale"] = options["guidance_embeds_scale"]
    card = _card(folder.resolve().name, config, options["timestep_scale"], details)
    return model(card, params)


def _card(name: str, config: SanaConfig, clock_scale: float, details: dict[str, Any]) -> Card:
    """SANA predicts the velocity of the linear path, and receives 1000 t."""
    return Card(
        name,
        config,
        Linear(),
        prediction="velocity",
        clock="1000 t",
        clock_scale=clock_scale,
        details=details,
    )


def _options(path: pathlib.Path) -> dict[str, Any]:
    """The options of a config.json; one that is not known is refused by name."""
    given = {name: value for name, value in read_json(path).items() if not name.startswith("_")}
    for name in given:
        check_choice(f"models.load: {path}", "the option", name, DEFAULTS)
    return DEFAULTS | given


def _config(path: pathlib.Path, options: dict[str, Any], dtype: str | None) -> SanaConfig:
    """The sizes that the options of a config.json give."""
    check_choice(f"models.load: {path}", "qk_norm", options["qk_norm"], QK_NORMS)
    heads, cross_heads = options["num_attention_heads"], options["num_cross_attention_heads"]
    width = heads * options["attention_head_dim"]
    # The attention to the text takes the projected text, which has the width of the network.
    if options["cross_attention_dim"] != width:
        raise ValueError(
            f"models.load: {path} has cross_attention_dim={options['cross_attention_dim']}; wanted "
            f"the width of the network, {heads} heads of {options['attention_head_dim']}: {width}."
        )
    size = options["sample_size"]
    return SanaConfig(
        size=(size, size),
        channels=options["in_channels"],
        patch=options["patch_size"],
        width=width,
        depth=options["num_layers"],
        heads=heads,
        cross_heads=cross_heads,
        caption=options["caption_channels"],
        cross_width=cross_heads * options["cross_attention_head_dim"],
        out_channels=options["out_channels"],
        mlp_ratio=options["mlp_ratio"],
        interpolation=options["interpolation_scale"],
        qk_norm=options["qk_norm"],
        attention_bias=options["attention_bias"],
        norm_affine=options["norm_elementwise_affine"],
        norm_epsilon=options["norm_eps"],
        guidance_embeds=options["guidance_embeds"],
        dtype=dtype,
    )


def pipeline(folder: pathlib.Path, dtype: str | None, params_dtype: str) -> Model:
    """The `Model` of a SanaPipeline folder, whose card has the scheduler's options and the vae.

    The text encoder and the tokenizer of the folder are not read: embeddings are given.

    Args:
      folder: with model_index.json and the folders scheduler, transformer and vae.
      dtype, params_dtype: as for `models.load`.
    """
    # Check the parts and their options before any tensor is read.
    path = folder / "scheduler" / "scheduler_config.json"
    for file in (path, folder / "transformer" / "config.json", folder / "vae" / "config.json"):
        if not file.is_file():
            raise FileNotFoundError(
                f"models.load: {folder} is a {PIPELINE} without {file.relative_to(folder)}."
            )
    scheduler = read_json(path)
    prediction = scheduler.get("prediction_type", "flow_prediction")
    check_choice(f"models.load: {path}", "prediction_type", prediction, ("flow_prediction",))
    configs = {}
    for part, kind in (("transformer", TRANSFORMER), ("vae", AUTOENCODER)):
        configs[part] = read_json(folder / part / "config.json")
        name = configs[part].get("_class_name")
        check_choice(f"models.load: {folder / part}", "_class_name", name, (kind,))

    transformer = diffusers(folder / "transformer", dtype, params_dtype)
    vae = dc_ae.from_tensors(open_tensors(folder / "vae"), configs["vae"])
    if vae.config.latent_channels != transformer.card.config.channels:
        raise ValueError(
            f"models.load: the transformer of {folder} draws latents of "
            f"{transformer.card.config.channels} channels, and its vae decodes "
            f"{vae.config.latent_channels}; they do not belong together."
        )
    name = folder.resolve().name
    card = dataclasses.replace(transformer.card, name=name, scheduler=scheduler, vae=vae)
    return model(card, transformer.params)


def diffusers_layout(config: SanaConfig) -> Layout:
    """The layout of diffusers' SanaTransformer2DModel."""
    width, hidden, block = config.width, config.hidden, "transformer_blocks.{}"
    # AdaLayerNormSingle has the embedder one level deeper than the one with guidance.
    embedder = "time_embed" if config.guidance_embeds else "time_embed.emb"
    cross = functools.partial(_projections, config, f"{block}.attn2", config.cross_width)
    norm2 = _affine(f"{block}.norm2", width) if config.norm_affine else {}
    # The names on the left are ours, those of the attributes of sana.Sana and sana.Block.
    sources = {
        "patches": convolution("patch_embed.proj", config),
        "time": _embedder(f"{embedder}.timestep_embedder.linear_{{}}", width, (1, 2)),
        "modulation": linear("time_embed.linear", width, 6 * width),
        "text1": linear("caption_projection.linear_1", config.caption, width),
        "text2": linear("caption_projection.linear_2", width, width),
        "text_norm": {"scale": _same("caption_norm.weight", width)},
        "blocks": {
            "table": _same(f"{block}.scale_shift_table", 6, width),
            "attention": _projections(config, f"{block}.attn1", width, bias=config.attention_bias),
            "cross": cross(bias=True),
            "mlp": _convolutions(width, hidden, *(f"{block}.ff.conv_{part}" for part in MLP_PARTS)),
            **({"norm2": norm2} if norm2 else {}),
        },
        "table": _same("scale_shift_table", 2, width),
        "outputs": linear("proj_out", width, config.patch**2 * config.outputs),
    }
    if config.guidance_embeds:
        name = f"{embedder}.guidance_embedder.linear_{{}}"
        sources["guidance"] = _embedder(name, width, (1, 2))
    return Layout(sources, {}, "patch_embed.pos_embed", stores_positions=False, network="SANA")


# The parts of the gated convolution in diffusers' names.
MLP_PARTS = ("inverted", "depth", "point")


# Original state dicts.


def is_original(tensors: Tensors) -> bool:
    """Whether a file is an original state dict of SANA."""
    return MARK in tensors.shapes


def original(
    tensors: Tensors,
    name: str,
    given: dict[str, Any],
    dtype: str | None,
    params_dtype: str,
    heads: int | None,
) -> Model:
    """The `Model` of an original state dict.

    Args:
      tensors: of the file.
      name: of the card.
      given: the config.json beside it, which may have num_heads (of the attention to the text) and
        linear_head_dim.
      dtype, params_dtype: as for `models.load`.
      heads: the number of heads of the attention to the text, where neither the width nor `given`
        tells it.
    """
    config = _original_config(tensors, given, heads, dtype)
    params = layouts.gather(tensors, config, original_layout(config), params_dtype)
    return model(_card(name, config, 1.0, {}), params)


def _original_config(
    tensors: Tensors, given: dict[str, Any], heads: int | None, dtype: str | None
) -> SanaConfig:
    """The sizes of an original file, from the shapes of its tensors."""
    shapes = tensors.shapes
    width, channels, patch, _ = _shape(tensors, "x_embedder.proj.weight", 4)
    hidden = _shape(tensors, MARK, 4)[0] // 2
    depth = len([name for name in shapes if name.endswith("attn.qkv.weight")])
    size, interpolation = _places(tensors, patch)
    known = {sizes["width"]: sizes["cross_heads"] for sizes in SANA_SIZES.values()}
    heads = heads or given.get("num_heads") or known.get(width)
    if heads is None:
        public = ", ".join(f"{count} for {size}" for size, count in known.items())
        raise ValueError(
            f"models.load: {tensors.path} has width {width}, and no tensor tells the number of "
            f"heads of its attention to the text; pass heads= (the public networks: {public})."
        )
    return SanaConfig(
        size=size,
        channels=channels,
        patch=patch,
        width=width,
        depth=depth,
        heads=width // given.get("linear_head_dim", LINEAR_HEAD),
        cross_heads=heads,
        caption=_shape(tensors, "y_embedder.y_proj.fc1.weight", 2)[1],
        out_channels=_shape(tensors, "final_layer.linear.weight", 2)[0] // patch**2,
        mlp_ratio=hidden / width,
        interpolation=interpolation,
        qk_norm="rms_norm_across_heads" if "blocks.0.attn.q_norm.weight" in shapes else None,
        attention_bias="blocks.0.attn.qkv.bias" in shapes,
        guidance_embeds="cfg_embedder.mlp.0.weight" in shapes,
        dtype=dtype,
    )


def _places(tensors: Tensors, patch: int) -> tuple[tuple[int, int], float | None]:
    """(size, interpolation) by the stored embedding of places.

    The original code stores it always, and it is zero where the network does not use it. Where it
    is not, the second token lies at column 1/interpolation, whose first sine is at place 0.
    """
    name = "pos_embed"
    if name not in tensors.shapes:
        raise ValueError(
            f"models.load: {tensors.path} has no {name}, by which the size of its latents is known."
        )
    stored = tensors.read(name)[0].astype(np.float64)  # (L, E)
    side = math.isqrt(len(stored))
    if side**2 != len(stored) or side < 2:
        raise ValueError(
            f"models.load: {name} of {tensors.path} has {len(stored)} tokens; wanted a square."
        )
    size = (side * patch, side * patch)
    if not np.any(stored):
        return size, None
    # Public networks have whole or half numbers, which rounding to 16 bits may have moved.
    interpolation = 1 / np.arcsin(np.clip(stored[1, 0], 1e-3, 1))
    return size, round(16 * float(interpolation)) / 16


def original_layout(config: SanaConfig) -> Layout:
    """The layout of NVlabs' state dicts."""
    width, hidden, block = config.width, config.hidden, "blocks.{}"
    attention = {
        part: part_of(f"{block}.attn.qkv", width, i, 3, bias=config.attention_bias)
        for i, part in enumerate(("query", "key", "value"))
    }
    attention["out"] = linear(f"{block}.attn.proj", width, width)
    # The text's keys and values are the halves of one matrix.
    cross = {
        "query": linear(f"{block}.cross_attn.q_linear", width, width),
        "key": part_of(f"{block}.cross_attn.kv_linear", width, 0, 2),
        "value": part_of(f"{block}.cross_attn.kv_linear", width, 1, 2),
        "out": linear(f"{block}.cross_attn.proj", width, width),
    }
    if config.qk_norm:
        for sources, name in ((attention, "attn"), (cross, "cross_attn")):
            sources["query_norm"] = {"scale": _same(f"{block}.{name}.q_norm.weight", width)}
            sources["key_norm"] = {"scale": _same(f"{block}.{name}.k_norm.weight", width)}
    parts = (f"{block}.mlp.{part}_conv.conv" for part in MLP_PARTS)
    sources = {
        "patches": convolution("x_embedder.proj", config),
        "time": _embedder("t_embedder.mlp.{}", width, (0, 2)),
        "modulation": linear("t_block.1", width, 6 * width),
        "text1": linear("y_embedder.y_proj.fc1", config.caption, width),
        "text2": linear("y_embedder.y_proj.fc2", width, width),
        "text_norm": {"scale": _same("attention_y_norm.weight", width)},
        "blocks": {
            "table": _same(f"{block}.scale_shift_table", 6, width),
            "attention": attention,
            "cross": cross,
            "mlp": _convolutions(width, hidden, *parts),
        },
        "table": _same("final_layer.scale_shift_table", 2, width),
        "outputs": linear("final_layer.linear", width, config.patch**2 * config.outputs),
    }
    if config.guidance_embeds:
        sources["guidance"] = _embedder("cfg_embedder.mlp.{}", width, (0, 2))
    uses_places = config.interpolation is not None
    unused = UNUSED if uses_places else (*UNUSED, "pos_embed")
    places = "pos_embed" if uses_places else ""
    return Layout(sources, {}, places, uses_places, network="SANA", unused=unused)


def _shape(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor, which must have this number of axes."""
    found = tensors.shapes.get(name, ())
    if len(found) != axes:
        raise ValueError(
            f"models.load: {name} of {tensors.path} is {found or 'missing'}; wanted {axes} axes."
        )
    return found


# The sources of one part.


def _same(name: str, *shape: int) -> Source:
    """A tensor that is our array as it is."""
    return Source(name, shape, np.asarray)


def _affine(name: str, width: int) -> dict[str, Source]:
    """The weights of a LayerNorm."""
    return {"scale": _same(f"{name}.weight", width), "bias": _same(f"{name}.bias", width)}


def _embedder(name: str, width: int, numbers: tuple[int, int]) -> dict[str, dict[str, Source]]:
    """The two dense layers of a `sana.TimeEmbedding`, whose names have these numbers."""
    first, second = (name.format(number) for number in numbers)
    return {
        "dense1": linear(first, FREQUENCIES, width),
        "dense2": linear(second, width, width),
    }


def _projections(config: SanaConfig, name: str, width: int, bias: bool) -> dict[str, Any]:
    """A `sana.Projections` in diffusers' names; `width` is that of all heads."""
    sources = {
        ours: linear(f"{name}.to_{theirs}", config.width, width, bias)
        for ours, theirs in (("query", "q"), ("key", "k"), ("value", "v"))
    }
    sources["out"] = linear(f"{name}.to_out.0", width, config.width)
    for ours, theirs in (("query_norm", "norm_q"), ("key_norm", "norm_k")):
        if config.qk_norm == "rms_norm_across_heads":
            sources[ours] = {"scale": _same(f"{name}.{theirs}.weight", width)}
        elif config.qk_norm == "layer_norm_across_heads":
            sources[ours] = _affine(f"{name}.{theirs}", width)
    return sources


def _convolutions(width: int, hidden: int, inverted: str, depth: str, point: str) -> dict[str, Any]:
    """A `sana.GatedConvolution`; the arguments after the sizes are the names of its tensors."""

    def dense(a: np.ndarray) -> np.ndarray:
        return a[:, :, 0, 0].T  # (out, in, 1, 1) -> (in, out)

    def by_channel(a: np.ndarray) -> np.ndarray:
        return a[:, 0].transpose(1, 2, 0)  # (2 F, 1, 3, 3) -> (3, 3, 2 F)

    return {
        "expand": {
            "kernel": Source(f"{inverted}.weight", (2 * hidden, width, 1, 1), dense),
            "bias": _same(f"{inverted}.bias", 2 * hidden),
        },
        "kernel": Source(f"{depth}.weight", (2 * hidden, 1, 3, 3), by_channel),
        "bias": _same(f"{depth}.bias", 2 * hidden),
        "contract": {"kernel": Source(f"{point}.weight", (width, hidden, 1, 1), dense)},
    }
