"""An image as the tokens of a transformer: its patches, and the embedding of their places."""

import numpy as np

from flowjax.models.sizes import DiTConfig
from flowjax.types import Array


def patchify(x: Array, patch: int) -> Array:
    """(B, H, W, C) -> (B, L, P): tokens row by row; a patch in the order (row, column, channel)."""
    if x.ndim != 4 or x.shape[1] % patch or x.shape[2] % patch:
        raise ValueError(
            f"models.patchify: shape {x.shape}; wanted (B, H, W, C) with H and W multiples of "
            f"{patch}."
        )
    batch, height, width, channels = x.shape
    rows, columns = height // patch, width // patch
    x = x.reshape(batch, rows, patch, columns, patch, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, rows, columns, p, p, C)
    return x.reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(patches: Array, patch: int, size: tuple[int, int]) -> Array:
    """(B, L, P) -> (B, *size, C): the inverse of `patchify`."""
    batch = patches.shape[0]
    rows, columns = size[0] // patch, size[1] // patch
    x = patches.reshape(batch, rows, columns, patch, patch, -1)
    x = x.transpose(0, 1, 3, 2, 4, 5)  # (B, rows, p, columns, p, C)
    return x.reshape(batch, *size, x.shape[-1])


def positions(
    config: DiTConfig, size: tuple[int, int] | None = None, scale: float = 1.0
) -> np.ndarray:
    """The embedding of each token's place, (L, E) float64, for the column and then for the row.

    With the frequencies w_i = 10000^(-4 i/E), i = 0 .. E/4 - 1, a coordinate u gives sin(w u), then
    cos(w u).

    Args:
      config: the sizes of the network.
      size: (H, W) of the image, config.size by default. An image of another size covers the same
        coordinates more or less densely.
      scale: the factor of all coordinates.
    """
    height, width = size or config.size
    rows, columns = height // config.patch, width // config.patch
    full_rows, full_columns = (s // config.patch for s in config.size)
    column, row = np.meshgrid(
        np.arange(columns) * full_columns / columns, np.arange(rows) * full_rows / rows
    )  # (rows, columns) each
    frequencies = 10000.0 ** (-4 * np.arange(config.width // 4) / config.width)
    features = []
    for coordinate in (column, row):
        angles = scale * coordinate.reshape(-1, 1) * frequencies  # (L, E/4)
        features += [np.sin(angles), np.cos(angles)]
    return np.concatenate(features, axis=1)
