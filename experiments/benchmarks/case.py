"""What every contender is asked to do, as plain numbers: one case, JSON for its process.

A case is one network and one call of the sampler: the folder with the shared inputs, the sizes, the batch and the dtype.
The inputs are written once by the reference (`with_jax.prepare`), read by all:

    weights.safetensors      the network's parameters under diffusers' names, float32
    inputs_{size}.npz        noise (n, H, W, C), labels (n,), the plan's columns, and the reference's result x (m, H, W, C)
"""

import dataclasses
import pathlib

import numpy as np

NULL_LABEL = 1000


@dataclasses.dataclass(frozen=True)
class Case:
    """One network and one call.

    Attributes:
      folder: where the inputs lie.
      size: H = W of the latents; patches are 2 x 2.
      width, depth, heads: of the DiT.
      batch: images of a call; guidance doubles it.
      steps: of DPM-Solver++ 2M, one evaluation each.
      guidance: scale of classifier-free guidance.
      dtype: of matrix products and stored weights: float32, bfloat16, or float64 (the reference alone).
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

    @property
    def inputs(self):
        """The path of the shared inputs."""
        return pathlib.Path(self.folder) / f"inputs_{self.size}.npz"

    def noise_and_labels(self):
        """(noise (batch, H, W, 4), labels (batch,)): the first ones of those written."""
        with np.load(self.inputs) as file:
            return file["noise"][: self.batch], file["labels"][: self.batch]


def error(case, x):
    """Relative L2 distance of `x` (batch, H, W, C) to the reference, over the samples that the reference has."""
    with np.load(case.inputs) as file:
        wanted = file["x"][: case.batch]
    found = np.asarray(x, np.float64)[: len(wanted)]
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
