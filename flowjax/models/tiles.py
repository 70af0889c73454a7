"""Convolutions of images too large for the device: layer by layer, in windows of arrays that lie on the host.

A 3 x 3 convolution looks one pixel far, and GroupNorm knows the rest of the image by a mean and a variance. So a layer
that is given these can run in windows one pixel larger than their share and agrees with the layer on the whole image
everywhere: there are no seams to blend. Cutting the whole network's input instead, as most codes do, gives every tile
statistics of its own. The price is that the arrays between the layers lie on the host, and pass to the device and back.
"""

import itertools

import numpy as np


def run(side, layer, p, *arrays):
    """A layer (p, *arrays) -> array of the same or twice the resolution, on arrays (B, h, w, C) of one h and w.

    All windows have one shape, so a layer compiles once. At a side of the image the window ends with it, so that the
    layer's own zero padding is right there; elsewhere padding spoils the outermost pixel, which is dropped.

    Args:
      side: of a tile, in pixels of `arrays`; a window has side + 2.
      layer: a jitted function that looks at most one pixel far.
      p: its parameters, the statistics of a norm among them.
      *arrays: numpy arrays.
    """
    size, out = arrays[0].shape[1:3], None
    for (row, top), (column, left) in itertools.product(*(_windows(n, side) for n in size)):
        window = np.s_[:, top : top + side + 2, left : left + side + 2]
        found = np.asarray(layer(p, *(a[window] for a in arrays)))
        if out is None:
            times = found.shape[1] // min(side + 2, size[0])  # 2 where the layer upsamples
            out = np.empty(
                (found.shape[0], size[0] * times, size[1] * times, found.shape[-1]), found.dtype
            )
        place = out[:, row * times : (row + side) * times, column * times : (column + side) * times]
        above, before = (row - top) * times, (column - left) * times
        place[:] = found[:, above : above + place.shape[1], before : before + place.shape[2]]
    return out


def _windows(size, side):
    """(start of a tile, start of its window) along an axis."""
    return [(start, max(0, min(start - 1, size - side - 2))) for start in range(0, size, side)]


def moments(x, groups):
    """Mean and variance (B, groups) of x (B, h, w, C) over pixels and the channels of a group: float64 sums, row by row."""
    rows = x.reshape(*x.shape[:3], groups, -1).swapaxes(0, 1)  # (h, B, w, groups, C/groups)
    count = x[0].size // groups
    mean = sum(row.sum(axis=(1, 3), dtype=np.float64) for row in rows) / count
    variance = sum(np.square(row - mean[:, None, :, None]).sum(axis=(1, 3)) for row in rows) / count
    return mean.astype(x.dtype), variance.astype(x.dtype)
