"""Images on disk: a grid of them as one PNG that carries its own settings, and files that are whole or not there.

python -m experiments.images runs/sample_digits/samples.png        prints the settings
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile

import numpy as np
from PIL import Image, PngImagePlugin

from flowjax.records import plain

KEY = "flowjax"  # the PNG text chunk that holds the settings as JSON
LEAST = 64  # pixels: smaller images are magnified by a whole factor, since nobody sees 8 x 8


@contextlib.contextmanager
def whole_file(path):
    """A binary file to write to, which takes the place of `path` at the end: a reader finds the old file or all of the new.

    Raises:
      ValueError: the folder is missing, read-only or full; nothing is left behind.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
        os.chmod(temporary, 0o644)  # mkstemp gives 0600
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}); give another folder."
        ) from error
    finally:
        if temporary is not None:
            pathlib.Path(temporary).unlink(missing_ok=True)


def grid(images, columns=None, *, gap=2):
    """Images side by side, row by row, in one array of bytes.

    Args:
      images: (B, H, W, C) in [-1, 1], C = 1 or 3; what lies outside is clipped, and what is not finite is black.
      columns: images a row; by default the smallest square that holds all.
      gap: white pixels between them.

    Returns:
      (rows (H' + gap) - gap, columns (W' + gap) - gap, 3) uint8, with H' and W' a whole multiple of H and W.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or not len(images) or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images.grid: shape {images.shape}; wanted (B, H, W, C) with B at least 1 and C of 1 or 3 (decode latents "
            "first)."
        )
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    factor = max(1, LEAST // max(images.shape[1:3]))
    size = tuple(factor * s for s in images.shape[1:3])
    whole = np.full(
        (rows * (size[0] + gap) - gap, columns * (size[1] + gap) - gap, 3), 255, np.uint8
    )
    levels = np.rint(255 * np.clip(np.nan_to_num(images, nan=-1.0) / 2 + 0.5, 0, 1)).astype(
        np.uint8
    )
    for i, image in enumerate(levels):
        top, left = (i // columns) * (size[0] + gap), (i % columns) * (size[1] + gap)
        whole[top : top + size[0], left : left + size[1]] = image.repeat(factor, 0).repeat(
            factor, 1
        )
    return whole


def save_png(path, array, settings):
    """Write `array` (H, W, 3) uint8 with `settings`, a dictionary for `records.plain`, inside: `read_settings` gives it back."""
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, json.dumps(plain(settings), sort_keys=True, allow_nan=False))
    with whole_file(path) as file:
        Image.fromarray(array).save(file, "png", pnginfo=text)


def read_settings(path):
    """The settings that `save_png` put into a file."""
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY)
    except OSError as error:  # also what Pillow raises for a file that is no image
        raise ValueError(
            f"images.read_settings: {path} cannot be read as an image ({error})."
        ) from error
    if text is None:
        raise ValueError(
            f"images.read_settings: {path} holds no settings of flowjax; only PNG files made here do."
        )
    return json.loads(text)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        try:
            print(json.dumps(read_settings(path), indent=2))
        except ValueError as error:
            raise SystemExit(str(error)) from None
