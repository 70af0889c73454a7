"""The contenders in PyTorch: diffusers' DiT with the same weights, in the same solver's loop, eager and compiled."""

import functools
import pathlib

import diffusers
import numpy as np
import safetensors.torch
import torch

from experiments.benchmarks.case import NULL_LABEL

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@functools.lru_cache(maxsize=1)
def _network(folder, size, width, depth, heads, dtype):
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=width // heads, in_channels=4, out_channels=8, num_layers=depth,
        sample_size=size, patch_size=2, num_embeds_ada_norm=NULL_LABEL, norm_eps=1e-6,
    )  # fmt: skip
    loaded = safetensors.torch.load_file(pathlib.Path(folder) / "weights.safetensors")
    missing, unexpected = network.load_state_dict(loaded, strict=False)
    if unexpected or any(
        "pos_embed.pos_embed" not in name for name in missing
    ):  # the table of positions is not stored
        raise ValueError(f"weights.safetensors lacks {missing} and has {unexpected} too.")
    return network.to(DEVICE, getattr(torch, dtype)).eval().requires_grad_(False)


def _build(case, wrap):
    dtype = getattr(torch, case.dtype)
    network = wrap(_network(case.folder, case.size, case.width, case.depth, case.heads, case.dtype))
    noise, labels = case.noise_and_labels()
    start = torch.tensor(noise.transpose(0, 3, 1, 2), device=DEVICE).contiguous()
    both = torch.tensor(
        np.concatenate([labels, np.full_like(labels, NULL_LABEL)]), device=DEVICE, dtype=torch.long
    )
    with np.load(case.inputs) as file:
        columns = {
            name: file[name].tolist() for name in ("label_time", "p", "q", "a", "b", "c", "d")
        }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    times = [torch.full((len(both),), 1000 * row["label_time"], device=DEVICE) for row in rows]

    def combined(weights, history):
        return sum(weight * m for weight, m in zip(weights, history, strict=False) if weight)

    @torch.no_grad()
    def call():
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        x = base = start
        history = []
        for row, t in zip(rows, times, strict=True):
            out = network(
                torch.cat([x, x]).to(dtype), timestep=t, class_labels=both, return_dict=False
            )[0]
            conditional, null = out[:, :4].float().chunk(2)
            velocity = null + case.guidance * (conditional - null)
            history = [row["p"] * x + row["q"] * velocity, *history[:3]]
            base = row["a"] * base + combined(row["b"], history)
            x = row["c"] * base + combined(row["d"], history)
        return x.permute(0, 2, 3, 1)

    return call, lambda: torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None


def wait(x):
    """The result on the host."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return x.cpu().numpy()


BUILD = {
    "torch eager": functools.partial(_build, wrap=lambda network: network),
    "torch compile": functools.partial(
        _build, wrap=functools.partial(torch.compile, dynamic=False)
    ),
}
