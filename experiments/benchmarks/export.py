"""Our parameters and sizes under the names of diffusers' DiTTransformer2DModel."""

import json
import pathlib
from typing import Any

import numpy as np

from flowjax.models import DiTConfig
from flowjax.types import PyTree

# {our name of a layer's matrix: diffusers' name inside a block}
LAYER = {
    "query": "attn1.to_q",
    "key": "attn1.to_k",
    "value": "attn1.to_v",
    "out": "attn1.to_out.0",
    "mlp1": "ff.net.0.proj",
    "mlp2": "ff.net.2",
    "modulation": "norm1.linear",
}


def state_dict(params: PyTree, config: DiTConfig) -> dict[str, np.ndarray]:
    """{name: float32 array} for diffusers, which stores the embedders of time and label per layer.

    Args:
      params: the parameters of `flowjax.models.network(config)`.
      config: its `DiTConfig`.
    """
    found = {}

    def linear(name, layer, index=...):
        # PyTorch stores the transpose: (outputs, inputs).
        found[f"{name}.weight"] = np.asarray(layer["kernel"][index], np.float32).T
        found[f"{name}.bias"] = np.asarray(layer["bias"][index], np.float32)

    # The ends. Diffusers embeds patches by a convolution over their pixels.
    linear("pos_embed.proj", params["patches"])
    kernel = found["pos_embed.proj.weight"]  # (E, p p C)
    kernel = kernel.reshape(config.width, config.patch, config.patch, config.channels)
    found["pos_embed.proj.weight"] = kernel.transpose(0, 3, 1, 2)  # (E, C, p, p)
    linear("proj_out_1", params["modulation"])
    linear("proj_out_2", params["outputs"])

    # The layers: ours are stacked along the first axis.
    for i in range(config.depth):
        block = f"transformer_blocks.{i}"
        for ours, theirs in LAYER.items():
            linear(f"{block}.{theirs}", params["blocks"][ours], i)
        linear(f"{block}.norm1.emb.timestep_embedder.linear_1", params["time1"])
        linear(f"{block}.norm1.emb.timestep_embedder.linear_2", params["time2"])
        table = np.asarray(params["labels"]["embedding"], np.float32)
        found[f"{block}.norm1.emb.class_embedder.embedding_table.weight"] = table

    # safetensors writes the memory as it lies, so views must become arrays of their own.
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def sizes(config: DiTConfig) -> dict[str, Any]:
    """The arguments of diffusers' DiTTransformer2DModel, and `frequency_shift`, which is none.

    diffusers always builds its time embedding with a shift of 1; `with_torch` sets ours afterwards.

    Args:
      config: the sizes; the size of the image is left out, since one network may serve several.

    Raises:
      ValueError: a width of the MLP that diffusers' network does not have.
    """
    if config.mlp_ratio != 4:
        raise ValueError(
            f"benchmarks.export: mlp_ratio={config.mlp_ratio:g}; diffusers' DiTTransformer2DModel "
            "has 4 only."
        )
    return {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.channels,
        "out_channels": config.outputs,
        "num_layers": config.depth,
        "patch_size": config.patch,
        "num_embeds_ada_norm": config.classes,
        "norm_eps": config.mlp_epsilon,
        "frequency_shift": config.frequency_shift,
    }


def write(folder: pathlib.Path, params: PyTree, config: DiTConfig) -> None:
    """Write weights.safetensors and network.json, from which `with_torch` builds its network."""
    from safetensors.numpy import save_file

    save_file(state_dict(params, config), folder / "weights.safetensors")
    (folder / "network.json").write_text(json.dumps(sizes(config)))
