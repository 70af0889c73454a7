"""The mesh of devices: its axes, how it is made, and what does not fit it."""

import math
from collections.abc import Sequence

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh

DATA = "data"  # independent samples
CFG = "cfg"  # the two branches of guidance: shard 0 conditional, shard 1 with the null label
RING = "ring"  # the outer part of the tokens' axis; only in meshes of make_mesh(seq=(u, r))
SEQ = "seq"  # tokens of one image, in order: shard j holds tokens j ceil(L/n) and those after
PIPE = "pipe"  # layers


def make_mesh(
    data: int = 1,
    cfg: int = 1,
    seq: int | tuple[int, int] = 1,
    pipe: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Make a mesh with the axes data, cfg, seq and pipe over the first devices.

    Args:
      data: the number of parts of the batch.
      cfg: 1, or 2: each branch of guidance has its own devices.
      seq: the number n of parts of an image's tokens. Or a pair (u, r) for
        attention="ulysses_ring": groups of u devices exchange heads, and r such groups pass keys
        and values around a ring; n = u r. The u devices of a group are neighbours, so they should
        have the fastest links.
      pipe: the number of parts of the layers.
      devices: the devices to choose from; `jax.devices()` by default. Those that are not needed
        are left out.

    Returns:
      `jax.sharding.Mesh` with Auto axes. (`jax.make_mesh` alone makes Explicit axes, and then
      `jax.shard_map` refuses arguments that are not laid out beforehand.)

    Raises:
      ValueError: factors that are not integers from 1, cfg above 2, or more devices than there are.
    """
    # A pair makes two axes of the tokens.
    is_pair = isinstance(seq, (tuple, list)) and len(seq) == 2
    inner, ring = seq if is_pair else (seq, None)
    sizes = {DATA: data, CFG: cfg, RING: ring, SEQ: inner, PIPE: pipe}
    sizes = {name: size for name, size in sizes.items() if size is not None}
    given = f"{DATA}={data!r}, {CFG}={cfg!r}, {SEQ}={seq!r}, {PIPE}={pipe!r}"
    if not all(isinstance(size, int) and size >= 1 for size in sizes.values()):
        raise ValueError(
            f"parallel.make_mesh: {given}; wanted whole numbers from 1 (seq may be a pair of them)."
        )
    if cfg > 2:
        raise ValueError(
            f"parallel.make_mesh: cfg={cfg}; guidance has two branches, so wanted 1 or 2."
        )
    # Take as many devices as the mesh needs.
    devices = jax.devices() if devices is None else list(devices)
    here = len(devices)
    wanted = math.prod(sizes.values())
    if wanted > here:
        raise ValueError(
            f"parallel.make_mesh: {given} take {wanted} devices and {here} are here; "
            f"{_way_out(sizes, wanted, here)}."
        )
    auto = (AxisType.Auto,) * len(sizes)
    shape, names, devices = tuple(sizes.values()), tuple(sizes), devices[:wanted]
    try:
        return jax.make_mesh(shape, names, auto, devices=devices)
    except NotImplementedError:
        # On some TPUs jax.make_mesh refuses to split an axis of the torus, as cfg=2 does on v5p
        # with 4 x 4 x 4 chips.
        split = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
        return Mesh(split, names, axis_types=auto)


def without_devices(seq: int | tuple[int, int], cfg: int = 1) -> AbstractMesh:
    """A mesh of sizes alone, for `parallel.traffic`.

    Args:
      seq, cfg: the devices that share an image's tokens, and its branches of guidance, as in
        `make_mesh`.
    """
    if isinstance(seq, int):
        return AbstractMesh((1, cfg, seq, 1), (DATA, CFG, SEQ, PIPE))
    inner, ring = seq
    return AbstractMesh((1, ring, cfg, inner, 1), (DATA, RING, CFG, SEQ, PIPE))


def _way_out(sizes, wanted, here):
    """Which single factor could be smaller, and how small, so that the mesh fits."""
    most = {name: here // (wanted // size) for name, size in sizes.items()}
    fits = [f"{name} at most {most[name]}" for name in sizes if 1 <= most[name] < sizes[name]]
    if not fits:
        return f"make several factors smaller, until their product is at most {here}"
    return f"with the other factors as they are, {' or '.join(fits)} would fit"


def check_mesh(
    name: str,
    mesh: Mesh,
    batch: int,
    tokens: int,
    together: int = 1,
) -> None:
    """Refuse a mesh that does not fit the batch or the tokens, whatever the attention.

    Args:
      name: the public function in whose name the refusal speaks.
      mesh: from `make_mesh`.
      batch: B.
      tokens: L.
      together: how many neighbouring tokens stay on one device; a row of the image, or 1.
    """
    missing = {DATA, CFG, SEQ, PIPE} - set(mesh.shape)
    if missing:
        raise ValueError(
            f"{name}: the mesh lacks the axes {sorted(missing)}; make it with parallel.make_mesh."
        )
    # Every device needs a token; some may then hold padding beside it.
    shards = token_shards(mesh)
    rows = tokens // together
    if together > 1 and shards > rows:
        raise ValueError(
            f"{name}: {shards} devices share an image of {rows} rows of tokens, and this network "
            f"is split by rows; take seq at most {rows}, and use the other devices for data."
        )
    if shards > tokens:
        raise ValueError(
            f"{name}: {shards} devices share {tokens} tokens; take seq at most {tokens}, and use "
            "the other devices for data."
        )
    # Samples are not padded: they would cost as much as real ones.
    parts = mesh.shape[DATA]
    if batch % parts:
        raise ValueError(
            f"{name}: a batch of {batch} does not divide into data={parts} parts; take a batch of "
            f"{batch + -batch % parts}, or data={math.gcd(batch, parts)}."
        )


def check_branches(name: str, mesh: Mesh, has_null: bool, guidance: float) -> None:
    """Refuse a second half of the devices that has no branch of guidance to compute.

    Without guidance it computes the null label, whose weight is then 0, where there is one.
    """
    if mesh.shape[CFG] == 2 and guidance == 1 and not has_null:
        raise ValueError(
            f"{name}: the mesh has cfg=2, two halves of the devices for the two branches of "
            "guidance, but guidance=1 has one branch; make the mesh with cfg=1, or give guidance."
        )


def token_axes(mesh: Mesh) -> tuple[str, ...]:
    """The names of the axes that share an image's tokens, outermost first."""
    return (RING, SEQ) if RING in mesh.shape else (SEQ,)


def token_shards(mesh: Mesh) -> int:
    """The number n of devices that share an image's tokens."""
    return math.prod(mesh.shape[name] for name in token_axes(mesh))


def doubled(mesh: Mesh, guidance: float) -> bool:
    """Whether a device computes both branches of guidance, in a batch of twice the size."""
    return mesh.shape[CFG] == 1 and guidance != 1
