"""Classes by name: what a person may write for a label of a model, and which number it is."""

import difflib
import pathlib
from collections.abc import Iterable

import flowjax
from flowjax.models import Card

IMAGENET = pathlib.Path(flowjax.__file__).parent / "assets" / "imagenet_classes.txt"
IMAGENET_CLASSES = 1000
NULL = "null"  # the label that stands for "no class"
EMOJI = (  # the groups of Unicode that flowjax/assets/emoji32.npz numbers
    "activities",
    "animals & nature, animals, nature",
    "flags",
    "food & drink, food",
    "objects",
    "people & body, people",
    "smileys & emotion, smileys",
    "symbols",
    "travel & places, travel, places",
)


def names_of(card: Card) -> list[str] | None:
    """The names of a model's classes, in the order of their numbers.

    Synonyms are separated by ", ". The names stand in the details of the card: under "labels" for a
    published pipeline, under "data" for a model trained here. A model of 1000 classes without
    names is one of ImageNet.

    Returns:
      One text a class, or None where the names are not known.

    Raises:
      ValueError: the card has more or fewer names than classes.
    """
    classes = card.config.classes
    data = card.details.get("data", {})
    of_data = EMOJI if data.get("name") == "emoji" else data.get("classes")
    names = card.details.get("labels") or of_data
    if names is None and classes == IMAGENET_CLASSES:
        names = IMAGENET.read_text(encoding="utf-8").splitlines()
    if names is None:
        return None
    if isinstance(names, dict):  # id2label of a model_index.json
        names = [names.get(str(i), str(i)) for i in range(classes)]
    if len(names) != classes:
        raise ValueError(f"{card.name}: {len(names)} names for {classes} classes; wanted one each.")
    return [str(name) for name in names]


def number(text: str, card: Card, names: list[str] | None) -> int:
    """The number of the class that `text` means.

    A name that is a class's complete list of synonyms wins over a synonym of other classes:
    "maillot" is 638, not 639 "maillot, tank suit".

    Args:
      text: a number, a name or synonym in any case, or "null".
      card: of the model.
      names: what `names_of` returned for it.

    Raises:
      ValueError: an unknown or ambiguous name, with the nearest names and their numbers; a number
        out of range.
    """
    wanted = " ".join(text.casefold().split())
    classes = card.config.classes
    if wanted == NULL:
        return card.null_label
    if wanted.isdecimal() and int(wanted) < classes:
        return int(wanted)
    is_number = wanted.removeprefix("-").isdecimal()
    if names is None or is_number:
        raise ValueError(
            f"label {text!r} of {card.name}: wanted a number from 0 to {classes - 1}"
            f"{_or_name(names)}."
        )

    entries = [name.casefold() for name in names]
    synonyms = [[word.strip() for word in entry.split(",")] for entry in entries]
    found = [i for i, entry in enumerate(entries) if entry == wanted]
    found = found or [i for i, words in enumerate(synonyms) if wanted in words]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"label {text!r} of {card.name} is ambiguous: {_listed(found, names)}; give the number."
        )
    raise ValueError(
        f"label {text!r} of {card.name} is not known; "
        f"near are {_listed(_near(wanted, synonyms), names)}."
    )


def numbers(text: str, card: Card) -> list[tuple[int, str]]:
    """[(number, name)] of labels separated by commas: "388, golden retriever, null".

    Raises:
      ValueError: as for `number`; there is no label at all; a label is given twice, and its images
        would be the same.
    """
    names = names_of(card)
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise ValueError(
            f"labels={text!r}: wanted names or numbers separated by commas, or {NULL!r}."
        )
    found = [number(word, card, names) for word in words]
    for i, label in enumerate(found):
        if label in found[:i]:
            first = words[found.index(label)]
            raise ValueError(
                f"label {words[i]!r} is {first!r} again, and its images would be the same; "
                "raise count."
            )
    return [(label, _name(label, card, names)) for label in found]


def _name(label: int, card: Card, names: list[str] | None) -> str:
    if label == card.config.classes:
        return NULL
    return names[label] if names else str(label)


def _near(wanted: str, synonyms: list[list[str]]) -> list[int]:
    """At most five classes with a synonym that resembles `wanted`."""
    every = [word for words in synonyms for word in words]
    # Without a cutoff: a text that resembles nothing gets an answer too.
    near = set(difflib.get_close_matches(wanted, every, n=5, cutoff=0.0))
    return [i for i, words in enumerate(synonyms) if near & set(words)][:5]


def _or_name(names: list[str] | None) -> str:
    example = f"a name such as {names[0].split(',')[0]!r}, " if names else ""
    return f", {example}or {NULL!r}"


def _listed(found: Iterable[int], names: list[str]) -> str:
    return ", ".join(f"{i} ({names[i].split(',')[0]})" for i in found)
