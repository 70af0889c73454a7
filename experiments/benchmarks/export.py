"""Our parameters under the names of diffusers' DiTTransformer2DModel, so that both networks are one and the same."""

import numpy as np

LAYER = {
    "query": "attn1.to_q", "key": "attn1.to_k", "value": "attn1.to_v", "out": "attn1.to_out.0",
    "mlp1": "ff.net.0.proj", "mlp2": "ff.net.2", "modulation": "norm1.linear",
}  # fmt: skip


def state_dict(params, config):
    """{name: float32 array}; diffusers keeps the embedders of time and label once a layer, ours once.

    Args:
      params: the parameters of `flowjax.models.network(config)`.
      config: its `DiTConfig`; diffusers computes the same with frequency_shift=1 only.
    """
    found = {}

    def linear(name, layer, index=...):
        found[f"{name}.weight"] = np.asarray(layer["kernel"][index], np.float32).T
        found[f"{name}.bias"] = np.asarray(layer["bias"][index], np.float32)

    linear("pos_embed.proj", params["patches"])
    square = (
        config.width,
        config.patch,
        config.patch,
        config.channels,
    )  # a convolution over the pixels of a patch
    found["pos_embed.proj.weight"] = (
        found["pos_embed.proj.weight"].reshape(square).transpose(0, 3, 1, 2)
    )
    linear("proj_out_1", params["modulation"])
    linear("proj_out_2", params["outputs"])
    for i in range(config.depth):
        block = f"transformer_blocks.{i}"
        for ours, theirs in LAYER.items():
            linear(f"{block}.{theirs}", params["blocks"][ours], i)
        linear(f"{block}.norm1.emb.timestep_embedder.linear_1", params["time1"])
        linear(f"{block}.norm1.emb.timestep_embedder.linear_2", params["time2"])
        table = np.asarray(params["labels"]["embedding"], np.float32)
        found[f"{block}.norm1.emb.class_embedder.embedding_table.weight"] = table
    return {name: np.ascontiguousarray(array) for name, array in found.items()}
