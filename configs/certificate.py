r"""What the program for one H100 is, read from its text, without a GPU at hand.

    make EXTRAS="test cuda13" env
    python -m experiments.benchmarks.certificate --config=configs/certificate.py \
        --workdir=results/certificate

The first line adds the compiler for GPU (4 GB). Each of the eleven programs takes about 20 seconds
of a core. `configs/certificate.py:quick` compiles two layers of one network.

Guided sampling of DiT-XL/2 and of the public SANA networks is compiled in bfloat16, and each text
is held to a list of claims: cuDNN's fused attention is there, every large product multiplies
bfloat16, nothing waits for the host, temporary memory stays below a bound, the whole program fits
the card, and all plans of one length have one program.

Expect: all claims hold for DiT-XL/2, and the first fails for the control without the kernel. SANA
has no fused attention, since its attention is linear; its attention to the text is softmax
attention, whose scores are stored. SANA at 4K was expected not to fit the card with eight images,
and does (23 of 85 GB). Seconds are not in a text.
"""

import dataclasses

from configs.common import shrink
from configs.overlap import H100
from flowjax.models.sana_sizes import NAMES
from flowjax.records import unrecorded


@dataclasses.dataclass
class Config:
    """Sizes of the programs, and the card for which they are compiled."""

    # Names of `flowjax.models.preset`; a DiT has the pixels of its image behind a space. " plain"
    # at the end is a control: attention without the fused kernel, which must not pass.
    programs: tuple[str, ...] = unrecorded(
        ("DiT-XL/2 256", "DiT-XL/2 512", "DiT-XL/2 512 plain", *NAMES)
    )
    layers: int = 60  # at most; a network has as many as its preset has, or so many
    batch: int = 8  # images; guidance doubles them
    steps: int = 20  # rows of each plan
    guidance: float = 4.5  # scale of classifier-free guidance
    dtype: str = "bfloat16"  # of parameters and matrix products

    # A product is large from this fraction of the operations of one layer. Two kinds of product are
    # smaller by design, and multiply float32: the modulation, and the sums of linear attention.
    large: float = 0.01

    gpu: str = H100  # the description of the card
    # cuBLAS computes the products. With a card at hand the compiler times it against kernels of its
    # own (Triton's), which without a card it cannot; under JAX 0.10 it stops where it would.
    gpu_flags: dict = dataclasses.field(
        default_factory=lambda: {"xla_gpu_enable_triton_gemm": False}
    )


def get_config(arg: str = "") -> Config:
    """`arg` "quick" compiles two layers of one network."""
    return shrink(Config(), arg, quick={"programs": ("DiT-XL/2 256",), "layers": 2})
