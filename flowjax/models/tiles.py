"""Convolutions of images too large for the device: layer by layer, in windows of host arrays.

A 3 x 3 convolution reads one pixel beyond its own in each direction, and GroupNorm needs the rest
of the image only as a mean and a variance. So a layer that is given these statistics can run in
windows one pixel larger than the tiles that they produce. Its result equals that of the layer on
the complete image at every pixel: there are no seams to blend. Most codes cut the input of the
complete network instead, which gives each tile its own statistics. The price here is that the
arrays between the layers lie on the host, and are copied to the device and back.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from flowjax.types import Array, PyTree


class Window(NamedTuple):
    """A tile along one axis, and the window from which it is computed, both in pixels of the input.

    Attributes:
      tile: the first pixel of the tile.
      start: the first pixel of the window.
    """

    tile: int
    start: int


def run(
    side: int,
    layer: Callable[..., jax.Array],
    p: PyTree,
    *arrays: np.ndarray,
    reach: int = 1,
) -> np.ndarray:
    """The result of a layer on images, tile by tile: (B, h, w, C), or (B, 2h, 2w, C).

    All windows have one shape, so a layer compiles once. At an edge of the image the window ends
    with the image, so that the layer's own zero padding is right there. Elsewhere padding spoils
    the outermost pixel of the window, which is dropped.

    Args:
      side: of a tile, in pixels of `arrays`; a window has side + 2 reach.
      layer: a jitted function (p, *arrays) -> array of the same or twice the resolution. It reads
        at most `reach` pixels beyond its own.
      p: its parameters, the statistics of a norm among them.
      *arrays: (B, h, w, C), of one h and w.
      reach: how far the layer reads; 1 for a 3 x 3 convolution, 2 for one of 5 x 5.
    """
    height, width = arrays[0].shape[1:3]
    out = None
    size_of_window = side + 2 * reach
    places = _windows(height, side, reach), _windows(width, side, reach)
    for row, column in itertools.product(*places):
        # Compute one window.
        rows = slice(row.start, row.start + size_of_window)
        columns = slice(column.start, column.start + size_of_window)
        windows = [a[:, rows, columns] for a in arrays]
        found = np.asarray(layer(p, *windows))

        # The first window tells the resolution, the channels and the dtype of the result.
        scale = found.shape[1] // min(size_of_window, height)  # 2 where the layer upsamples, else 1
        if out is None:
            size = (height * scale, width * scale)
            out = np.empty((found.shape[0], *size, found.shape[-1]), found.dtype)

        # Copy the tile without the pixels around it. It may be shorter at the end of the image.
        tile_rows = slice(row.tile * scale, (row.tile + side) * scale)
        tile_columns = slice(column.tile * scale, (column.tile + side) * scale)
        tile = out[:, tile_rows, tile_columns]
        above = (row.tile - row.start) * scale
        left = (column.tile - column.start) * scale
        tile[:] = found[:, above : above + tile.shape[1], left : left + tile.shape[2]]
    return out


def _windows(size: int, side: int, reach: int) -> list[Window]:
    """The windows along an axis: `reach` pixels before each tile, but inside the image."""
    last_start = max(0, size - side - 2 * reach)  # 0 where the image is smaller than a window
    return [
        Window(tile, start=min(max(0, tile - reach), last_start)) for tile in range(0, size, side)
    ]


def moments(x: np.ndarray, groups: int) -> tuple[Array, Array]:
    """Mean and variance (B, groups) over the pixels and the channels of each group.

    Sums are in float64 and taken row by row, so that no second array of the size of x is needed.

    Args:
      x: (B, h, w, C).
      groups: divides C.
    """
    by_group = x.reshape(*x.shape[:3], groups, -1)  # (B, h, w, groups, C/groups)
    rows = by_group.swapaxes(0, 1)  # (h, B, w, groups, C/groups)
    count = x[0].size // groups
    total = sum(row.sum(axis=(1, 3), dtype=np.float64) for row in rows)
    mean = total / count  # (B, groups)
    centre = mean[:, None, :, None]
    variance = sum(np.square(row - centre).sum(axis=(1, 3)) for row in rows) / count
    return mean.astype(x.dtype), variance.astype(x.dtype)
