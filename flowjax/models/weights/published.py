"""Public checkpoints as a `Model`: folders and pipelines of diffusers, and original state dicts."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from flowjax.errors import check_choice, check_number, check_whole
from flowjax.models import dit
from flowjax.models.card import Card, Model, model
from flowjax.models.vae import Autoencoder
from flowjax.models.weights import autoencoder as autoencoder_files
from flowjax.models.weights import layouts
from flowjax.models.weights import sana as sana_files
from flowjax.models.weights.files import Tensors, open_tensors, read_json
from flowjax.schedules import Linear, VPDiscrete, of_betas

TRANSFORMERS = ("DiTTransformer2DModel", "Transformer2DModel")
AUTOENCODERS = ("AutoencoderKL",)
SANA = (sana_files.TRANSFORMER, sana_files.AUTOENCODER, sana_files.PIPELINE)
CLASSES = (*TRANSFORMERS, *AUTOENCODERS, "DiTPipeline", *SANA)
# What diffusers' DiT may leave out of its config.json. None for out_channels means in_channels.
DEFAULTS = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
}
NO_COUNTS = {"out_channels", "sample_size", "norm_eps"}  # of these options
# Options with which the same tensors would make another network.
FIXED = {
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
}
# The prediction_type of a scheduler, and our name of the prediction.
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
HEADS = {sizes["width"]: sizes["heads"] for sizes in dit.SIZES.values()}
KINDS = ("SiT", "DiT")
IMAGENET_CLASSES = 1000
# Options of an original config.json that are whole numbers of at least 1.
COUNTS = ("hidden_size", "in_channels", "patch_size", "depth", "num_heads", "num_classes")
# Any of these tensors makes a state dict one of DiT or SiT.
MARKS = {"x_embedder.proj.weight", "final_layer.linear.weight", "blocks.0.attn.qkv.weight"}
# Beginnings of the tensors' names in other networks. The more special ones come first.
OTHERS = {
    "double_blocks.": "a Flux transformer",
    "single_transformer_blocks.": "a Flux transformer",
    "joint_blocks.": "a Stable Diffusion 3 transformer",
    "down_blocks.": "a U-Net",
    "input_blocks.": "a U-Net",
    "model.diffusion_model.": "a complete Stable Diffusion checkpoint",
    "encoder.": "an autoencoder: pass the folder that holds it and its config.json",
    "transformer_blocks.": (
        "a transformer of diffusers: pass the folder that holds it and its config.json"
    ),
}


# Folders of diffusers.


def check_class(path: pathlib.Path, config: dict[str, Any]) -> str:
    """The _class_name of a diffusers config; a class that is not read is refused."""
    name = config["_class_name"]
    if name not in CLASSES:
        raise ValueError(
            f"models.load: {path} is a {name}, which is not read here. Read are "
            f"{', '.join(CLASSES)} of diffusers, and the original state dicts of DiT, SiT and SANA."
        )
    return name


def autoencoder(folder: pathlib.Path) -> Autoencoder:
    """The `Autoencoder` of an AutoencoderKL folder."""
    config = read_json(folder / "config.json")
    tensors = open_tensors(folder)
    arrays = {name: tensors.read(name) for name in tensors.shapes}
    return autoencoder_files.from_diffusers(arrays, config)


def diffusers(folder: pathlib.Path, dtype: str | None, params_dtype: str) -> Model:
    """The `Model` of a folder of diffusers' DiT.

    The folder does not give the betas of the training: they are those of the published networks.

    Args:
      folder: with config.json and the tensors.
      dtype, params_dtype: as for `models.load`.
    """
    path = folder / "config.json"
    given = read_json(path)
    _check_is_dit(path, given)
    options = DEFAULTS | given
    _check_sizes(path, options, DEFAULTS.keys() - NO_COUNTS)
    heads = options["num_attention_heads"]
    config = dit.DiTConfig(
        size=_pair(options["sample_size"]),
        channels=options["in_channels"],
        patch=options["patch_size"],
        width=heads * options["attention_head_dim"],
        depth=options["num_layers"],
        heads=heads,
        classes=options["num_embeds_ada_norm"],
        out_channels=options["out_channels"],
        frequency_shift=1,  # diffusers divides by 127 where the paper's code divides by 128
        mlp_epsilon=options["norm_eps"],
        dtype=dtype,
    )
    layout = layouts.diffusers(config)
    params = layouts.gather(open_tensors(folder), config, layout, params_dtype)
    card = Card(folder.resolve().name, config, _schedule({}), prediction="noise", clock="index")
    return model(card, params)


def _check_is_dit(path: pathlib.Path, given: dict[str, Any]) -> None:
    """Refuse a config.json of another transformer of diffusers."""
    for option, wanted in FIXED.items():
        if given.get(option, wanted) != wanted:
            raise ValueError(
                f"models.load: {path} has {option}={given[option]!r}; only a DiT is read here: "
                f"{wanted!r}."
            )
    # The older class is that of several networks, and its default is another one.
    if given["_class_name"] == "Transformer2DModel" and "norm_type" not in given:
        raise ValueError(
            f"models.load: {path} is a Transformer2DModel, and no DiT: it has no "
            "norm_type='ada_norm_zero'."
        )


def pipeline(folder: pathlib.Path, dtype: str | None, params_dtype: str) -> Model:
    """The `Model` of a DiTPipeline folder, whose card has the scheduler's options and the vae.

    Args:
      folder: with model_index.json and the folders scheduler, transformer and vae.
      dtype, params_dtype: as for `models.load`.
    """
    # Check the parts and their options before any tensor is read.
    index = read_json(folder / "model_index.json")
    path = folder / "scheduler" / "scheduler_config.json"
    for file in (path, folder / "transformer" / "config.json", folder / "vae" / "config.json"):
        if not file.is_file():
            raise FileNotFoundError(
                f"models.load: {folder} is a DiTPipeline without {file.relative_to(folder)}."
            )
    scheduler = read_json(path)
    prediction = scheduler.get("prediction_type", "epsilon")
    check_choice(f"models.load: {path}", "prediction_type", prediction, PREDICTIONS)
    for part, classes in (("transformer", TRANSFORMERS), ("vae", AUTOENCODERS)):
        name = read_json(folder / part / "config.json").get("_class_name")
        check_choice(f"models.load: {folder / part}", "_class_name", name, classes)

    # The scheduler's options replace the betas and the prediction of the transformer's card.
    transformer = diffusers(folder / "transformer", dtype, params_dtype)
    card = dataclasses.replace(
        transformer.card,
        name=folder.resolve().name,
        schedule=_schedule(scheduler),
        prediction=PREDICTIONS[prediction],
        scheduler=scheduler,
        vae=autoencoder(folder / "vae"),
        details={"labels": index["id2label"]} if "id2label" in index else {},
    )
    return model(card, transformer.params)


def _pair(size: int | list[int]) -> tuple[int, ...]:
    """(H, W) of a size in a config.json; what is none is left to `DiTConfig`."""
    return tuple(size) if isinstance(size, list) else (size, size)


def _check_sizes(path: pathlib.Path, options: dict[str, Any], names: Iterable[str]) -> None:
    """Refuse an option of a config.json that is no whole number of at least 1."""
    for name in sorted(names):
        if name in options:
            check_whole(f"models.load: {path}", name, options[name], 1)


def _schedule(scheduler: dict[str, Any]) -> VPDiscrete:
    """The schedule of the training by a scheduler_config.json: one object for the same betas."""
    if scheduler.get("rescale_betas_zero_snr"):
        raise ValueError(
            "models.load: rescale_betas_zero_snr is not known here; give the rescaled betas as "
            "trained_betas."
        )
    # The defaults are those of DiT's training, also where there is no scheduler.
    kind = scheduler.get("beta_schedule", "linear")
    check_choice("models.load", "beta_schedule", kind, BETA_SCHEDULES)
    steps = scheduler.get("num_train_timesteps", 1000)
    check_whole("models.load", "num_train_timesteps", steps, 2)
    betas = {"beta_start": scheduler.get("beta_start", 1e-4)}
    betas["beta_end"] = scheduler.get("beta_end", 0.02)
    for name, beta in betas.items():
        check_number("models.load", name, beta, 0, 1, above=True)
    trained = scheduler.get("trained_betas")
    if trained is not None:
        check_number("models.load", "trained_betas", trained, 0, 1, above=True)
    return of_betas(kind, steps, *betas.values(), tuple(trained) if trained else None)


# Original state dicts.


def original(
    path: pathlib.Path,
    dtype: str | None,
    params_dtype: str,
    kind: str | None = None,
    heads: int | None = None,
) -> Model:
    """The `Model` of an original state dict. A config.json beside it may give its sizes.

    SiT's network learns a variance that its own code drops. Here the last layer's part for it is
    left out.

    Args:
      path: a file, or a folder with one.
      dtype, params_dtype, kind, heads: as for `models.load`.
    """
    tensors = open_tensors(path)
    beside = (path if path.is_dir() else path.parent) / "config.json"
    given = read_json(beside) if beside.is_file() else {}
    if sana_files.is_original(tensors):
        name = path.resolve().name if path.is_dir() else path.stem
        return sana_files.original(tensors, name, given, dtype, params_dtype, heads)
    _check_is_original(tensors)
    # What is null is not given.
    given = {name: value for name, value in given.items() if value is not None}
    _check_sizes(beside, given, COUNTS)
    if heads is not None:
        check_whole("models.load", "heads", heads, 1)
    kind = _kind(kind, given, tensors.path, path)
    sizes = _sizes(tensors, given, heads, kind, dtype)
    layout = layouts.original(sizes.config, sizes.stored)
    params = layouts.gather(tensors, sizes.config, layout, params_dtype)
    name = path.resolve().name if path.is_dir() else path.stem
    if kind == "SiT":
        card = Card(name, sizes.config, Linear(), prediction="velocity", clock="1 - t")
    else:
        card = Card(name, sizes.config, _schedule({}), prediction="noise", clock="index")
    return model(card, params)


def _check_is_original(tensors: Tensors) -> None:
    """Refuse the tensors of another network, and name it where its tensors' names are known."""
    names = list(tensors.shapes)
    if not MARKS & set(names):
        known = [
            network
            for start, network in OTHERS.items()
            if any(name.startswith(start) for name in names)
        ]
        unknown = f"no DiT or SiT: it has tensors such as {', '.join(names[:5])}"
        raise ValueError(
            f"models.load: {tensors.path} is {known[0] if known else unknown}. Read are "
            f"{', '.join(CLASSES)} of diffusers, and the original state dicts of DiT, SiT and SANA."
        )
    # PixArt has all of DiT's tensors, and more.
    if any("cross_attn" in name for name in names):
        raise ValueError(
            f"models.load: {tensors.path} has cross-attention, as PixArt has; only DiT, SiT and "
            "SANA are read here."
        )


