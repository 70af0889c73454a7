"""Data sets by name: those that come with flowjax, .npz files, and folders of images."""

import pathlib
from importlib import resources

import numpy as np

from flowjax.data.archive import read_archive
from flowjax.data.data_set import Data, checked
from flowjax.data.folder import read_folder


def load(name: str, *, size: int | None = None) -> Data:
    """The data set `name`.

    Args:
      name: "digits" (1797, 8 x 8 x 1, 10 classes), "emoji" (1906, 32 x 32 x 3, 9 classes), an .npz
        file, or a folder of images. The file holds `images` (N, H, W, C), uint8 or floats in [-1,
        1], or `latents` (N, H, W, C), floats in the network's units; `labels` (N,) if there are
        classes; `noise` like the images if they are pairs for reflow. With `layout`, the text
        "NCHW", its arrays are (N, C, H, W); without it, shapes that look like those are refused.
        In a folder each subfolder is a class; without subfolders there is one class. Names that
        begin with a dot are passed over.
      size: pixels to which the images of a folder are cropped (to the square in the middle) and
        resized.

    Raises:
      ValueError: nothing is there, or it cannot be read; for a folder with the first files that
        cannot, the classes without images, and the images that lie beside the classes.
    """
    if name == "digits":
        return _digits()
    if name == "emoji":
        with resources.files("flowjax").joinpath("assets", "emoji32.npz").open("rb") as file:
            archive = np.load(file)
            return checked(name, archive["images"], archive["labels"])
    path = pathlib.Path(name)
    if path.is_dir():
        return read_folder(path, size)
    if path.suffix == ".npz" and path.is_file():
        return read_archive(path)
    raise ValueError(
        f"data.load: {name!r} is neither 'digits' nor 'emoji', nor an .npz file or a folder that "
        "exists."
    )


def _digits() -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return checked("digits", bunch.images[..., None] / 8 - 1, bunch.target)
