"""Classes by name: what a person may write for a label of a model, and which number it is."""

import difflib
import pathlib

import flowjax

IMAGENET = pathlib.Path(flowjax.__file__).parent / "assets" / "imagenet_classes.txt"
NULL = "null"  # the label that training put in the place of a dropped one
EMOJI = (  # the groups of Unicode that flowjax/assets/emoji32.npz numbers
    "activities", "animals & nature, animals, nature", "flags", "food & drink, food", "objects", "people & body, people",
    "smileys & emotion, smileys", "symbols", "travel & places, travel, places",
)  # fmt: skip


def names_of(card):
    """The names of a model's classes in the order of their numbers, synonyms separated by ", "; None where nobody knows them.

    A card says them in its details: a pipeline's under "labels", one trained here under "data". A model of 1000 classes that
    says nothing is one of ImageNet.
    """
    classes, data = card.config.classes, card.details.get("data", {})
    names = card.details.get("labels") or (
        EMOJI if data.get("name") == "emoji" else data.get("classes")
    )
    if names is None and classes == 1000:
        names = IMAGENET.read_text(encoding="utf-8").splitlines()
    if isinstance(names, dict):  # id2label of a model_index.json
        names = [names.get(str(i), str(i)) for i in range(classes)]
    if names is not None and len(names) != classes:
        raise ValueError(f"{card.name}: {len(names)} names for {classes} classes; wanted one each.")
    return None if names is None else [str(name) for name in names]


def number(text, card, names):
    """The number of the class that `text` means: a number, a name or synonym in any case, or "null".

    A name that stands whole on a class's line wins over a synonym of others: "maillot" is 638, not 639 "maillot, tank suit".

    Raises:
      ValueError: an unknown or ambiguous name, with the nearest names and their numbers; a number out of range.
    """
    wanted, classes = " ".join(text.casefold().split()), card.config.classes
    if wanted == NULL:
        return card.null_label
    if wanted.isdecimal() and int(wanted) < classes:
        return int(wanted)
    if names is None or wanted.removeprefix("-").isdecimal():
        raise ValueError(
            f"label {text!r} of {card.name}: wanted a number from 0 to {classes - 1}{_or_name(names)}."
        )
    synonyms = [[s.strip() for s in line.casefold().split(",")] for line in names]
    found = [i for i, line in enumerate(names) if line.casefold() == wanted]
    found = found or [i for i, each in enumerate(synonyms) if wanted in each]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"label {text!r} of {card.name} is ambiguous: {_listed(found, names)}; give the number."
        )
    near = difflib.get_close_matches(
        wanted, [s for each in synonyms for s in each], n=5, cutoff=0.0
    )
    near = sorted({i for i, each in enumerate(synonyms) if set(near) & set(each)})[:5]
    raise ValueError(
        f"label {text!r} of {card.name} is not known; near are {_listed(near, names)}."
    )


def numbers(text, card):
    """[(number, name)] of labels separated by commas: "388, golden retriever, null".

    Raises:
      ValueError: as `number`; no label at all; one given twice, whose images would be the same.
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
            raise ValueError(
                f"label {words[i]!r} is {words[found.index(label)]!r} again, and its images would be the same; raise count."
            )
    return [
        (label, NULL if label == card.null_label else names[label] if names else str(label))
        for label in found
    ]


def _or_name(names):
    return (
        f", a name such as {names[0].split(',')[0]!r}, or {NULL!r}" if names else f", or {NULL!r}"
    )


def _listed(found, names):
    return ", ".join(f"{i} ({names[i].split(',')[0]})" for i in found)
