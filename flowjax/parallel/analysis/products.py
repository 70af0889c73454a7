"""Operations of the matrix products of a compiled program, counted in its text."""

import math
import re
from collections.abc import Callable

import numpy as np

from flowjax.parallel.analysis import hlo

RESULT = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = ")
# The operands of an instruction, and behind them its attributes: "...} operation(operands), ...".
OPERANDS = re.compile(r"[\]})] [a-z][\w\-]*\((.*)")
CALLED = re.compile(r"\b(?:calls|to_apply)=%?([\w.\-]+)")
# cuDNN's fused attention, and the shape (B, heads, queries, keys) of its scores, which it does not
# store.
ATTENTION = re.compile(r'custom_call_target="__cudnn\$fmha')
SCORES = re.compile(r'"intermediate_tensor_shape":\s*\{[^{}]*?"dimensions":\s*\[([\d",\s]*)\]')
CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d,"]*)')


class Products:
    """Counts the operations of matrix products: two for a multiplication and an addition.

    A loop counts as often as it passes. A conditional counts as the cheapest of its branches, or
    as `choice` says.
    """

    def __init__(self, bodies: hlo.Bodies, choice: Callable[..., int] = min):
        """Count in the computations `bodies` of `hlo.computations`."""
        self._bodies = bodies
        self._choice = choice
        self._known = {}  # {computation: its operations}
        self._sizes = {}  # {computation: {instruction: the shape of its result}}

    def of(self, name: str) -> int:
        """Operations of the computation `name`."""
        if name not in self._known:
            self._known[name] = sum(self.of_line(name, line) for line in self._bodies[name])
        return self._known[name]

    def of_line(self, name: str, line: str) -> int:
        """Operations of one instruction of the computation `name`, with all that it calls."""
        if ATTENTION.search(line):
            return _attention(line)
        if CONTRACTED.search(line):
            return self._dot(name, line)
        if " convolution(" in line:
            return self._convolution(name, line)
        loops, branches = 0, []
        for role, called in hlo.called_by(line):
            if role == "body":
                loops += hlo.trips(line, self._bodies) * self.of(called)
            elif isinstance(role, int):
                branches.append(self.of(called))
        inner = sum(self.of(called) for called in CALLED.findall(line))
        return loops + self._choice(branches, default=0) + inner

    def _operands(self, name: str, line: str) -> list[tuple[int, ...]]:
        """The shapes of an instruction's operands."""
        if name not in self._sizes:
            self._sizes[name] = {
                RESULT.match(other)[1]: result_shape(other) for other in self._bodies[name]
            }
        operands = re.split(r"\), ", OPERANDS.search(line)[1])[0]
        return [self._sizes[name][operand] for operand in re.findall(r"%([\w.\-]+)", operands)]

    def _dot(self, name: str, line: str) -> int:
        """2 (numbers of the result) (products that each of them sums).

        A GPU library's call names the summed axes in its configuration, so it counts here as well.
        """
        summed = [int(axis) for axis in re.findall(r"\d+", CONTRACTED.search(line)[1])]
        left = self._operands(name, line)[0]
        return 2 * math.prod(result_shape(line)) * math.prod(left[axis] for axis in summed)

    def _convolution(self, name: str, line: str) -> int:
        """2 (batch) (output features) (input features) (pairs of position and weight that meet).

        The TPU compiler writes a batch of matrix products as one convolution: the batch axes become
        spatial axes, dilated with holes such that each position of the result meets its own weight
        alone. A weight that meets a hole or the padding is no operation.
        """
        left, right = self._operands(name, line)
        labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line)
        places = dict(zip(labels[1], left, strict=True))
        weights = dict(zip(labels[2], right, strict=True))
        result = dict(zip(labels[3], result_shape(line), strict=True))
        pairs = 1
        for axis in range(len(result) - 2):  # the spatial axes have digits as labels
            label = str(axis)
            pairs *= _meetings(_window(line, axis), places[label], weights[label], result[label])
        return int(2 * result["b"] * result["f"] * weights["i"] * pairs)


def _attention(line: str) -> int:
    """4 (scores) (numbers of a head): the scores, and the weighted sum of the values."""
    scores = math.prod(int(size) for size in re.findall(r"\d+", SCORES.search(line)[1]))
    return 4 * scores * result_shape(line)[-1]


def result_shape(line: str) -> tuple[int, ...]:
    """The shape of the first array of an instruction's result."""
    sizes = re.search(r"\w\[([\d,]*)\]", line.split(" = ", 1)[1])[1]
    return tuple(int(size) for size in sizes.split(",") if size)


def _window(line: str, axis: int) -> tuple[int, int, int, int]:
    """(stride, padding, dilation of the input, dilation of the weights) of a spatial axis."""
    window = re.search(r"window=\{(.*?)\}", line)
    fields = dict(re.findall(r"(\w+)=([\d_x\-]+)", window[1] if window else ""))

    def field(key: str, default: str) -> str:
        return fields[key].split("x")[axis] if key in fields else default

    padding = field("pad", "0_0").split("_")[0]
    return (
        int(field("stride", "1")),
        int(padding),
        int(field("lhs_dilate", "1")),
        int(field("rhs_dilate", "1")),
    )


def _meetings(window: tuple[int, int, int, int], places: int, weights: int, results: int) -> int:
    """How many pairs of a result and a weight meet a number of the input, along one axis."""
    stride, padding, hole, spread = window
    result = np.arange(results)[:, None]
    weight = np.arange(weights)[None]
    at = result * stride + weight * spread - padding  # in the dilated input
    inside = (at >= 0) & (at <= (places - 1) * hole)
    return int(np.count_nonzero(inside & (at % hole == 0)))
