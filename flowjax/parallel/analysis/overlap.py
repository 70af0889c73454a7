"""How much compute a program lays under each of its collectives: read when it is compiled, on a machine without the devices.

A program compiled for an accelerator is *scheduled*: the order of its lines is the order in which they are issued, and what
stands between a collective's start and its end runs while the transfer is under way. So the matrix products in between are
the compute that can hide it. Compilers write a collective in three ways:

    all-gather-start ... all-gather-done        asynchronous, whatever the operation
    fusions that call AsyncCollectiveStart      TPU: the transfer is cut into pieces that the products in between take along,
    ... AsyncCollectiveDone                     fused with them
    all-gather                                  synchronous: the device waits, nothing hides it

    mesh = parallel.make_mesh(seq=4, devices=overlap.topology("tpu", "v5e:2x2"))
    program = overlap.compiled(models.preset("DiT-XL/2", size=(128, 128), dtype="bfloat16"), 2, plan, mesh)
    for found in overlap.overlaps(program.as_text()):
        print(found.operation, found.branch, found.share)

What it does not tell: seconds. Whether the transfer is over before its end is waited for depends on the link, and compute that
shares memory with a transfer is slower than alone. What it does tell is certain: where nothing stands in between, nothing hides.
"""

import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from flowjax.models import dit
from flowjax.models.card import Card, model
from flowjax.parallel.analysis import hlo
from flowjax.parallel.sampling import program

COMPILERS = {
    "tpu": ("libtpu", "certificate"),
    "cuda": ("jax_cuda13_plugin", "cuda13"),
}  # module, and the extra that holds it
# What TPU's compiler asks of a machine that has none.
ABSENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a second process finds a lock
}
NAME = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = ")
OPERANDS = re.compile(
    r"[\]})] [a-z][\w\-]*\((.*)"
)  # of an instruction, and its attributes after them
CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
FUSED = re.compile(r'custom_call_target="AsyncCollective(Start|Done)"')
CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')


class Overlap(NamedTuple):
    """One collective of a scheduled program, and what stands between its start and its end.

    Attributes:
      operation: one of `hlo.OPERATIONS`.
      bytes: of its result on one device.
      devices: how many speak to each other.
      times: how often the loops around it run it, or the branch that it stands in.
      branch: index of the innermost branch that it stands in, or None.
      asynchronous: it has a start and an end.
      hidden: operations (FLOPs) of matrix products between them; 0 where it is synchronous.
      body: those of one pass of the loop that it stands in.
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
    def share(self):
        """Of the loop's operations, how many stand between start and end: 0 to 1."""
        return self.hidden / self.body if self.body else 0.0

    @property
    def received(self):
        """Bytes that one device receives from others."""
        return hlo.received(self.operation, self.bytes, self.devices)


class _Phase(NamedTuple):
    """A line that begins or ends a collective, or is one: `of` says which begin and end belong together."""

    part: str | None  # "start", "done", or None for all of it
    of: str
    operation: str
    bytes: int
    devices: int


def overlaps(text, choice=min):
    """The `Overlap` of every collective of a scheduled program, loop by loop; `text` is that of `compiled.as_text()`.

    Args:
      text: as above.
      choice: what one between branches counts as, of their operations: the cheapest, so that what is said to be hidden
        is; or the dearest (max), where one is no work at all and what counts are the times when there is work.

    Raises:
      ValueError: the text is not scheduled, as `run.lower(...).as_text()`: its order means nothing.
    """
    if "is_scheduled=true" not in text[: text.find("\n")]:
        raise ValueError(
            "overlap.overlaps: the program's first line does not say is_scheduled=true, so the order of its lines is not that "
            "of their execution; give compiled.as_text(), of what `run.lower(...).compile()` returned."
        )
    bodies, entry = hlo.computations(text)
    count = Products(bodies, choice)
    places = dict.fromkeys(
        (name, times, branch) for name, _, times, branch in hlo.walk(bodies, entry)
    )
    return [found for place in places for found in _in_body(bodies, count, *place)]


