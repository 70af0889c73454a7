"""Files of tensors as they are published: one or several .safetensors, or what torch.save wrote."""

import argparse
import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

# In this order a folder is searched; an index names the .safetensors files ("shards") that belong together.
KINDS = (".safetensors.index.json", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")
NESTED = (
    "ema",
    "model",
    "state_dict",
)  # where training scripts put the weights, the averaged ones first


class Tensors(NamedTuple):
    """The tensors of a checkpoint, read one at a time.

    Attributes:
      path: of the file, for messages.
      shapes: name -> shape.
      read: name -> numpy array, in the dtype that is stored; a floating one.
    """

    path: pathlib.Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable


def read_json(path):
    """The dictionary of a JSON file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"models.load: {path} is no JSON: {error}. Was the download cut short?"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"models.load: {path} holds a {type(found).__name__}; wanted a dictionary of options."
        )
    return found


def choose(folder):
    """The weights of a folder: an index, or the one file of tensors. Variants ("name.fp16.safetensors") come second."""
    for kind in KINDS:
        found = sorted(p for p in folder.glob(f"*{kind}") if not p.name.startswith("."))
        found = [p for p in found if "." not in p.name.removesuffix(kind)] or found
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise ValueError(
                f"models.load: {folder} holds {len(found)} files of tensors: {names}. Pass one of them."
            )
        if found:
            return found[0]
    raise FileNotFoundError(
        f"models.load: {folder} holds no tensors; wanted a file that ends in {', '.join(KINDS)}, or a folder of a pipeline "
        "with model_index.json."
    )


def open_tensors(path):
    """The `Tensors` of a file, of an index with its shards, or of a folder."""
    path = choose(path) if path.is_dir() else path
    if path.name.endswith(KINDS[0]):
        return _shards(path)
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in KINDS:
        return _torch(path)
    raise ValueError(
        f"models.load: {path}; wanted a folder or a file that ends in {', '.join(KINDS)}."
    )


def _shards(index):
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(
            f"models.load: {index} has no weight_map, which says what file holds what tensor."
        )
    shards = [_safetensors(index.parent / name) for name in sorted(set(names.values()))]
    where = {name: shard for shard in shards for name in shard.shapes}
    shapes = {name: shard.shapes[name] for name, shard in where.items()}
    return Tensors(index, shapes, lambda name: where[name].read(name))


def _safetensors(path):
    if not path.is_file():
        raise FileNotFoundError(f"models.load: there is no {path}.")
    try:
        file = safetensors.safe_open(path, framework="numpy")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"models.load: {path} ({path.stat().st_size} bytes) is no whole safetensors file: {error}. Was the download cut "
            "short, or is it a pointer of git-lfs? Fetch it again."
        ) from error
    return Tensors(path, shapes, lambda name: _floating(path, name, file.get_tensor(name)))


def _torch(path):
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            f"models.load: {path.name} is read by torch, which is not installed. Install it, or where it is, convert the file "
            "once:\n"
            "    import torch, safetensors.torch\n"
            f"    state = torch.load({path.name!r}, map_location='cpu', weights_only=True)\n"
            f"    state = next((state[k] for k in {NESTED} if k in state), state)\n"
            f"    state = {{name: tensor.contiguous().clone() for name, tensor in state.items()}}\n"
            f"    safetensors.torch.save_file(state, {path.with_suffix('.safetensors').name!r})"
        ) from error
    try:  # the public training scripts put their command line beside the weights, as a Namespace
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... on what it cannot read
        raise ValueError(
            f"models.load: torch cannot read {path}: {str(error).splitlines()[0]}"
        ) from error
    state = next((state[key] for key in NESTED if isinstance(state, dict) and key in state), state)
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, torch.Tensor) for v in state.values())
    ):
        raise ValueError(
            f"models.load: {path} is no dictionary of tensors, nor has one under {', '.join(NESTED)}; save the state dict."
        )

    def read(name):
        tensor = state[name]
        if tensor.dtype == torch.bfloat16:  # torch gives numpy no bfloat16
            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return _floating(path, name, tensor.numpy())

    return Tensors(path, {name: tuple(tensor.shape) for name, tensor in state.items()}, read)


def _floating(path, name, array):
    if not jnp.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"models.load: {name} of {path} is {array.dtype}; quantised weights are not read, wanted floats."
        )
    return array
