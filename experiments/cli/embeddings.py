"""Files of text embeddings: what `experiments.embed` writes and `experiments.sample` draws for.

A file is an .npz or a .safetensors with P texts:

    embeddings      (P, T, C)  of the tokens of each text, from the network's text encoder
    mask            (P, T)     1 where a token belongs to the text
    negative        (T', C), (1, T', C) or (P, T', C): those of the negative text, usually the empty
                    one; it may be missing where there is no guidance
    negative_mask   (T',), (1, T') or (P, T')
    prompts         (P,)       the texts, if they are known; in a .safetensors they are a JSON list
                    in its metadata
"""

import json
import pathlib
import reprlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from flowjax import files
from flowjax.errors import check_choice
from flowjax.models import Card, Condition, networks
from flowjax.models import condition as conditions

# The arrays of numbers, and the shapes of each by their number of axes.
SHAPES = {
    "embeddings": {3: "(P, T, C)"},
    "mask": {2: "(P, T)"},
    "negative": {2: "(T', C)", 3: "(1, T', C) or (P, T', C)"},
    "negative_mask": {1: "(T',)", 2: "(1, T') or (P, T')"},
}
NAMES = (*SHAPES, "prompts")
ENDINGS = (".npz", ".safetensors")


class Texts(NamedTuple):
    """The texts of a file.

    Attributes:
      condition: the `Condition` of all P of them.
      prompts: their words, or their numbers where the words are not known.
    """

    condition: Condition
    prompts: list[str]

    def labels(self, wanted: str) -> list[tuple[int, str]]:
        """[(number, text)] of the numbers in `wanted`, separated by commas; "" is all of them."""
        words = [word.strip() for word in wanted.split(",") if word.strip()]
        count = len(self.prompts)
        for word in words:
            if not word.isdecimal() or int(word) >= count:
                raise ValueError(
                    f"labels={wanted!r}: {word!r} is no number of a text; wanted 0 to {count - 1}."
                )
        numbers = list(map(int, words)) or list(range(count))
        if len(set(numbers)) < len(numbers):
            raise ValueError(
                f"labels={wanted!r} names a text twice, and its images would be the same; raise "
                "count."
            )
        return [(number, self.prompts[number]) for number in numbers]

    def of(self, numbers: np.ndarray) -> Condition:
        """The `Condition` of these texts, by their numbers (B,)."""
        return jax.tree.map(lambda leaf: leaf[np.asarray(numbers)], self.condition)


def texts_of(card: Card, guidance: float, path: str) -> Texts | None:
    """The texts that a network draws for, or None for a network that draws for labels.

    Args:
      card: of the network.
      guidance: the scale of classifier-free guidance, which needs negative embeddings unless 1.
      path: the file, the option `embeddings` of a command.

    Raises:
      ValueError: a file for a network that draws for labels, or none for one that draws for texts.
    """
    if not networks.takes_text(card.config):
        if path:
            raise ValueError(
                f"embeddings={path!r}: {card.name} draws for labels; leave embeddings, and give "
                "labels."
            )
        return None
    if card.config.guidance_embeds:
        raise ValueError(
            f"{card.name} receives the scale of guidance as a number (guidance_embeds), which this "
            "command does not give; call its model with Condition(..., guidance=)."
        )
    if not path:
        raise ValueError(
            f"{card.name} draws for texts; give embeddings=FILE, which experiments.embed writes."
        )
    texts = read(path, card)
    if guidance != 1 and texts.condition.negative is None:
        raise ValueError(
            f"guidance={guidance}: {path} has no negative embeddings; add negative and "
            "negative_mask to it, or take guidance=1."
        )
    return texts