def _kind(kind: str | None, given: dict[str, Any], *paths: pathlib.Path) -> str:
    """The kind of a state dict, "SiT" or "DiT". They have the same tensors, so other facts decide.

    Args:
      kind: the caller's choice, which comes first.
      given: the config.json beside the file, whose "time", "kind" or "_class_name" may tell.
      *paths: their names may tell.
    """
    if kind is not None:
        check_choice("models.load", "kind", kind, KINDS)
        return kind
    # Only SiT's time runs towards the data.
    if re.search(r"t\s*=\s*1 is data", str(given.get("time", "")), re.IGNORECASE):
        return "SiT"
    # The first text that names exactly one of the two decides.
    hints = [str(given.get(key, "")) for key in ("kind", "_class_name")]
    hints += [path.resolve().name for path in paths]
    for hint in hints:
        found = [kind for kind in KINDS if _names_kind(hint, kind)]
        if len(found) == 1:
            return found[0]
    raise ValueError(
        f"models.load: {paths[0]} may be a DiT or a SiT, which have the same tensors and different "
        'times and outputs; pass kind="DiT" or kind="SiT".'
    )


def _names_kind(hint: str, kind: str) -> bool:
    """Whether a text has "DiT" or "SiT" as a word of its own, so "site" is no SiT."""
    return re.search(rf"(?<![A-Za-z]){kind}(?![a-z])", hint, re.IGNORECASE) is not None


