"""Public checkpoints as a `Model`: diffusers' folders and pipelines, and the original state dicts of DiT and SiT."""

import dataclasses
import math
import re

from flowjax.errors import check_choice
from flowjax.models import dit, vae
from flowjax.models.card import Card, model
from flowjax.models.weights import layouts
from flowjax.models.weights.files import open_tensors, read_json
from flowjax.schedules import Linear, of_betas

CLASSES = ("DiTTransformer2DModel", "Transformer2DModel", "AutoencoderKL", "DiTPipeline")
# What diffusers' DiT may leave out of its config.json; each None is filled from another.
DEFAULTS = {
    "num_attention_heads": 16, "attention_head_dim": 72, "in_channels": 4, "out_channels": None, "num_layers": 28,
    "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000, "norm_eps": 1e-5,
}  # fmt: skip
# Options that would make another network of the same tensors.
FIXED = {
    "norm_type": "ada_norm_zero", "activation_fn": "gelu-approximate", "attention_bias": True,
    "norm_elementwise_affine": False,
}  # fmt: skip
PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
HEADS = {sizes["width"]: sizes["heads"] for sizes in dit.SIZES.values()}
KINDS = ("SiT", "DiT")
# Beginnings of tensors' names that tell other networks, the more special ones first.
OTHERS = {
    "double_blocks.": "a Flux transformer", "single_transformer_blocks.": "a Flux transformer",
    "joint_blocks.": "a Stable Diffusion 3 transformer", "down_blocks.": "a U-Net", "input_blocks.": "a U-Net",
    "model.diffusion_model.": "a whole Stable Diffusion checkpoint",
    "encoder.": "an autoencoder: pass the folder that holds it and its config.json",
    "transformer_blocks.": "a transformer of diffusers: pass the folder that holds it and its config.json",
}  # fmt: skip


def check_class(path, config):
    """The _class_name of a diffusers config, or a sentence on what is read instead."""
    name = config["_class_name"]
    if name not in CLASSES:
        raise ValueError(
            f"models.load: {path} is a {name}, which is not read here. Read are {', '.join(CLASSES)} of diffusers, and the "
            "original state dicts of DiT and SiT."
        )
    return name


def autoencoder(folder):
    """The `Autoencoder` of an AutoencoderKL folder."""
    config, tensors = read_json(folder / "config.json"), open_tensors(folder)
    return vae.from_diffusers({name: tensors.read(name) for name in tensors.shapes}, config)


def diffusers(folder, dtype, params_dtype):
    """The `Model` of a folder of diffusers' DiT. Its betas, which the folder does not tell, are those it was trained on."""
    path = folder / "config.json"
    given = read_json(path)
    for option, wanted in FIXED.items():
        if given.get(option, wanted) != wanted:
            raise ValueError(
                f"models.load: {path} has {option}={given[option]!r}; only a DiT is read here: {wanted!r}."
            )
    if given["_class_name"] == "Transformer2DModel" and "norm_type" not in given:
        raise ValueError(
            f"models.load: {path} is a Transformer2DModel, and no DiT: it has no norm_type='ada_norm_zero'."
        )
    c = DEFAULTS | given
    config = dit.DiTConfig(
        size=_pair(c["sample_size"]), channels=c["in_channels"], patch=c["patch_size"],
        width=c["num_attention_heads"] * c["attention_head_dim"], depth=c["num_layers"],
        heads=c["num_attention_heads"], classes=c["num_embeds_ada_norm"], out_channels=c["out_channels"],
        frequency_shift=1, mlp_epsilon=c["norm_eps"], dtype=dtype,
    )  # fmt: skip
    params = layouts.gather(open_tensors(folder), config, layouts.diffusers(config), params_dtype)
    return model(Card(folder.resolve().name, config, _betas({}), "noise", "index"), params)


def pipeline(folder, dtype, params_dtype):
    """The `Model` of a DiTPipeline folder: its card has the scheduler's configuration and the autoencoder."""
    index = read_json(folder / "model_index.json")
    path = folder / "scheduler" / "scheduler_config.json"
    for file in (path, folder / "transformer" / "config.json", folder / "vae" / "config.json"):
        if not file.is_file():
            raise FileNotFoundError(
                f"models.load: {folder} is a DiTPipeline without {file.relative_to(folder)}."
            )
    scheduler = read_json(path)
    told = scheduler.get("prediction_type", "epsilon")
    check_choice(f"models.load: {path}", "prediction_type", told, PREDICTIONS)
    for part, classes in (("transformer", CLASSES[:2]), ("vae", CLASSES[2:3])):
        name = read_json(folder / part / "config.json").get("_class_name")
        check_choice(f"models.load: {folder / part}", "_class_name", name, classes)
    found = diffusers(folder / "transformer", dtype, params_dtype)
    card = dataclasses.replace(
        found.card, name=folder.resolve().name, schedule=_betas(scheduler), prediction=PREDICTIONS[told],
        scheduler=scheduler, vae=autoencoder(folder / "vae"),
        details={"labels": index["id2label"]} if "id2label" in index else {},
    )  # fmt: skip
    return model(card, found.params)


