"""Networks of our own: a folder with card.json, what is known of a network, and model.safetensors, its parameters."""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from flowjax.errors import check_choice
from flowjax.models import dit
from flowjax.models.card import Card, model
from flowjax.models.weights.files import open_tensors, read_json
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear

CARD, WEIGHTS = "card.json", "model.safetensors"
SCHEDULES = {kind.__name__: kind for kind in (Linear, Cosine, VPLinear, VPDiscrete)}
PLAIN = (
    "name",
    "prediction",
    "clock",
    "details",
    "scheduler",
)  # fields of a `Card` that JSON holds as they are


def save(folder, model, *, dtype="float16"):
    """Write a network to a folder that `load` reads, whole or not at all.

    Args:
      folder: where to; made if it is not there, its other files stay.
      model: a `Model` without an autoencoder.
      dtype: what parameters are stored in: "float16" (11 bits), "bfloat16" (8 bits) or "float32". They are loaded as float32.
    """
    check_choice("models.save", "dtype", dtype, ("float16", "bfloat16", "float32"))
    folder, card = pathlib.Path(folder), model.card
    if card.vae is not None:
        raise ValueError(
            "models.save: the card has an autoencoder, which has its own folder; save with vae=None."
        )
    tensors = {}
    for name, array in _named(model.params).items():
        tensors[name] = np.asarray(array).astype(jnp.dtype(dtype))
        if not np.all(np.isfinite(tensors[name])):
            raise ValueError(
                f"models.save: {name} is not finite in {dtype}; store it as bfloat16 or float32."
            )
    text = json.dumps(_card_to_json(card), indent=1)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {name: folder / f".{name}.part" for name in (WEIGHTS, CARD)}
    safetensors.numpy.save_file(tensors, parts[WEIGHTS])
    parts[CARD].write_text(text, encoding="utf-8")
    # The old card goes first and the new one comes last: no card ever stands beside weights of another save.
    (folder / CARD).unlink(missing_ok=True)
    for name, part in parts.items():
        os.replace(part, folder / name)


def read(folder, dtype, params_dtype):
    """The `Model` of such a folder; `dtype` None computes in what the card says."""
    path = folder / CARD
    told = read_json(path)
    try:
        card = _card_from_json(told, dtype)
    except (KeyError, TypeError, ValueError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is refused: {error}"
        raise ValueError(
            f"models.load: {path} {what}. Wanted the form that models.save writes."
        ) from error
    tensors = open_tensors(folder / WEIGHTS)
    wanted = _named(dit.network(card.config).shapes())
    have = tensors.shapes
    wrong = sorted(
        name
        for name in {*wanted, *have}
        if name not in wanted or have.get(name) != wanted[name].shape
    )
    if wrong:
        shown = [
            f"{n}: {have.get(n, 'missing')}, wanted {wanted[n].shape if n in wanted else 'none'}"
            for n in wrong[:10]
        ]
        raise ValueError(
            f"models.load: {len(wrong)} tensor(s) of {tensors.path} do not fit the sizes in {path}: {'; '.join(shown)}."
        )
    leaves = [jnp.asarray(tensors.read(name).astype(jnp.dtype(params_dtype))) for name in wanted]
    structure = jax.tree.structure(dit.network(card.config).shapes())
    return model(card, jax.tree.unflatten(structure, leaves))


def _named(tree):
    """Names such as "blocks.query.kernel" -> leaf, in the order of the tree's leaves."""
    paths = jax.tree.leaves_with_path(tree)
    return {".".join(entry.key for entry in path): leaf for path, leaf in paths}


def _card_to_json(card):
    kind = type(card.schedule)
    if SCHEDULES.get(kind.__name__) is not kind:
        raise ValueError(
            f"models.save: the schedule {card.schedule!r} has no name here; known are {', '.join(SCHEDULES)}."
        )
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    options = {name: np.asarray(getattr(card.schedule, name)).tolist() for name in fields}
    schedule = {"name": kind.__name__, **options}
    plain = {name: getattr(card, name) for name in PLAIN}
    return {**plain, "schedule": schedule, "config": dataclasses.asdict(card.config)}


def _card_from_json(told, dtype):
    told = dict(told)
    config = dit.DiTConfig(**told.pop("config"))
    config = dataclasses.replace(config, dtype=dtype or config.dtype)
    options = dict(told.pop("schedule"))
    name = options.pop("name")
    check_choice("schedules", "name", name, SCHEDULES)
    return Card(config=config, schedule=SCHEDULES[name](**options), **told)