def _in_body(bodies, count, name, times, branch):
    """The `Overlap`s of the computation `name`."""
    lines = bodies[name]
    flops = [count.of_line(name, line) for line in lines]
    phases = [_phase(line, bodies) for line in lines]
    found = []
    for i, phase in enumerate(phases):
        if phase is None or phase.part == "done":
            continue
        ends = (
            j
            for j in range(i + 1, len(lines))
            if phases[j] and (phases[j].part, phases[j].of) == ("done", phase.of)
        )
        end = (
            next(ends, len(lines)) if phase.part else i
        )  # a start without an end goes on beyond the loop's pass
        hidden = sum(flops[i + 1 : end])
        found.append(Overlap(*phase[2:], times, branch, phase.part is not None, hidden, sum(flops)))
    return found


def _phase(line, bodies):
    """The `_Phase` of a line, or None."""
    match = hlo.COLLECTIVE.search(line)
    if match:
        begins = (
            match[3] == "-start" and '"is_sync":true' not in line
        )  # a GPU's starts may wait all the same
        part = "done" if match[3] == "-done" else "start" if begins else None
        of = (
            re.search(r"%([\w.\-]+)", OPERANDS.search(line)[1])[1]
            if part == "done"
            else NAME.match(line)[1]
        )
        return _Phase(part, of, match[2], hlo.moved(match), hlo.devices(line))
    called = CALLED.search(line) if " fusion(" in line else None
    inside = bodies[called[1]] if called else ()
    part = next((m[1].lower() for m in map(FUSED.search, inside) if m), None)
    if part is None:  # no collective, or a piece of one under way
        return None
    match, line = next((m, other) for other in inside if (m := hlo.COLLECTIVE.search(other)))
    channel = re.search(r"channel_id=(\d+)", line)[1]
    return _Phase(part, f"channel {channel}", match[2], hlo.moved(match), hlo.devices(line))


class Products:
    """Operations of matrix products, a multiplication and an addition as two, of lines and computations of a program.

    A loop counts as often as it turns, and a choice between branches as the cheapest, or as `choice` says.
    """

    def __init__(self, bodies, choice=min):
        self._bodies = bodies
        self._choice = choice
        self._known = {}
        self._dims = {}

    def of(self, name):
        """Of the computation `name`."""
        if name not in self._known:
            self._known[name] = sum(self.of_line(name, line) for line in self._bodies[name])
        return self._known[name]

    def of_line(self, name, line):
        """Of one instruction of the computation `name`, with all that it calls."""
        if CONTRACTED.search(line):
            return self._dot(name, line)
        if " convolution(" in line:
            return self._convolution(name, line)
        called = hlo.calls(line)
        branches = [self.of(inner) for label, inner in called if isinstance(label, int)]
        loops = sum(
            hlo.trips(line, self._bodies) * self.of(inner)
            for label, inner in called
            if label == "body"
        )
        return (
            loops
            + self._choice(branches, default=0)
            + sum(self.of(inner) for inner in CALLED.findall(line))
        )

    def _operands(self, name, line):
        """The sizes of an instruction's operands."""
        if name not in self._dims:
            self._dims[name] = {NAME.match(other)[1]: _dims(other) for other in self._bodies[name]}
        given = re.split(r"\), ", OPERANDS.search(line)[1])[0]
        return [self._dims[name][operand] for operand in re.findall(r"%([\w.\-]+)", given)]

    def _dot(self, name, line):
        """2 (numbers of the result) (numbers that each of them sums): also of a GPU library's call."""
        summed = [int(axis) for axis in re.findall(r"\d+", CONTRACTED.search(line)[1])]
        left = self._operands(name, line)[0]
        return 2 * math.prod(_dims(line)) * math.prod(left[axis] for axis in summed)

    def _convolution(self, name, line):
        """2 (batch) (features out) (features in) (pairs of place and weight that meet), as TPU writes a matrix product.

        The axes over which a batch of products runs become space, with holes (lhs_dilate) such that each place of the result
        meets its own weight alone; what meets a hole or the padding is no operation.
        """
        left, right = self._operands(name, line)
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line)
        places = dict(zip(labels[1], left, strict=True))
        weights = dict(zip(labels[2], right, strict=True))
        result = dict(zip(labels[3], _dims(line), strict=True))
        window = dict(
            re.findall(r"(\w+)=([\d_x\-]+)", (re.search(r"window=\{(.*?)\}", line) or [""])[0])
        )
        field = lambda key, axis, default: (
            window[key].split("x") if key in window else {axis: default}
        )[axis]
        pairs = 1
        for axis in range(len(result) - 2):
            stride, hole, spread = (
                int(field(key, axis, 1)) for key in ("stride", "lhs_dilate", "rhs_dilate")
            )
            first = int(str(field("pad", axis, 0)).split("_")[0])
            place, weight = (
                np.arange(result[str(axis)])[:, None],
                np.arange(weights[str(axis)])[None],
            )
            at = place * stride + weight * spread - first
            pairs *= np.count_nonzero(
                (at >= 0) & (at <= (places[str(axis)] - 1) * hole) & (at % hole == 0)
            )
        return int(2 * result["b"] * result["f"] * weights["i"] * pairs)


