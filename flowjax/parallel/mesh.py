"""The mesh of devices: its axes, how it is made, and what does not fit it."""

import math

import jax
from jax.sharding import AxisType

DATA = "data"  # independent samples
CFG = "cfg"  # the two branches of guidance: shard 0 conditional, shard 1 with the null label
RING = "ring"  # the outer part of the tokens' axis; there only when make_mesh was given seq=(u, r)
SEQ = "seq"  # tokens of one image, in order: shard j holds tokens j ceil(L/n) and those after
PIPE = "pipe"  # layers


def make_mesh(data=1, cfg=1, seq=1, pipe=1, *, devices=None):
    """A mesh with the axes data, cfg, seq, pipe, over the first devices when there are more than it takes.

    Args:
      data: parts of the batch.
      cfg: 1, or 2: each branch of guidance on its own devices.
      seq: parts of an image's tokens, n; or a pair (u, r) for attention="ulysses_ring": u devices exchange heads (put them
        where links are fastest: they are neighbours), r such groups pass keys and values round; n = u r.
      pipe: parts of the layers.
      devices: to take them from; `jax.devices()` by default.

    Returns:
      `jax.sharding.Mesh` with Auto axes (`jax.make_mesh` alone makes Explicit ones, and `jax.shard_map` then refuses
      arguments that are not laid out beforehand).

    Raises:
      ValueError: factors that are no whole numbers from 1, cfg above 2, or more devices than there are.
    """
    inner, ring = seq if isinstance(seq, (tuple, list)) and len(seq) == 2 else (seq, None)
    sizes = {DATA: data, CFG: cfg, RING: ring, SEQ: inner, PIPE: pipe}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    given = ", ".join(
        f"{name}={size!r}" for name, size in ((DATA, data), (CFG, cfg), (SEQ, seq), (PIPE, pipe))
    )
    if not all(isinstance(size, int) and size >= 1 for size in sizes.values()):
        raise ValueError(
            f"parallel.make_mesh: {given}; wanted whole numbers from 1 (seq may be a pair of them)."
        )
    if cfg > 2:
        raise ValueError(
            f"parallel.make_mesh: cfg={cfg}; guidance has two branches, so wanted 1 or 2."
        )
    devices = jax.devices() if devices is None else list(devices)
    here, wanted = len(devices), math.prod(sizes.values())
    if wanted > here:
        raise ValueError(
            f"parallel.make_mesh: {given} take {wanted} devices and {here} are here; {_way_out(sizes, wanted, here)}."
        )
    auto = (AxisType.Auto,) * len(sizes)
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), auto, devices=devices[:wanted])


def _way_out(sizes, wanted, here):
    """Which single factor could be smaller, and how small, so that the mesh fits."""
    most = {name: here // (wanted // size) for name, size in sizes.items()}
    fits = [f"{name} at most {most[name]}" for name in sizes if 1 <= most[name] < sizes[name]]
    if not fits:
        return f"make several factors smaller, until their product is at most {here}"
    return f"with the other factors as they are, {' or '.join(fits)} would fit"


def token_axes(mesh):
    """The names of the axes that share an image's tokens, outermost first."""
    return (RING, SEQ) if RING in mesh.shape else (SEQ,)


def token_shards(mesh):
    """n, the number of devices that share an image's tokens."""
    return math.prod(mesh.shape[name] for name in token_axes(mesh))


def doubled(mesh, guidance):
    """Whether a device computes both branches of guidance, in a batch of twice the size."""
    return mesh.shape[CFG] == 1 and guidance != 1
