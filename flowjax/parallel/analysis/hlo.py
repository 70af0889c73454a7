"""The collectives of a compiled program, read from its text.

    run, args, _ = parallel.program(model, noise, label, plan, mesh)
    text = run.lower(*args).compile().as_text()
    collectives(text)           each collective, how often it runs, whether it waits for a product

The text is XLA's HLO. It lists *computations*, each with one instruction a line:

    %name (arguments) -> shape {
      %result = shape operation(%operand, ...), attribute=value, ...
    }

Loops and branches are instructions that name the computations that they run. `walk` follows these
names from the entry of the program and counts the passes of the loops on the way.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

OPERATIONS = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "reduce-scatter",
)
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
# "= shape operation(", where the operation may be the start or the end of an asynchronous one.
COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(OPERATIONS)})(-start|-done)?\(")
CONSTANT = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = s\d+\[\]\S* constant\((\d+)\)")
# A custom call counts as a matrix product: the GPU compiler calls a library for its products.
PRODUCT = re.compile(r" (dot|convolution|custom-call)\(")

Bodies: TypeAlias = Mapping[str, Sequence[str]]  # {computation: its instructions}


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
      operation: one of `OPERATIONS`.
      bytes: the size of its result on one device.
      times: how often the loops around it, or around its branch, run it.
      devices: the number of devices in one group.
      branch: the index of the innermost branch around it, or None.
      waits: whether it needs a matrix product of the same pass of the innermost loop around it.
    """

    operation: str
    bytes: int
    times: int
    devices: int
    branch: int | None
    waits: bool

    @property
    def received(self) -> int:
        """Bytes that one device receives from other devices."""
        return received(self.operation, self.bytes, self.devices)


def received(operation: str, size: int, n: int) -> int:
    """Bytes that one device receives from other devices in one collective.

    An all-reduce is counted as a ring: a reduce-scatter, then an all-gather.

    Args:
      operation: one of `OPERATIONS`.
      size: bytes of the result on one device.
      n: devices in one group.
    """
    blocks = {
        "collective-permute": n,
        "collective-broadcast": n,
        "all-reduce": 2 * (n - 1),
        "reduce-scatter": n * (n - 1),  # its result is one n-th of what is reduced
    }
    return size * blocks.get(operation, n - 1) // n


def collectives(text: str) -> list[Collective]:
    """The collectives of a compiled program, in the order of its text.

    Args:
      text: what `compiled.as_text()` returned.
    """
    bodies, entry = computations(text)
    found = []
    for name, line, times, branch in walk(bodies, entry):
        match = COLLECTIVE.search(line)
        # The end of an asynchronous collective belongs to a start that is counted already.
        if match is None or match[3] == "-done":
            continue
        collective = Collective(
            operation=match[2],
            bytes=result_bytes(match),
            times=times,
            devices=group_size(line),
            branch=branch,
            waits=_waits(line, bodies[name], bodies),
        )
        found.append(collective)
    return found


def computations(text: str) -> tuple[dict[str, list[str]], str]:
    """({name of a computation: its instructions}, the name of the entry)."""
    # A computation begins with a line that ends in "{"; its instructions have " = ".
    bodies, entry, name = {}, None, None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head:
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif name and " = " in line:
            bodies[name].append(line)
    return bodies, entry


def walk(
    bodies: Bodies, name: str, times: int = 1, branch: int | None = None
) -> Iterator[tuple[str, str, int, int | None]]:
    """Yield (computation, instruction, times, branch) for all that the computation `name` runs.

    An instruction comes before those of the computations that it calls.

    Args:
      bodies: from `computations`.
      name: the computation to begin with.
      times: how often that computation runs.
      branch: the index of the innermost branch around it, or None.
    """
    for line in bodies[name]:
        yield name, line, times, branch
        for role, called in called_by(line):
            inner_times = times * trips(line, bodies) if role == "body" else times
            inner_branch = role if isinstance(role, int) else branch
            yield from walk(bodies, called, inner_times, inner_branch)


