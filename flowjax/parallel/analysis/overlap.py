"""How much compute a program places under each of its collectives.

This is read from the compiled program, on a machine that need not have the devices. A program
compiled for an accelerator is *scheduled*: its instructions run in the order of the text. What
stands between the start and the end of a collective runs during the transfer, so the matrix
products in between are the compute that can hide it. Compilers write a collective in three forms:

    all-gather-start ... all-gather-done        asynchronous, of any operation
    fusions that call AsyncCollectiveStart      TPU: the transfer is cut into pieces, and the
    ... AsyncCollectiveDone                     products in between are fused with these pieces
    all-gather                                  synchronous: the device waits, nothing hides it

    mesh = parallel.make_mesh(seq=4, devices=overlap.topology("tpu", "v5e:2x2"))
    config = models.preset("DiT-XL/2", size=(128, 128), dtype="bfloat16")
    program = overlap.compiled(config, 2, plan, mesh)
    for found in overlap.overlaps(program.as_text()):
        print(found.operation, found.branch, found.share)

The text does not tell seconds. Whether a transfer is over before its end is waited for depends on
the link, and compute that shares the memory with a transfer is slower than alone. One thing is
certain: where no product stands in between, nothing hides the transfer.
"""

import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from flowjax.models import networks
from flowjax.models.card import Card, model
from flowjax.parallel.analysis import hlo
from flowjax.parallel.analysis.products import CALLED, OPERANDS, RESULT, Products
from flowjax.parallel.sampling import program
from flowjax.plans.table import Plan

# {platform: (the module that holds its compiler, the extra that installs it)}
COMPILERS = {
    "tpu": ("libtpu", "certificate"),
    "cuda": ("jax_cuda13_plugin", "cuda13"),
}
# Variables that the TPU compiler needs on a machine that has no TPU.
ABSENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # without it, a second process finds a lock
}
FUSED = re.compile(r'custom_call_target="AsyncCollective(Start|Done)"')


class Overlap(NamedTuple):
    """One collective of a scheduled program, and the compute between its start and its end.

    Attributes:
      operation: one of `hlo.OPERATIONS`.
      bytes: the size of its result on one device.
      devices: the number of devices in one group.
      times: how often the loops around it, or around its branch, run it.
      branch: the index of the innermost branch around it, or None.
      asynchronous: whether it has a start and an end.
      hidden: operations (FLOPs) of matrix products between them; 0 where it is synchronous.
      body: operations of one pass of the innermost loop around it.
    """

    operation: str
    bytes: int
    devices: int
    times: int
    branch: int | None
    asynchronous: bool
    hidden: int
    body: int

    @property
    def share(self) -> float:
        """The fraction of the loop's operations between start and end, from 0 to 1."""
        return self.hidden / self.body if self.body else 0.0

    @property
    def received(self) -> int:
        """Bytes that one device receives from other devices."""
        return hlo.received(self.operation, self.bytes, self.devices)


class _Phase(NamedTuple):
    """An instruction that starts a collective, ends one, or is all of one.

    Attributes:
      part: "start" or "done"; None for all of a collective.
      key: equal for the start and the end that belong together.
      operation, bytes, devices: as in `Overlap`.
    """

    part: str | None
    key: str
    operation: str
    bytes: int
    devices: int


def overlaps(text: str, choice: Callable[..., int] = min) -> list[Overlap]:
    """The `Overlap` of every collective of a scheduled program, loop by loop.

    Args:
      text: what `compiled.as_text()` returned.
      choice: how many operations a conditional counts, from those of its branches. `min` takes the
        cheapest branch, so that nothing is called hidden that may not be. `max` takes the dearest,
        for programs in which one branch is "no work" and the passes with work matter.

    Raises:
      ValueError: the text is not scheduled, as that of `run.lower(...).as_text()`; the order of
        its lines means nothing.
    """
    first_line = text[: text.find("\n")]
    if "is_scheduled=true" not in first_line:
        raise ValueError(
            "overlap.overlaps: the program's first line does not say is_scheduled=true, so the "
            "order of its lines is not that of their execution; give compiled.as_text() of what "
            "`run.lower(...).compile()` returned."
        )
    # Operations are counted once for each computation, and looked up after that.
    bodies, entry = hlo.computations(text)
    products = Products(bodies, choice)
    # Each computation once, although `walk` yields each of its instructions.
    places = dict.fromkeys(
        (name, times, branch) for name, _, times, branch in hlo.walk(bodies, entry)
    )
    return [found for place in places for found in _in_body(bodies, products, *place)]


def _in_body(
    bodies: hlo.Bodies, products: Products, name: str, times: int, branch: int | None
) -> list[Overlap]:
    """The `Overlap`s of the computation `name`."""
    lines = bodies[name]
    flops = [products.of_line(name, line) for line in lines]
    phases = [_phase(line, bodies) for line in lines]
    # Each start, with the products between it and its end.
    found = []
    for i, phase in enumerate(phases):
        if phase is None or phase.part == "done":
            continue
        end = _end_of(i, phases)
        found.append(
            Overlap(
                operation=phase.operation,
                bytes=phase.bytes,
                devices=phase.devices,
                times=times,
                branch=branch,
                asynchronous=phase.part is not None,
                hidden=sum(flops[i + 1 : end]),
                body=sum(flops),
            )
        )
    return found


