"""The linear diffusion transformer SANA (Xie et al. 2024, arXiv:2410.10629), drawn for a text.

Like a DiT it takes *patches* (B, L, P) and the embedding of their places (models/dit.py). It
differs in the condition, a `models.Condition`, and in how tokens see each other. They do so in two
places, which are both arguments, in one `Mixing`:

    attention(q, k, v, layer, carry) -> (out, carry)        q, k, v, out: (B, L, heads, d)
    rows(x, layer, carry) -> (y, carry)                     x (B, L, C), y (B, rows + 2, columns, C)

The attention is linear: with phi = ReLU the output of query i is

    out_i = phi(q_i) S / (phi(q_i) s),    S = sum_j phi(k_j)' v_j,    s = sum_j phi(k_j)',

so tokens see each other only in the sums (S, s), d (d + 1) numbers a head, whatever L is. The
3 x 3 convolution of the MLP reads the row above and the row below: `rows` returns the tokens as
rows of an image with one more row on each side. A device that holds some rows of an image has other
functions for both (parallel/linear.py), and the same network.

Letters as in models/dit.py; T tokens of the text, F the hidden width of the MLP.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flowjax.models import dit, tokens
from flowjax.models.condition import Condition
from flowjax.models.dit import FREQUENCIES, NORMAL, XAVIER, ZEROS
from flowjax.models.sana_sizes import SanaConfig
from flowjax.types import PyTree

__all__ = [
    "Mixing",
    "Sana",
    "SanaConfig",
    "condition_of",
    "key_value_sums",
    "linear_attention",
    "network",
    "on_one_device",
    "positions",
    "weighted",
]

TINY = 1e-15  # added to the denominator of the linear attention
NORM_EPSILON = 1e-5  # of the norms of queries, keys and text
MASKED = -10000.0  # added to the scores of masked tokens, as the original does


class Mixing(NamedTuple):
    """How the tokens of an image see each other; both functions as the module describes them.

    Attributes:
      attention: the linear attention.
      rows: the tokens as rows of an image, with the rows around them.
    """

    attention: Callable[..., tuple[jax.Array, PyTree]]
    rows: Callable[..., tuple[jax.Array, PyTree]]


# The two ways in which tokens see each other, where one device has all of them.


def key_value_sums(k: jax.Array, v: jax.Array) -> jax.Array:
    """(S, s) of the module: (B, heads, d, d + 1), sums over tokens in float32 at least.

    Args:
      k, v: (B, L, heads, d), the keys before their ReLU.
    """
    # The products too are in float32, as in the original: they are few beside those of the layer.
    exact = jnp.promote_types(k.dtype, jnp.float32)
    k, v = jax.nn.relu(k).astype(exact), v.astype(exact)
    # A value of 1 beside the d others, so that s is one more column of S.
    v = jnp.concatenate([v, jnp.ones((*v.shape[:-1], 1), exact)], axis=-1)  # (B, L, heads, d + 1)
    return jnp.einsum("blhd,blhe->bhde", k, v)


def weighted(q: jax.Array, sums: jax.Array) -> jax.Array:
    """The outputs (B, L, heads, d) of queries from the sums over keys, in the dtype of `q`.

    Args:
      q: (B, L, heads, d), before its ReLU.
      sums: (B, heads, d, d + 1), as `key_value_sums` gives them.
    """
    out = jnp.einsum("blhd,bhde->blhe", jax.nn.relu(q).astype(sums.dtype), sums)
    return (out[..., :-1] / (out[..., -1:] + TINY)).astype(q.dtype)


def linear_attention(
    q: jax.Array, k: jax.Array, v: jax.Array, layer: Any = None, carry: PyTree = None
) -> tuple[jax.Array, PyTree]:
    """The linear attention between all tokens.

    Args:
      q, k, v: (B, L, heads, d).
      layer: not used.
      carry: returned as it is.
    """
    return weighted(q, key_value_sums(k, v)), carry


def rows_of_image(
    columns: int, x: jax.Array, layer: Any = None, carry: PyTree = None
) -> tuple[jax.Array, PyTree]:
    """All tokens (B, L, C) as rows (B, L / columns + 2, columns, C), with a row of zeros around."""
    x = x.reshape(len(x), -1, columns, x.shape[-1])
    return jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), carry


def on_one_device(config: SanaConfig, size: tuple[int, int]) -> Mixing:
    """The `Mixing` of a device that has all tokens of a latent of `size`."""
    columns = size[1] // config.patch
    return Mixing(linear_attention, functools.partial(rows_of_image, columns))


def positions(config: SanaConfig, size: tuple[int, int] | None = None) -> np.ndarray:
    """The embedding of each token's place, as models/tokens.py has it: (L, E) float64.

    Without `config.interpolation` tokens have none, and the network ignores the zeros (L, 1), which
    only have the length that a mesh splits.
    """
    if config.interpolation is None:
        height, width = size or config.size
        return np.zeros((height * width // config.patch**2, 1))
    return tokens.positions(config, size, scale=1 / config.interpolation)


def condition_of(config: SanaConfig, label: jax.Array) -> Condition:
    """The `Condition` that stands for labels: one token each, a unit vector.

    Args:
      config: with `classes`.
      label: (B,) integers; one out of range gives NaN.
    """
    embeddings = jax.nn.one_hot(label, config.labels)[:, None]  # (B, 1, number of labels)
    is_known = (label >= 0) & (label < config.labels)
    embeddings = jnp.where(is_known[:, None, None], embeddings, jnp.nan)
    return Condition(embeddings, jnp.ones((len(label), 1)))


# The layers.


def _rms_norm(width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(width, epsilon=NORM_EPSILON, rngs=rngs)


def _unit_norm(x: jax.Array) -> jax.Array:
    """x over its norm along the last axis."""
    size = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.maximum(size, NORM_EPSILON)


def _qk_norm(config: SanaConfig, width: int, rngs: nnx.Rngs) -> Callable | None:
    """The norm of queries or keys over all heads, or None."""
    if config.qk_norm == "rms_norm_across_heads":
        return _rms_norm(width, rngs)
    if config.qk_norm == "layer_norm_across_heads":
        return nnx.LayerNorm(width, epsilon=NORM_EPSILON, use_fast_variance=False, rngs=rngs)
    return _unit_norm if config.qk_norm == "l2" else None


class Projections(nnx.Module):
    """Queries, keys, values and the output of one attention.

    Args:
      config: a `SanaConfig`.
      width: of queries, keys and values, all heads together.
      heads: their number.
      bias: whether queries, keys and values have a bias.
      rngs: random numbers.
    """

    def __init__(self, config: SanaConfig, width: int, heads: int, bias: bool, rngs: nnx.Rngs):
        linear = functools.partial(dit.linear, config=config, rngs=rngs)
        self.config, self.heads = config, heads
        self.query = linear(config.width, width, use_bias=bias)
        self.key = linear(config.width, width, use_bias=bias)
        self.value = linear(config.width, width, use_bias=bias)
        self.query_norm = _qk_norm(config, width, rngs)
        self.key_norm = _qk_norm(config, width, rngs)
        self.out = linear(width, config.width)

    def heads_of(self, x: jax.Array, source: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries of x (B, L, E), keys and values of `source` (B, T, E), as (B, ., heads, d)."""
        q, k, v = self.query(x), self.key(source), self.value(source)
        if self.query_norm is not None:
            q, k = self.query_norm(q), self.key_norm(k)
        return tuple(self._split(y, x.dtype) for y in (q, k, v))

    def _split(self, y, dtype):
        """(B, L, E) -> (B, L, heads, d) in the compute dtype, or in `dtype` where that is None."""
        y = y.astype(self.config.dtype or dtype)
        return y.reshape(*y.shape[:2], self.heads, -1)


