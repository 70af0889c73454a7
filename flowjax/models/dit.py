"""The diffusion transformer DiT (Peebles & Xie 2023, arXiv:2212.09748), and SiT (arXiv:2401.08740), which is the same network.

The only file that knows flax.nnx: everything else sees a tree of parameters and the functions of `Network`. Letters:
B batch, H W C image, p patch, L = (H/p)(W/p) tokens, P = p p C numbers a patch, E width, K layers.

A network sees *patches* (B, L, P), the image cut up and nothing more, so a device that holds some of the tokens holds
those patches from the noise to the end. `positions` says which tokens they are. Attention is an argument:

    attention(q, k, v, layer, carry) -> (out, carry)          q, k, v, out: (B, L, heads, E/heads)

`layer` counts from 0 and is traced (the layers are one scan); `carry` is any tree, threaded through the layers, and None
unless the caller gives one.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

FREQUENCIES = 256  # numbers that describe a time before the first layer, cosines first
COMPUTE = (None, "float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Sizes of a DiT.

    Attributes:
      size: (H, W) of the image or latent; positions of other sizes are scaled to this one.
      channels: C.
      patch: p, which divides H and W.
      width, depth, heads: E, K and the number of heads, which divides E; E is a multiple of 4.
      classes: number of labels; label `classes` is the null label.
      out_channels: channels of the output, C unless more are learned (2 C: the variance, dropped when sampling).
      mlp_ratio: hidden width of the MLP over E.
      frequency_shift: 0 in DiT and SiT, 1 in diffusers: the frequencies are 10000^(-i/(128 - shift)).
      mlp_epsilon: added to the variance by the norm before the MLP (1e-6 in every other norm).
      dtype: what matrices are multiplied in; None for that of the state. Norms, softmax, modulation, the embedding of time
        and the residual stream are in the state's dtype, at least float32.
      remat: recompute each layer in the backward pass, to save memory in training.
    """

    size: tuple[int, int]
    channels: int
    patch: int
    width: int
    depth: int
    heads: int
    classes: int
    out_channels: int | None = None
    mlp_ratio: float = 4.0
    frequency_shift: int = 0
    mlp_epsilon: float = 1e-6
    dtype: str | None = None
    remat: bool = False

    def __post_init__(self):
        """Refuse sizes that do not fit together."""
        object.__setattr__(self, "size", tuple(self.size))
        if len(self.size) != 2 or any(s < self.patch or s % self.patch for s in self.size):
            raise ValueError(
                f"DiTConfig: size={self.size} is not (H, W), both multiples of patch={self.patch}."
            )
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"DiTConfig: width={self.width}; wanted a multiple of heads={self.heads} and of 4."
            )
        if self.out_channels is not None and self.out_channels < self.channels:
            raise ValueError(
                f"DiTConfig: out_channels={self.out_channels} is less than channels={self.channels}."
            )
        if self.dtype not in COMPUTE:
            raise ValueError(
                f"DiTConfig: dtype={self.dtype!r} is not known; the choices are {', '.join(map(str, COMPUTE))}."
            )

    @property
    def outputs(self):
        """Channels of the output."""
        return self.out_channels or self.channels

    @property
    def tokens(self):
        """L, the number of tokens of an image of `size`."""
        return math.prod(self.size) // self.patch**2


# Table 1 of arXiv:2212.09748, and two small networks for the data sets that come with flowjax.
SIZES = {
    "S": dict(width=384, depth=12, heads=6),
    "B": dict(width=768, depth=12, heads=12),
    "L": dict(width=1024, depth=24, heads=16),
    "XL": dict(width=1152, depth=28, heads=16),
}
SMALL = {
    "digits": DiTConfig((8, 8), channels=1, patch=1, width=96, depth=6, heads=8, classes=10),
    "emoji": DiTConfig((32, 32), channels=3, patch=4, width=192, depth=6, heads=8, classes=9),
}


def preset(name, **changes):
    """The sizes of "digits", "emoji", or "DiT-S/2" ... "DiT-XL/8" on 32 x 32 x 4 latents with 1000 classes.

    Args:
      name: as above.
      **changes: fields of `DiTConfig` to replace, such as `size=(64, 64)` for 512 x 512 images.
    """
    family, _, patch = name.removeprefix("DiT-").partition("/")
    if name in SMALL:
        config = SMALL[name]
    elif name.startswith("DiT-") and family in SIZES and patch in ("2", "4", "8"):
        config = DiTConfig(
            (32, 32), channels=4, patch=int(patch), classes=1000, out_channels=8, **SIZES[family]
        )
    else:
        raise ValueError(
            f"models.preset: {name!r} is not known; wanted {', '.join(map(repr, SMALL))} or DiT-X/p with X of "
            f"{', '.join(SIZES)} and p of 2, 4, 8."
        )
    return dataclasses.replace(config, **changes)


