"""The two published layouts of a DiT: where each of our arrays lies in a file, and the account of every tensor.

Published kernels are (out, in), ours (in, out). Their patches are a convolution [E, C, p, p], ours a matrix on the numbers
of a patch in the order (row, column, channel); a network's output comes in that order in all three.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flowjax.models import dit

SHOWN = 10  # tensors that a refusal lists


class Source(NamedTuple):
    """One of our arrays in a file.

    Attributes:
      name: of the tensor; "{}" stands for the layer, which is our first axis.
      shape: of the tensor.
      read: the tensor -> our array.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable


class Layout(NamedTuple):
    """A layout for some sizes.

    Attributes:
      sources: a tree of `Source`, like the parameters.
      copies: name -> name of the tensor that it must equal.
      positions: name of the stored embedding of places.
      stores_positions: whether that tensor must be there.
    """

    sources: dict
    copies: dict[str, str]
    positions: str
    stores_positions: bool


def diffusers(config):
    """The layout of diffusers' DiTTransformer2DModel.

    It keeps the embedders of time and label in every block, and uses the first block's in the last layer: a file whose
    blocks differ is no DiT.
    """
    width, hidden = config.width, int(config.width * config.mlp_ratio)
    block, embedder = "transformer_blocks.{}", "norm1.emb.{}".format
    names = {
        "time1": embedder("timestep_embedder.linear_1"),
        "time2": embedder("timestep_embedder.linear_2"),
        "labels": embedder("class_embedder.embedding_table"),
    }
    first = {part: f"{block.format(0)}.{name}" for part, name in names.items()}
    sources = {
        "patches": _convolution("pos_embed.proj", config),
        "time1": _linear(first["time1"], dit.FREQUENCIES, width),
        "time2": _linear(first["time2"], width, width),
        "labels": _table(first["labels"], config),
        "blocks": {
            "modulation": _linear(f"{block}.norm1.linear", width, 6 * width),
            "query": _linear(f"{block}.attn1.to_q", width, width),
            "key": _linear(f"{block}.attn1.to_k", width, width),
            "value": _linear(f"{block}.attn1.to_v", width, width),
            "out": _linear(f"{block}.attn1.to_out.0", width, width),
            "mlp1": _linear(f"{block}.ff.net.0.proj", width, hidden),
            "mlp2": _linear(f"{block}.ff.net.2", hidden, width),
        },
        "modulation": _linear("proj_out_1", width, 2 * width),
        "outputs": _linear("proj_out_2", width, config.patch**2 * config.outputs),
    }
    embedders = [source.name for part in names for source in sources[part].values()]
    copies = {
        name.replace(block.format(0), block.format(i)): name
        for name in embedders
        for i in range(1, config.depth)
    }
    return Layout(sources, copies, "pos_embed.pos_embed", stores_positions=False)


def original(config, stored):
    """The layout of the state dicts of facebookresearch/DiT and willisma/SiT.

    Args:
      config: a `DiTConfig`.
      stored: channels of the stored last layer; those after config.outputs are left out.
    """
    width, hidden, block = config.width, int(config.width * config.mlp_ratio), "blocks.{}"

    def third(i):
        part = slice(i * width, (i + 1) * width)
        return {
            "kernel": Source(f"{block}.attn.qkv.weight", (3 * width, width), lambda a: a[part].T),
            "bias": Source(f"{block}.attn.qkv.bias", (3 * width,), lambda a: a[part]),
        }

    def used(a):  # (p p stored, ...) -> (p p outputs, ...)
        return a.reshape(config.patch**2, stored, -1)[:, : config.outputs].reshape(-1, *a.shape[1:])

    last = config.patch**2 * stored
    sources = {
        "patches": _convolution("x_embedder.proj", config),
        "time1": _linear("t_embedder.mlp.0", dit.FREQUENCIES, width),
        "time2": _linear("t_embedder.mlp.2", width, width),
        "labels": _table("y_embedder.embedding_table", config),
        "blocks": {
            "modulation": _linear(f"{block}.adaLN_modulation.1", width, 6 * width),
            "query": third(0),
            "key": third(1),
            "value": third(2),
            "out": _linear(f"{block}.attn.proj", width, width),
            "mlp1": _linear(f"{block}.mlp.fc1", width, hidden),
            "mlp2": _linear(f"{block}.mlp.fc2", hidden, width),
        },
        "modulation": _linear("final_layer.adaLN_modulation.1", width, 2 * width),
        "outputs": {
            "kernel": Source("final_layer.linear.weight", (last, width), lambda a: used(a).T),
            "bias": Source("final_layer.linear.bias", (last,), used),
        },
    }
    return Layout(sources, {}, "pos_embed", stores_positions=True)