def original(path, dtype, params_dtype, kind=None, heads=None):
    """The `Model` of an original state dict: a file, or a folder with one. A config.json beside it may tell its sizes.

    SiT's network learns a variance that its own code drops; here the last layer's part for it is left out.
    """
    tensors = open_tensors(path)
    beside = (path if path.is_dir() else path.parent) / "config.json"
    told = read_json(beside) if beside.is_file() else {}
    names = tensors.shapes
    if not {
        "x_embedder.proj.weight",
        "final_layer.linear.weight",
        "blocks.0.attn.qkv.weight",
    } & set(names):
        other = next(
            (
                what
                for start, what in OTHERS.items()
                if any(name.startswith(start) for name in names)
            ),
            None,
        )
        raise ValueError(
            f"models.load: {tensors.path} is {other or 'no DiT or SiT: it has tensors such as ' + ', '.join(list(names)[:5])}. "
            f"Read are {', '.join(CLASSES)} of diffusers, and the original state dicts of DiT and SiT."
        )
    if any("cross_attn" in name for name in names):
        raise ValueError(
            f"models.load: {tensors.path} has cross-attention, as PixArt has; only DiT and SiT are read here."
        )
    kind = _kind(kind, told, tensors.path, path)
    config, stored = _sizes(tensors, told, heads, kind, dtype)
    layout = layouts.original(config, stored)
    params = layouts.gather(tensors, config, layout, params_dtype)
    how = (Linear(), "velocity", "1 - t") if kind == "SiT" else (_betas({}), "noise", "index")
    return model(Card(path.resolve().name if path.is_dir() else path.stem, config, *how), params)


def _pair(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def _betas(scheduler):
    """The schedule that a scheduler_config.json was trained on, the same object for the same betas."""
    if scheduler.get("rescale_betas_zero_snr"):
        raise ValueError(
            "models.load: rescale_betas_zero_snr is not known here; give the rescaled betas as trained_betas."
        )
    trained = scheduler.get("trained_betas")
    kind = scheduler.get("beta_schedule", "linear")
    check_choice(
        "models.load", "beta_schedule", kind, ("linear", "scaled_linear", "squaredcos_cap_v2")
    )
    ends = scheduler.get("beta_start", 1e-4), scheduler.get("beta_end", 0.02)
    return of_betas(
        kind, scheduler.get("num_train_timesteps", 1000), *ends, tuple(trained) if trained else None
    )


def _kind(kind, told, *paths):
    """Whether an original state dict is a SiT or a DiT: they have the same tensors."""
    if kind is not None:
        check_choice("models.load", "kind", kind, KINDS)
        return kind
    if re.search(r"t\s*=\s*1 is data", str(told.get("time", "")), re.IGNORECASE):
        return "SiT"
    hints = [str(told.get(key, "")) for key in ("kind", "_class_name")] + [
        path.resolve().name for path in paths
    ]
    for hint in hints:
        found = {k for k in KINDS if re.search(rf"(?<![A-Za-z]){k}(?![a-z])", hint, re.IGNORECASE)}
        if len(found) == 1:
            return found.pop()
    raise ValueError(
        f"models.load: {paths[0]} may be a DiT or a SiT, which have the same tensors and different times and outputs; pass "
        'kind="DiT" or kind="SiT".'
    )


def _sizes(tensors, told, heads, kind, dtype):
    """(`DiTConfig`, channels of the stored last layer): what config.json tells, and else what the tensors' shapes say."""

    def shape(name, axes):
        found = tensors.shapes.get(name, ())
        if len(found) != axes:
            raise ValueError(
                f"models.load: {name} of {tensors.path} is {found or 'missing'}; wanted {axes} axes."
            )
        return found

    width, channels, patch, _ = shape("x_embedder.proj.weight", 4)
    width, channels = told.get("hidden_size", width), told.get("in_channels", channels)
    patch, depth = told.get("patch_size", patch), told.get("depth", _depth(tensors.shapes))
    classes = told.get("num_classes", shape("y_embedder.embedding_table.weight", 2)[0] - 1)
    stored = shape("final_layer.linear.weight", 2)[0] // patch**2
    stored = channels * (1 + told["learn_sigma"]) if "learn_sigma" in told else stored
    tokens, side = shape("pos_embed", 3)[1], math.isqrt(shape("pos_embed", 3)[1])
    if "input_size" not in told and side**2 != tokens:
        raise ValueError(
            f"models.load: {tensors.path} has {tokens} tokens, no square; put a config.json with input_size: [H, W] beside it."
        )
    heads = heads or told.get("num_heads") or HEADS.get(width)
    if heads is None:
        raise ValueError(
            f"models.load: {tensors.path} has width {width}, and no tensor tells the number of heads; pass heads= (the public "
            f"networks: {', '.join(f'{h} for {w}' for w, h in HEADS.items())})."
        )
    config = dit.DiTConfig(
        size=_pair(told.get("input_size", side * patch)), channels=channels, patch=patch, width=width, depth=depth,
        heads=heads, classes=classes, out_channels=None if kind == "SiT" or stored == channels else stored,
        mlp_ratio=shape("blocks.0.mlp.fc1.weight", 2)[0] / width, dtype=dtype,
    )  # fmt: skip
    return config, stored


def _depth(names):
    layers = [int(name.split(".")[1]) for name in names if re.match(r"blocks\.\d+\.", name)]
    return 1 + max(layers, default=0)
