"""Checkpoints, published and our own, as a `Model`.

`load` finds out what a path holds by its configuration: a pipeline by model_index.json, a network or an autoencoder of
diffusers by the _class_name of config.json, our own by card.json, an original state dict of DiT or SiT by its tensors.
Every tensor of a file is accounted for, and nothing is initialised that is then overwritten.
"""

import pathlib

from flowjax.models.weights import hub, own, published
from flowjax.models.weights.files import read_json
from flowjax.models.weights.own import save

__all__ = ["load", "save"]

ASSETS = pathlib.Path(__file__).parents[2] / "assets"
SHIPPED = ("digits", "digits-ot", "digits-reflow", "digits-smooth", "emoji", "emoji-smooth")


def load(path_or_name, *, dtype=None, params_dtype="float32", kind=None, heads=None):
    """A network from a checkpoint.

    Args:
      path_or_name: one of
        a folder of diffusers' DiT or a whole pipeline (the card then has `scheduler`, `vae` and details["labels"]);
        a state dict of the original DiT or SiT, .safetensors, or .pt if torch is installed, or a folder with one;
        a folder that `save` wrote, or "digits", "emoji", the networks that come with flowjax;
        a folder of diffusers' AutoencoderKL, for which the `Autoencoder` is returned;
        "owner/name", fetched from the Hugging Face hub unless a folder of that name is here.
      dtype: what matrices are multiplied in, as in `DiTConfig`; None for what the folder says, else that of the state.
      params_dtype: what the parameters are raised or rounded to.
      kind: "DiT" or "SiT" for an original state dict, which does not say it.
      heads: the number of heads of an original state dict, where neither its width nor a config.json tells it.

    Returns:
      `Model`. Its card.raw gives what the original's forward gives: the learned variance with a DiT, not with a SiT.

    Raises:
      ValueError: another architecture, a broken file, tensors that do not fit.
      FileNotFoundError: nothing there.
    """
    path = _found(path_or_name)
    how = _recognise(path)
    if how == "own":
        return own.read(path, dtype, params_dtype)
    if how == "AutoencoderKL":
        return published.autoencoder(path)
    if how == "DiTPipeline":
        return published.pipeline(path, dtype, params_dtype)
    if how == "original":
        return published.original(path, dtype, params_dtype, kind, heads)
    return published.diffusers(path, dtype, params_dtype)


def _found(path_or_name):
    """The file or folder, which is fetched if it is a name."""
    path = pathlib.Path(path_or_name)
    if str(path_or_name) in SHIPPED:
        path = ASSETS / str(path_or_name)
        if not (path / own.CARD).is_file():
            raise FileNotFoundError(
                f"models.load: the network {str(path_or_name)!r} is not in this copy of flowjax ({path} has no {own.CARD}). "
                "Train it, write it there with models.save, or install a release that has it."
            )
    if path.exists():
        return path
    if hub.is_name(path_or_name):
        return hub.fetch(str(path_or_name), _recognise)
    raise FileNotFoundError(
        f"models.load: there is no {path}; wanted a folder, a file of tensors, a name on the hub such as "
        f"'facebook/DiT-XL-2-256', or one of {', '.join(map(repr, SHIPPED))}."
    )


def _recognise(path):
    """What a path holds: "own", "original", or the _class_name of what diffusers wrote."""
    if path.is_file():
        return "original"
    if (path / own.CARD).is_file():
        return "own"
    for name in ("model_index.json", "config.json"):
        file = path / name
        config = read_json(file) if file.is_file() else {}
        if "_class_name" in config and config["_class_name"] not in published.KINDS:
            return published.check_class(file, config)
    return "original"
