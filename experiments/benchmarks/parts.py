"""Where a layer of a diffusion transformer spends its time: its parts alone, in JAX and PyTorch.

A part is a function of arrays (N, L, E), compiled by itself, with the operations of its matrix
products. The peak is the best rate of a matrix product of the layer's own shapes. Letters: N
sequences of a call, L tokens, E width.
"""

import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import tables
from experiments.benchmarks.worker import processor
from experiments.cli.run import main
from experiments.lab.timing import interleaved
from flowjax import records
from flowjax.errors import check_choice
from flowjax.models.attention import softmax_attention
from flowjax.models.dit import modulate

if TYPE_CHECKING:
    from configs.bench_parts import Config

DTYPES = ("float32", "bfloat16")
PEAK = "matmul peak"
MLP = 4  # ratio of the MLP's hidden width to E


class Sizes(NamedTuple):
    """Sequences, tokens, width and heads of a call."""

    sequences: int
    tokens: int
    width: int
    heads: int


def operations(sizes: Sizes) -> dict[str, int]:
    """{part: operations of its matrix products}; 0 where it has none."""
    rows = sizes.sequences * sizes.tokens
    dense = 2 * rows * sizes.width**2
    attention = 4 * rows * sizes.tokens * sizes.width
    return {
        PEAK: MLP * dense,
        "norm and modulation": 0,
        "query, key, value": 3 * dense,
        "attention": attention,
        "softmax": 0,
        "projection and gate": dense,
        "first dense layer": MLP * dense,
        "GELU": 0,
        "second dense layer and gate": MLP * dense,
    }