def patchify(x, patch):
    """(B, H, W, C) -> (B, L, P): tokens row by row, the numbers of a patch in the order (row, column, channel)."""
    if x.ndim != 4 or x.shape[1] % patch or x.shape[2] % patch:
        raise ValueError(
            f"models.patchify: shape {x.shape}; wanted (B, H, W, C) with H and W multiples of {patch}."
        )
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, (h // patch) * (w // patch), patch * patch * c)


def unpatchify(patches, patch, size):
    """(B, L, P) -> (B, *size, C): the inverse of `patchify`."""
    b, rows, columns = patches.shape[0], size[0] // patch, size[1] // patch
    x = patches.reshape(b, rows, columns, patch, patch, -1)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, *size, x.shape[-1])


def positions(config, size=None):
    """The embedding of each token's place, (L, E) float64: sines and cosines of the column, then of the row.

    With the frequencies w_i = 10000^(-4 i/E), a coordinate u gives sin(w u), then cos(w u). An image of another `size`
    than config.size covers the same coordinates more or less densely.
    """
    rows, columns = (s // config.patch for s in size or config.size)
    full = [s // config.patch for s in config.size]
    frequencies = 10000.0 ** (-4 * np.arange(config.width // 4) / config.width)
    column, row = np.meshgrid(
        np.arange(columns) * full[1] / columns, np.arange(rows) * full[0] / rows
    )
    angles = [u.reshape(-1, 1) * frequencies for u in (column, row)]
    return np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)], axis=1)


def softmax_attention(q, k, v, layer=None, carry=None):
    """Plain attention, softmax(q k' / sqrt(d)) v, with the softmax in float32 at least.

    Args:
      q, k, v: (B, L, heads, d); the queries may be fewer than the keys.

    Returns:
      (out (B, L, heads, d) in the dtype of v, carry).
    """
    exact = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=exact) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, v, preferred_element_type=exact).astype(
        v.dtype
    ), carry


XAVIER, ZEROS = nnx.initializers.xavier_uniform(), nnx.initializers.zeros


def _linear(inputs, outputs, config, rngs, kernel=XAVIER):
    """A layer that multiplies in the compute dtype and adds up in float32: bfloat16 sums lose speed and digits on a CPU."""
    options = (
        {"dtype": jnp.dtype(config.dtype), "preferred_element_type": jnp.float32}
        if config.dtype
        else {}
    )
    return nnx.Linear(inputs, outputs, kernel_init=kernel, rngs=rngs, **options)


def _modulation(config, parts, rngs):
    """Linear map from the condition to shifts, scales and gates: zero at the start, in the state's dtype always."""
    return nnx.Linear(config.width, parts * config.width, kernel_init=ZEROS, rngs=rngs)


def _norm(width, epsilon, rngs):
    return nnx.LayerNorm(
        width, epsilon=epsilon, use_bias=False, use_scale=False, use_fast_variance=False, rngs=rngs
    )


def _modulate(x, shift, scale):
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nnx.Module):
    """One layer: attention and MLP, each modulated and gated by the condition (adaLN-Zero)."""

    def __init__(self, config, rngs):
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.config = config
        self.modulation = _modulation(config, 6, rngs)
        self.norm1 = _norm(width, 1e-6, rngs)
        self.norm2 = _norm(width, config.mlp_epsilon, rngs)
        self.query, self.key, self.value, self.out = (
            _linear(width, width, config, rngs) for _ in range(4)
        )
        self.mlp1 = _linear(width, hidden, config, rngs)
        self.mlp2 = _linear(hidden, width, config, rngs)

    def __call__(self, x, condition, attention):
        """x (B, L, E), condition (B, E), attention (q, k, v) -> (out, carry): returns (x, carry)."""
        # Without the barrier XLA may compute the modulation anew for each of its uses.
        modulation = jax.lax.optimization_barrier(self.modulation(condition))
        shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(
            modulation, 6, axis=-1
        )  # (B, E) each
        heads = (*x.shape[:2], self.config.heads, -1)
        y = _modulate(self.norm1(x), shift1, scale1)
        q, k, v = (
            f(y).astype(self.config.dtype or y.dtype).reshape(heads)
            for f in (self.query, self.key, self.value)
        )
        y, carry = attention(q, k, v)  # (B, L, heads, E/heads)
        x = x + gate1[:, None] * self.out(y.reshape(x.shape)).astype(x.dtype)
        y = _modulate(self.norm2(x), shift2, scale2)
        y = self.mlp2(jax.nn.gelu(self.mlp1(y), approximate=True))
        return x + gate2[:, None] * y.astype(x.dtype), carry


