"""The diffusion transformer DiT (Peebles & Xie 2023, arXiv:2212.09748), and SiT, the same network.

SiT (arXiv:2401.08740) differs in its path, prediction and clock, which `models.card` handles.

This is the only file that uses flax.nnx. Everything else sees a tree of parameters and the methods
of `Network`. Letters: B batch, H W C image, p patch, L = (H/p)(W/p) tokens, P = p p C numbers of a
patch, E width, d = E/heads, K layers.

A network takes *patches* (B, L, P): the image cut into pieces, and nothing else. So a device that
holds some of the tokens holds those patches from the noise to the data. `positions` gives the
embedding of the places of the tokens. Attention is an argument:

    attention(q, k, v, layer, carry) -> (out, carry)          q, k, v, out: (B, L, heads, d)

`layer` counts from 0 and is traced, since the layers are one scan. `carry` is any tree; it passes
through the layers in order, and it is None unless the caller gives one.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flowjax.models.attention import softmax_attention
from flowjax.models.sizes import SIZES, DiTConfig, preset
from flowjax.models.tokens import patchify, positions, unpatchify
from flowjax.types import PyTree

__all__ = [
    "FREQUENCIES",
    "SIZES",
    "Attention",
    "Block",
    "DiT",
    "DiTConfig",
    "Network",
    "network",
    "overview",
    "patchify",
    "positions",
    "preset",
    "softmax_attention",
    "unpatchify",
]

# (q, k, v, layer, carry) -> (out, carry)
Attention: TypeAlias = Callable[..., tuple[jax.Array, PyTree]]

FREQUENCIES = 256  # features of a time before the first dense layer, cosines first
XAVIER = nnx.initializers.xavier_uniform()
ZEROS = nnx.initializers.zeros
NORMAL = nnx.initializers.normal(0.02)


# The network.


def linear(
    inputs: int,
    outputs: int,
    config: DiTConfig,
    rngs: nnx.Rngs,
    kernel: Callable = XAVIER,
    use_bias: bool = True,
) -> nnx.Linear:
    """A dense layer that multiplies in the compute dtype and adds up in float32.

    Sums in bfloat16 would lose speed and digits on a CPU. Of the configuration only `dtype` counts.
    """
    options = {}
    if config.dtype:
        options = {"dtype": jnp.dtype(config.dtype), "preferred_element_type": jnp.float32}
    return nnx.Linear(inputs, outputs, kernel_init=kernel, use_bias=use_bias, rngs=rngs, **options)


def _modulation(config: DiTConfig, parts: int, rngs: nnx.Rngs) -> nnx.Linear:
    """The dense layer from the condition to shifts, scales and gates.

    It starts at zero (the "Zero" of adaLN-Zero), and is always in the state's dtype.
    """
    return nnx.Linear(config.width, parts * config.width, kernel_init=ZEROS, rngs=rngs)


def plain_norm(width: int, epsilon: float, rngs: nnx.Rngs, affine: bool = False) -> nnx.LayerNorm:
    """LayerNorm, usually without learned scale and bias: the modulation takes their place."""
    return nnx.LayerNorm(
        width,
        epsilon=epsilon,
        use_bias=affine,
        use_scale=affine,
        use_fast_variance=False,
        rngs=rngs,
    )


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """x (B, L, E) scaled and shifted by the same numbers (B, E) at every token."""
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nnx.Module):
    """One layer of adaLN-Zero (arXiv:2212.09748, section 3.2).

    With shift, scale and gate (gamma, beta and alpha in the paper) linear in the condition c:

        x <- x + gate1(c) attention((1 + scale1(c)) norm(x) + shift1(c))
        x <- x + gate2(c) mlp((1 + scale2(c)) norm(x) + shift2(c))
    """

    def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
        width = config.width
        hidden = int(width * config.mlp_ratio)
        self.config = config
        # The order of construction fixes the random numbers that each layer starts from.
        self.modulation = _modulation(config, 6, rngs)
        self.norm1 = plain_norm(width, 1e-6, rngs)
        self.norm2 = plain_norm(width, config.mlp_epsilon, rngs)
        self.query = linear(width, width, config, rngs)
        self.key = linear(width, width, config, rngs)
        self.value = linear(width, width, config, rngs)
        self.out = linear(width, width, config, rngs)
        self.mlp1 = linear(width, hidden, config, rngs)
        self.mlp2 = linear(hidden, width, config, rngs)

    def __call__(
        self, x: jax.Array, condition: jax.Array, attention: Attention
    ) -> tuple[jax.Array, PyTree]:
        """One layer.

        Args:
          x: (B, L, E).
          condition: (B, E).
          attention: (q, k, v) -> (out, carry), each array (B, L, heads, d).

        Returns:
          (x, carry).
        """
        # Without the barrier XLA may compute the modulation anew for each of its uses.
        modulation = jax.lax.optimization_barrier(self.modulation(condition))  # (B, 6 E)
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, axis=-1)

        # x + gate1 attention(norm(x), modulated)
        y = modulate(self.norm1(x), shift1, scale1)
        q = self._heads(self.query(y), y.dtype)
        k = self._heads(self.key(y), y.dtype)
        v = self._heads(self.value(y), y.dtype)
        y, carry = attention(q, k, v)  # (B, L, heads, d)
        y = self.out(y.reshape(x.shape))  # (B, L, E)
        x = x + gate1[:, None] * y.astype(x.dtype)

        # x + gate2 mlp(norm(x), modulated)
        y = modulate(self.norm2(x), shift2, scale2)
        y = jax.nn.gelu(self.mlp1(y), approximate=True)  # (B, L, mlp_ratio E)
        y = self.mlp2(y)  # (B, L, E)
        return x + gate2[:, None] * y.astype(x.dtype), carry

    def _heads(self, y: jax.Array, dtype: Any) -> jax.Array:
        """(B, L, E) -> (B, L, heads, d) in the compute dtype, or in `dtype` where that is None."""
        y = y.astype(self.config.dtype or dtype)
        return y.reshape(*y.shape[:2], self.config.heads, -1)


class DiT(nnx.Module):
    """The network in three parts: `embed`, `layers` and `head`.

    Its output is zero before training, since the last layer is.
    """

    def __init__(self, config: DiTConfig, rngs: nnx.Rngs):
        width = config.width
        self.config = config
        # The order of construction fixes the random numbers that each layer starts from.
        self.patches = linear(config.patch**2 * config.channels, width, config, rngs)
        self.time1 = nnx.Linear(FREQUENCIES, width, kernel_init=NORMAL, rngs=rngs)
        self.time2 = nnx.Linear(width, width, kernel_init=NORMAL, rngs=rngs)
        self.labels = nnx.Embed(config.labels, width, embedding_init=NORMAL, rngs=rngs)
        # All layers in one module, whose arrays have a leading axis of K.
        stack = nnx.vmap(functools.partial(Block, config))
        self.blocks = stack(rngs.split(config.depth))
        self.norm = plain_norm(width, 1e-6, rngs)
        self.modulation = _modulation(config, 2, rngs)
        outputs = config.patch**2 * config.outputs
        self.outputs = linear(width, outputs, config, rngs, kernel=ZEROS)

    def embed(
        self, patches: jax.Array, clock: jax.Array, label: jax.Array, positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Tokens (B, L, E) and the condition (B, E).

        Args:
          patches: (B, L, P).
          clock: (B,) the network's own time.
          label: (B,) integers.
          positions: (L, E).
        """
        tokens = self.patches(patches).astype(patches.dtype)  # (B, L, E)
        tokens = tokens + positions[None].astype(patches.dtype)
        time = self._embed_clock(clock)
        # Not self.labels(label), which rounds to float32. Index -1 would be the null label in
        # jnp.take, where NaN is wanted: an index past the end gives it.
        label = jnp.where(label < 0, self.config.labels, label)
        classes = jnp.take(self.labels.embedding[...], label, axis=0, mode="fill")  # (B, E)
        return tokens, jax.nn.silu(time + classes)

    def _embed_clock(self, clock: jax.Array) -> jax.Array:
        """The embedding (B, E) of the clock (B,): cosines and sines of it, then an MLP."""
        half = FREQUENCIES // 2
        frequencies = 10000.0 ** (-np.arange(half) / (half - self.config.frequency_shift))
        angles = clock[:, None] * frequencies[None].astype(clock.dtype)  # (B, FREQUENCIES / 2)
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
        return self.time2(jax.nn.silu(self.time1(features)))

    def layers(
        self,
        tokens: jax.Array,
        condition: jax.Array,
        attention: Attention,
        carry: PyTree,
        first: int | jax.Array = 0,
    ) -> tuple[jax.Array, PyTree]:
        """Run the stacked layers by one scan.

        Args:
          tokens: (B, L, E).
          condition: (B, E).
          attention: as the module describes.
          carry: passes through the layers by `attention`.
          first: the number of the first layer of the stack; a stage of a pipeline holds later ones.

        Returns:
          (tokens, carry).
        """
        graph, stacked = nnx.split(self.blocks)

        def layer(state, scanned):
            x, carry = state
            index, block = scanned
            attend = functools.partial(attention, layer=index, carry=carry)
            return nnx.merge(graph, block)(x, condition, attend), None

        if self.config.remat:
            layer = jax.checkpoint(layer)
        depth = jax.tree.leaves(stacked)[0].shape[0]
        state, _ = jax.lax.scan(layer, (tokens, carry), (first + jnp.arange(depth), stacked))
        return state

    def head(self, tokens: jax.Array, condition: jax.Array) -> jax.Array:
        """tokens (B, L, E) -> (B, L, p p outputs), in the order (row, column, channel)."""
        shift, scale = jnp.split(self.modulation(condition), 2, axis=-1)  # (B, E) each
        return self.outputs(modulate(self.norm(tokens), shift, scale)).astype(tokens.dtype)

    def __call__(
        self,
        patches: jax.Array,
        clock: jax.Array,
        label: jax.Array,
        positions: jax.Array,
        attention: Attention,
        carry: PyTree,
    ) -> tuple[jax.Array, PyTree]:
        """The three parts one after the other: (B, L, P) -> (B, L, p p outputs), carry."""
        tokens, condition = self.embed(patches, clock, label, positions)
        tokens, carry = self.layers(tokens, condition, attention, carry)
        return self.head(tokens, condition), carry