class Sizes(NamedTuple):
    """Sizes of an original state dict.

    Attributes:
      config: the network as it is used.
      stored: channels of the stored last layer.
    """

    config: dit.DiTConfig
    stored: int


def _sizes(
    tensors: Tensors, given: dict[str, Any], heads: int | None, kind: str, dtype: str | None
) -> Sizes:
    """The sizes that config.json gives (`given`), and the others from the tensors' shapes."""
    width, channels, patch, _ = _shape(tensors, "x_embedder.proj.weight", 4)
    # A config.json comes first. Where it contradicts the tensors, layouts.gather refuses them.
    width = given.get("hidden_size", width)
    channels = given.get("in_channels", channels)
    patch = given.get("patch_size", patch)
    classes, has_null = _labels(tensors, given)
    stored = _shape(tensors, "final_layer.linear.weight", 2)[0] // patch**2
    if "learn_sigma" in given:
        check_choice("models.load: config.json", "learn_sigma", given["learn_sigma"], (False, True))
        stored = channels * (1 + given["learn_sigma"])
    size = _image_size(tensors, given, patch)
    # SiT's own code drops the learned variance; without one there is nothing to drop.
    drops_variance = kind == "SiT" or stored == channels
    config = dit.DiTConfig(
        size=size,
        channels=channels,
        patch=patch,
        width=width,
        depth=given.get("depth", _depth(tensors)),
        heads=heads or given.get("num_heads") or _known_heads(tensors, width),
        classes=classes,
        has_null=has_null,
        out_channels=None if drops_variance else stored,
        mlp_ratio=_shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0] / width,
        dtype=dtype,
    )
    return Sizes(config, stored)


