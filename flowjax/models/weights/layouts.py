"""The two published layouts of a DiT: the tensor of a file for each of our arrays.

Published kernels are (out, in), and ours are (in, out). A published patch embedding is a
convolution [E, C, p, p], and ours is a matrix on the numbers of a patch in the order (row, column,
channel). The output of a network has that order in both layouts and in ours.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.models import dit, networks
from flowjax.models.weights.files import Tensors
from flowjax.types import PyTree

SHOWN = 10  # the number of tensors that a refusal lists


class Source(NamedTuple):
    """The tensor of a file for one of our arrays.

    Attributes:
      name: of the tensor. "{}" stands for the number of the layer, which is our first axis.
      shape: of the tensor.
      read: the tensor -> our array.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[np.ndarray], np.ndarray]


class Layout(NamedTuple):
    """A layout for some sizes.

    Attributes:
      sources: a tree of `Source`, like the parameters.
      copies: name -> name of the tensor that it must equal.
      positions: name of the stored embedding of places.
      stores_positions: whether that tensor must be there.
      network: what the file is expected to be, for refusals.
      unused: tensors that the file may have, which the network does not use.
    """

    sources: PyTree
    copies: dict[str, str]
    positions: str
    stores_positions: bool
    network: str = "DiT"
    unused: tuple[str, ...] = ()


# The layouts.


def diffusers(config: dit.DiTConfig) -> Layout:
    """The layout of diffusers' DiTTransformer2DModel.

    It stores the embedders of time and label in every block, and uses those of the first block in
    the last layer. A file whose blocks differ in them is no DiT.
    """
    width, hidden = config.width, _hidden(config)
    block, first_block = "transformer_blocks.{}", "transformer_blocks.0"
    embedder = f"{first_block}.norm1.emb"
    embedders = {
        "time1": linear(f"{embedder}.timestep_embedder.linear_1", dit.FREQUENCIES, width),
        "time2": linear(f"{embedder}.timestep_embedder.linear_2", width, width),
        "labels": _table(f"{embedder}.class_embedder.embedding_table", config),
    }
    # The names on the left are ours, those of the attributes of dit.DiT and dit.Block.
    sources = {
        **embedders,
        "patches": convolution("pos_embed.proj", config),
        "blocks": {
            "modulation": linear(f"{block}.norm1.linear", width, 6 * width),
            "query": linear(f"{block}.attn1.to_q", width, width),
            "key": linear(f"{block}.attn1.to_k", width, width),
            "value": linear(f"{block}.attn1.to_v", width, width),
            "out": linear(f"{block}.attn1.to_out.0", width, width),
            "mlp1": linear(f"{block}.ff.net.0.proj", width, hidden),
            "mlp2": linear(f"{block}.ff.net.2", hidden, width),
        },
        "modulation": linear("proj_out_1", width, 2 * width),
        "outputs": linear("proj_out_2", width, config.patch**2 * config.outputs),
    }
    copies = {
        source.name.replace(first_block, block.format(i)): source.name
        for embedder_sources in embedders.values()
        for source in embedder_sources.values()
        for i in range(1, config.depth)
    }
    return Layout(sources, copies, "pos_embed.pos_embed", stores_positions=False)


def original(config: dit.DiTConfig, stored: int) -> Layout:
    """The layout of the state dicts of facebookresearch/DiT and willisma/SiT.

    Args:
      config: a `DiTConfig`.
      stored: channels of the stored last layer. Those after config.outputs are left out.
    """
    width, hidden, block = config.width, _hidden(config), "blocks.{}"
    last = config.patch**2 * stored
    used = functools.partial(_used_outputs, config, stored)
    sources = {
        "patches": convolution("x_embedder.proj", config),
        "time1": linear("t_embedder.mlp.0", dit.FREQUENCIES, width),
        "time2": linear("t_embedder.mlp.2", width, width),
        "labels": _table("y_embedder.embedding_table", config),
        "blocks": {
            "modulation": linear(f"{block}.adaLN_modulation.1", width, 6 * width),
            # Queries, keys and values are the thirds of one matrix.
            "query": part_of(f"{block}.attn.qkv", width, 0, 3),
            "key": part_of(f"{block}.attn.qkv", width, 1, 3),
            "value": part_of(f"{block}.attn.qkv", width, 2, 3),
            "out": linear(f"{block}.attn.proj", width, width),
            "mlp1": linear(f"{block}.mlp.fc1", width, hidden),
            "mlp2": linear(f"{block}.mlp.fc2", hidden, width),
        },
        "modulation": linear("final_layer.adaLN_modulation.1", width, 2 * width),
        "outputs": {
            "kernel": Source("final_layer.linear.weight", (last, width), lambda a: used(a).T),
            "bias": Source("final_layer.linear.bias", (last,), used),
        },
    }
    return Layout(sources, {}, "pos_embed", stores_positions=True)


def _hidden(config: dit.DiTConfig) -> int:
    """The hidden width of the MLP."""
    return int(config.width * config.mlp_ratio)


# The sources of one layer.


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, Source]:
    """A dense layer."""
    sources = {"kernel": Source(f"{name}.weight", (outputs, inputs), np.transpose)}
    if bias:
        sources["bias"] = Source(f"{name}.bias", (outputs,), np.asarray)
    return sources


def part_of(name: str, width: int, i: int, count: int, bias: bool = True) -> dict[str, Source]:
    """The i-th of `count` parts of a matrix (count E, E) as a layer of its own."""
    part = slice(i * width, (i + 1) * width)
    sources = {"kernel": Source(f"{name}.weight", (count * width, width), lambda a: a[part].T)}
    if bias:
        sources["bias"] = Source(f"{name}.bias", (count * width,), lambda a: a[part])
    return sources


