"""Networks of our own: a folder with card.json, the card, and model.safetensors, the parameters."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from flowjax.errors import check_choice
from flowjax.files import replacing
from flowjax.models import networks
from flowjax.models.card import Card, Model, model
from flowjax.models.weights.files import Tensors, open_tensors, read_json
from flowjax.schedules import Cosine, Linear, Schedule, VPDiscrete, VPLinear
from flowjax.types import PyTree

CARD, WEIGHTS = "card.json", "model.safetensors"
SCHEDULES = {kind.__name__: kind for kind in (Linear, Cosine, VPLinear, VPDiscrete)}
STORED_DTYPES = ("float16", "bfloat16", "float32")
# Fields of a `Card` that JSON holds as they are.
PLAIN = ("name", "prediction", "clock", "clock_scale", "details", "scheduler")
# The class of the sizes under "config"; a card that names none is that of a DiT.
CONFIGS = {kind.__name__: kind for kind in networks.MODULES}
SHOWN = 10  # the number of tensors that a refusal lists


# Writing.


def save(folder: str | os.PathLike, model: Model, *, dtype: str = "float16") -> None:
    """Write a network to a folder that `load` reads. A save that fails leaves no part of it.

    Args:
      folder: made if it is not there. Its other files stay.
      model: a `Model` without an autoencoder.
      dtype: the dtype in which parameters are stored: "float16" (11 bits), "bfloat16" (8 bits) or
        "float32". They are loaded as float32.

    Raises:
      ValueError: the card has an autoencoder, or a parameter is not finite in `dtype`.
    """
    check_choice("models.save", "dtype", dtype, STORED_DTYPES)
    folder, card = pathlib.Path(folder), model.card
    if card.vae is not None:
        raise ValueError(
            "models.save: the card has an autoencoder, which has its own folder; save with "
            "vae=None."
        )
    # Everything that can be refused comes before the first write.
    tensors = _rounded(model.params, dtype)
    text = json.dumps(_card_to_json(card), indent=1)

    folder.mkdir(parents=True, exist_ok=True)
    # Of the two files the inner one is replaced first: the card comes last. The old card is
    # removed before, so that no card is ever beside the weights of another save.
    with replacing(folder / CARD) as card_file, replacing(folder / WEIGHTS) as weights_file:
        card_file.write_text(text, encoding="utf-8")
        safetensors.numpy.save_file(tensors, weights_file)
        (folder / CARD).unlink(missing_ok=True)


def _rounded(params: PyTree, dtype: str) -> dict[str, np.ndarray]:
    """The parameters by name, in `dtype`."""
    tensors = {}
    for name, array in _named(params).items():
        tensors[name] = np.asarray(array).astype(jnp.dtype(dtype))
        if not np.all(np.isfinite(tensors[name])):
            raise ValueError(
                f"models.save: {name} is not finite in {dtype}; store it as bfloat16 or float32."
            )
    return tensors


def _card_to_json(card: Card) -> dict[str, Any]:
    plain = {name: getattr(card, name) for name in PLAIN}
    schedule = _schedule_to_json(card.schedule)
    return {
        **plain,
        "schedule": schedule,
        "network": type(card.config).__name__,
        "config": dataclasses.asdict(card.config),
    }


def _schedule_to_json(schedule: Schedule) -> dict[str, Any]:
    # By identity: a class of another origin with one of these names could not be loaded again.
    kind = type(schedule)
    if SCHEDULES.get(kind.__name__) is not kind:
        raise ValueError(
            f"models.save: the schedule {schedule!r} has no name here; known are "
            f"{', '.join(SCHEDULES)}."
        )
    options = [field.name for field in dataclasses.fields(kind) if field.init]
    values = {name: np.asarray(getattr(schedule, name)).tolist() for name in options}
    return {"name": kind.__name__, **values}


# Reading.


def read(folder: pathlib.Path, dtype: str | None, params_dtype: str) -> Model:
    """The `Model` of a folder that `save` wrote.

    Args:
      folder: with card.json and model.safetensors.
      dtype: the dtype in which matrices are multiplied; None for that of the card.
      params_dtype: the dtype to which the parameters are converted.

    Raises:
      ValueError: the card is broken, or the tensors do not fit its sizes.
    """
    path = folder / CARD
    card = _read_card(path, dtype)
    tensors = open_tensors(folder / WEIGHTS)
    shapes = networks.network(card.config).shapes()
    wanted = _named(shapes)
    _check_shapes(tensors, wanted, path)
    dtype = jnp.dtype(params_dtype)
    # `wanted` has the order of the tree's leaves.
    leaves = [jnp.asarray(tensors.read(name).astype(dtype)) for name in wanted]
    return model(card, jax.tree.unflatten(jax.tree.structure(shapes), leaves))


def _read_card(path: pathlib.Path, dtype: str | None) -> Card:
    stored = read_json(path)
    try:
        return _card_from_json(stored, dtype)
    except (KeyError, TypeError, ValueError) as error:
        # A field that is missing, one too many, or one that a constructor refuses.
        fault = f"lacks {error}" if isinstance(error, KeyError) else f"is refused: {error}"
        raise ValueError(
            f"models.load: {path} {fault}. Wanted the form that models.save writes."
        ) from error


def _card_from_json(stored: dict[str, Any], dtype: str | None) -> Card:
    # What remains after the sizes and the schedule are fields of the card as they are.
    fields = dict(stored)
    network = fields.pop("network", "DiTConfig")
    check_choice("models", "network", network, CONFIGS)
    config = CONFIGS[network](**fields.pop("config"))
    config = dataclasses.replace(config, dtype=dtype or config.dtype)
    options = dict(fields.pop("schedule"))
    name = options.pop("name")
    check_choice("schedules", "name", name, SCHEDULES)
    for part in ("details", "scheduler"):
        if not isinstance(fields.get(part) or {}, dict):
            raise ValueError(f"{part}={fields[part]!r} is no dictionary")
    fields["details"] = fields.get("details") or {}
    return Card(config=config, schedule=SCHEDULES[name](**options), **fields)


def _check_shapes(
    tensors: Tensors, wanted: dict[str, jax.ShapeDtypeStruct], card: pathlib.Path
) -> None:
    """Refuse tensors that do not fit the sizes in a card."""
    have = {name: str(shape) for name, shape in tensors.shapes.items()}
    want = {name: str(leaf.shape) for name, leaf in wanted.items()}
    wrong = sorted(name for name in {*want, *have} if have.get(name) != want.get(name))
    if wrong:
        shown = [
            f"{name}: {have.get(name, 'missing')}, wanted {want.get(name, 'none')}"
            for name in wrong[:SHOWN]
        ]
        raise ValueError(
            f"models.load: {len(wrong)} tensor(s) of {tensors.path} do not fit the sizes in "
            f"{card}: {'; '.join(shown)}."
        )


def _named(tree: PyTree) -> dict[str, Any]:
    """Names such as "blocks.query.kernel" -> leaf, in the order of the tree's leaves."""
    paths = jax.tree.leaves_with_path(tree)
    return {".".join(entry.key for entry in path): leaf for path, leaf in paths}
