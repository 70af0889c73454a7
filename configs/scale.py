r"""One image on 16, 64 and 256 devices: memory, bytes and latency on paper, and in the compiler.

    make EXTRAS="test certificate" env
    python -m experiments.benchmarks.scale --config=configs/scale.py --workdir=results/scale

The formulas take a second. The first line adds the compiler for TPU (1.2 GB); without it the
compiled programs are left out. Each of the 17 programs takes half a minute of a core, those of SANA
one and a half. `configs/scale.py:quick` takes the formulas of one network on one machine.

Expect: weights fit every device, since each holds all of them whatever the number of devices, and
1.6 billion parameters take 3.2 GB. Tokens are what runs out: below some hundred on a device a layer
takes as long as starting its programs does. Between nodes of H100 a gather is slower than a layer.
"""

import dataclasses
from typing import NamedTuple

from configs.common import shrink
from configs.latency import DEVICES
from flowjax.parallel.analysis.latency import Device
from flowjax.records import unrecorded


class Machine(NamedTuple):
    """A `Device` with the bytes of its memory."""

    device: Device
    memory: float


# Memory is that of the data sheets (16 GB, 95 GiB, 80 GB). Peak, memory's rate and link of v5p are
# those of cloud.google.com/tpu/docs/v5p-training: 1200 GB/s both ways over six links, of which the
# two of one axis receive 200 GB/s. Its other numbers are assumed, those of v5e.
#
# The rate beyond a node of eight H100 is 50 GB/s a card: one 400 Gb/s InfiniBand card for each GPU,
# 400 GB/s a node (jax-ml/scaling-book, gpus.md). It is not fitted to any measurement, and neither
# is the latency of a collective that leaves a node. The latency of "NVLink" is that of
# torch.compile over NCCL; what NCCL itself takes is nearer to the assumed 20 microseconds.
MACHINES = {
    "TPU v5e": Machine(DEVICES["TPU v5e"], 16e9),
    "TPU v5p": Machine(
        Device(459e12, 0.5, 2.765e12, 200e9, 10e-6, 20e-6, 0.9, island=6144, network=3e9),
        95 * 2**30,
    ),
    "H100 nodes": Machine(DEVICES["H100 NVLink"], 80e9),
    "H100 nodes, 20 us": Machine(DEVICES["H100 NVLink, 20 us"], 80e9),
}
# {devices: the topology of so many chips}
V5E = {16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}
V5P = {16: "v5p:2x2x4", 64: "v5p:4x4x4", 256: "v5p:4x8x8"}


def _programs() -> tuple[str, ...]:
    """Both attentions of a DiT on v5e; fewer of what takes longer."""
    dit = ("DiT-XL/2 1024", "DiT-XL/2 2048")
    both = [
        f"{V5E[n]} {attention} {name}"
        for n in V5E
        for name in dit
        for attention in ("gather", "stale")
    ]
    stale = [f"{topology} stale {dit[0]}" for topology in V5P.values()]
    sana = [f"{V5E[n]} gather SANA-1.6B/4K" for n in (16, 64)]
    return (*both, *stale, *sana)


@dataclasses.dataclass
class Config:
    """Sizes of the questions."""

    machines: tuple[str, ...] = tuple(MACHINES)  # keys of MACHINES in this file
    # Names of `flowjax.models.preset`; a DiT has the pixels of its image behind a space. 1024 and
    # 2048 pixels are 4096 and 16384 tokens of a DiT-XL/2; SANA at 4K has 16384.
    networks: tuple[str, ...] = ("DiT-XL/2 1024", "DiT-XL/2 2048", "SANA-1.6B/4K")
    devices: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # powers of two
    shown: tuple[int, ...] = (16, 64, 256)  # of which the table has lines
    # "topology attention network" of each program for TPU.
    programs: tuple[str, ...] = unrecorded(_programs())

    layers: int = 60  # at most; a network has as many as its preset has, or so many
    batch: int = 1  # images, which all devices share
    steps: int = 20  # rows of a plan
    warmup: int = 1  # synchronous ones at the start, with stale attention
    guidance: float = 4.5  # scale of classifier-free guidance
    dtype: str = "bfloat16"  # of parameters and matrix products
    # A doubling of the devices is worth it if at least this fraction of it comes back as speed.
    pays: float = 0.5


QUICK = {
    "machines": ("TPU v5e",),
    "networks": ("DiT-XL/2 1024",),
    "devices": (1, 2, 4, 8, 16),
    "shown": (16,),
    "programs": (),
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" takes the formulas of one network on one machine."""
    return shrink(Config(), arg, quick=QUICK)
