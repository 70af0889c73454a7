"""Published seconds of sampling over several devices, as cells that the model can compute.

Sources: DistriFusion (arXiv:2402.19481), tables 1 and 2; PipeFusion (arXiv:2405.14430) with the plots of its code; xDiT
(arXiv:2411.01738) with its reports for Flux and for two nodes; CompactFusion for bytes.
"""

import math
from typing import Any, NamedTuple

from flowjax.parallel.analysis.latency import Device, Work

NVLINK = Device(312e12, 0.42, 2.04e12, 300e9, hidden=0.6)
PCIE = Device(312e12, 0.42, 1.94e12, 20e9, hidden=0.6)
L20 = Device(119.5e12, 0.65, 864e9, 20e9, hidden=0.6)
L40 = Device(181e12, 0.5, 864e9, 20e9, hidden=0.6, island=8, network=12.5e9)
H100 = Device(989e12, 0.5, 3.35e12, 450e9, hidden=0.6)
UNIT = Device(1.0, 1.0, math.inf, 1.0, hidden=0.6)  # operations are seconds, bytes are gigabytes
SILENT = {"latency": 0.0, "link": math.inf}  # nothing is said to others

E = 1152
# DiT-XL/2 with a cross attention to 120 tokens of text (queries, output, scores; its keys and values a sample), one modulation
# for all layers, and guidance in the batch.
PIXART = Work(
    28,
    E,
    16,
    token=28 * E**2 + 480 * E,
    pair=4 * E,
    sample=480 * E**2,
    ends=2 * E * (16 + 32),
    label=0,
)
F = 3072
# 19 double and 38 single blocks, 12 F^2 weights a token each; 4096 tokens of the image and 512 of text, no second branch.
FLUX = Work(57, F, 24, token=24 * F**2, pair=4 * F, sample=12 * F**2, ends=4 * F * 64)


class Cell(NamedTuple):
    """One published number.

    Attributes:
      what: the method, in words.
      size: pixels of a side.
      published: in `unit`.
      run: keyword arguments of `latency.seconds`, with tokens, steps and warmup in the place of the mask. patches=None takes
        the best of some; "any" attention the best of all layouts on `devices`.
      device: figures that this cell has of its own.
      work: numbers for the table's `work`.
      unit: "s"; "x", as many times as fast as one device; "GB", what a device receives.
    """

    what: str
    size: int
    published: float
    run: dict
    device: dict = {}
    work: dict = {}
    unit: str = "s"


class Table(NamedTuple):
    """Published numbers of one machine and network.

    Attributes:
      name: of the table.
      work: a function of the numbers in `fits`, `takes` and a cell's `work` that no `Device` has, to a `Work`.
      device: with the figures of data sheets.
      fits: numbers that are fitted to the cells, at most two.
      takes: {number: the table whose fit it is taken from}.
      cells: `Cell`s.
      rival: a second model of cells that stand in another table.
    """

    name: str
    work: Any
    device: Device
    fits: tuple
    takes: dict
    cells: list
    rival: bool = False


def sdxl(seconds, gigabytes, overhead=0.0):
    """`Work` of a U-Net, of which only ratios are modelled: operations are seconds, bytes gigabytes.

    Args:
      seconds: of 50 steps on one device.
      gigabytes: that 8 devices exchange in these.
      overhead: the part of the seconds that more devices do not make shorter.
    """
    token, width = (seconds - overhead) / 50 / TOKENS, gigabytes / 50 / (2 * 7 / 8 * TOKENS)
    return Work(1, width, 1, token=token, pair=0.0, sample=overhead / 50)


TOKENS = 840  # any number that 2, 4 and 8 divide


