"""The memory of one device that samples an image with others: formulas, beside compiled programs.

B samples on the device (twice that where it computes both branches of guidance), L tokens, E the
width, K layers, b bytes of a number, n devices that share the tokens, F the widest array of a layer
(the MLP's, before its gate where it has one):

    weights       b (numbers of the parameters), on every device
    buffers       of stale attention 2 R K L/n E B b + 2 L E B b (`parallel.traffic.buffer`);
                  of linear attention 8 K heads d (d + 1) B, the device's own sums and those of all
    gathered      2 L E B b ("gather"), 4 L/n E B b ("ulysses", "ring", "ulysses_ring")
    activations   2 (L/n F B 4): two arrays of a layer in float32, the widest that there is

The factor 2 of the activations is that of the programs which `experiments.benchmarks.certificate`
compiles for one H100: they have 1.7 to 2.1. Left out: the scores of softmax attention where no
kernel is fused (at most 2^24 at a time, `models.attention`), libraries' own memory, copies that a
compiler makes of weights, the text encoder, and the decoder of latents.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.sharding import Mesh

from flowjax.errors import check_choice
from flowjax.models import networks
from flowjax.models.dit import FREQUENCIES
from flowjax.models.networks import Config
from flowjax.models.sana_sizes import SanaConfig
from flowjax.models.sizes import DiTConfig
from flowjax.parallel import traffic
from flowjax.parallel.mesh import DATA, doubled, token_shards

ATTENTIONS = ("gather", "ulysses", "ring", "ulysses_ring", "stale")
FLOAT32 = 4  # bytes
ARRAYS = 2


class Memory(NamedTuple):
    """Bytes on one device, as the module describes them."""

    weights: float
    buffers: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        """Their sum."""
        return sum(self)


def of_device(
    config: Config,
    shape: tuple[int, ...],
    mesh: Mesh,
    attention: str,
    guidance: float = 1.0,
    dtype: str = "bfloat16",
    rows_used: int = 1,
) -> Memory:
    """The `Memory` of a device of `mesh`.

    Args:
      config: the sizes of a DiT or a SANA.
      shape: (B, H, W, C) of the noise, B of all devices.
      mesh: its sizes count, and so `parallel.mesh.without_devices` is enough.
      attention: one of `ATTENTIONS`; "gather" is the exact attention of linear attention.
      guidance: its scale; 1 is none.
      dtype: of the parameters, keys and values.
      rows_used: R, the rows that a forecast uses.
    """
    check_choice("memory.of_device", "attention", attention, ATTENTIONS)
    number = jnp.dtype(dtype).itemsize
    samples = shape[0] // mesh.shape[DATA] * (2 if doubled(mesh, guidance) else 1)
    tokens = shape[1] * shape[2] // config.patch**2
    own = math.ceil(tokens / token_shards(mesh))
    buffers = gathered = 0
    if networks.is_linear(config):
        buffers = _sums(config, samples) if attention == "stale" else 0
    elif attention == "stale":
        buffers = traffic.buffer(config, shape, mesh, "late", guidance, dtype, rows_used)
    else:
        rows = 2 * tokens if attention == "gather" else 4 * own
        gathered = rows * config.width * samples * number
    return Memory(
        weights=parameters(config) * number,
        buffers=buffers,
        gathered=gathered,
        activations=ARRAYS * samples * own * widest(config) * FLOAT32,
    )


def widest(config: Config) -> int:
    """F, the numbers of a token in the widest array of a layer."""
    if networks.is_linear(config):
        return 2 * config.hidden  # before the gate
    return int(config.mlp_ratio * config.width)


def parameters(config: Config) -> int:
    """The numbers of all parameters of a network."""
    return _of_sana(config) if isinstance(config, SanaConfig) else _of_dit(config)


def _sums(config: SanaConfig, samples: int) -> int:
    """Bytes of the sums over keys that stale linear attention keeps, its own and those of all."""
    head = config.width // config.heads
    return 2 * config.depth * samples * config.heads * head * (head + 1) * FLOAT32


def _dense(inputs: int, outputs: int, bias: bool = True) -> int:
    """The numbers of a dense layer."""
    return (inputs + bias) * outputs


def _of_dit(config: DiTConfig) -> int:
    """The numbers of a DiT: K layers, and the ends before and after them."""
    e, hidden = config.width, widest(config)
    numbers = config.patch**2 * config.channels, config.patch**2 * config.outputs
    layer = 4 * _dense(e, e) + _dense(e, hidden) + _dense(hidden, e) + _dense(e, 6 * e)
    time = _dense(FREQUENCIES, e) + _dense(e, e)
    embedding = _dense(numbers[0], e) + time + config.labels * e
    head = _dense(e, 2 * e) + _dense(e, numbers[1])
    return config.depth * layer + embedding + head


def _of_sana(config: SanaConfig) -> int:
    """The numbers of a SANA: K layers, and the ends before and after them."""
    e, g, f = config.width, config.cross_width, config.hidden
    # Norms of queries and keys have one number a channel, or two with a bias.
    norm = {"rms_norm_across_heads": 1, "layer_norm_across_heads": 2}.get(config.qk_norm, 0)
    attention = 3 * _dense(e, e, config.attention_bias) + _dense(e, e) + 2 * norm * e
    cross = 3 * _dense(e, g) + _dense(g, e) + 2 * norm * g
    mlp = _dense(e, 2 * f) + (3 * 3 + 1) * 2 * f + _dense(f, e, bias=False)
    layer = 6 * e + attention + cross + mlp + (2 * e if config.norm_affine else 0)
    time = (1 + config.guidance_embeds) * (_dense(FREQUENCIES, e) + _dense(e, e))
    text = _dense(config.caption, e) + _dense(e, e) + e
    numbers = config.patch**2 * config.channels, config.patch**2 * config.outputs
    ends = _dense(numbers[0], e) + _dense(e, 6 * e) + 2 * e + _dense(e, numbers[1])
    return config.depth * layer + time + text + ends
