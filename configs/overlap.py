"""How much compute lies under each collective of sampling a DiT-XL/2 over TPUs or GPUs, certified without one.

    make EXTRAS="test certificate" env                                  (adds the compiler for TPU, 1.2 GB; versions pinned)
    make EXTRAS="test cuda13" env                                       (or that for GPU)
    python -m experiments.benchmarks.overlap --config=configs/overlap.py --workdir=results/overlap
                                                  (each of the 21 programs takes about half a minute of a core)

Programs of `parallel.sample` are compiled for machines that are not here, and their text is read: how many operations of
matrix products stand between each collective's start and its end, of those in one pass of the loop over layers; the bytes;
the memory. `configs/overlap.py:quick` compiles one program of two layers.

Expect on v5e, for synchronous rows 5 % (the queries' projection alone stands after the keys are sent and before they are
needed), for early gathers the same although they could wait a whole row, since the compiler does not carry a transfer from
one pass of a loop to the next, and for late ones all of the layer; for the meter's reduction, one a row, nothing. Expect
ulysses to hide nothing, and late to need less memory than early by 1 - 1/n of what early keeps, and more. On v6e and v5p
expect everything to be synchronous but for the flags. On v6e 142.6 GFLOP of a layer are counted where its products take
103.9: its text has the scores of attention three times, the second and third inside the fusion that takes the softmax's
maximum and sum. On a GPU expect nothing for synchronous rows, a part of the layer for early gathers, whose consumer is the
next row, and all of it for late ones: by the order of issue, which is all that the text holds. What it lacks: the kernels
that a real card would choose, and whether the transfer's own kernel leaves the products the card to themselves; where
several GPUs are, experiments.benchmarks.gpu measures that in seconds.
"""

import dataclasses

from configs.common import shrink

ASYNCHRONOUS = {
    "xla_enable_async_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
}


# The figures of an H100 SXM, as the compiler for GPU wants them of a card that is not here.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024   threads_per_warp: 32   threads_per_core_limit: 2048
  core_count: 132   fpus_per_core: 128   clock_rate_ghz: 1.98
  shared_memory_per_block: 49152   shared_memory_per_block_optin: 232448   shared_memory_per_core: 233472
  registers_per_core_limit: 65536   registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647   block_dim_limit_y: 65535   block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000   l2_cache_size: 52428800   device_memory_size: 84978434048
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
ATTENTIONS = ("gather", "early", "late", "ring", "ulysses")


@dataclasses.dataclass
class Config:
    """Sizes of the programs, and for which machines.

    Attributes:
      programs: "machine attention" of each: the name of a TPU topology, all of whose devices share an image, with "+flags" at
        its end where `flags` are set; and one of experiments.benchmarks.overlap.CONTENDERS.
      flags: options of the compiler for TPU.
      gpus: "number attention" of each: so many GPUs of one machine.
      gpu, gpu_flags: the description of one, and options of its compiler. Without a GPU at hand it cannot choose tiles for its
        own matrix products (Triton's) in these sizes, and stops; cuBLAS does them here.
      network, size, layers: of `flowjax.models.preset`, with latents of (H, W) and so many layers.
      dtype: of parameters and matrix products.
      batch, steps: images, and rows of the plan.
    """

    programs: tuple[str, ...] = (
        *(
            f"{machine} {attention}"
            for machine in ("v5e:2x2", "v5e:2x4")
            for attention in ATTENTIONS
        ),
        *(
            f"{machine}+flags {attention}"
            for machine in ("v6e:2x2", "v5p:2x2x1")
            for attention in ATTENTIONS[:3]
        ),
        *(f"{machine} late" for machine in ("v6e:2x2", "v5p:2x2x1")),
    )
    flags: dict = dataclasses.field(default_factory=lambda: dict(ASYNCHRONOUS))
    gpus: tuple[str, ...] = tuple(f"4 {attention}" for attention in ATTENTIONS)
    gpu: str = H100
    gpu_flags: dict = dataclasses.field(
        default_factory=lambda: {"xla_gpu_enable_triton_gemm": False}
    )
    network: str = "DiT-XL/2"
    size: tuple[int, ...] = (128, 128)
    layers: int = 28
    dtype: str = "bfloat16"
    batch: int = 2
    steps: int = 20


def get_config(arg=""):
    """`arg` "quick" compiles late gathers alone, two layers for one machine."""
    return shrink(
        Config(), arg, quick={"programs": ("v5e:2x2 late",), "gpus": ("4 late",), "layers": 2}
    )
