"""How long does an image take over several devices? A model, and where staleness is worth it.

    python -m experiments.latency --config=configs/latency.py --workdir=results/latency
    python -m experiments.latency --config=configs/latency.py:quick --workdir=runs/latency-quick

Ten seconds; no device is needed. The model is compared with published measurements, and then asked.

Expect: one efficiency explains one device over a 64-fold range of tokens. The published seconds of
a pipeline can be explained only if a hop takes a tick of its own, so a pipeline needs twice as many
patches as stages. Where links are slow, staleness is worth it in a pipeline; displaced patches lose
to exchanging heads, which moves 2/n of their bytes. The second branch of guidance is the first
thing to give devices to. An image of 1024 tokens gains nothing beyond a few devices, because of
latency.
"""

import dataclasses

from configs.common import shrink
from flowjax.parallel.analysis.latency import Device

# From data sheets: peak (dense, bfloat16), memory, and link (one direction).
#
# Fitted to published seconds by experiments.latency, whose page has the fits: achieved, the link
# over PCIe, hidden, and latency. This latency is that of torch.compile over NCCL. Programs that the
# host starts pay 600 microseconds; what NCCL itself takes is nearer to the 20 of the last GPU.
#
# Assumed: floor, a dozen programs a layer of 4 microseconds; those 20 microseconds; and everything
# of the TPU but its data sheet, with nine tenths of a layer between the start and the end of a
# gather, as in the schedule of its compiler.
DEVICES = {
    "H100 NVLink": Device(
        989e12, 0.49, 3.35e12, 450e9, 160e-6, 50e-6, 0.64, island=8, network=50e9
    ),
    "A100 NVLink": Device(
        312e12, 0.42, 2.04e12, 300e9, 160e-6, 50e-6, 0.64, island=8, network=25e9
    ),
    "A100 PCIe": Device(
        312e12, 0.42, 1.94e12, 11.3e9, 160e-6, 50e-6, 0.075, island=8, network=12.5e9
    ),
    "L20 PCIe": Device(
        119.5e12, 0.66, 864e9, 11.3e9, 160e-6, 50e-6, 0.075, island=8, network=12.5e9
    ),
    "TPU v5e": Device(197e12, 0.5, 819e9, 90e9, 10e-6, 20e-6, 0.9, island=256, network=3e9),
    "H100 NVLink, 20 us": Device(
        989e12, 0.49, 3.35e12, 450e9, 20e-6, 50e-6, 0.64, island=8, network=50e9
    ),
}


@dataclasses.dataclass
class Config:
    """Sizes of the questions."""

    machines: tuple[str, ...] = tuple(DEVICES)  # keys of DEVICES in this file
    # Of a DiT-XL/2: 1024 is an image of 512 x 512; 4096 one of 1024 x 1024, or 16 frames of
    # 256 x 256; 65536 is 16 frames of 1024 x 1024.
    tokens: tuple[int, ...] = (1024, 4096, 65536)
    devices: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # powers of two
    steps: int = 20  # evaluations, of guided sampling
    warmup: int = 1  # synchronous ones at the start
    patches: int = 8  # most patches of a pipeline for each of its stages
    # A doubling of the devices is worth it if at least this fraction of it comes back as speed.
    pays: float = 0.5


QUICK = {
    "machines": ("H100 NVLink", "A100 PCIe"),
    "tokens": (1024, 4096),
    "devices": (1, 2, 4, 8),
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" plans for two machines and up to 8 devices."""
    return shrink(Config(), arg, quick=QUICK)
