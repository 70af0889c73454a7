"""A data set in memory, with the checks that all sources have in common."""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import numpy as np

MOST_CLASSES = 10**6  # a network has a row of its embedding for each number up to the largest label


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set in memory.

    Attributes:
      name: where it came from.
      images: (N, H, W, C) uint8, or float32 in the units of the network: pixels in [-1, 1], or
        latents.
      labels: (N,) int32, 0 .. classes-1.
      classes: names or numbers of the classes.
      noise: (N, H, W, C) float32, the noise that belongs to each image (reflow), or None.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: tuple
    noise: np.ndarray | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.images)

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that tell this data set from another."""
        arrays = [self.images, self.labels] + ([] if self.noise is None else [self.noise])
        digest = hashlib.sha256(repr([(a.shape, str(a.dtype)) for a in arrays]).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]

    def describe(self) -> dict:
        """What a checkpoint keeps of it: a dictionary for JSON."""
        return {
            "name": self.name,
            "shape": self.images.shape,
            "classes": self.classes,
            "hash": self.hash,
        }


def checked(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    noise: np.ndarray | None = None,
    classes: Sequence | None = None,
) -> Data:
    """A `Data`, after checks of shapes and values.

    Args:
      name: where it came from.
      images: (N, H, W, C), uint8 or numbers.
      labels: (N,) whole numbers from 0.
      noise: like the images, or None.
      classes: names of the classes; None for the numbers up to the largest label.

    Raises:
      ValueError: another dtype or shape, or values that are not finite.
    """
    # The images.
    images, labels = np.asarray(images), np.asarray(labels)
    if images.dtype.kind not in "iuf":
        raise ValueError(
            f"data.load: the images of {name} have dtype {images.dtype}; wanted uint8 or floats."
        )
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
        if not np.all(np.isfinite(images)):
            raise ValueError(f"data.load: the images of {name} hold values that are not finite.")
    if images.ndim != 4 or not images.size:
        raise ValueError(
            f"data.load: the images of {name} have shape {images.shape}; wanted (N, H, W, C), "
            "each at least 1."
        )
    # The labels, one for each image, and the noise that belongs to each.
    are_whole = np.issubdtype(labels.dtype, np.integer)
    if labels.shape != (len(images),) or not are_whole or labels.min() < 0:
        raise ValueError(
            f"data.load: the labels of {name} have shape {labels.shape} and dtype {labels.dtype}; "
            f"wanted ({len(images)},) whole numbers from 0."
        )
    if labels.max() >= MOST_CLASSES:
        raise ValueError(
            f"data.load: the labels of {name} reach {labels.max()}; wanted the numbers of classes, "
            f"from 0 to the number of classes less 1, below {MOST_CLASSES}."
        )
    if noise is not None and noise.shape != images.shape:
        raise ValueError(
            f"data.load: {name} has noise of shape {noise.shape}; wanted that of its images, "
            f"{images.shape}."
        )
    classes = tuple(range(int(labels.max()) + 1)) if classes is None else tuple(classes)
    return Data(name, images, labels.astype(np.int32), classes, noise)


def to_float(images: np.ndarray) -> np.ndarray:
    """Bytes as float32 in [-1, 1]; floats as they are."""
    return images.astype(np.float32) / np.float32(127.5) - 1 if images.dtype == np.uint8 else images