def _dims(line):
    """The sizes of the first array of an instruction's result."""
    return tuple(
        int(size)
        for size in re.search(r"\w\[([\d,]*)\]", line.split(" = ", 1)[1])[1].split(",")
        if size
    )


# -- programs for devices that are not here


def missing(platform):
    """Why programs for `platform`, "tpu" or "cuda", cannot be compiled here, in words; None where they can."""
    module, extra = COMPILERS[platform]
    if importlib.util.find_spec(module):
        return None
    return (
        f"the compiler for {platform} is not here; install the extra that holds it: pip install -e '.[{extra}]', or "
        f"make EXTRAS='test {extra}'"
    )


def topology(platform, name, **options):
    """The devices of a machine that need not be here, for `parallel.make_mesh(..., devices=...)`.

    Args:
      platform: "tpu", which takes the extra `certificate`, or "cuda", which takes `cuda13`.
      name: "v5e:2x2", "v5e:2x4", "v6e:2x2", "v5p:2x2x1", ... for a TPU; "1x1x4" for four GPUs of one machine.
      **options: of the compiler's description; a GPU that is not here needs target_config, the text of a
        `stream_executor.GpuTargetConfigProto`.

    Raises:
      ValueError: the compiler for the platform is not installed, or knows no such machine.
    """
    reason = missing(platform)
    if reason:
        raise ValueError(f"overlap.topology: {reason}.")
    if platform == "tpu" and jax.default_backend() != "tpu":
        for variable, value in ABSENT.items():
            os.environ.setdefault(variable, value)
    named = (
        {"topology_name": name} if platform == "tpu" else {"topology_name": "", "topology": name}
    )
    try:
        return topologies.get_topology_desc(platform=platform, **named, **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"overlap.topology: {name!r} is no machine that the compiler for {platform} knows: {error}"
        ) from error


def compiled(config, batch, plan, mesh, *, dtype="bfloat16", compiler_options=None, **options):
    """The compiled program of `parallel.sample` for a mesh of devices that need not be here, from shapes alone.

    Args:
      config: a `DiTConfig`.
      batch: B.
      plan: a `Plan`.
      mesh: from `make_mesh`, with devices from `topology`.
      dtype: of the parameters.
      compiler_options: {name: value} for the compiler.
      **options: of `parallel.sample`.

    Returns:
      `jax.stages.Compiled`: `as_text()` for `overlaps`, `memory_analysis()`.
    """
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), dit.network(config).shapes()
    )
    noise = jax.ShapeDtypeStruct((batch, *config.size, config.channels), jnp.float32)
    run, args, *_ = program(
        model(Card("shapes", config), shapes), noise, None, plan, mesh, **options
    )
    return run.lower(*args).compile(compiler_options)