def _pixart(size, attention, warmup=1, **sizes):
    tokens = (size // 16) ** 2
    return {
        "tokens": tokens,
        "steps": 20,
        "warmup": warmup,
        "attention": attention,
        "samples": 2,
        "lag": 2,
        **sizes,
    }


def _over_sizes(what, published, attention="gather", **run):
    """Cells of one method at 1024, 2048, ... pixels."""
    return [
        Cell(what, 1024 * 2**i, number, _pixart(1024 * 2**i, attention, **run))
        for i, number in enumerate(published)
    ]


def _unet(what, published, size, gigabytes, n, alone, attention="stale", **more):
    run = {
        "tokens": TOKENS,
        "steps": 50,
        "warmup": 5,
        "attention": attention,
        "seq": n,
        "number": 1,
    }
    return Cell(what, size, published, run, work={"seconds": alone, "gigabytes": gigabytes}, **more)


def _patches(lag):
    """A pipeline of 8 stages and so many patches."""
    published = ((2, 3.13), (4, 1.99), (8, 1.54), (16, 1.36), (32, 2.43))
    run = {**_pixart(1024, "pipefusion", pipe=8), "lag": lag}
    return [
        Cell(f"pipeline, {m} patches", 1024, number, {**run, "patches": m})
        for m, number in published
    ]


def _parts(size):
    """(GB, n, seconds on one device) of a run of 8 devices whose seconds without a word are known."""
    gigabytes, silent = EXCHANGED[size]
    return gigabytes, 8, 8 * silent


def _flux(what, published, attention="gather", **sizes):
    run = {"tokens": 4608, "steps": 28, "warmup": 1, "attention": attention}
    return Cell(what, 1024, published, {**run, **sizes})


def _pixart_of(**_):
    return PIXART


def _flux_of(**_):
    return FLUX


EAGER = "PixArt, 8 A100 by NVLink"
EXCHANGED = {
    1024: (0.42, 1.48),
    2048: (1.48, 4.14),
    3840: (5.38, 21.3),
}  # GB; seconds of 8 devices that say nothing
PIPE = {"attention": "pipefusion", "patches": None}

TABLES = [
    Table(
        "PixArt, one A100", _pixart_of, NVLINK, ("achieved",), {}, _over_sizes("one device", (2.09, 16.2, 184, 2728)),
    ),
    Table(
        EAGER, _pixart_of, NVLINK, ("latency", "floor"), {"achieved": "PixArt, one A100"},
        [
            *_over_sizes("displaced patches", (0.765, 2.48, 25.2), "stale", seq=8),
            *_over_sizes("ulysses", (1.37, 2.46, 23.3), "ulysses", seq=8),
            *_over_sizes("ring", (2.59, 3.54, 27.4), "ring", seq=8),
            *_over_sizes("pipeline", (0.969, 4.06, 45.0, 617), pipe=8, **PIPE),
        ],
    ),
    Table(
        "PixArt, 4 A100 by PCIe", _pixart_of, PCIE, ("link", "hidden"),
        {"achieved": "PixArt, one A100", "latency": EAGER, "floor": EAGER},
        [
            *_over_sizes("displaced patches", (2.33, 9.62, 68.4), "stale", seq=4),
            *_over_sizes("ulysses", (1.74, 7.93, 59.0), "ulysses", seq=4),
            *_over_sizes("ring", (2.63, 11.1, 65.9), "ring", seq=4),
            *_over_sizes("pipeline", (0.866, 5.37, 60.2, 880), pipe=4, **PIPE),
            *_over_sizes("pipeline, 4 synchronous", (1.09, 7.03, 80, 1183), pipe=4, warmup=4, **PIPE),
        ],
    ),
    Table("PixArt, one L20", _pixart_of, L20, ("achieved",), {}, _over_sizes("one device", (3.34, 26.4, 307))),
    Table(
        "PixArt, 8 L20, patches", _pixart_of, L20, ("floor",),
        {"achieved": "PixArt, one L20", "latency": EAGER, "link": "PixArt, 4 A100 by PCIe"},
        _patches(lag=2),
    ),
    Table(
        "PixArt, 8 L20, patches, hops waited for", _pixart_of, L20, ("floor",),
        {"achieved": "PixArt, one L20", "latency": EAGER, "link": "PixArt, 4 A100 by PCIe"},
        _patches(lag=1), rival=True,
    ),
    Table(
        "PixArt, 8 L20", _pixart_of, L20, (),
        {"achieved": "PixArt, one L20", "floor": "PixArt, 8 L20, patches", "latency": EAGER,
         "link": "PixArt, 4 A100 by PCIe", "hidden": "PixArt, 4 A100 by PCIe"},
        [
            *_over_sizes("displaced patches", (4.43, 6.32), "stale", seq=8),
            *_over_sizes("pipeline", (1.36, 6.35, 71.1), pipe=8, **PIPE),
        ],
    ),
    Table(
        "PixArt, 16 L40 in two nodes", _pixart_of, L40, (),
        {"achieved": "PixArt, one L20", "floor": "PixArt, 8 L20, patches", "latency": EAGER,
         "link": "PixArt, 4 A100 by PCIe", "hidden": "PixArt, 4 A100 by PCIe"},
        [Cell("best layout", 4096, 13.3, _pixart(4096, "any", devices=16), unit="x")],
    ),
    Table(
        "SDXL, 8 A100, synchronous", sdxl, UNIT, ("latency", "link"), {},
        [_unet("synchronous", number, size, *_parts(size), "gather") for size, number in ((1024, 2.21), (2048, 5.62), (3840, 24.7))],
    ),
    Table(
        "SDXL, 8 A100, displaced patches", sdxl, UNIT, ("hidden",),
        {"latency": "SDXL, 8 A100, synchronous", "link": "SDXL, 8 A100, synchronous"},
        [_unet("displaced patches", number, size, *_parts(size)) for size, number in ((1024, 1.77), (2048, 4.81), (3840, 22.9))],
    ),
    Table(
        "SDXL, patches that do not speak", sdxl, UNIT._replace(**SILENT), ("overhead",), {},
        [_unet(f"naive patches, n = {n}", number, 1024, 0.42, n, 5.02, "gather") for n, number in ((2, 2.83), (4, 1.74), (8, 1.27))],
    ),
    Table(
        "SDXL, 2 to 8 A100", sdxl, UNIT, (),
        {"latency": "SDXL, 8 A100, synchronous", "link": "SDXL, 8 A100, synchronous",
         "hidden": "SDXL, 8 A100, displaced patches", "overhead": "SDXL, patches that do not speak"},
        [
            *(_unet(f"displaced patches, n = {n}", x, 1024, 0.42, n, 5.02, unit="x") for n, x in ((2, 1.5), (4, 2.2), (8, 2.8))),
            *(_unet(f"displaced patches, n = {n}", x, 3840, 5.38, n, 8 * 21.3, unit="x") for n, x in ((2, 1.8), (4, 3.4), (8, 6.1))),
        ],
    ),
    Table(
        "Flux, 4 H100, compiled", _flux_of, H100, ("achieved", "latency"), {},
        [_flux("one device", 4.30), _flux("ulysses", 1.63, "ulysses", seq=4), _flux("ring", 1.98, "ring", seq=4), _flux("both", 1.80, "ulysses_ring", seq=(2, 2))],
    ),
    Table(
        "Flux, 4 H100, as it comes", _flux_of, H100, ("achieved", "latency"), {"floor": EAGER},
        [_flux("one device", 6.71), _flux("ulysses", 4.24, "ulysses", seq=4), _flux("ring", 5.11, "ring", seq=4), _flux("both", 5.19, "ulysses_ring", seq=(2, 2))],
    ),
    Table(
        "Flux, bytes", _flux_of, H100, (), {},
        [_flux("gather", 60.0, "gather", seq=4)._replace(unit="GB")],
    ),
]  # fmt: skip
