"""What a compiled program says to other devices, read from its text.

text = run.lower(*args).compile().as_text()             run and args from `parallel.program`
collectives(text)                                       every collective, how often it runs, and what it waits for
"""

import math
import re
from typing import NamedTuple

OPERATIONS = ("all-gather", "all-reduce", "all-to-all", "collective-broadcast", "collective-permute", "reduce-scatter")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "f16": 2, "bf16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
BYTES |= {"u64": 8, "f64": 8}
PRODUCT = re.compile(r" (dot|convolution|custom-call)\(")  # custom calls: libraries' matrix products


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
        """Bytes that one device receives from others, of an all-reduce by the ring algorithm."""
        n = self.devices
        factor = {
            "collective-permute": n,
            "collective-broadcast": n,
            "all-reduce": 2 * (n - 1),
            "reduce-scatter": n * (n - 1),
        }
        return self.bytes * factor.get(self.operation, n - 1) // n


def collectives(text):
    """The `Collective`s of a compiled program, in the order of its text; `text` is that of `compiled.as_text()`."""
    bodies, entry = _computations(text)
    found = []

    def walk(name, times, branch):
        for line in bodies[name]:
            match = re.search(rf"= (.*?) ({'|'.join(OPERATIONS)})(-start)?\(", line)
            if match:
                sizes = _sizes(match[1])
                size = max(sizes) if match[3] else sum(sizes)
                waits = _waits(line, bodies[name], bodies)
                found.append(Collective(match[2], size, times, _group(line), branch, waits))
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            for label, called in _calls(line):
                inner = label if isinstance(label, int) else branch
                walk(called, times * int(trips[1]) if trips and label == "body" else times, inner)

    walk(entry, 1, None)
    return found


def _computations(text):
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


def _calls(line):
    """(kind or branch index, computation) for each computation that an instruction runs and that may speak to others."""
    body = re.search(r"\bbody=%?([\w.\-]+)", line)
    call = re.search(r" call\(.*to_apply=%?([\w.\-]+)", line)
    branches = re.search(r"branch_computations=\{(.*?)\}", line)
    choice = re.search(r"true_computation=%?([\w.\-]+), false_computation=%?([\w.\-]+)", line)
    found = [("body", body[1])] if body else [("call", call[1])] if call else []
    names = re.findall(r"[\w.\-]+", branches[1]) if branches else [choice[2], choice[1]] if choice else []
    return found + list(enumerate(names))


def _sizes(shape):
    """Bytes of each array in a shape's text, such as (f32[2,3]{1,0}, s32[])."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", shape)
    return [BYTES[kind] * math.prod(int(d) for d in dims.split(",") if d) for kind, dims in arrays if kind in BYTES]


def _group(line):
    """How many devices one group of a collective has; 1 where the text lists none, as for a permute."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", line)  # {{0,1,2,3},{4,5,6,7}}
    if listed:
        return listed[1].count(",") + 1
    counted = re.search(r"replica_groups=\[\d+,(\d+)\]", line)  # [2,4]<=[8]
    if counted:
        return int(counted[1])
    mesh = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)  # mesh['data'=2,'seq'=4] {'seq'}
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
    inner = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line) + [called for _, called in _calls(line)]
    return any(_multiplies(other, bodies) for name in inner for other in bodies.get(name, ()))