def _end_of(i: int, phases: Sequence[_Phase | None]) -> int:
    """The place of the end of the collective that begins at place `i`.

    A start without an end lasts to the end of the pass, and beyond it.
    """
    if phases[i].part is None:
        return i
    for j in range(i + 1, len(phases)):
        if phases[j] and phases[j].part == "done" and phases[j].key == phases[i].key:
            return j
    return len(phases)


def _phase(line: str, bodies: hlo.Bodies) -> _Phase | None:
    """The `_Phase` of an instruction, or None."""
    # An instruction is a collective itself, or a fusion around a piece of one.
    match = hlo.COLLECTIVE.search(line)
    if match:
        return _plain_phase(match, line)
    if " fusion(" not in line or not CALLED.search(line):
        return None
    return _fused_phase(bodies[CALLED.search(line)[1]])


def _plain_phase(match: re.Match, line: str) -> _Phase:
    """The `_Phase` of an instruction that is a collective, from its match with `hlo.COLLECTIVE`."""
    if match[3] == "-done":
        # The first operand of an end is its start.
        part, key = "done", re.search(r"%([\w.\-]+)", OPERANDS.search(line)[1])[1]
    else:
        # The GPU compiler also writes a start for a collective that is waited for at once.
        starts = match[3] == "-start" and '"is_sync":true' not in line
        part, key = "start" if starts else None, RESULT.match(line)[1]
    return _Phase(part, key, match[2], hlo.result_bytes(match), hlo.group_size(line))


def _fused_phase(lines: Sequence[str]) -> _Phase | None:
    """The `_Phase` of a fusion of these instructions.

    None where they hold no collective, or a piece of one that has started and not ended.
    """
    # A fusion that starts or ends the transfer calls a marker; one that moves a piece calls none.
    markers = [match for match in map(FUSED.search, lines) if match]
    if not markers:
        return None
    match, line = next((m, other) for other in lines if (m := hlo.COLLECTIVE.search(other)))
    # The start and the end have the channel of their collective in common.
    channel = re.search(r"channel_id=(\d+)", line)[1]
    return _Phase(
        part=markers[0][1].lower(),
        key=f"channel {channel}",
        operation=match[2],
        bytes=hlo.result_bytes(match),
        devices=hlo.group_size(line),
    )


# -- programs for devices that are not here


def missing(platform: str) -> str | None:
    """Why programs for `platform` cannot be compiled here, in words; None where they can.

    Args:
      platform: "tpu" or "cuda".
    """
    module, extra = COMPILERS[platform]
    if importlib.util.find_spec(module):
        return None
    return (
        f"the compiler for {platform} is not here; install the extra that holds it: "
        f"pip install -e '.[{extra}]', or make EXTRAS='test {extra}'"
    )


def topology(platform: str, name: str, **options: Any) -> Sequence[Any]:
    """The devices of a machine that need not be here, for `parallel.make_mesh(..., devices=...)`.

    Args:
      platform: "tpu", which takes the extra `certificate`, or "cuda", which takes `cuda13`.
      name: "v5e:2x2", "v5e:2x4", "v6e:2x2", "v5p:2x2x1", ... for a TPU; "1x1x4" for four GPUs of
        one machine.
      **options: of the compiler's description. A GPU that is not here needs target_config, the
        text of a `stream_executor.GpuTargetConfigProto`.

    Raises:
      ValueError: the compiler for the platform is not installed, or knows no such machine.
    """
    reason = missing(platform)
    if reason:
        raise ValueError(f"overlap.topology: {reason}.")
    # The TPU compiler asks the machine; without a TPU it takes these answers.
    if platform == "tpu" and jax.default_backend() != "tpu":
        for variable, value in ABSENT.items():
            os.environ.setdefault(variable, value)
    if platform == "tpu":
        named = {"topology_name": name}
    else:
        named = {"topology_name": "", "topology": name}
    try:
        return topologies.get_topology_desc(platform=platform, **named, **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"overlap.topology: {name!r} is no machine that the compiler for {platform} knows: "
            f"{error}"
        ) from error


def compiled(
    config: networks.Config,
    batch: int,
    plan: Plan,
    mesh: jax.sharding.Mesh,
    *,
    dtype: str = "bfloat16",
    compiler_options: dict[str, Any] | None = None,
    **options: Any,
) -> jax.stages.Compiled:
    """The compiled program of `parallel.sample` for a mesh of devices that need not be here.

    Shapes are all that it needs: no parameters are made.

    Args:
      config: the network's `DiTConfig`, or a `SanaConfig` that draws for labels.
      batch: B.
      plan: a `Plan`.
      mesh: from `make_mesh`, with devices from `topology`.
      dtype: of the parameters.
      compiler_options: {name: value} for the compiler.
      **options: of `parallel.sample`.

    Returns:
      A `jax.stages.Compiled`, with `as_text()` for `overlaps` and `memory_analysis()`.
    """

    def shaped(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, dtype)

    # With shapes in place of arrays nothing is laid out on devices.
    params = jax.tree.map(shaped, networks.network(config).shapes())
    noise = jax.ShapeDtypeStruct((batch, *config.size, config.channels), jnp.float32)
    network = model(Card("shapes", config), params)
    run, args, *_ = program(network, noise, None, plan, mesh, **options)
    return run.lower(*args).compile(compiler_options)