# The network as functions of its parameters.


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """The functions of a network on a tree of parameters, nested dictionaries of arrays.

    Make one by `network(config)`.

    Attributes:
      config: its sizes.
      module: its nnx module, such as `DiT`, which is made from (config, rngs).
      graph, abstract: the module's structure without arrays, and the shapes and dtypes of its
        arrays, as `nnx.split` gives them.
    """

    config: Any
    module: type
    graph: Any = dataclasses.field(repr=False)
    abstract: Any = dataclasses.field(repr=False)

    def init(self, key: jax.Array) -> PyTree:
        """Parameters as the paper starts training."""
        return _init(self.module, self.config, key)

    def shapes(self) -> PyTree:
        """The tree of shapes and dtypes that `init` returns, without computing it."""
        return nnx.to_pure_dict(self.abstract)

    def apply(self, params: PyTree, *args: Any) -> tuple[jax.Array, PyTree]:
        """(params, patches, clock, label, positions, attention, carry) -> (out, carry).

        Patches are (B, L, P), clock and label (B,), positions (L, E), out (B, L, p p outputs). The
        clock is the network's own time, as it was in training. A SANA takes a condition in the
        place of the label, and a `Mixing` in the place of the attention.
        """
        return self.part("__call__", params, *args)

    def part(self, name: str, params: PyTree, *args: Any) -> Any:
        """The method `name` of the module, "embed", "layers" or "head", on its arguments `args`."""
        # replace_by_pure_dict writes into the state, so each call takes a copy of the cached one.
        state = jax.tree.map(lambda leaf: leaf, self.abstract)
        nnx.replace_by_pure_dict(state, params)
        module = nnx.merge(self.graph, state)
        return getattr(module, name)(*args)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _init(module: type, config: Any, key: jax.Array) -> PyTree:
    return nnx.to_pure_dict(nnx.state(module(config, nnx.Rngs(key)), nnx.Param))


@functools.cache
def network(config: Any, module: type = DiT) -> Network:
    """The `Network` of these sizes; `module` is the class of another network of this form."""
    abstract_module = nnx.eval_shape(lambda: module(config, nnx.Rngs(0)))
    graph, abstract = nnx.split(abstract_module)
    return Network(config, module, graph, abstract)


def overview(params: PyTree) -> str:
    """The parameters as a table (clu.parameter_overview): names, shapes, means, deviations."""
    from clu import parameter_overview

    return parameter_overview.get_parameter_overview(params)
