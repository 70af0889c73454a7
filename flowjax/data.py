"""Images to train on, and the batch of every step as a function of (seed, step).

A run that is stopped and goes on sees what it would have seen: no iterator has a state. Step s
takes the positions s B .. (s+1) B - 1 of the permutations of epoch 0, 1, 2, ... laid end to end, so
each epoch holds every image once, and a batch may straddle two. What is drawn on the host comes
from numpy by `seeds.generator(stream, seed, n)`, the same on every machine with one version of
numpy; the noise of independent couplings is drawn in the training step instead.

How noise is coupled to data bends the paths, and with them what a solver's order is worth:

    independent   noise and data are independent of each other (arXiv:2210.02747)
    ot            minibatch optimal transport pairs noise and data at the least cost
                  (arXiv:2302.00482)
    reflow        pairs made by a trained model: its noise, and the sample that it made from it
                  (arXiv:2209.03003)
"""

import dataclasses
import functools
import hashlib
import logging
import pathlib
from collections.abc import Sequence
from importlib import resources
from typing import Any

import numpy as np

from flowjax import seeds
from flowjax.errors import check_choice, check_whole
from flowjax.files import read_npz

COUPLINGS = ("independent", "ot", "reflow")
ORDER, FLIPS, NOISE = range(3)  # streams of random numbers on the host
LAYOUTS = ("NHWC", "NCHW")  # of the arrays in an .npz file
MOST_CHANNELS = 4  # of arrays that are pixels; more belong to latents
MOST_CLASSES = 10**6  # a network has a row of its embedding for each number up to the largest label
_log = logging.getLogger(__name__)


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
            return _data(name, archive["images"], archive["labels"])
    path = pathlib.Path(name)
    if path.is_dir():
        return _folder(path, size)
    if path.suffix == ".npz" and path.is_file():
        return _archive(path)
    raise ValueError(
        f"data.load: {name!r} is neither 'digits' nor 'emoji', nor an .npz file or a folder that "
        "exists."
    )


def _data(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    noise: np.ndarray | None = None,
    classes: Sequence | None = None,
) -> Data:
    """A `Data`, after checks of shapes and values."""
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


def _digits() -> Data:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _data("digits", bunch.images[..., None] / 8 - 1, bunch.target)


# ---- .npz files


def _archive(path: pathlib.Path) -> Data:
    try:
        found = read_npz(path)
    except ValueError as error:
        raise ValueError(f"data.load: {path} cannot be read as .npz: {error}") from None
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
    labels = found.get("labels", np.zeros(len(images), np.int32))
    held = _data(str(path), images, labels, noise)
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


# ---- folders of images


def _folder(path: pathlib.Path, size: int | None) -> Data:
    from PIL import Image

    if not size:
        raise ValueError(
            f"data.load: {path} is a folder of images; give the size to which they are resized, "
            "for example size=32."
        )
    check_whole("data.load", "size", size, 1)
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
    return _data(str(path), np.stack(images), labels, classes=[f.name for f in folders])


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


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The batches of a run: `batches(step)` depends on nothing else.

    Minibatch optimal transport pairs the noise and the data of `pool` successive batches, for each
    label separately. Then the noise of a label is normal, as a conditional sampler draws it. If
    noise were paired over all labels it would reveal the label, and sampling a label from normal
    noise would start where training never was. A pool is needed because a batch has few images of
    a label, and a small choice of pairs straightens paths only a little.

    Attributes:
      data: the `Data`.
      size: B.
      seed: a whole number from 0 to 2**64 - 1.
      coupling: one of `COUPLINGS`.
      pool: batches that are paired together by "ot".
      flip: mirror each image with probability 1/2.
    """

    data: Data
    size: int
    seed: int
    coupling: str = "independent"
    pool: int = 16
    flip: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        check_choice("data.Batches", "coupling", self.coupling, COUPLINGS)
        check_whole("data.Batches", "size", self.size, 1)
        check_whole("data.Batches", "pool", self.pool, 1)
        seeds.check_seed("data.Batches", self.seed)
        if (self.coupling == "reflow") != (self.data.noise is not None):
            raise ValueError(
                f"data.Batches: coupling={self.coupling!r}, and {self.data.name} has "
                f"{'no ' if self.data.noise is None else ''}noise of its own; 'reflow' needs pairs "
                "of noise and image, and pairs need 'reflow'."
            )
        if self.flip and self.data.noise is not None:
            raise ValueError(
                "data.Batches: flip=True would separate the pairs of noise and image; "
                "leave it False."
            )

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step: {"images": (B, H, W, C) float32, "labels": (B,) int32}.

        Couplings other than "independent" add "noise", of the images' shape.
        """
        if self.coupling != "ot":
            return self._plain(step)
        batch = _paired_pool(self, step // self.pool)
        # This step's place within the pool.
        here = slice(step % self.pool * self.size, (step % self.pool + 1) * self.size)
        return {name: array[here] for name, array in batch.items()}

    def _plain(self, step: int) -> dict[str, np.ndarray]:
        index = self._index(step)
        images = to_float(self.data.images[index])
        if self.flip:
            # (B,) bool, which images are mirrored
            mirrored = seeds.generator(FLIPS, self.seed, step).random(self.size) < 0.5
            images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
        batch = {"images": images, "labels": self.data.labels[index]}
        return batch if self.data.noise is None else {**batch, "noise": self.data.noise[index]}

    def _index(self, step: int) -> np.ndarray:
        """(B,) indices into the data."""
        positions = step * self.size + np.arange(self.size)
        epoch, place = np.divmod(positions, len(self.data))
        # A batch may hold the end of one epoch and the start of the next.
        parts = []
        for e in np.unique(epoch):
            permutation = _permutation(self.seed, e, len(self.data))
            parts.append(permutation[place[epoch == e]])
        return np.concatenate(parts)


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return seeds.generator(ORDER, seed, epoch).permutation(size)


@functools.lru_cache(maxsize=1)  # the current pool: its batches share one pairing
def _paired_pool(batches: "Batches", number: int) -> dict[str, np.ndarray]:
    first = number * batches.pool
    parts = [batches._plain(step) for step in range(first, first + batches.pool)]
    pool = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    rng = seeds.generator(NOISE, batches.seed, number)
    noise = rng.standard_normal(pool["images"].shape, np.float32)
    return {**pool, "noise": noise[pair(pool["images"], noise, pool["labels"])]}


def pair(images: np.ndarray, noise: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The permutation of the noise that brings it nearest to the images, for each label separately.

    Minimises the sum over i of |images[i] - noise[order[i]]|^2 (Tong et al. 2023, arXiv:2302.00482,
    section 3.2, whose plan between two equal numbers of equal weights is a permutation) over the
    orders that keep the labels.

    Args:
      images, noise: (B, *D).
      labels: (B,); all equal for one assignment over the whole batch.

    Returns:
      (B,) indices.
    """
    from scipy.optimize import linear_sum_assignment

    order = np.arange(len(images))
    images, noise = (a.reshape(len(a), -1).astype(np.float64) for a in (images, noise))
    for label in np.unique(labels):
        here = np.flatnonzero(labels == label)
        # |a - b|^2 = |a|^2 + |b|^2 - 2 a.b, and the squares are the same in every pairing
        order[here] = here[linear_sum_assignment(-images[here] @ noise[here].T)[1]]
    return order


def to_float(images: np.ndarray) -> np.ndarray:
    """Bytes as float32 in [-1, 1]; floats as they are."""
    return images.astype(np.float32) / np.float32(127.5) - 1 if images.dtype == np.uint8 else images