def convolution(name: str, config: networks.Config) -> dict[str, Source]:
    """The embedding of patches."""

    def as_matrix(a):
        by_pixel = a.transpose(2, 3, 1, 0)  # (E, C, p, p) -> (p, p, C, E)
        return by_pixel.reshape(-1, config.width)  # (P, E)

    shape = (config.width, config.channels, config.patch, config.patch)
    return {
        "kernel": Source(f"{name}.weight", shape, as_matrix),
        "bias": Source(f"{name}.bias", (config.width,), np.asarray),
    }


def _table(name: str, config: dit.DiTConfig) -> dict[str, Source]:
    """The embedding of labels, the null label among them."""
    shape = (config.labels, config.width)
    return {"embedding": Source(f"{name}.weight", shape, np.asarray)}


def _used_outputs(config: dit.DiTConfig, stored: int, a: np.ndarray) -> np.ndarray:
    """(p p stored, ...) -> (p p outputs, ...): the first channels of each pixel."""
    by_pixel = a.reshape(config.patch**2, stored, -1)  # (p p, stored, ...)
    return by_pixel[:, : config.outputs].reshape(-1, *a.shape[1:])


# Reading a file by its layout.


def gather(tensors: Tensors, config: networks.Config, layout: Layout, dtype: str) -> PyTree:
    """The parameters in `dtype`, after every tensor of the file is accounted for.

    No more than one array is in memory twice at a time.

    Raises:
      ValueError: tensors are missing, unexpected, of another shape or of other values than the
        network has.
    """
    _account(tensors, config, layout)
    _check_copies(tensors, layout.copies)
    if layout.positions in tensors.shapes:
        _check_positions(tensors, config, layout.positions)
    dtype = jnp.dtype(dtype)

    def collect(leaf, source):
        if "{}" not in source.name:
            return jnp.asarray(source.read(tensors.read(source.name)).astype(dtype))
        stacked = np.empty(leaf.shape, dtype)  # (K, ...)
        for i in range(config.depth):
            stacked[i] = source.read(tensors.read(source.name.format(i)))
        return jnp.asarray(stacked)

    return jax.tree.map(collect, networks.network(config).shapes(), layout.sources)


def _account(tensors: Tensors, config: networks.Config, layout: Layout) -> None:
    """Refuse a file that lacks a tensor, has another one, or one of another shape."""
    wanted = _wanted_shapes(tensors, config, layout)
    have = tensors.shapes
    faults = {
        "missing": [name for name in wanted if name not in have],
        "unexpected": [name for name in have if name not in {*wanted, *layout.unused}],
        "misshapen": [
            f"{name} {have[name]} (wanted {shape})"
            for name, shape in wanted.items()
            if have.get(name, shape) != shape
        ],
    }
    if any(faults.values()):
        listed = [
            f"{len(names)} {fault}: {_listed(names)}" for fault, names in faults.items() if names
        ]
        # Of the condition, only the number of classes, or the width of texts, has tensors.
        takes_text = networks.takes_text(config)
        drawn_for = f"caption={config.caption}" if takes_text else f"classes={config.classes}"
        raise ValueError(
            f"models.load: {tensors.path} is no {layout.network} of size={config.size}, "
            f"patch={config.patch}, width={config.width}, depth={config.depth}, {drawn_for}. "
            f"Its tensors: {'; '.join(listed)}."
        )


def _wanted_shapes(
    tensors: Tensors, config: networks.Config, layout: Layout
) -> dict[str, tuple[int, ...]]:
    """All tensors that the file should have: name -> shape."""
    sources = jax.tree.leaves(layout.sources, is_leaf=lambda node: isinstance(node, Source))
    # Names without "{}" are the same for each layer.
    wanted = {
        source.name.format(i): source.shape for source in sources for i in range(config.depth)
    }
    wanted |= {name: wanted[first] for name, first in layout.copies.items()}
    # diffusers stores the embedding of places in some files only.
    if layout.stores_positions or layout.positions in tensors.shapes:
        wanted[layout.positions] = (1, config.tokens, config.width)
    return wanted


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def _check_copies(tensors: Tensors, copies: dict[str, str]) -> None:
    """Refuse a file in which a tensor differs from the one that it must equal."""
    firsts = {first: tensors.read(first) for first in set(copies.values())}
    different = [
        name
        for name, first in copies.items()
        if not np.array_equal(tensors.read(name), firsts[first])
    ]
    if different:
        raise ValueError(
            f"models.load: the blocks of {tensors.path} hold different embedders of time and "
            f"label, where a DiT has one: {len(different)} tensor(s) differ from block 0's: "
            f"{_listed(different)}."
        )


def _check_positions(tensors: Tensors, config: networks.Config, name: str) -> None:
    """Refuse a stored embedding of places that is not the one of `networks.positions`."""
    stored, ours = tensors.read(name)[0], networks.positions(config)  # (L, E) each
    difference = np.max(np.abs(stored.astype(np.float64) - ours))
    rounding = max(float(jnp.finfo(stored.dtype).eps), 1e-5)
    if not difference <= rounding:  # also where the difference is not a number
        rows, columns = (s // config.patch for s in config.size)
        raise ValueError(
            f"models.load: {name} of {tensors.path} differs by up to {difference:.3g} from the "
            f"sines and cosines of a DiT (column first) on {rows} x {columns} tokens."
        )
