"""How much compute lies under each collective of sampling a DiT-XL/2, without a TPU or GPU at hand.

    make EXTRAS="test certificate" env
    make EXTRAS="test cuda13" env
    python -m experiments.benchmarks.overlap --config=configs/overlap.py --workdir=results/overlap

The first line adds the compiler for TPU (1.2 GB; versions are pinned), the second that for GPU.
Each of the 29 programs takes 44 seconds of a core (median; 10 seconds to five minutes).
`configs/overlap.py:quick` compiles one program of two layers.

Programs of `parallel.sample` are compiled for machines that are not here, and their text is read:
how many operations of matrix products stand between the start and the end of each collective, of
those in one pass of the loop over layers; the bytes; the memory.

Expect on v5e: 5 % of a layer under the transfer in synchronous rows and for early gathers, all of
the layer for late gathers, and nothing for the meter and for ulysses. On v6e and v5p everything is
synchronous without the flags. On a GPU: nothing, a part, and all of the layer. With linear
attention nothing, fresh or stale. Why, and what a text cannot show, stands in docs/findings.md.
"""

import dataclasses

from configs.common import shrink
from flowjax.records import unrecorded

# Options of the compiler for TPU.
ASYNCHRONOUS = {
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
}

# The description of an H100 SXM, as the compiler for GPU needs it for a card that is not here. The
# text is a part of the configuration's hash, so its lines stay as they are.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024   threads_per_warp: 32   threads_per_core_limit: 2048
  core_count: 132   fpus_per_core: 128   clock_rate_ghz: 1.98
  shared_memory_per_block: 49152   shared_memory_per_block_optin: 232448   \
shared_memory_per_core: 233472
  registers_per_core_limit: 65536   registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647   block_dim_limit_y: 65535   block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000   l2_cache_size: 52428800   device_memory_size: 84978434048
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

ATTENTIONS = ("gather", "early", "late", "ring", "ulysses")


def _programs() -> tuple[str, ...]:
    """All attentions on v5e; late gathers on the others with and without flags, and two more."""
    with_flags = ("v6e:2x2", "v5p:2x2x1")
    found = [f"{machine} {name}" for machine in ("v5e:2x2", "v5e:2x4") for name in ATTENTIONS]
    found += [f"{machine}+flags {name}" for machine in with_flags for name in ATTENTIONS[:3]]
    found += [f"{machine} late" for machine in with_flags]
    return tuple(found)


@dataclasses.dataclass
class Config:
    """Sizes of the programs, and the machines for which they are compiled."""

    # "machine attention" of each program for TPU. The machine is the name of a topology, all of
    # whose devices draw one image, with "+flags" at its end where `flags` are set; the attention is
    # one of experiments.benchmarks.overlap.CONTENDERS.
    programs: tuple[str, ...] = _programs()
    flags: dict = dataclasses.field(default_factory=lambda: dict(ASYNCHRONOUS))

    # The same for a network with linear attention: "linear" or "linear-stale".
    linear_programs: tuple[str, ...] = unrecorded(
        tuple(
            f"{machine} {name}"
            for machine in ("v5e:2x2", "v5e:2x4", "v5p:2x2x1+flags")
            for name in ("linear", "linear-stale")
        )
    )
    # SANA-1.6B at 2K has as many tokens as the other network.
    linear_network: str = unrecorded("SANA-1.6B/2K")

    # "number attention" of each program for so many GPUs of one machine.
    gpus: tuple[str, ...] = tuple(f"4 {attention}" for attention in ATTENTIONS)
    gpu: str = H100
    # Without a GPU at hand the compiler cannot choose tiles for its own matrix products (Triton's)
    # in these sizes, and stops; here cuBLAS computes them.
    gpu_flags: dict = dataclasses.field(
        default_factory=lambda: {"xla_gpu_enable_triton_gemm": False}
    )

    # The network.
    network: str = "DiT-XL/2"  # a name of `flowjax.models.preset`
    size: tuple[int, ...] = (128, 128)  # (H, W) of the latents
    layers: int = 28
    dtype: str = "bfloat16"  # of parameters and matrix products
    batch: int = 2  # images
    steps: int = 20  # rows of the plan


def get_config(arg: str = "") -> Config:
    """`arg` "quick" compiles late gathers alone, two layers for one machine."""
    quick = {
        "programs": ("v5e:2x2 late",),
        "gpus": ("4 late",),
        "linear_programs": (),
        "layers": 2,
    }
    return shrink(Config(), arg, quick=quick)