def inputs(sizes: Sizes) -> dict[str, np.ndarray]:
    """Normal numbers in float32: states, heads, scores, hidden values, weights and modulation."""
    n, length, width, heads = sizes
    shapes = {
        "x": (n, length, width),
        "hidden": (n, length, MLP * width),
        "heads": (n, length, heads, width // heads),
        "scores": (n, heads, length, length),
        "square": (width, width),
        "up": (width, MLP * width),
        "down": (MLP * width, width),
        "bias": (width,),
        "bias_up": (MLP * width,),
        "shift": (n, width),
    }
    rng = np.random.default_rng(0)
    scale = {"square": width**-0.5, "up": width**-0.5, "down": (MLP * width) ** -0.5}
    return {
        name: (rng.standard_normal(shape) * scale.get(name, 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


# -- the two libraries: {part: call without arguments}. States and sums are float32, as in
# -- `models.dit`; in PyTorch everything has the dtype of the products, as in its benchmark.


def in_jax(sizes: Sizes, dtype: str) -> dict[str, Callable[[], Any]]:
    """The parts as `models.dit` computes them, each in a program of its own."""
    given = {name: jnp.asarray(array) for name, array in inputs(sizes).items()}
    low = {name: array.astype(dtype) for name, array in given.items()}
    x, y, shift = given["x"], low["x"], given["shift"]

    def dense(y, kernel, bias):
        return product(y.astype(dtype), kernel) + bias[None, None]

    # A product whose sums are bfloat16 too is slower here than one with sums in float32.
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)

    def norm(x, shift):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
        return modulate(scaled, shift, shift).astype(dtype)

    def qkv(y, kernel, bias):
        return [dense(y, kernel + i, bias).astype(dtype) for i in range(3)]

    def gated(x, y, kernel, bias, gate):
        return x + gate[:, None] * dense(y, kernel, bias)

    kernels = {
        PEAK: (product, y, low["up"]),
        "norm and modulation": (norm, x, shift),
        "query, key, value": (qkv, y, low["square"], low["bias"]),
        "attention": (lambda q: softmax_attention(q, q, q)[0], low["heads"]),
        "softmax": (lambda s: jax.nn.softmax(s, axis=-1).astype(dtype), given["scores"]),
        "projection and gate": (gated, x, y, low["square"], low["bias"], shift),
        "first dense layer": (dense, y, low["up"], low["bias_up"]),
        "GELU": (lambda h: jax.nn.gelu(h, approximate=True).astype(dtype), given["hidden"]),
        "second dense layer and gate": (gated, x, low["hidden"], low["down"], low["bias"], shift),
    }

    def call_of(function, *arrays):
        run = jax.jit(function)
        return lambda: run(*arrays)

    return {name: call_of(*kernel) for name, kernel in kernels.items()}


def in_torch(sizes: Sizes, dtype: str) -> dict[str, Callable[[], Any]]:
    """The same parts in PyTorch, each compiled by torch.compile."""
    import torch
    import torch.nn.functional as F

    given = {name: torch.tensor(a).to(getattr(torch, dtype)) for name, a in inputs(sizes).items()}
    x, shift = given["x"], given["shift"]
    # PyTorch's dense layers hold their kernels transposed, and attention has the heads first.
    square, up, down = (given[name].T.contiguous() for name in ("square", "up", "down"))
    three = [square + i for i in range(3)]
    heads = given["heads"].transpose(1, 2)

    def norm(x, shift):
        return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + shift[:, None]) + shift[:, None]

    def gated(x, y, kernel, bias, gate):
        return x + gate[:, None] * F.linear(y, kernel, bias)

    def qkv(y, kernels, bias):
        return [F.linear(y, kernel, bias) for kernel in kernels]

    kernels = {
        PEAK: (F.linear, x, up),
        "norm and modulation": (norm, x, shift),
        "query, key, value": (qkv, x, three, given["bias"]),
        "attention": (F.scaled_dot_product_attention, heads, heads, heads),
        "softmax": (lambda s: torch.softmax(s, -1), given["scores"]),
        "projection and gate": (gated, x, x, square, given["bias"], shift),
        "first dense layer": (F.linear, x, up, given["bias_up"]),
        "GELU": (lambda h: F.gelu(h, approximate="tanh"), given["hidden"]),
        "second dense layer and gate": (gated, x, given["hidden"], down, given["bias"], shift),
    }

    def call_of(function, *arrays):
        run = torch.compile(function, dynamic=False)

        def call():
            with torch.no_grad():
                run(*arrays)

        return call

    return {name: call_of(*kernel) for name, kernel in kernels.items()}


# -- the command


def check(config: "Config") -> None:
    """Refuse a dtype that no library has here, before anything is measured."""
    for dtype in config.dtypes:
        check_choice("experiments.benchmarks.parts", "dtypes", dtype, DTYPES)


def libraries() -> dict[str, Callable]:
    """{library with its version: function (sizes, dtype) -> calls}, as far as they are here."""
    found = {f"JAX {jax.__version__}": in_jax}
    if importlib.util.find_spec("torch") is not None:
        found[f"torch.compile {importlib.metadata.version('torch')}"] = in_torch
    return found


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Time what `workdir` does not hold yet and return all rows."""
    check(config)
    kept = records.Records(workdir, config)
    for dtype in config.dtypes:
        for batch in config.batches:
            sizes = Sizes(batch, config.tokens, config.width, config.heads)
            case = {"dtype": dtype, "sequences": batch}
            todo = {
                name: parts
                for name, parts in libraries().items()
                if not kept.done({**case, "library": name})
            }
            calls = {
                (library, part): call
                for library, parts in todo.items()
                for part, call in parts(sizes, dtype).items()
            }
            timed = interleaved(calls, config.repeats, processor=True)
            counts = operations(sizes)
            for (library, part), (first, seconds) in timed.items():
                values = {"first": first, "seconds": seconds, "operations": counts[part]}
                key = {**case, "library": library, "part": part}
                kept.add(key, device=processor(), load=os.getloadavg()[0], **values)
    return kept.rows


def markdown(rows: list[dict], command: str) -> str:
    """Milliseconds of each part by library; in brackets the fraction of that library's peak."""
    names = list(dict.fromkeys(row["library"] for row in rows))
    found = {tuple(row[k] for k in ("dtype", "sequences", "part", "library")): row for row in rows}
    lines = [
        "| dtype, sequences | part | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for dtype, sequences, part in dict.fromkeys(key[:3] for key in found):
        cells = [_cell(found, (dtype, sequences, part, name)) for name in names]
        lines.append(f"| {dtype}, {sequences} | {part} | " + " | ".join(cells) + " |")
    load = statistics.median(row["load"] for row in rows)
    note = f"Milliseconds of the processor; {rows[0]['device']}; load of the machine {load:.1f}"
    return "\n".join([*lines, "", f"{note}; `{command}`", ""])


def _cell(found: dict[tuple, dict], key: tuple) -> str:
    """One time, with the rate of its products where it has any."""
    if key not in found:
        return ""
    row = found[key]
    text = f"{1000 * row['seconds']:.3g}"
    if not row["operations"]:
        return text
    rate = row["operations"] / row["seconds"]
    if row["part"] == PEAK:
        return f"{text} ({rate / 1e9:.0f} GFLOP/s)"
    peak = found[*key[:2], PEAK, key[3]]
    return f"{text} ({rate / (peak['operations'] / peak['seconds']):.2f})"


def table(workdir: str | os.PathLike) -> list[pathlib.Path]:
    """Print the table and write it to table.md."""
    return tables.write(workdir, markdown)


if __name__ == "__main__":
    main(run, table, check=check)
