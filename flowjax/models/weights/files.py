"""Files of tensors as they are published: one or several .safetensors, or what torch.save wrote."""

import argparse
import json
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors

from flowjax.models.weights.content import check_content, torch_fault, unwrapped

# Endings of files, in the order in which a folder is searched. An index names the files that
# belong together.
INDICES = (".safetensors.index.json", ".bin.index.json")
ENDINGS = (INDICES[0], ".safetensors", INDICES[1], ".bin", ".pt", ".pth", ".ckpt")
# The index of a variant: "name.safetensors.index.fp16.json".
VARIANT_INDEX = re.compile(r"\.safetensors\.index\.[\w-]+\.json$")
# Keys under which training scripts store the weights, the averaged ones first.
NESTED = ("ema", "model", "state_dict")


class Tensors(NamedTuple):
    """The tensors of a checkpoint, read one at a time.

    Attributes:
      path: of the file, for messages.
      shapes: name -> shape.
      read: name -> numpy array, in the floating dtype that is stored.
      facts: what the file tells of the training beside the tensors: the options of its command.
    """

    path: pathlib.Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    facts: dict[str, Any] = {}


def read_json(path: pathlib.Path) -> dict[str, Any]:
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


def choose(folder: pathlib.Path) -> pathlib.Path:
    """The weights of a folder: an index, or the one file of tensors.

    Variants ("name.fp16.safetensors") are taken only where there is nothing else.
    """
    visible = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    for ending in ENDINGS:
        found = [p for p in visible if p.name.endswith(ending)]
        if ending == INDICES[0]:
            # One file without variant comes before the index of a variant.
            plain_is_there = any(_is_plain(p, ".safetensors") for p in visible)
            variants = [p for p in visible if VARIANT_INDEX.search(p.name)]
            found = found or ([] if plain_is_there else variants)
        # A variant has one more dot in its name.
        found = [p for p in found if _is_plain(p, ending)] or found
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise ValueError(
                f"models.load: {folder} holds {len(found)} files of tensors: {names}. "
                "Pass one of them."
            )
        if found:
            return found[0]
    raise FileNotFoundError(
        f"models.load: {folder} holds no tensors; wanted a file that ends in "
        f"{', '.join(ENDINGS)}, or a folder of a pipeline with model_index.json."
    )


def _is_plain(path: pathlib.Path, ending: str) -> bool:
    """Whether a file has this ending, and no variant such as "fp16" in its name."""
    return path.name.endswith(ending) and "." not in path.name.removesuffix(ending)


def open_tensors(path: pathlib.Path) -> Tensors:
    """The `Tensors` of a file, of an index with the files that it names, or of a folder."""
    path = choose(path) if path.is_dir() else path
    if path.name.endswith(INDICES) or VARIANT_INDEX.search(path.name):
        return _unwrapped(_indexed(path))
    return _unwrapped(_one_file(path))


def _unwrapped(tensors: Tensors) -> Tensors:
    """The tensors under their names without the wrappers of training."""
    stored = unwrapped(tensors.path, list(tensors.shapes))
    shapes = {name: tensors.shapes[original] for name, original in stored.items()}

    def read(name):
        return tensors.read(stored[name])

    return tensors._replace(shapes=shapes, read=read)


def _one_file(path: pathlib.Path) -> Tensors:
    """The tensors of a file, by its ending."""
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix in ENDINGS:
        return _torch(path)
    raise ValueError(
        f"models.load: {path}; wanted a folder or a file that ends in {', '.join(ENDINGS)}."
    )


def _indexed(index: pathlib.Path) -> Tensors:
    """The tensors of all files that an index names."""
    file_of = read_json(index).get("weight_map")  # name of a tensor -> name of its file
    if not isinstance(file_of, dict) or not file_of:
        raise ValueError(
            f"models.load: {index} has no weight_map, which gives the file of each tensor."
        )
    if not all(isinstance(name, str) for name in file_of.values()):
        raise ValueError(f"models.load: the weight_map of {index} must give names of files.")
    # Several tensors are in each file, and each file is opened once.
    files = [_one_file(index.parent / name) for name in sorted(set(file_of.values()))]
    holder = {name: file for file in files for name in file.shapes}
    shapes = {name: file.shapes[name] for name, file in holder.items()}

    def read(name):
        return holder[name].read(name)

    return Tensors(index, shapes, read)


def _safetensors(path: pathlib.Path) -> Tensors:
    check_content(path)
    try:
        file = safetensors.safe_open(path, framework="numpy")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"models.load: {path} ({path.stat().st_size} bytes) is no complete safetensors file: "
            f"{error}. Was the download cut short? Fetch it again."
        ) from error

    def read(name):
        return _check_floating(path, name, file.get_tensor(name))

    return Tensors(path, shapes, read)


def _torch(path: pathlib.Path) -> Tensors:
    check_content(path)
    try:
        import torch
    except ImportError as error:
        raise ValueError(_how_to_convert(path)) from error
    state, facts = _torch_state(path)

    def read(name):
        tensor = state[name]
        if tensor.dtype == torch.bfloat16:  # torch cannot convert its bfloat16 to numpy
            return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
        return _check_floating(path, name, tensor.numpy())

    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Tensors(path, shapes, read, facts)


def _torch_state(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(name -> tensor of torch, the options of the training) of what torch.save wrote."""
    import torch

    try:
        # The public training scripts store their command line beside the weights, as a Namespace.
        # weights_only refuses all other classes: a pickle could run any code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises RuntimeError, UnpicklingError, EOFError and others for what it cannot read.
        raise ValueError(torch_fault(path, error)) from None
    facts = {}
    if isinstance(state, dict):
        stored = state.get("args")
        facts = vars(stored) if isinstance(stored, argparse.Namespace) else {}
        state = next((state[key] for key in NESTED if key in state), state)
    is_dictionary = isinstance(state, dict) and len(state) > 0
    is_dictionary = is_dictionary and all(isinstance(name, str) for name in state)
    if not is_dictionary or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(
            f"models.load: {path} is no dictionary of tensors, nor has one under "
            f"{', '.join(NESTED)}; save the state dict."
        )
    return state, facts


def _how_to_convert(path: pathlib.Path) -> str:
    """The message where torch is not installed."""
    converted = path.with_suffix(".safetensors").name
    return (
        f"models.load: {path.name} is read by torch, which is not installed. Install it, or "
        "convert the file once where it is installed, in Python: import torch, safetensors.torch; "
        f"state = torch.load({path.name!r}, map_location='cpu', weights_only=True); "
        f"state = next((state[k] for k in {NESTED} if k in state), state); "
        "state = {name: tensor.contiguous().clone() for name, tensor in state.items()}; "
        f"safetensors.torch.save_file(state, {converted!r})"
    )


def _check_floating(path: pathlib.Path, name: str, array: np.ndarray) -> np.ndarray:
    if not jnp.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"models.load: {name} of {path} is {array.dtype}; quantised weights are not read, "
            "wanted floats."
        )
    return array
