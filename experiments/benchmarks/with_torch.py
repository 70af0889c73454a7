"""The contenders in PyTorch: diffusers' DiT, same weights and solver, eager and compiled."""

import functools
import json
import pathlib
import time
from collections.abc import Callable

import diffusers
import numpy as np
import safetensors.torch
import torch
from torch.nn import functional

from experiments.benchmarks.case import PAIRS, REPEATS, Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The columns of a plan, as `with_jax.columns` wrote them.
COLUMNS = ("clock", "p", "q", "a", "b", "c", "d")
# How many earlier predictions a plan combines with the last one.
PAST = 3


# Building it takes seconds, and the cases of one process differ in batch alone most often.
@functools.lru_cache(maxsize=1)
def _network(folder: str, size: int, dtype: str):
    """diffusers' network with the reference's weights."""
    # Written once by the reference, see `export`.
    sizes = json.loads(pathlib.Path(folder, "network.json").read_text())
    loaded = safetensors.torch.load_file(pathlib.Path(folder) / "weights.safetensors")
    frequency_shift = sizes.pop("frequency_shift")
    network = diffusers.DiTTransformer2DModel(sample_size=size, **sizes)
    # diffusers builds every block with a shift of 1, and DiT's own networks have 0.
    for block in network.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = frequency_shift
    missing, unexpected = network.load_state_dict(loaded, strict=False)
    # The table of positions is computed, not stored.
    missing = [name for name in missing if "pos_embed.pos_embed" not in name]
    if missing or unexpected:
        raise ValueError(f"weights.safetensors lacks {missing} and has {unexpected} too.")
    return network.to(DEVICE, getattr(torch, dtype)).eval().requires_grad_(False)


def _rows(case: Case) -> list[dict]:
    """The rows of the plan, {column: number or list of numbers} each."""
    with np.load(case.inputs) as file:
        columns = {name: file[name].tolist() for name in COLUMNS}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _combined(weights, history):
    """The sum of the history by weights; what has weight 0 may not be there yet."""
    return sum(weight * past for weight, past in zip(weights, history, strict=False) if weight)


def _build(case: Case, wrap: Callable) -> tuple[Callable, Callable]:
    """(call, memory) of a case; `wrap` compiles the network, or returns it as it is."""
    dtype = getattr(torch, case.dtype)
    plain = _network(case.folder, case.size, case.dtype)
    network = wrap(plain)
    noise, labels = case.noise_and_labels()
    channels = noise.shape[-1]
    # Both branches of guidance go in one batch; at the scale 1 there is no null branch.
    is_guided = case.guidance != 1
    if is_guided:
        null = plain.config.num_embeds_ada_norm
        labels = np.concatenate([labels, np.full_like(labels, null)])
    # PyTorch has channels first: (B, C, H, W).
    start = torch.tensor(noise.transpose(0, 3, 1, 2), device=DEVICE).contiguous()
    labels = torch.tensor(labels, device=DEVICE, dtype=torch.long)
    rows = _rows(case)
    times = [torch.full((len(labels),), row["clock"], device=DEVICE) for row in rows]

    @torch.no_grad()
    def call():
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        x = base = start
        history = []
        for row, t in zip(rows, times, strict=True):
            states = torch.cat([x, x]) if is_guided else x
            out = network(states.to(dtype), timestep=t, class_labels=labels, return_dict=False)[0]
            # Channels after those of the state are a variance.
            velocity = out[:, :channels].float()
            if is_guided:
                conditional, null = velocity.chunk(2)
                velocity = null + case.guidance * (conditional - null)
            # The plan's row: m, base', x'. The sign of the network's velocity is in q.
            history = [row["p"] * x + row["q"] * velocity, *history[:PAST]]
            base = row["a"] * base + _combined(row["b"], history)
            x = row["c"] * base + _combined(row["d"], history)
        return x.permute(0, 2, 3, 1)

    def memory():
        return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None

    return call, memory


def matmul_peak(rows: int, width: int, hidden: int, dtype: str) -> float:
    """Operations a second of matrix products (rows, width) x (width, hidden) and back."""
    kind = {"device": DEVICE, "dtype": getattr(torch, dtype)}
    start, up, down = (
        torch.randn(shape, **kind) for shape in ((rows, width), (hidden, width), (width, hidden))
    )
    # Values keep their size from product to product.
    up, down = up * width**-0.5, down * hidden**-0.5

    @torch.no_grad()
    def seconds():
        begin = time.perf_counter()
        x = start
        for _ in range(PAIRS):
            x = functional.linear(functional.linear(x, up), down)
        wait(x[:1].float())
        return time.perf_counter() - begin

    seconds()  # allocates
    return 4 * PAIRS * rows * width * hidden / min(seconds() for _ in range(REPEATS))


def wait(x: torch.Tensor) -> np.ndarray:
    """The result on the host."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return x.cpu().numpy()


def _as_it_is(network):
    return network


BUILD = {
    "torch eager": functools.partial(_build, wrap=_as_it_is),
    "torch compile": functools.partial(
        _build, wrap=functools.partial(torch.compile, dynamic=False)
    ),
}