class DiT(nnx.Module):
    """The network in three parts: `embed`, `layers` and `head`. Zero output at the start, since the last layer is zero."""

    def __init__(self, config, rngs):
        width, small = config.width, nnx.initializers.normal(0.02)
        self.config = config
        self.patches = _linear(config.patch**2 * config.channels, width, config, rngs)
        self.time1 = nnx.Linear(FREQUENCIES, width, kernel_init=small, rngs=rngs)
        self.time2 = nnx.Linear(width, width, kernel_init=small, rngs=rngs)
        self.labels = nnx.Embed(config.classes + 1, width, embedding_init=small, rngs=rngs)
        self.blocks = nnx.vmap(functools.partial(Block, config))(rngs.split(config.depth))
        self.norm = _norm(width, 1e-6, rngs)
        self.modulation = _modulation(config, 2, rngs)
        outputs = config.patch**2 * config.outputs
        self.outputs = _linear(width, outputs, config, rngs, kernel=ZEROS)

    def embed(self, patches, clock, label, positions):
        """patches (B, L, P), clock and label (B,), positions (L, E) -> tokens (B, L, E), condition (B, E)."""
        tokens = self.patches(patches).astype(patches.dtype) + positions[None].astype(patches.dtype)
        half = FREQUENCIES // 2
        frequencies = 10000.0 ** (-np.arange(half) / (half - self.config.frequency_shift))
        angles = clock[:, None] * frequencies[None].astype(clock.dtype)
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=1)
        time = self.time2(jax.nn.silu(self.time1(features)))
        # Not self.labels(label), which rounds to float32; and index -1 would be the null label, where NaN is wanted.
        label = jnp.where(label < 0, self.config.classes + 1, label)
        return tokens, jax.nn.silu(
            time + jnp.take(self.labels.embedding[...], label, axis=0, mode="fill")
        )

    def layers(self, tokens, condition, attention, carry, first=0):
        """Run the stacked blocks, the first of which is layer `first`: (tokens, carry)."""
        graph, stacked = nnx.split(self.blocks)

        def layer(state, scanned):
            index, block = scanned
            attend = functools.partial(attention, layer=index, carry=state[1])
            return nnx.merge(graph, block)(state[0], condition, attend), None

        layer = jax.checkpoint(layer) if self.config.remat else layer
        depth = jax.tree.leaves(stacked)[0].shape[0]
        return jax.lax.scan(layer, (tokens, carry), (first + jnp.arange(depth), stacked))[0]

    def head(self, tokens, condition):
        """tokens (B, L, E) -> (B, L, p p outputs), in the order (row, column, channel)."""
        shift, scale = jnp.split(self.modulation(condition), 2, axis=-1)
        return self.outputs(_modulate(self.norm(tokens), shift, scale)).astype(tokens.dtype)

    def __call__(self, patches, clock, label, positions, attention, carry):
        """The three parts, one after the other: (B, L, P) -> (B, L, p p outputs), carry."""
        tokens, condition = self.embed(patches, clock, label, positions)
        tokens, carry = self.layers(tokens, condition, attention, carry)
        return self.head(tokens, condition), carry


class Network(NamedTuple):
    """The functions of a DiT on a tree of parameters, nested dictionaries of arrays.

    Attributes:
      config: its `DiTConfig`.
      init: key -> parameters, as the paper starts training.
      shapes: () -> the tree of shapes and dtypes that `init` returns, without computing it.
      apply: (params, patches (B, L, P), clock (B,), label (B,), positions (L, E), attention, carry) -> (out (B, L, p p
        outputs), carry). The clock is the network's own time, whatever it was trained with.
      part: (name, params, *args) -> the method `name` of `DiT`: "embed", "layers" or "head".
    """

    config: DiTConfig
    init: callable
    shapes: callable
    apply: callable
    part: callable


@functools.cache
def network(config):
    """The `Network` of these sizes."""
    graph, abstract = nnx.split(nnx.eval_shape(lambda: DiT(config, nnx.Rngs(0))))

    def merge(params):
        state = jax.tree.map(lambda leaf: leaf, abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)

    def part(name, params, *args):
        return getattr(merge(params), name)(*args)

    return Network(
        config,
        init=jax.jit(
            lambda key: nnx.to_pure_dict(nnx.state(DiT(config, nnx.Rngs(key)), nnx.Param))
        ),
        shapes=lambda: nnx.to_pure_dict(abstract),
        apply=functools.partial(part, "__call__"),
        part=part,
    )


def overview(params):
    """The parameters as a table (clu.parameter_overview): names, shapes, sizes, means and standard deviations."""
    from clu import parameter_overview

    return parameter_overview.get_parameter_overview(params)
