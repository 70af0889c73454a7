"""Checkpoints, published and our own, as a `Model`.

`load` recognises the contents of a path by its configuration: a pipeline by model_index.json, a
network or an autoencoder of diffusers by the _class_name of config.json, our own by card.json, an
original state dict of DiT or SiT by its tensors. Every tensor of a file is accounted for, and no
array is initialised only to be overwritten.
"""

import os
import pathlib

from flowjax.models.card import Model
from flowjax.models.dc_ae import AutoencoderDC
from flowjax.models.vae import Autoencoder
from flowjax.models.weights import dc_ae, hub, own, published
from flowjax.models.weights import sana as sana_files
from flowjax.models.weights.files import open_tensors, read_json
from flowjax.models.weights.own import save

__all__ = ["load", "save"]

ASSETS = pathlib.Path(__file__).parents[2] / "assets"
SHIPPED = (
    "digits",
    "digits-ot",
    "digits-reflow",
    "digits-smooth",
    "digits-linear",
    "emoji",
    "emoji-smooth",
)


def load(
    path_or_name: str | os.PathLike,
    *,
    dtype: str | None = None,
    params_dtype: str = "float32",
    kind: str | None = None,
    heads: int | None = None,
) -> Model | Autoencoder | AutoencoderDC:
    """A network from a checkpoint.

    Args:
      path_or_name: one of
        a folder of diffusers' DiT, or of a DiT pipeline, whose card has `scheduler`, `vae` and
        details["labels"];
        a state dict of the original DiT or SiT, .safetensors, or .pt if torch is installed, or a
        folder with one;
        a folder of diffusers' SANA, or of a SanaPipeline, whose card has `scheduler` and `vae`; an
        original state dict of SANA (.pth);
        a folder that `save` wrote, or the name of a network that comes with flowjax, such as
        "digits"; a folder of diffusers' AutoencoderKL or AutoencoderDC, for which the `Autoencoder`
        or `AutoencoderDC` is returned;
        "owner/name", fetched from the Hugging Face hub unless there is a folder of that name.
      dtype: the dtype in which matrices are multiplied, as in `DiTConfig`. None means that of the
        card where there is one, else that of the state.
      params_dtype: the dtype to which the parameters are converted.
      kind: "DiT" or "SiT", for an original state dict whose files do not tell which it is.
      heads: the number of heads (of a SANA: of its attention to the text), for an original state
        dict where neither its width nor a config.json tells it.

    Returns:
      A `Model`, an `Autoencoder` or an `AutoencoderDC`. The card.raw of a model gives what the
      original's forward gives: with the learned variance for a DiT, and without it for a SiT.

    Raises:
      ValueError: another architecture, a broken file, or tensors that do not fit.
      FileNotFoundError: there is nothing at the path.
    """
    path = _find(path_or_name)
    content = _recognise(path)
    if content == "own":
        return own.read(path, dtype, params_dtype)
    if content == "AutoencoderKL":
        return published.autoencoder(path)
    if content == sana_files.AUTOENCODER:
        return dc_ae.from_tensors(open_tensors(path), read_json(path / "config.json"))
    if content == sana_files.PIPELINE:
        return sana_files.pipeline(path, dtype, params_dtype)
    if content == sana_files.TRANSFORMER:
        return sana_files.diffusers(path, dtype, params_dtype)
    if content == "DiTPipeline":
        return published.pipeline(path, dtype, params_dtype)
    if content == "original":
        return published.original(path, dtype, params_dtype, kind, heads)
    return published.diffusers(path, dtype, params_dtype)


def _find(path_or_name: str | os.PathLike) -> pathlib.Path:
    """The file or folder. The name of a repository on the hub is fetched."""
    # A shipped name comes before a folder of that name in the current directory.
    path = pathlib.Path(path_or_name)
    if str(path_or_name) in SHIPPED:
        path = ASSETS / str(path_or_name)
        if not (path / own.CARD).is_file():
            raise FileNotFoundError(
                f"models.load: the network {str(path_or_name)!r} is not in this copy of flowjax "
                f"({path} has no {own.CARD}). Train it, write it there with models.save, or "
                "install a release that has it."
            )
    if path.exists():
        return path
    if hub.is_name(path_or_name):
        return hub.fetch(str(path_or_name), _recognise)
    raise FileNotFoundError(
        f"models.load: there is no {path}; wanted a folder, a file of tensors, a name on the hub "
        f"such as 'facebook/DiT-XL-2-256', or one of {', '.join(map(repr, SHIPPED))}."
    )


def _recognise(path: pathlib.Path) -> str:
    """The content of a path: "own", "original", or the _class_name that diffusers wrote."""
    if path.is_file():
        return "original"
    if (path / own.CARD).is_file():
        return "own"
    # The index of a pipeline comes before the config.json of one of its networks.
    for name in ("model_index.json", "config.json"):
        file = path / name
        config = read_json(file) if file.is_file() else {}
        # The config.json of an original state dict may have "DiT" or "SiT" as its _class_name.
        if "_class_name" in config and config["_class_name"] not in published.KINDS:
            return published.check_class(file, config)
    return "original"
