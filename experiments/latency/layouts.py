"""Ways to share an image among devices, and the quickest of them."""

import itertools
import math
from typing import NamedTuple

from flowjax.parallel.analysis import latency


class Layout(NamedTuple):
    """A mesh and how it attends; seq may be a pair, and patches are those of a pipeline."""

    attention: str
    cfg: int = 1
    seq: int | tuple = 1
    pipe: int = 1
    patches: int = 1

    @property
    def devices(self):
        """That it takes."""
        return (
            self.cfg
            * self.pipe
            * (math.prod(self.seq) if isinstance(self.seq, tuple) else self.seq)
        )

    def __str__(self):
        """Only the factors above 1: "cfg 2 x seq 4, stale"."""
        seq = "{} x {}".format(*self.seq) if isinstance(self.seq, tuple) else self.seq
        named = {
            "cfg": self.cfg,
            f"{self.attention}": seq,
            f"pipeline of {self.patches} patches,": self.pipe,
        }
        return (
            " x ".join(f"{name} {size}" for name, size in named.items() if size != 1)
            or "one device"
        )


def layouts(work, tokens, devices, most_patches, attentions=latency.ATTENTIONS):
    """Every `Layout` of so many devices: branches of guidance, then tokens or layers.

    A pipeline's stages hold equally many layers, its patches equally many tokens, and it shares no tokens besides, as
    `parallel.sample` wants it.
    """
    found = []
    for cfg in (1, 2) if devices % 2 == 0 else (1,):
        n = devices // cfg
        parts = [n * 2**i for i in range(4) if 2**i <= most_patches and tokens % (n * 2**i) == 0]
        pairs = [(u, n // u) for u in range(2, n) if n % u == 0 and work.heads % u == 0]
        possible = {
            "ulysses": [{"seq": n}] if work.heads % n == 0 else [],
            "ulysses_ring": [{"seq": pair} for pair in pairs],
            "pipefusion": [{"pipe": n, "patches": m} for m in parts]
            if work.layers % n == 0
            else [],
        }
        found += [
            Layout(attention, cfg, **sizes)
            for attention in attentions
            for sizes in possible.get(attention, [{"seq": n}])
            if tokens % n == 0
        ]
    return found


def seconds(layout, work, tokens, synced, device, *, samples=1, lag=None):
    """`latency.Seconds` of a guided run of so many samples."""
    return latency.seconds(
        work, tokens, synced, device, attention=layout.attention, samples=samples * 2 // layout.cfg, cfg=layout.cfg,
        seq=layout.seq, pipe=layout.pipe, patches=layout.patches, lag=lag,
        message=4 if layout.attention == "pipefusion" else None,  # hidden states are float32
    )  # fmt: skip


def quickest(work, tokens, synced, device, counts, most_patches, **options):
    """(`Layout`, `latency.Seconds`) of least total seconds on any of these numbers of devices; None where none fits."""
    attentions = options.pop("attentions", latency.ATTENTIONS)
    tried = itertools.chain(*(layouts(work, tokens, n, most_patches, attentions) for n in counts))
    timed = [(layout, seconds(layout, work, tokens, synced, device, **options)) for layout in tried]
    return min(timed, key=lambda pair: pair[1].total, default=None)
