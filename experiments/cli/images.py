"""Images on disk: a grid of images as one PNG that carries its own settings.

python -m experiments.cli.images runs/sample_digits/samples.png        prints the settings
"""

import json
import os
import sys
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from flowjax import files
from flowjax.records import plain

KEY = "flowjax"  # the PNG text chunk that holds the settings as JSON
LEAST = 64  # pixels: a smaller image is magnified by an integer, since nobody sees 8 x 8
WHITE = 255


def grid(images: Any, columns: int | None = None, *, gap: int = 2) -> np.ndarray:
    """Images side by side, row by row, in one array of bytes.

    Args:
      images: (B, H, W, C) in [-1, 1], C = 1 or 3; values outside are clipped, and a value that is
        not finite is black.
      columns: images a row; by default the smallest square that holds all.
      gap: white pixels between them.

    Returns:
      (rows (H' + gap) - gap, columns (W' + gap) - gap, 3) uint8, where H' and W' are H and W times
      one integer.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or not len(images) or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images.grid: shape {images.shape}; wanted (B, H, W, C) with B at least 1 and C of 1 "
            "or 3 (decode latents first)."
        )
    columns = columns or int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    factor = max(1, LEAST // max(images.shape[1:3]))
    height, width = (factor * size for size in images.shape[1:3])

    images = np.where(np.isfinite(images), images, -1)
    unit = np.clip(images / 2 + 0.5, 0, 1)
    levels = np.rint(255 * unit).astype(np.uint8)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, 3)
    sheet = np.full(shape, WHITE, np.uint8)
    for i, image in enumerate(levels):
        top = (i // columns) * (height + gap)
        left = (i % columns) * (width + gap)
        magnified = image.repeat(factor, axis=0).repeat(factor, axis=1)
        # One channel of grey is broadcast to the three of the sheet.
        sheet[top : top + height, left : left + width] = magnified
    return sheet


def save_png(path: str | os.PathLike, array: np.ndarray, settings: dict) -> None:
    """Write a PNG with its settings inside, which `read_settings` gives back.

    Args:
      path: the file.
      array: (H, W, 3) uint8.
      settings: a dictionary for `records.plain`.
    """
    text = PngImagePlugin.PngInfo()
    text.add_text(KEY, json.dumps(plain(settings), sort_keys=True, allow_nan=False))
    with files.replacing(path) as temporary:
        Image.fromarray(array).save(temporary, "png", pnginfo=text)


def read_settings(path: str | os.PathLike) -> dict:
    """The settings that `save_png` put into a file.

    Raises:
      ValueError: it is no image, or holds no settings.
    """
    try:
        with Image.open(path) as image:
            text = getattr(image, "text", {}).get(KEY)
    except OSError as error:  # Pillow raises it also for a file that is no image
        raise ValueError(
            f"images.read_settings: {path} cannot be read as an image ({error})."
        ) from error
    if text is None:
        raise ValueError(
            f"images.read_settings: {path} holds no settings of flowjax; "
            "only PNG files made here do."
        )
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError):
        raise ValueError(f"images.read_settings: the settings in {path} are damaged.") from None


if __name__ == "__main__":
    for path in sys.argv[1:]:
        try:
            print(json.dumps(read_settings(path), indent=2))
        except ValueError as error:
            raise SystemExit(str(error)) from None
