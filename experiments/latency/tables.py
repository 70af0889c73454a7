"""Published seconds of sampling over several devices, as cells that the model can compute.

Sources: DistriFusion (arXiv:2402.19481), tables 1 and 2; PipeFusion (arXiv:2405.14430) with the
plots of its code; xDiT (arXiv:2411.01738) with its reports for Flux and for two nodes;
CompactFusion for bytes.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from flowjax.parallel.analysis.latency import Device, Work


class Cell(NamedTuple):
    """One published number.

    Attributes:
      what: the method, in words.
      size: pixels of a side.
      published: in `unit`.
      run: keyword arguments of `latency.seconds`, with tokens, steps and warmup in the place of the
        mask. patches=None takes the best of some; "any" attention the best of all layouts on
        `devices`.
      device: figures that this cell has of its own.
      work: numbers for the table's `work`.
      unit: "s"; "x", as many times as fast as one device; "GB", what a device receives.
    """

    what: str
    size: int
    published: float
    run: dict[str, Any]
    device: dict[str, float] = {}
    work: dict[str, float] = {}
    unit: str = "s"


class Table(NamedTuple):
    """Published numbers of one machine and network.

    Attributes:
      name: of the table.
      work: a function to a `Work`, of the numbers in `fits`, `takes` and a cell's `work` that no
        `Device` has.
      device: with the figures of data sheets.
      fits: numbers that are fitted to the cells, at most two.
      takes: {number: the table whose fit it is taken from}.
      cells: `Cell`s.
      rival: a second model of cells that stand in another table.
    """

    name: str
    work: Callable[..., Work]
    device: Device
    fits: tuple[str, ...]
    takes: dict[str, str]
    cells: list[Cell]
    rival: bool = False


# -- machines

NVLINK = Device(312e12, 0.42, 2.04e12, 300e9, hidden=0.6)
PCIE = Device(312e12, 0.42, 1.94e12, 20e9, hidden=0.6)
L20 = Device(119.5e12, 0.65, 864e9, 20e9, hidden=0.6)
L40 = Device(181e12, 0.5, 864e9, 20e9, hidden=0.6, island=8, network=12.5e9)
H100 = Device(989e12, 0.5, 3.35e12, 450e9, hidden=0.6)
# Operations are seconds, and bytes are gigabytes.
UNIT = Device(1.0, 1.0, math.inf, 1.0, hidden=0.6)
# A link that costs nothing: devices that send nothing to each other.
FREE = {"latency": 0.0, "link": math.inf}


# -- networks

E = 1152
# DiT-XL/2 with a cross attention to 120 tokens of text (queries, output, scores; its keys and
# values a sample), one modulation for all layers, and guidance in the batch.
PIXART = Work(
    layers=28,
    width=E,
    heads=16,
    token=28 * E**2 + 480 * E,
    pair=4 * E,
    sample=480 * E**2,
    ends=2 * E * (16 + 32),
    label=0,
)
F = 3072
# 19 double and 38 single blocks, 12 F^2 weights a token each; 4096 tokens of the image and 512 of
# text, no second branch.
FLUX = Work(
    layers=57,
    width=F,
    heads=24,
    token=24 * F**2,
    pair=4 * F,
    sample=12 * F**2,
    ends=4 * F * 64,
)
FLUX_TOKENS = 4096 + 512
# Of a U-Net: any number that 2, 4 and 8 divide.
TOKENS = 840


def sdxl(seconds: float, gigabytes: float, overhead: float = 0.0) -> Work:
    """`Work` of a U-Net, of which only ratios are modelled: seconds for operations, GB for bytes.

    Args:
      seconds: of 50 steps on one device.
      gigabytes: that 8 devices exchange in these.
      overhead: the part of the seconds that more devices do not make shorter.
    """
    token = (seconds - overhead) / 50 / TOKENS
    # A gather of 8 devices receives 2 (7/8) tokens x width numbers a row.
    width = gigabytes / 50 / (2 * 7 / 8 * TOKENS)
    return Work(1, width, 1, token=token, pair=0.0, sample=overhead / 50)


def _pixart_work() -> Work:
    return PIXART


def _flux_work() -> Work:
    return FLUX


# -- cells


def _pixart(size: int, attention: str, warmup: int = 1, **sizes: Any) -> dict[str, Any]:
    """The run of an image of `size` pixels a side."""
    return {
        # An autoencoder of 8 pixels a latent, and patches of 2.
        "tokens": (size // 16) ** 2,
        "steps": 20,
        "warmup": warmup,
        "attention": attention,
        "samples": 2,
        "lag": 2,
        **sizes,
    }


def _over_sizes(
    what: str, published: Sequence[float], attention: str = "gather", **run: Any
) -> list[Cell]:
    """Cells of one method at 1024, 2048, ... pixels."""
    sizes = [1024 * 2**i for i in range(len(published))]
    return [
        Cell(what, size, number, _pixart(size, attention, **run))
        for size, number in zip(sizes, published, strict=True)
    ]


def _patches(lag: int) -> list[Cell]:
    """A pipeline of 8 stages and so many patches."""
    published = {2: 3.13, 4: 1.99, 8: 1.54, 16: 1.36, 32: 2.43}
    run = {**_pixart(1024, "pipefusion", pipe=8), "lag": lag}
    return [
        Cell(f"pipeline, {m} patches", 1024, number, {**run, "patches": m})
        for m, number in published.items()
    ]


def _unet(
    what: str,
    published: float,
    size: int,
    gigabytes: float,
    n: int,
    alone: float,
    attention: str = "stale",
    unit: str = "s",
) -> Cell:
    """A cell of SDXL on `n` devices; `alone` are its seconds on one device."""
    run = {
        "tokens": TOKENS,
        "steps": 50,
        "warmup": 5,
        "attention": attention,
        "seq": n,
        "number": 1,
    }
    work = {"seconds": alone, "gigabytes": gigabytes}
    return Cell(what, size, published, run, work=work, unit=unit)


def _unet_of_eight(what: str, published: float, size: int, attention: str) -> Cell:
    """A cell of SDXL on 8 devices, whose seconds without any exchange are known."""
    gigabytes, silent = EXCHANGED[size]
    return _unet(what, published, size, gigabytes, 8, 8 * silent, attention)


def _flux(
    what: str, published: float, attention: str = "gather", unit: str = "s", **sizes: Any
) -> Cell:
    run = {"tokens": FLUX_TOKENS, "steps": 28, "warmup": 1, "attention": attention}
    return Cell(what, 1024, published, {**run, **sizes}, unit=unit)


# -- the tables

# Names of tables whose fits others take.
ALONE_A100 = "PixArt, one A100"
ALONE_L20 = "PixArt, one L20"
EAGER = "PixArt, 8 A100 by NVLink"
SLOW_LINK = "PixArt, 4 A100 by PCIe"
PIPED_L20 = "PixArt, 8 L20, patches"
SYNCHRONOUS_UNET = "SDXL, 8 A100, synchronous"
DISPLACED_UNET = "SDXL, 8 A100, displaced patches"
SILENT_UNET = "SDXL, patches that do not speak"

# {pixels: (GB that 8 devices exchange, seconds of 8 devices that exchange nothing)}
EXCHANGED = {1024: (0.42, 1.48), 2048: (1.48, 4.14), 3840: (5.38, 21.3)}
# {pixels: published seconds} of 8 devices.
SYNCHRONOUS = {1024: 2.21, 2048: 5.62, 3840: 24.7}
DISPLACED = {1024: 1.77, 2048: 4.81, 3840: 22.9}
# {n devices: published seconds} of patches without any exchange, at 1024 pixels.
NAIVE = {2: 2.83, 4: 1.74, 8: 1.27}
# SDXL's seconds on one device at 1024 pixels, and at 3840 eight times those of 8 silent devices.
ALONE_1024, ALONE_3840 = 5.02, 8 * 21.3
# {n devices: as many times as fast as one}
FASTER_1024 = {2: 1.5, 4: 2.2, 8: 2.8}
FASTER_3840 = {2: 1.8, 4: 3.4, 8: 6.1}

PIPE = {"attention": "pipefusion", "patches": None}
# What the tables of L20 and L40 take from others.
OF_L20 = {
    "achieved": ALONE_L20,
    "floor": PIPED_L20,
    "latency": EAGER,
    "link": SLOW_LINK,
    "hidden": SLOW_LINK,
}
OF_L20_PIPE = {"achieved": ALONE_L20, "latency": EAGER, "link": SLOW_LINK}
OF_UNET = {"latency": SYNCHRONOUS_UNET, "link": SYNCHRONOUS_UNET}

PIXART_TABLES = [
    Table(
        name=ALONE_A100,
        work=_pixart_work,
        device=NVLINK,
        fits=("achieved",),
        takes={},
        cells=_over_sizes("one device", (2.09, 16.2, 184, 2728)),
    ),
    Table(
        name=EAGER,
        work=_pixart_work,
        device=NVLINK,
        fits=("latency", "floor"),
        takes={"achieved": ALONE_A100},
        cells=[
            *_over_sizes("displaced patches", (0.765, 2.48, 25.2), "stale", seq=8),
            *_over_sizes("ulysses", (1.37, 2.46, 23.3), "ulysses", seq=8),
            *_over_sizes("ring", (2.59, 3.54, 27.4), "ring", seq=8),
            *_over_sizes("pipeline", (0.969, 4.06, 45.0, 617), pipe=8, **PIPE),
        ],
    ),
    Table(
        name=SLOW_LINK,
        work=_pixart_work,
        device=PCIE,
        fits=("link", "hidden"),
        takes={"achieved": ALONE_A100, "latency": EAGER, "floor": EAGER},
        cells=[
            *_over_sizes("displaced patches", (2.33, 9.62, 68.4), "stale", seq=4),
            *_over_sizes("ulysses", (1.74, 7.93, 59.0), "ulysses", seq=4),
            *_over_sizes("ring", (2.63, 11.1, 65.9), "ring", seq=4),
            *_over_sizes("pipeline", (0.866, 5.37, 60.2, 880), pipe=4, **PIPE),
            *_over_sizes(
                "pipeline, 4 synchronous", (1.09, 7.03, 80, 1183), pipe=4, warmup=4, **PIPE
            ),
        ],
    ),
    Table(
        name=ALONE_L20,
        work=_pixart_work,
        device=L20,
        fits=("achieved",),
        takes={},
        cells=_over_sizes("one device", (3.34, 26.4, 307)),
    ),
    Table(
        name=PIPED_L20,
        work=_pixart_work,
        device=L20,
        fits=("floor",),
        takes=OF_L20_PIPE,
        cells=_patches(lag=2),
    ),
    Table(
        name="PixArt, 8 L20, patches, hops waited for",
        work=_pixart_work,
        device=L20,
        fits=("floor",),
        takes=OF_L20_PIPE,
        cells=_patches(lag=1),
        rival=True,
    ),
    Table(
        name="PixArt, 8 L20",
        work=_pixart_work,
        device=L20,
        fits=(),
        takes=OF_L20,
        cells=[
            *_over_sizes("displaced patches", (4.43, 6.32), "stale", seq=8),
            *_over_sizes("pipeline", (1.36, 6.35, 71.1), pipe=8, **PIPE),
        ],
    ),
    Table(
        name="PixArt, 16 L40 in two nodes",
        work=_pixart_work,
        device=L40,
        fits=(),
        takes=OF_L20,
        cells=[Cell("best layout", 4096, 13.3, _pixart(4096, "any", devices=16), unit="x")],
    ),
]

UNET_TABLES = [
    Table(
        name=SYNCHRONOUS_UNET,
        work=sdxl,
        device=UNIT,
        fits=("latency", "link"),
        takes={},
        cells=[
            _unet_of_eight("synchronous", number, size, "gather")
            for size, number in SYNCHRONOUS.items()
        ],
    ),
    Table(
        name=DISPLACED_UNET,
        work=sdxl,
        device=UNIT,
        fits=("hidden",),
        takes=OF_UNET,
        cells=[
            _unet_of_eight("displaced patches", number, size, "stale")
            for size, number in DISPLACED.items()
        ],
    ),
    Table(
        name=SILENT_UNET,
        work=sdxl,
        device=UNIT._replace(**FREE),
        fits=("overhead",),
        takes={},
        cells=[
            _unet(f"naive patches, n = {n}", number, 1024, 0.42, n, ALONE_1024, "gather")
            for n, number in NAIVE.items()
        ],
    ),
    Table(
        name="SDXL, 2 to 8 A100",
        work=sdxl,
        device=UNIT,
        fits=(),
        takes={**OF_UNET, "hidden": DISPLACED_UNET, "overhead": SILENT_UNET},
        cells=[
            *(
                _unet(f"displaced patches, n = {n}", times, 1024, 0.42, n, ALONE_1024, unit="x")
                for n, times in FASTER_1024.items()
            ),
            *(
                _unet(f"displaced patches, n = {n}", times, 3840, 5.38, n, ALONE_3840, unit="x")
                for n, times in FASTER_3840.items()
            ),
        ],
    ),
]

FLUX_TABLES = [
    Table(
        name="Flux, 4 H100, compiled",
        work=_flux_work,
        device=H100,
        fits=("achieved", "latency"),
        takes={},
        cells=[
            _flux("one device", 4.30),
            _flux("ulysses", 1.63, "ulysses", seq=4),
            _flux("ring", 1.98, "ring", seq=4),
            _flux("both", 1.80, "ulysses_ring", seq=(2, 2)),
        ],
    ),
    Table(
        name="Flux, 4 H100, as it comes",
        work=_flux_work,
        device=H100,
        fits=("achieved", "latency"),
        takes={"floor": EAGER},
        cells=[
            _flux("one device", 6.71),
            _flux("ulysses", 4.24, "ulysses", seq=4),
            _flux("ring", 5.11, "ring", seq=4),
            _flux("both", 5.19, "ulysses_ring", seq=(2, 2)),
        ],
    ),
    Table(
        name="Flux, bytes",
        work=_flux_work,
        device=H100,
        fits=(),
        takes={},
        cells=[_flux("gather", 60.0, "gather", unit="GB", seq=4)],
    ),
]

TABLES = [*PIXART_TABLES, *UNET_TABLES, *FLUX_TABLES]
