"""What a program runs on one GPU: its matrix products and their types, and its stops for the host.

    text = jax.jit(run).lower(*args).compile().as_text()
    products(text)       each matrix product: what computes it, the types of its operands, how often
    stops(text)          what makes the GPU wait for the host

The compiler for GPU writes a matrix product in four forms:

    dot, convolution                           in a fusion, for which it writes a kernel of its own
    custom-call to __cublas$...                NVIDIA's library of matrix products
    custom-call to __cudnn$fmha...             cuDNN's fused attention: two products and a softmax
    the same instructions in a fusion's body   found through the fusion's name

Only a text that the compiler returned shows these; what `lower` returned has no fusions yet.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from flowjax.parallel.analysis import hlo
from flowjax.parallel.analysis.products import ATTENTION, OPERANDS, RESULT, Products

FUSED_ATTENTION = "cuDNN attention"
# {what computes a product: how its instruction is recognised}
FORMS = {
    FUSED_ATTENTION: ATTENTION,
    "cuBLAS": re.compile(r'custom_call_target="__cublas\$'),
    "dot": re.compile(r" dot\("),
    "convolution": re.compile(r" convolution\("),
}
# The computation of a fusion, or of an asynchronous instruction. `hlo.walk` follows the others.
INNER = re.compile(r"\bcalls=%?([\w.\-]+)")
KIND = re.compile(r"= \(?(\w+)\[")
# {what makes the GPU wait for the host: how its instruction is recognised}
STOPS = {
    "infeed or outfeed": re.compile(r" (?:in|out)feed\("),
    "transfer to or from the host": re.compile(r" (?:send|recv)\(.*is_host_transfer=true"),
    "Python callback": re.compile(r'custom_call_target="[^"]*(?:callback|python)[^"]*"'),
    # The compiler marks arrays in the host's memory by this memory space.
    "array in the host's memory": re.compile(r"\{[\d,]*:[^}]*S\(5\)"),
    # The host reads the condition, or the branch, before it can start the kernels behind it.
    "loop of unknown length": re.compile(r" while\((?!.*known_trip_count)"),
    "conditional": re.compile(r" conditional\("),
}


class Product(NamedTuple):
    """One matrix product of a program.

    Attributes:
      form: what computes it, one of `FORMS`.
      types: the types of the two arrays that are multiplied, such as ("bf16", "bf16").
      operations: of one call, two for each multiplication and addition.
      times: how often the loops around it run it.
    """

    form: str
    types: tuple[str, str]
    operations: int
    times: int


def products(text: str) -> list[Product]:
    """The matrix products of a compiled program, in the order of its text.

    Args:
      text: what `compiled.as_text()` returned.
    """
    bodies, entry = hlo.computations(text)
    count = Products(bodies)
    found = []
    for name, line, times in _instructions(bodies, entry):
        form = next((form for form, pattern in FORMS.items() if pattern.search(line)), None)
        if form is not None:
            types = _types(bodies[name], line)
            found.append(Product(form, types, count.of_line(name, line), times))
    return found


def stops(text: str) -> dict[str, int]:
    """{what makes the GPU wait for the host: how often a run does}; empty where nothing does.

    Args:
      text: what `compiled.as_text()` returned.
    """
    bodies, entry = hlo.computations(text)
    found = {}
    for _, line, times in _instructions(bodies, entry):
        for reason, pattern in STOPS.items():
            if pattern.search(line):
                found[reason] = found.get(reason, 0) + times
    return found


def _instructions(bodies: hlo.Bodies, entry: str) -> Iterator[tuple[str, str, int]]:
    """(computation, instruction, times) of all that runs, the bodies of fusions among them."""
    for name, line, times, _ in hlo.walk(bodies, entry):
        yield name, line, times
        yield from _inside(bodies, line, times)


def _inside(bodies: hlo.Bodies, line: str, times: int) -> Iterator[tuple[str, str, int]]:
    """The instructions of the fusion that `line` is, and of the fusions in it."""
    for called in INNER.findall(line):
        for inner in bodies.get(called, ()):
            yield called, inner, times
            yield from _inside(bodies, inner, times)


def _types(body: list[str], line: str) -> tuple[str, str]:
    """The types of the first two operands of an instruction of the computation `body`."""
    known = {RESULT.match(other)[1]: KIND.search(other) for other in body}
    operands = re.findall(r"%([\w.\-]+)", re.split(r"\), ", OPERANDS.search(line)[1])[0])
    first, second = (known[operand][1] for operand in operands[:2])
    return first, second
