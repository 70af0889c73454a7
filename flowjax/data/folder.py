"""Data sets in folders of images: the classes, and each image as RGB of 8 bits."""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from flowjax.data.data_set import Data, checked
from flowjax.errors import check_whole

_log = logging.getLogger(__name__)


def read_folder(path: pathlib.Path, size: int | None) -> Data:
    """The data set of a folder of images, see `flowjax.data.load`."""
    from PIL import Image

    if not size:
        raise ValueError(
            f"data.load: {path} is a folder of images; give the size to which they are resized, "
            "for example size=32."
        )
    check_whole("data.load", "size", size, 1)
    # The files of each class, in an order that does not depend on the disk.
    known = Image.registered_extensions()
    folders = _classes(path, known)
    files = [
        (file, label)
        for label, folder in enumerate(folders)
        for file in _visible_files(folder)
        if file.suffix.lower() in known
    ]
    if not files:
        raise ValueError(
            f"data.load: there are no images (.png, .jpg, ...) in {path} or in its subfolders."
        )
    _check_classes(path, folders, [label for _, label in files])
    # All images are tried, so that all that are damaged can be named at once.
    images, bad = [], []
    for file, _ in files:
        try:
            images.append(_read_image(file, size))
        # Pillow raises each of these for files that are damaged, or are no images.
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            bad.append(f"{file} ({error})")
    if bad:
        raise ValueError(
            f"data.load: {len(bad)} of {len(files)} images cannot be read; remove or mend them: "
            f"{_listed(bad)}."
        )
    labels = [label for _, label in files]
    return checked(str(path), np.stack(images), labels, classes=[f.name for f in folders])


def _classes(path: pathlib.Path, known: dict[str, Any]) -> list[pathlib.Path]:
    """The folders of the classes: the subfolders, or the folder itself where it has none.

    Raises:
      ValueError: images lie beside the subfolders, and so have no class.
    """
    visible = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in visible if entry.is_dir()]
    if not folders:
        return [path]
    beside = [entry for entry in visible if not entry.is_dir()]
    stray = [entry.name for entry in beside if entry.suffix.lower() in known]
    if stray:
        raise ValueError(
            f"data.load: {path} has subfolders, which are the classes, and {len(stray)} images "
            f"beside them, which have no class: {_listed(stray)}. Move them into a class, or away."
        )
    if beside:
        names = _listed([entry.name for entry in beside])
        _log.warning("data: files beside the classes of %s are not read: %s.", path, names)
    return folders


def _check_classes(path: pathlib.Path, folders: list[pathlib.Path], labels: list[int]) -> None:
    """Refuse a class without images, whose label a network would never see."""
    full = set(labels)
    empty = [folder.name for label, folder in enumerate(folders) if label not in full]
    if empty:
        raise ValueError(
            f"data.load: {len(empty)} of the {len(folders)} classes in {path} have no images: "
            f"{_listed(empty)}. Remove these folders, or put images into them."
        )


def _visible_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder, without those of hidden names such as .ipynb_checkpoints."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    ]


def _listed(names: Sequence[str], most: int = 5) -> str:
    """The first names of many."""
    return "; ".join(names[:most]) + ("; ..." if len(names) > most else "")


def _read_image(file: pathlib.Path, size: int) -> np.ndarray:
    """The image as (size, size, 3) uint8: on white, cropped to the middle square, resized."""
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            image = _grey_of_8_bits(image)
        # Pillow converts some modes, such as CMYK, to RGB only.
        image = image.convert("RGBA" if image.has_transparency_data else "RGB").convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("RGB")
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))


def _grey_of_8_bits(image: Any) -> Any:
    """A grey image of 16 bits as one of 8; Pillow itself would clip its values at 255.

    Raises:
      ValueError: its values are no integers of 16 bits, so that their range is not known.
    """
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"grey values of mode {image.mode} from {values.min()} to {values.max()}; wanted 8 or "
            "16 bits a pixel"
        )
    # 65535 / 257 = 255
    grey = np.rint(values / 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if transparent is None:
        return Image.fromarray(grey)
    opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
    return Image.merge("LA", (Image.fromarray(grey), Image.fromarray(opaque)))