def read(path: str, card: Card) -> Texts:
    """The texts of a file, for the network of a card.

    Raises:
      ValueError: there is no such file, or an array is missing, not known, damaged or of another
        shape than the network takes; the sentence names the file.
    """
    arrays = _arrays(pathlib.Path(path))
    for name in arrays:
        check_choice(f"embeddings={path}", "the array", name, NAMES)
    for name in ("embeddings", "mask"):
        if name not in arrays:
            raise ValueError(f"embeddings={path} has no array {name!r}; wanted (P, T, ...) of it.")
    prompts = _texts(path, arrays.pop("prompts")) if "prompts" in arrays else None
    arrays = {name: _numbers(path, name, array) for name, array in arrays.items()}
    count = len(arrays["embeddings"])
    prompts = [str(i) for i in range(count)] if prompts is None else prompts
    if len(prompts) != count:
        raise ValueError(
            f"embeddings={path}: {len(prompts)} prompts for {count} texts; wanted one each."
        )
    for name, axes in (("negative", 3), ("negative_mask", 2)):
        if name in arrays:
            arrays[name] = _for_all(arrays[name], axes, count)
    condition = conditions.checked(f"embeddings={path}", Condition(**arrays), card.config.caption)
    return Texts(condition, prompts)


def write(path: pathlib.Path, condition: Condition, prompts: Sequence[str]) -> None:
    """Write a file that `read` reads; a write that fails leaves no part of it."""
    arrays = {
        name: np.asarray(value) for name, value in condition._asdict().items() if value is not None
    }
    with files.replacing(path) as temporary:
        if path.suffix == ".npz":
            np.savez(temporary, prompts=np.array(prompts), **arrays)
        else:
            metadata = {"prompts": json.dumps(list(prompts))}
            safetensors.numpy.save_file(arrays, temporary, metadata=metadata)


def check_ending(option: str, path: str) -> None:
    """Refuse the name of a file that is neither an .npz nor a .safetensors."""
    if not path.endswith(ENDINGS):
        raise ValueError(f"{option}={path!r}: wanted a file that ends in {' or '.join(ENDINGS)}.")


def _arrays(path: pathlib.Path) -> dict[str, Any]:
    """The arrays of a file by name."""
    check_ending("embeddings", str(path))
    if not path.is_file():
        raise ValueError(f"embeddings={path}: there is no such file; experiments.embed writes one.")
    try:
        if path.suffix == ".npz":
            return files.read_npz(path)
        with safetensors.safe_open(path, framework="numpy") as found:
            arrays = {name: found.get_tensor(name) for name in found.keys()}
            metadata = found.metadata() or {}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"embeddings={path} cannot be read: {error}") from None
    if "prompts" in metadata:
        try:
            arrays["prompts"] = json.loads(metadata["prompts"])
        except ValueError:  # it is no JSON, which `_texts` refuses as any other text
            arrays["prompts"] = metadata["prompts"]
    return arrays


def _numbers(path: str, name: str, array: np.ndarray) -> np.ndarray:
    """An array of a file in float32, or a refusal of what is damaged in it.

    Some encoders write half precision, and the network computes in its own dtype.
    """
    is_number = np.can_cast(array.dtype, np.float32, "same_kind")
    if not is_number or array.ndim not in SHAPES[name] or not array.size:
        raise ValueError(
            f"embeddings={path}: {name} is {array.dtype} of shape {array.shape}; wanted numbers of "
            f"shape {' or '.join(SHAPES[name].values())}, with no axis of length 0."
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        array = array.astype(np.float32)
    is_mask = name in ("mask", "negative_mask")
    wrong = array[(array != 0) & (array != 1)] if is_mask else array[~np.isfinite(array)]
    if wrong.size:
        wanted = (
            "1 where a token belongs to the text, and 0 elsewhere" if is_mask else "finite ones"
        )
        raise ValueError(
            f"embeddings={path}: {wrong.size} of the {array.size} numbers of {name} are wrong, the "
            f"first of them {wrong[0]:g}; wanted {wanted}. Write the file again."
        )
    return array


def _texts(path: str, prompts: Any) -> list[str]:
    """The prompts of a file, a list or an array of texts."""
    found = prompts.tolist() if isinstance(prompts, np.ndarray) else prompts
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(
            f"embeddings={path}: the prompts are {reprlib.repr(found)}; wanted a list of texts, "
            "one for each of the embeddings (in the metadata of a .safetensors, as JSON)."
        )
    return found


def _for_all(array: np.ndarray, axes: int, count: int) -> np.ndarray:
    """One text for each of `count`: an array of one text serves all of them."""
    array = array[None] if array.ndim == axes - 1 else array
    return np.broadcast_to(array, (count, *array.shape[1:])) if len(array) == 1 else array