def _linear(name, inputs, outputs):
    return {
        "kernel": Source(f"{name}.weight", (outputs, inputs), np.transpose),
        "bias": Source(f"{name}.bias", (outputs,), np.asarray),
    }


def _convolution(name, config):
    shape = (config.width, config.channels, config.patch, config.patch)
    return {
        "kernel": Source(
            f"{name}.weight", shape, lambda a: a.transpose(2, 3, 1, 0).reshape(-1, config.width)
        ),
        "bias": Source(f"{name}.bias", (config.width,), np.asarray),
    }


def _table(name, config):
    return {"embedding": Source(f"{name}.weight", (config.classes + 1, config.width), np.asarray)}


def gather(tensors, config, layout, dtype):
    """The parameters in `dtype`, after every tensor of the file is accounted for. Holds one array twice at a time."""
    _account(tensors, config, layout)
    _check_copies(tensors, layout.copies)
    if layout.positions in tensors.shapes:
        _check_positions(tensors, config, layout.positions)
    dtype = jnp.dtype(dtype)

    def collect(leaf, source):
        if "{}" not in source.name:
            return jnp.asarray(source.read(tensors.read(source.name)).astype(dtype))
        stacked = np.empty(leaf.shape, dtype)
        for i in range(config.depth):
            stacked[i] = source.read(tensors.read(source.name.format(i)))
        return jnp.asarray(stacked)

    return jax.tree.map(collect, dit.network(config).shapes(), layout.sources)


def _account(tensors, config, layout):
    """Refuse a file that lacks a tensor, has one more, or one of another shape."""
    sources = jax.tree.leaves(layout.sources, is_leaf=lambda node: isinstance(node, Source))
    wanted = {
        source.name.format(i): source.shape for source in sources for i in range(config.depth)
    }
    wanted |= {name: wanted[first] for name, first in layout.copies.items()}
    positions = {layout.positions: (1, config.tokens, config.width)}
    wanted |= positions if layout.stores_positions or layout.positions in tensors.shapes else {}
    have = tensors.shapes
    faults = {
        "missing": [name for name in wanted if name not in have],
        "unexpected": [name for name in have if name not in wanted],
        "misshapen": [
            f"{name} {have[name]} (wanted {shape})"
            for name, shape in wanted.items()
            if have.get(name, shape) != shape
        ],
    }
    if any(faults.values()):
        told = "; ".join(
            f"{len(names)} {fault}: {_listed(names)}" for fault, names in faults.items() if names
        )
        raise ValueError(
            f"models.load: {tensors.path} is no DiT of size={config.size}, patch={config.patch}, width={config.width}, "
            f"depth={config.depth}, classes={config.classes}. Its tensors: {told}."
        )


def _listed(names):
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )


def _check_copies(tensors, copies):
    firsts = {first: tensors.read(first) for first in set(copies.values())}
    other = [
        name
        for name, first in copies.items()
        if not np.array_equal(tensors.read(name), firsts[first])
    ]
    if other:
        raise ValueError(
            f"models.load: the blocks of {tensors.path} hold different embedders of time and label, where a DiT has one: "
            f"{len(other)} tensor(s) differ from block 0's: {_listed(other)}."
        )


def _check_positions(tensors, config, name):
    stored, ours = tensors.read(name)[0], dit.positions(config)
    off = np.max(np.abs(stored.astype(np.float64) - ours))
    if not off <= max(float(jnp.finfo(stored.dtype).eps), 1e-5):
        raise ValueError(
            f"models.load: {name} of {tensors.path} differs by up to {off:.3g} from the sines and cosines of a DiT "
            f"(column first) on {config.size[0] // config.patch} x {config.size[1] // config.patch} tokens."
        )
