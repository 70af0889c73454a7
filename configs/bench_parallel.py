r"""Sampling one image over a mesh: bytes sent, bytes of buffers, and the cost of compiling.

    python -m experiments.benchmarks.parallel --config=configs/bench_parallel.py \
        --workdir=runs/bench-parallel

Half a minute on 2 cores. Without several accelerators it runs on 8 virtual devices of the CPU.
These show numbers and the structure of the program, and no speed, so the only seconds in the rows
are those of compiling. Where several devices exist it adds the seconds of sampling, and those of
`jax.pmap` and of the data axis beside each other.

Expect: the bytes counted in the compiled program equal the formulas of parallel.traffic. There is
one all-gather a layer for gather and stale, two all-to-alls for ulysses, n - 1 permutes for the
ring. ulysses moves 2/n of the bytes of gather. Stale attention that gathers late waits for no
matrix product, and its buffers have (K + n)/(K n) of the bytes of gathering early; both kinds of
row are in one program, which takes longer to compile accordingly. Frozen stale rows send nothing.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the benchmark."""

    # A name of `flowjax.models.preset`; its weights are random, since no sample is looked at.
    network: str = "digits"
    # How many devices draw one image; numbers that the machine lacks are left out.
    devices: tuple[int, ...] = (2, 4, 8)
    batch: int = 8  # images
    steps: int = 10  # of Adams-Bashforth 2
    # Timed calls of each contender, in turn, where there are real devices; the median counts.
    repeats: int = 5


def get_config(arg: str = "") -> Config:
    """`arg` "quick" measures two devices."""
    return shrink(Config(), arg, quick={"devices": (2,), "batch": 2, "steps": 3, "repeats": 1})
