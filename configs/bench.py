"""What sampling costs beside the field's own evaluations, and beside other libraries.

    python -m experiments.benchmarks.samplers --config=configs/bench.py --workdir=runs/bench       (about five minutes on 2 cores)

Expect: the scan over a plan costs what a bare scan of the same evaluations costs, within the noise of the timing; one
compilation serves 40 plans of one length; a Python loop of jitted steps is slower by its dispatches, which a large field
hides. At an error of 1e-3 the explicit pairs of order 5, diffrax's and ours, need fewer evaluations than orders 2 and 3 in
log-SNR; diffrax's loop is the quicker one on small fields, since it makes six evaluations a turn and ours one; Kvaerno5
pays for Newton's iterations. Time only on a machine that does nothing else.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the timings.

    Attributes:
      batch: samples run together.
      steps: evaluations of a run.
      plans: plans of the ablation.
      repeats: timed calls of each contender, interleaved; the median counts.
      rtol: relative and absolute tolerance of the adaptive peers.
      adaptive_fields, adaptive_batches: where error control is timed at equal error.
    """

    batch: int = 256
    steps: int = 20
    plans: int = 40
    repeats: int = 15
    rtol: float = 1e-3
    adaptive_fields: tuple[str, ...] = ("ring", "digits")
    adaptive_batches: tuple[int, ...] = (1, 64, 4096)


def get_config(arg=""):
    """`arg` "quick" times little, for a test that the command works."""
    return shrink(
        Config(), arg,
        quick={
            "batch": 16, "steps": 6, "plans": 4, "repeats": 2, "adaptive_fields": ("ring",), "adaptive_batches": (4,),
        },
    )  # fmt: skip
