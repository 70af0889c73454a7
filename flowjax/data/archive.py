"""Data sets in .npz files, whose layout and range of values are recognised or refused."""

import pathlib

import numpy as np

from flowjax.data.data_set import Data, checked
from flowjax.errors import check_choice
from flowjax.files import read_npz

LAYOUTS = ("NHWC", "NCHW")  # of the arrays in an .npz file
MOST_CHANNELS = 4  # of arrays that are pixels; more belong to latents


def read_archive(path: pathlib.Path) -> Data:
    """The data set of an .npz file, see `flowjax.data.load`."""
    try:
        found = read_npz(path)
    except ValueError as error:
        raise ValueError(f"data.load: {path} cannot be read as .npz: {error}") from None
    # The arrays, with the channels last.
    is_pixels = "images" in found
    images = found.get("images", found.get("latents"))
    if images is None:
        raise ValueError(
            f"data.load: {path} holds {list(found)}; wanted 'images' or 'latents', and 'labels'."
        )
    layout = str(found.get("layout", ""))
    images = _channels_last(path, images, layout, is_pixels)
    noise = found.get("noise")
    if noise is not None and layout == "NCHW":
        noise = np.moveaxis(noise, 1, -1)
    # Without labels all images are of one class.
    labels = found.get("labels", np.zeros(len(images), np.int32))
    held = checked(str(path), images, labels, noise)
    # Pairs of a reflow may leave [-1, 1], since a model made their images.
    if is_pixels and noise is None and held.images.dtype != np.uint8:
        _check_pixels(path, held.images)
    return held


def _channels_last(
    path: pathlib.Path, images: np.ndarray, layout: str, is_pixels: bool
) -> np.ndarray:
    """Arrays as (N, H, W, C), by the file's own `layout`; what looks like another is refused."""
    if layout:
        check_choice(f"data.load: {path}", "layout", layout, LAYOUTS)
    if images.ndim != 4:
        return images
    if layout == "NCHW":
        return np.moveaxis(images, 1, -1)
    _, first, second, third = images.shape
    # Rows are as many as columns in most data, and channels are fewer than both.
    looks_swapped = first < second == third or is_pixels and first <= MOST_CHANNELS < third
    if looks_swapped and not layout:
        raise ValueError(
            f"data.load: the images of {path} have shape {images.shape}, which looks like "
            "(N, C, H, W); wanted (N, H, W, C). Move the channels with "
            "numpy.moveaxis(images, 1, -1), or store layout='NCHW' in the file; layout='NHWC' "
            "takes the shape as it is."
        )
    if is_pixels and third > MOST_CHANNELS and not layout:
        raise ValueError(
            f"data.load: the images of {path} have shape {images.shape}, and so {third} channels; "
            "wanted (N, H, W, C) with a few. Arrays that are not images belong under 'latents'."
        )
    return images


def _check_pixels(path: pathlib.Path, images: np.ndarray) -> None:
    """Refuse floats that are not pixels in [-1, 1]."""
    least, most = float(images.min()), float(images.max())
    if max(-least, most) > 1.01:
        raise ValueError(
            f"data.load: the images of {path} reach {max(-least, most):.3g}; wanted uint8, or "
            "floats in [-1, 1]. Arrays that are not images belong under 'latents'."
        )
    # No picture is without a pixel darker than the middle grey, which is 0 in [-1, 1].
    if least >= 0:
        raise ValueError(
            f"data.load: the images of {path} lie in [{least:.3g}, {most:.3g}], and no value is "
            "below 0, as in [0, 1]; wanted floats in [-1, 1] (2 * images - 1), or uint8."
        )