def called_by(line: str) -> list[tuple[str | int, str]]:
    """The computations that an instruction runs and that may hold collectives.

    Returns:
      (role, computation) for each; the role is "body", "call" or the index of a branch.
    """
    # An instruction is a loop, a call or a conditional; a conditional has two notations.
    body = re.search(r"\bbody=%?([\w.\-]+)", line)
    call = re.search(r" call\(.*to_apply=%?([\w.\-]+)", line)
    branches = re.search(r"branch_computations=\{(.*?)\}", line)
    choice = re.search(r"true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)", line)
    found: list[tuple[str | int, str]] = []
    if body:
        found.append(("body", body[1]))
    elif call:
        found.append(("call", call[1]))
    names = []
    if branches:
        names = re.findall(r"[\w.\-]+", branches[1])
    elif choice:
        names = [choice[2], choice[1]]  # the index of "false" is 0
    return found + list(enumerate(names))


def trips(line: str, bodies: Bodies) -> int:
    """The number of passes of the loop that an instruction is; 1 for any other instruction.

    The compilers for CPU and GPU write this number into the text. The one for TPU does not, but
    the loop's condition compares a counter with it. Every loop here is a scan, so the counter
    begins at 0 and rises by one. Where the condition shows no number, the result is 1.
    """
    written = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    if written:
        return int(written[1])
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line)
    if not condition:
        return 1
    # The bound is the constant that one comparison of the condition has on its right.
    lines = bodies[condition[1]]
    comparisons = [re.search(r" compare\(.*%([\w.\-]+)\), direction=LT", each) for each in lines]
    bounds = [match[1] for match in comparisons if match]
    constants = dict(match.groups() for match in map(CONSTANT.match, lines) if match)
    if len(bounds) != 1 or bounds[0] not in constants:
        return 1
    return int(constants[bounds[0]])


def result_bytes(match: re.Match) -> int:
    """Bytes of the result of a collective, from its match with `COLLECTIVE`."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", match[1])  # such as (f32[2,3]{1,0}, s32[])
    sizes = [
        BYTES[kind] * math.prod(int(size) for size in sizes.split(",") if size)
        for kind, sizes in arrays
        if kind in BYTES
    ]
    # The shape of a start lists the operand as well as the result.
    return max(sizes) if match[3] else sum(sizes)


def group_size(line: str) -> int:
    """The number of devices in one group of a collective.

    1 where the text lists no groups: a collective-permute lists pairs of devices.
    """
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)  # {{0,1,2,3},{4,5,6,7}}
    if listed:
        return listed[1].count(",") + 1
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", line)  # [2,4]<=[8]
    if counted:
        return int(counted[1])
    # mesh['data'=2,'seq'=4] {'seq'}
    mesh = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    if not mesh:
        return 1
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))


def _waits(line: str, body: Sequence[str], bodies: Bodies) -> bool:
    """Whether an instruction needs a matrix product of `body`, through its operands there."""
    # Follow the operands backwards from the instruction.
    defined = {re.match(r"\s*(?:ROOT )?%?([\w.\-]+) =", other)[1]: other for other in body}
    todo, seen = [line], set()
    while todo:
        current = todo.pop()
        if current is not line and _multiplies(current, bodies):
            return True
        for name in re.findall(r"%([\w.\-]+)", current.split(" = ", 1)[1]):
            if name in defined and name not in seen:
                seen.add(name)
                todo.append(defined[name])
    return False


def _multiplies(line: str, bodies: Bodies) -> bool:
    """Whether an instruction is a matrix product, or runs a computation that holds one."""
    if PRODUCT.search(line):
        return True
    names = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
    names += [called for _, called in called_by(line)]
    return any(_multiplies(other, bodies) for name in names for other in bodies.get(name, ()))
