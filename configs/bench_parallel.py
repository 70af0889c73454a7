"""What sampling one image over a mesh says to other devices, keeps, and costs to compile.

    python -m experiments.benchmarks.parallel --config=configs/bench_parallel.py --workdir=runs/bench-parallel
                                                                                            (half a minute on 2 cores)

Without several accelerators it runs on 8 virtual devices of the CPU: these show numbers and the structure of the program, and
no speed, so no seconds are kept but those of compiling. Where several devices exist it adds the seconds of sampling, and
those of `jax.pmap` and the data axis beside each other.

Expect: bytes counted in the compiled program equal to the formulas of parallel.traffic; one all-gather a layer for gather and
stale, two all-to-alls for ulysses, n - 1 permutes for the ring; ulysses moves 2/n of what gather does; stale attention that
gathers late waits for no matrix product, keeps (K + n)/(K n) of the bytes that gathering early keeps, and holds both kinds of
row in one program, which compiles accordingly longer; frozen stale rows say nothing.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the benchmark.

    Attributes:
      network: of `flowjax.models.preset`; its weights are random, since no sample is looked at.
      devices: how many share an image; those that the machine lacks are left out.
      batch: images.
      steps: of Adams-Bashforth 2.
      repeats: timed calls of each contender, interleaved, where there are real devices; the median counts.
    """

    network: str = "digits"
    devices: tuple[int, ...] = (2, 4, 8)
    batch: int = 8
    steps: int = 10
    repeats: int = 5


def get_config(arg=""):
    """`arg` "quick" measures two devices."""
    return shrink(Config(), arg, quick={"devices": (2,), "batch": 2, "steps": 3, "repeats": 1})