class GatedConvolution(nnx.Module):
    """The MLP: a dense layer, a 3 x 3 convolution of each channel, a gate, a dense layer.

    Called GLUMBConv in the original code (Mix-FFN in arXiv:2410.10629, section 2.2).
    """

    def __init__(self, config: SanaConfig, rngs: nnx.Rngs):
        hidden = config.hidden
        self.config = config
        self.expand = dit.linear(config.width, 2 * hidden, config, rngs)
        self.kernel = nnx.Param(XAVIER(rngs.params(), (3, 3, 2 * hidden), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(2 * hidden, jnp.float32))
        self.contract = dit.linear(hidden, config.width, config, rngs, use_bias=False)

    def __call__(self, x: jax.Array, rows: Callable) -> tuple[jax.Array, PyTree]:
        """(B, L, E) -> (B, L, E), carry; `rows` is that of `Mixing`, on (B, L, 2 F)."""
        # In the compute dtype, in which it also travels to neighbours: it is the widest array.
        y = jax.nn.silu(self.expand(x)).astype(self.config.dtype or x.dtype)  # (B, L, 2 F)
        around, carry = rows(y)
        y = depthwise(around, self.kernel[...], self.bias[...]).reshape(y.shape)
        y, gate = jnp.split(y, 2, axis=-1)  # (B, L, F) each
        return self.contract(y * jax.nn.silu(gate)), carry


def depthwise(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """The 3 x 3 convolution of each channel by itself: (B, r + 2, c, C) -> (B, r, c, C).

    The row before the first and after the last are given, and the columns are padded with zeros.
    XLA joins the nine shifted products in one loop.

    Args:
      x: (B, r + 2, c, C).
      kernel: (3, 3, C), by row and column.
      bias: (C,).
    """
    height, width = x.shape[1] - 2, x.shape[2]
    exact = jnp.promote_types(x.dtype, jnp.float32)
    x = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    kernel = kernel.astype(exact)
    total = bias[None, None, None].astype(exact)
    for row in range(3):
        for column in range(3):
            shifted = x[:, row : row + height, column : column + width]
            total = total + shifted * kernel[row, column][None, None, None]
    return total


class Block(nnx.Module):
    """One layer (arXiv:2410.10629, figure 5), modulated as in PixArt (adaLN-single).

    With shift, scale and gate the sums of a table of this layer and of one embedding of the time:

        x <- x + gate1 attention((1 + scale1) norm(x) + shift1)
        x <- x + attention of x to the text
        x <- x + gate2 mlp((1 + scale2) norm(x) + shift2)
    """

    def __init__(self, config: SanaConfig, rngs: nnx.Rngs):
        width = config.width
        table = jax.random.normal(rngs.params(), (6, width), jnp.float32) / width**0.5
        self.table = nnx.Param(table)
        self.norm1 = dit.plain_norm(width, config.norm_epsilon, rngs)
        self.norm2 = dit.plain_norm(width, config.norm_epsilon, rngs, affine=config.norm_affine)
        self.attention = Projections(config, width, config.heads, config.attention_bias, rngs)
        self.cross = Projections(config, config.cross_width, config.cross_heads, True, rngs)
        self.mlp = GatedConvolution(config, rngs)

    def __call__(
        self,
        x: jax.Array,
        modulation: jax.Array,
        text: jax.Array,
        mask: jax.Array,
        mixing: Mixing,
        carry: PyTree,
    ) -> tuple[jax.Array, PyTree]:
        """One layer.

        Args:
          x: (B, L, E).
          modulation: (B, 6, E) from the time, the same in all layers.
          text: (B, T, E).
          mask: (B, T), to be added to the scores of the text's tokens.
          mixing: functions (q, k, v, carry=) and (x, carry=) of this layer.
          carry: passes through both in this order.

        Returns:
          (x, carry).
        """
        # Without the barrier XLA may compute the modulation anew for each of its uses.
        modulation = jax.lax.optimization_barrier(self.table[...][None] + modulation)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.swapaxes(0, 1)  # (B, E) each

        # The linear attention between the tokens of the image.
        y = dit.modulate(self.norm1(x), shift1, scale1)
        out, carry = mixing.attention(*self.attention.heads_of(y, y), carry=carry)
        out = self.attention.out(out.reshape(*x.shape[:2], -1))
        x = x + gate1[:, None] * out.astype(x.dtype)

        # Softmax attention to the text, without norm or gate.
        out = _attend_to_text(*self.cross.heads_of(x, text), mask)
        x = x + self.cross.out(out.reshape(*x.shape[:2], -1)).astype(x.dtype)

        # The MLP with its convolution.
        y = dit.modulate(self.norm2(x), shift2, scale2)
        y, carry = self.mlp(y, functools.partial(mixing.rows, carry=carry))
        return x + gate2[:, None] * y.astype(x.dtype), carry


def _attend_to_text(q, k, v, mask):
    """Softmax attention of q (B, L, heads, d) to k, v (B, T, heads, d), `mask` added to scores."""
    exact = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=exact)
    scores = scores * q.shape[-1] ** -0.5 + mask[:, None, None].astype(exact)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bhqk,bkhd->bqhd", weights, v, preferred_element_type=exact)
    return out.astype(v.dtype)


# The network.


class TimeEmbedding(nnx.Module):
    """Cosines and sines of a number, then an MLP: (B,) -> (B, E)."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.dense1 = nnx.Linear(FREQUENCIES, width, kernel_init=NORMAL, rngs=rngs)
        self.dense2 = nnx.Linear(width, width, kernel_init=NORMAL, rngs=rngs)

    def __call__(self, number: jax.Array) -> jax.Array:
        """(B,) -> (B, E)."""
        half = FREQUENCIES // 2
        frequencies = 10000.0 ** (-np.arange(half) / half)
        angles = number[:, None] * frequencies[None].astype(number.dtype)  # (B, FREQUENCIES / 2)
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
        return self.dense2(jax.nn.silu(self.dense1(features)))


class Sana(nnx.Module):
    """The network in three parts: `embed`, `layers` and `head`."""

    def __init__(self, config: SanaConfig, rngs: nnx.Rngs):
        width = config.width
        self.config = config
        self.patches = dit.linear(config.patch**2 * config.channels, width, config, rngs)
        self.time = TimeEmbedding(width, rngs)
        self.guidance = TimeEmbedding(width, rngs) if config.guidance_embeds else None
        self.modulation = nnx.Linear(width, 6 * width, kernel_init=NORMAL, rngs=rngs)
        self.text1 = dit.linear(config.caption, width, config, rngs, kernel=NORMAL)
        self.text2 = dit.linear(width, width, config, rngs, kernel=NORMAL)
        self.text_norm = _rms_norm(width, rngs)
        # All layers in one module, whose arrays have a leading axis of K.
        stack = nnx.vmap(functools.partial(Block, config))
        self.blocks = stack(rngs.split(config.depth))
        self.norm = dit.plain_norm(width, 1e-6, rngs)
        table = jax.random.normal(rngs.params(), (2, width), jnp.float32) / width**0.5
        self.table = nnx.Param(table)
        outputs = config.patch**2 * config.outputs
        self.outputs = dit.linear(width, outputs, config, rngs, kernel=ZEROS)

    def embed(
        self, patches: jax.Array, clock: jax.Array, condition: Condition, places: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(tokens (B, L, E), time (B, E), text (B, T, E), mask (B, T)).

        Args:
          patches: (B, L, P).
          clock: (B,) the network's own time.
          condition: a `Condition`.
          places: (L, E), of `positions`; not used where tokens have no embedding of their place.
        """
        dtype = patches.dtype
        tokens = self.patches(patches).astype(dtype)  # (B, L, E)
        if self.config.interpolation is not None:
            tokens = tokens + places[None].astype(dtype)
        time = self.time(clock)
        if self.guidance is not None:
            time = time + self.guidance(condition.guidance.astype(dtype))

        # The text, and what its mask adds to scores.
        text = jax.nn.gelu(self.text1(condition.embeddings.astype(dtype)), approximate=True)
        text = self.text_norm(self.text2(text).astype(dtype))
        mask = (1 - condition.mask.astype(dtype)) * MASKED
        return tokens, time, text, mask

    def layers(
        self,
        tokens: jax.Array,
        time: jax.Array,
        text: jax.Array,
        mask: jax.Array,
        mixing: Mixing,
        carry: PyTree,
    ) -> tuple[jax.Array, PyTree]:
        """Run the stacked layers by one scan; arguments as `embed` returns them."""
        graph, stacked = nnx.split(self.blocks)
        modulation = self.modulation(jax.nn.silu(time)).reshape(len(time), 6, -1)

        def layer(state, scanned):
            x, carry = state
            index, block = scanned
            own = Mixing(*(functools.partial(function, layer=index) for function in mixing))
            return nnx.merge(graph, block)(x, modulation, text, mask, own, carry), None

        if self.config.remat:
            layer = jax.checkpoint(layer)
        state, _ = jax.lax.scan(layer, (tokens, carry), (jnp.arange(self.config.depth), stacked))
        return state

    def head(self, tokens: jax.Array, time: jax.Array) -> jax.Array:
        """tokens (B, L, E) -> (B, L, p p outputs), in the order (row, column, channel)."""
        shift, scale = (self.table[...][None] + time[:, None]).swapaxes(0, 1)  # (B, E) each
        return self.outputs(dit.modulate(self.norm(tokens), shift, scale)).astype(tokens.dtype)

    def __call__(
        self,
        patches: jax.Array,
        clock: jax.Array,
        condition: Condition,
        places: jax.Array,
        mixing: Mixing,
        carry: PyTree,
    ) -> tuple[jax.Array, PyTree]:
        """The three parts one after the other: (B, L, P) -> (B, L, p p outputs), carry."""
        tokens, time, text, mask = self.embed(patches, clock, condition, places)
        tokens, carry = self.layers(tokens, time, text, mask, mixing, carry)
        return self.head(tokens, time), carry


def network(config: SanaConfig) -> dit.Network:
    """The functions of a SANA on a tree of parameters."""
    return dit.network(config, Sana)
