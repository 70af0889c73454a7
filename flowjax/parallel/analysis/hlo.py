"""What a compiled program says to other devices, read from its text.

text = run.lower(*args).compile().as_text()             run and args from `parallel.program`
collectives(text)                                       every collective, how often it runs, and what it waits for
"""

import math
import re
from typing import NamedTuple

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
}
BYTES |= {"u64": 8, "f64": 8}
COLLECTIVE = re.compile(rf"= (.*?) ({'|'.join(OPERATIONS)})(-start|-done)?\(")
CONSTANT = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = s\d+\[\]\S* constant\((\d+)\)")
PRODUCT = re.compile(
    r" (dot|convolution|custom-call)\("
)  # custom calls: libraries' matrix products


class Collective(NamedTuple):
    """One collective of a program.

    Attributes:
      operation: one of `OPERATIONS`.
      bytes: of its result on one device.
      times: how often the loops around it run it, or the branch that it stands in.
      devices: how many speak to each other.
      branch: index of the innermost branch that it stands in, or None.
      waits: it needs a matrix product of the same pass of the loop that it stands in.
    """

    operation: str
    bytes: int
    times: int
    devices: int
    branch: int | None
    waits: bool

    @property
    def received(self):
        """Bytes that one device receives from others."""
        return received(self.operation, self.bytes, self.devices)


def received(operation, size, n):
    """Bytes that one of `n` devices receives from others in a collective whose result has `size`; all-reduce by the ring."""
    factor = {
        "collective-permute": n,
        "collective-broadcast": n,
        "all-reduce": 2 * (n - 1),
        "reduce-scatter": n * (n - 1),
    }
    return size * factor.get(operation, n - 1) // n


def collectives(text):
    """The `Collective`s of a compiled program, in the order of its text; `text` is that of `compiled.as_text()`."""
    bodies, entry = computations(text)
    found = []
    for name, line, times, branch in walk(bodies, entry):
        match = COLLECTIVE.search(line)
        if match and match[3] != "-done":
            waits = _waits(line, bodies[name], bodies)
            found.append(Collective(match[2], moved(match), times, devices(line), branch, waits))
    return found


def walk(bodies, name, times=1, branch=None):
    """(computation, line, times, branch) of each instruction that `name` runs, in order, and of those that these run.

    Args:
      bodies: from `computations`.
      name: of the computation to begin with.
      times, branch: as in `Collective`, of that computation.
    """
    for line in bodies[name]:
        yield name, line, times, branch
        for label, called in calls(line):
            inner = label if isinstance(label, int) else branch
            yield from walk(
                bodies, called, times * trips(line, bodies) if label == "body" else times, inner
            )


def trips(line, bodies):
    """How often the loop that an instruction is turns; 1 where it is none, or the text does not tell.

    Compilers for CPU and GPU write the number. That for TPU does not, but the condition compares the loop's counter with it:
    every loop here is a scan, whose counter begins at 0 and rises by one.
    """
    known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
    condition = re.search(r"\bcondition=%?([\w.\-]+)", line)
    if known or not condition:
        return int(known[1]) if known else 1
    lines = bodies[condition[1]]
    compared = [re.search(r" compare\(.*%([\w.\-]+)\), direction=LT", other) for other in lines]
    bounds = [match[1] for match in compared if match]
    constants = dict(match.groups() for match in map(CONSTANT.match, lines) if match)
    return int(constants[bounds[0]]) if len(bounds) == 1 and bounds[0] in constants else 1


def computations(text):
    """({name: its lines}, name of the entry)."""
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


def calls(line):
    """(kind or branch index, computation) for each computation that an instruction runs and that may speak to others."""
    body = re.search(r"\bbody=%?([\w.\-]+)", line)
    call = re.search(r" call\(.*to_apply=%?([\w.\-]+)", line)
    branches = re.search(r"branch_computations=\{(.*?)\}", line)
    choice = re.search(r"true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)", line)
    found = [("body", body[1])] if body else [("call", call[1])] if call else []
    names = (
        re.findall(r"[\w.\-]+", branches[1])
        if branches
        else [choice[2], choice[1]]
        if choice
        else []
    )
    return found + list(enumerate(names))


def moved(match):
    """Bytes of the result of a collective that `COLLECTIVE` found; a start's shape has the operand in it too."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", match[1])  # (f32[2,3]{1,0}, s32[])
    sizes = [
        BYTES[kind] * math.prod(int(d) for d in dims.split(",") if d)
        for kind, dims in arrays
        if kind in BYTES
    ]
    return max(sizes) if match[3] else sum(sizes)


def devices(line):
    """How many devices one group of a collective has; 1 where the text lists none, as for a permute."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)  # {{0,1,2,3},{4,5,6,7}}
    if listed:
        return listed[1].count(",") + 1
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", line)  # [2,4]<=[8]
    if counted:
        return int(counted[1])
    mesh = re.search(
        r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line
    )  # mesh['data'=2,'seq'=4] {'seq'}
    if not mesh:
        return 1
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))


def _waits(line, body, bodies):
    """Whether the instruction `line` needs, through its operands in `body`, the result of a matrix product."""
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


def _multiplies(line, bodies):
    """Whether an instruction is a matrix product, or runs a computation with one in it."""
    if PRODUCT.search(line):
        return True
    inner = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line) + [
        called for _, called in calls(line)
    ]
    return any(_multiplies(other, bodies) for name in inner for other in bodies.get(name, ()))
