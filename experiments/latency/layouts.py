"""How several devices can work on one image together, and the quickest layout of them."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from flowjax.parallel.analysis import latency
from flowjax.parallel.analysis.latency import Device, Seconds, Work

# A pipeline may have 1, 2, 4 or 8 times as many patches as stages.
PATCHES_PER_STAGE = (1, 2, 4, 8)
# Bytes a number of PipeFusion's messages: hidden states are float32.
HIDDEN_STATE_BYTES = 4


class Layout(NamedTuple):
    """A mesh and its kind of attention.

    Attributes:
      attention: one of `latency.ATTENTIONS`.
      cfg: devices that have the branches of guidance, 1 or 2.
      seq: devices that have the tokens; a pair for "ulysses_ring".
      pipe: stages that have the layers.
      patches: of a pipeline.
    """

    attention: str
    cfg: int = 1
    seq: int | tuple[int, int] = 1
    pipe: int = 1
    patches: int = 1

    @property
    def devices(self) -> int:
        """The number of devices that it takes."""
        tokens = math.prod(self.seq) if isinstance(self.seq, tuple) else self.seq
        return self.cfg * self.pipe * tokens

    def __str__(self) -> str:
        """Only the factors above 1: "cfg 2 x seq 4, stale"."""
        seq = "{} x {}".format(*self.seq) if isinstance(self.seq, tuple) else self.seq
        factors = {
            "cfg": self.cfg,
            f"{self.attention}": seq,
            f"pipeline of {self.patches} patches,": self.pipe,
        }
        named = [f"{name} {size}" for name, size in factors.items() if size != 1]
        return " x ".join(named) or "one device"


def layouts(
    work: Work,
    tokens: int,
    devices: int,
    most_patches: int,
    attentions: Sequence[str] = latency.ATTENTIONS,
) -> list[Layout]:
    """Every `Layout` of so many devices: branches of guidance, then tokens or layers.

    As in `parallel.sample`, the stages of a pipeline have equally many layers, its patches equally
    many tokens, and it does not divide tokens among devices as well.

    Args:
      work: of the network.
      tokens: L.
      devices: which must all be used.
      most_patches: of a pipeline, for each of its stages.
      attentions: among which to choose.
    """
    found = []
    # Guidance has two branches, which two groups of devices can take.
    for cfg in (1, 2) if devices % 2 == 0 else (1,):
        n = devices // cfg
        # Every device has equally many tokens, whatever the attention.
        if tokens % n:
            continue
        for attention in attentions:
            sizes = _sizes(work, tokens, n, most_patches, attention)
            found += [Layout(attention, cfg, **each) for each in sizes]
    return found


def _sizes(
    work: Work, tokens: int, n: int, most_patches: int, attention: str
) -> list[dict[str, Any]]:
    """The sizes of the mesh with which this attention occupies `n` devices."""
    if attention == "ulysses":
        return [{"seq": n}] if work.heads % n == 0 else []
    if attention == "ulysses_ring":
        # u devices exchange heads, and n / u such groups form a ring.
        return [{"seq": (u, n // u)} for u in range(2, n) if n % u == 0 and work.heads % u == 0]
    if attention == "pipefusion":
        if work.layers % n:
            return []
        return [
            {"pipe": n, "patches": n * times}
            for times in PATCHES_PER_STAGE
            if times <= most_patches and tokens % (n * times) == 0
        ]
    return [{"seq": n}]


def seconds(
    layout: Layout,
    work: Work,
    tokens: int,
    synced: np.ndarray,
    device: Device,
    *,
    samples: int = 1,
    lag: int | None = None,
) -> Seconds:
    """`latency.Seconds` of a guided run of so many samples.

    Args:
      layout: of the devices.
      work, tokens, device: as in `latency.seconds`.
      synced: (steps,) bool, the synchronous rows.
      samples: images at once; guidance doubles them, and cfg = 2 halves what a device has of them.
      lag: ticks from a pipeline's stage to the next.
    """
    return latency.seconds(
        work,
        tokens,
        synced,
        device,
        attention=layout.attention,
        samples=samples * 2 // layout.cfg,
        cfg=layout.cfg,
        seq=layout.seq,
        pipe=layout.pipe,
        patches=layout.patches,
        lag=lag,
        message=HIDDEN_STATE_BYTES if layout.attention == "pipefusion" else None,
    )


def quickest(
    work: Work,
    tokens: int,
    synced: np.ndarray,
    device: Device,
    counts: Iterable[int],
    most_patches: int,
    *,
    attentions: Sequence[str] = latency.ATTENTIONS,
    **options: Any,
) -> tuple[Layout, Seconds] | None:
    """(`Layout`, `latency.Seconds`) of least total seconds; None where no layout fits.

    Args:
      work, tokens, synced, device: as in `seconds`.
      counts: the numbers of devices to try.
      most_patches, attentions: as in `layouts`.
      **options: of `seconds`.
    """
    # Fewer devices may be quicker than more.
    tried = itertools.chain(*(layouts(work, tokens, n, most_patches, attentions) for n in counts))
    timed = [(layout, seconds(layout, work, tokens, synced, device, **options)) for layout in tried]
    return min(timed, key=lambda pair: pair[1].total, default=None)
