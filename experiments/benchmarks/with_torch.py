"""The contenders in PyTorch: diffusers' DiT, same weights and solver, eager and compiled."""

import functools
import pathlib
from collections.abc import Callable

import diffusers
import numpy as np
import safetensors.torch
import torch

from experiments.benchmarks.case import NULL_LABEL, Case

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The columns of a plan, as the reference wrote them.
COLUMNS = ("label_time", "p", "q", "a", "b", "c", "d")
# How many earlier predictions a plan combines with the last one.
PAST = 3


# Building it takes seconds, and the cases of one process differ in batch alone most often.
@functools.lru_cache(maxsize=1)
def _network(folder: str, size: int, width: int, depth: int, heads: int, dtype: str):
    """diffusers' network with the reference's weights."""
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        sample_size=size,
        patch_size=2,
        num_embeds_ada_norm=NULL_LABEL,
        norm_eps=1e-6,
    )
    # Written once by the reference, see `export`.
    loaded = safetensors.torch.load_file(pathlib.Path(folder) / "weights.safetensors")
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
    network = wrap(_network(case.folder, case.size, case.width, case.depth, case.heads, case.dtype))
    noise, labels = case.noise_and_labels()
    # PyTorch has channels first: (B, C, H, W).
    start = torch.tensor(noise.transpose(0, 3, 1, 2), device=DEVICE).contiguous()
    both = np.concatenate([labels, np.full_like(labels, NULL_LABEL)])
    both = torch.tensor(both, device=DEVICE, dtype=torch.long)
    rows = _rows(case)
    times = [torch.full((len(both),), 1000 * row["label_time"], device=DEVICE) for row in rows]

    @torch.no_grad()
    def call():
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        x = base = start
        history = []
        for row, t in zip(rows, times, strict=True):
            # Both branches of guidance in one batch; the last 4 channels are a variance.
            twice = torch.cat([x, x]).to(dtype)
            out = network(twice, timestep=t, class_labels=both, return_dict=False)[0]
            conditional, null = out[:, :4].float().chunk(2)
            velocity = null + case.guidance * (conditional - null)
            # The plan's row: m, base', x'.
            history = [row["p"] * x + row["q"] * velocity, *history[:PAST]]
            base = row["a"] * base + _combined(row["b"], history)
            x = row["c"] * base + _combined(row["d"], history)
        return x.permute(0, 2, 3, 1)

    def memory():
        return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None

    return call, memory


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
