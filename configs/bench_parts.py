r"""The parts of a layer of a DiT-S/2, each timed alone, in JAX and in PyTorch.

    taskset -c 0 python -m experiments.benchmarks.parts --config=configs/bench_parts.py \
        --workdir=runs/bench-parts

Three minutes on one core, most of it torch.compile. The same command under another Python, with a
work directory of its own, times another JAX. Without torch its rows are absent. The seconds are
those of the processor.

Expect: matrix products near the peak everywhere. XLA loses in what lies between them: softmax, GELU
and the norms, which it computes by loops of its own, and the conversions around bfloat16. Measured
otherwise (docs/benchmarks.md): it loses in the products themselves, and gains in GELU.
"""

import dataclasses

from configs.common import shrink


@dataclasses.dataclass
class Config:
    """Sizes of the layer and of the timing."""

    width: int = 384  # numbers a token
    heads: int = 6  # of attention
    tokens: int = 256  # of an image
    batches: tuple[int, ...] = (8,)  # sequences of a call; four guided images make 8
    dtypes: tuple[str, ...] = ("float32", "bfloat16")  # of matrix products
    repeats: int = 25  # timed calls of each part, in turn; the median counts


QUICK = {"width": 32, "heads": 2, "tokens": 8, "batches": (2,), "repeats": 2}


def get_config(arg: str = "") -> Config:
    """`arg` "quick" shrinks all sizes, for a test that the command works."""
    return shrink(Config(), arg, quick=QUICK)