def _shape(tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    """The shape of a tensor, which must have this number of axes."""
    found = tensors.shapes.get(name, ())
    if len(found) != axes or 0 in found:
        raise ValueError(
            f"models.load: {name} of {tensors.path} is {found or 'missing'}; wanted {axes} axes."
        )
    return found


def _labels(tensors: Tensors, given: dict[str, Any]) -> tuple[int, bool]:
    """(number of classes, whether there is a null label) of an original state dict.

    The code of DiT and SiT adds a row for the null label only if labels are dropped in training. So
    the rows alone do not tell whether the last one is a class.
    """
    rows, _ = _shape(tensors, "y_embedder.embedding_table.weight", 2)
    facts = given | {name: value for name, value in tensors.facts.items() if name not in given}
    _check_sizes(tensors.path, facts, ["num_classes"])
    classes = facts.get("num_classes")
    # The number of classes tells it, else the probability with which labels were dropped.
    if classes is None:
        if "class_dropout_prob" in facts:
            dropped = facts["class_dropout_prob"]
            check_number(f"models.load: {tensors.path}", "class_dropout_prob", dropped, 0, 1)
            has_null = dropped > 0
        else:
            # A table of ImageNet's classes has no other row; other tables are as published.
            has_null = rows != IMAGENET_CLASSES
        return rows - has_null, has_null
    if rows - classes not in (0, 1):
        raise ValueError(
            f"models.load: {tensors.path} has {rows} rows of labels, misshapen for "
            f"num_classes={classes}; wanted {classes}, or {classes + 1} with the null label."
        )
    return classes, rows == classes + 1


def _image_size(tensors: Tensors, given: dict[str, Any], patch: int) -> tuple[int, int]:
    """(H, W) of config.json, or of a square with as many tokens as there are places."""
    tokens = _shape(tensors, "pos_embed", 3)[1]
    side = math.isqrt(tokens)
    if "input_size" not in given and side**2 != tokens:
        raise ValueError(
            f"models.load: {tensors.path} has {tokens} tokens, no square; put a config.json with "
            "input_size: [H, W] beside it."
        )
    return _pair(given.get("input_size", side * patch))


def _known_heads(tensors: Tensors, width: int) -> int:
    """The number of heads of the public network with this width."""
    if width not in HEADS:
        public = ", ".join(f"{heads} for {width}" for width, heads in HEADS.items())
        raise ValueError(
            f"models.load: {tensors.path} has width {width}, and no tensor tells the number of "
            f"heads; pass heads= (the public networks: {public})."
        )
    return HEADS[width]


def _depth(tensors: Tensors) -> int:
    """The number of layers that have tensors."""
    found = [re.match(r"blocks\.(\d+)\.", name) for name in tensors.shapes]
    return 1 + max((int(match[1]) for match in found if match), default=0)
