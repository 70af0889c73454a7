"""What every contender computes, as plain numbers: one case, which travels to its process as JSON.

A case is one network and one call of the sampler: the folder with the shared inputs, the sizes, the
batch and the dtype. The reference writes the inputs once (`with_jax.prepare`), and all contenders
read them:

    weights.safetensors      the network's parameters under diffusers' names, float32
    network.json             its sizes under diffusers' names, see `export.sizes`
    inputs_{name}.npz        noise (n, H, W, C), labels (n,), the plan's columns, see
                             `with_jax.columns`, the reference's result x (m, H, W, C)

The name of the inputs is the size, or the name of the plan's file.

Nothing here imports JAX: PyTorch's process must not pay for it.
"""

import dataclasses
import pathlib
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

# Class-conditional ImageNet has 1000 classes; the label after the last one means "no class".
NULL_LABEL = 1000
# The pairs of matrix products whose time `matmul_peak` takes, and how often; the best time counts.
PAIRS, REPEATS = 5, 8


class Sizes(Protocol):
    """The fields of a benchmark's config that a case needs."""

    width: int
    depth: int
    heads: int
    steps: int
    guidance: float


@dataclasses.dataclass(frozen=True)
class Case:
    """One network and one call.

    Attributes:
      folder: where the inputs lie.
      size: H = W of the latents; patches are 2 x 2.
      width, depth, heads: of the DiT.
      batch: images of a call; guidance doubles it, except at the scale 1.
      steps: of DPM-Solver++ 2M, one evaluation each; or the rows of `plan`.
      guidance: scale of classifier-free guidance.
      dtype: of matrix products and stored weights: float32, bfloat16, or float64 (the reference
        alone).
      model: a trained network, by its name or folder, in float32 alone; by default the network has
        random parameters.
      plan: the file of the plan; by default it is DPM-Solver++ 2M on the uniform grid.
    """

    folder: str
    size: int
    width: int
    depth: int
    heads: int
    batch: int
    steps: int
    guidance: float
    dtype: str
    model: str = ""
    plan: str = ""

    @classmethod
    def of(
        cls, config: Sizes, folder: str | pathlib.Path, size: int, batch: int, dtype: str
    ) -> "Case":
        """The case of a benchmark's config, for one size, batch and dtype."""
        return cls(
            folder=str(folder),
            size=size,
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            batch=batch,
            steps=config.steps,
            guidance=config.guidance,
            dtype=dtype,
        )

    @property
    def inputs(self) -> pathlib.Path:
        """The path of the shared inputs."""
        name = pathlib.Path(self.plan).stem if self.plan else self.size
        return pathlib.Path(self.folder) / f"inputs_{name}.npz"

    def noise_and_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """(noise (batch, H, W, C), labels (batch,)): the first ones of those in the file."""
        with np.load(self.inputs) as file:
            return file["noise"][: self.batch], file["labels"][: self.batch]


def error(case: Case, x: ArrayLike) -> float:
    """Relative L2 distance of `x` (batch, H, W, C) to the reference, over those it has."""
    with np.load(case.inputs) as file:
        # The reference may have more images than this call, or fewer.
        wanted = file["x"][: case.batch]
    found = np.asarray(x, np.float64)[: len(wanted)]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
