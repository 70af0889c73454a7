"""What sampling costs beside the evaluations of the field, and beside other libraries.

    python -m experiments.benchmarks.samplers --config=configs/bench.py --workdir=runs/bench

About two minutes on 2 cores. Time only on a machine that does nothing else.

Expect: the scan over a plan costs what a bare scan of the same evaluations costs, within the noise
of the timing. One compilation serves 40 plans of one length. A Python loop of jitted steps is
slower by its dispatches, which a large field hides. At an error of 1e-3 the explicit pairs of order
5, diffrax's and ours, need fewer evaluations than order 2 in log-SNR, and ours as few as order 3 or
fewer. diffrax's loop is faster on small fields, since it makes six evaluations in a turn and ours
makes one. Kvaerno5 is slower by the iterations of Newton's method.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the timings."""

    # Fixed steps.
    batch: int = 256  # samples run together
    steps: int = 20  # evaluations of a run
    plans: int = 40  # plans of the ablation
    repeats: int = 15  # timed calls of each contender, in turn; the median counts

    # Count the processor's seconds of this process, and not those that pass: for a machine that is
    # not idle. With `taskset -c 0` before the command there is one thread, and both are comparable.
    processor_seconds: bool = False

    # Error control, timed at equal error.
    rtol: float = 1e-3  # relative and absolute tolerance of the adaptive peers
    adaptive_fields: tuple[str, ...] = ("ring", "digits")
    adaptive_batches: tuple[int, ...] = (1, 64, 4096)


QUICK = {
    "batch": 16,
    "steps": 6,
    "plans": 4,
    "repeats": 2,
    "adaptive_fields": ("ring",),
    "adaptive_batches": (4,),
}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" times little, for a test that the command works."""
    return shrink(Config(), arg, quick=QUICK)
