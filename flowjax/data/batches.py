"""The batches of a run, as a function of (seed, step), and the pairing of noise and data."""

import dataclasses
import functools

import numpy as np

from flowjax import seeds
from flowjax.data.data_set import Data, to_float
from flowjax.errors import check_choice, check_whole

COUPLINGS = ("independent", "ot", "reflow")
ORDER, FLIPS, NOISE = range(3)  # streams of random numbers on the host


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
