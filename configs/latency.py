"""How long does an image take over several devices? A model held to published measurements, then asked where staleness pays.

    python -m experiments.latency --config=configs/latency.py --workdir=results/latency               (ten seconds, no device)
    python -m experiments.latency --config=configs/latency.py:quick --workdir=runs/latency-quick

Expect: one efficiency explains one device over a 64-fold range of tokens; a pipeline's published seconds need hops that take a
tick of their own, so it wants twice as many patches as stages; where links are slow, staleness pays as a pipeline and displaced
patches lose to exchanging heads, which moves 2/n of their bytes; guidance's second branch is the first thing to give devices to,
and an image of 1024 tokens stops paying at a few devices, on account of latency.
"""

import dataclasses

from configs.common import shrink
from flowjax.parallel.analysis.latency import Device

# peak (dense, bfloat16), memory, link: data sheets, one direction. achieved, link over PCIe, hidden: fitted to published seconds
# by experiments.latency (its page has the fits), and so is latency, which is that of torch.compile over NCCL: programs that the
# host starts pay 600 microseconds, and what NCCL itself takes is nearer to the 20 of the last GPU. Assumed: floor, a dozen
# programs a layer of 4 microseconds; those 20; and of the TPU all but the data sheet, with nine tenths of a layer between a
# gather's start and its end, as its compiler's schedule has it.
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
    """Sizes of the questions.

    Attributes:
      machines: names of `DEVICES`.
      tokens: of a DiT-XL/2: 1024 is an image of 512 x 512, 4096 one of 1024 x 1024 (or 16 frames of 256 x 256), 65536 is 16
        frames of 1024 x 1024.
      devices: how many there are, powers of two.
      steps: evaluations, of guided sampling.
      warmup: synchronous ones, at the start.
      patches: most patches of a pipeline for each of its stages.
      pays: the least share of a doubling's devices that must come back as speed for it to pay.
    """

    machines: tuple[str, ...] = tuple(DEVICES)
    tokens: tuple[int, ...] = (1024, 4096, 65536)
    devices: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    steps: int = 20
    warmup: int = 1
    patches: int = 8
    pays: float = 0.5


def get_config(arg=""):
    """`arg` "quick" plans for two machines and up to 8 devices."""
    return shrink(
        Config(), arg,
        quick={"machines": ("H100 NVLink", "A100 PCIe"), "tokens": (1024, 4096), "devices": (1, 2, 4, 8)},
    )  # fmt: skip
