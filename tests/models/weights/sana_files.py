"""SANA's files from the golden networks: an original state dict, and a pipeline's folder."""

import json
import pathlib
import shutil

import numpy as np
import safetensors.numpy

from flowjax.models import sana

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "models"
SCHEDULER = {
    "_class_name": "DPMSolverMultistepScheduler",
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
}
# Original names of layers, and those of diffusers that scripts/convert_sana_to_diffusers.py gives
# them.
NAMES = {
    "x_embedder.proj": "patch_embed.proj",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "t_embedder.mlp.0": "time_embed.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_embed.emb.timestep_embedder.linear_2",
    "t_block.1": "time_embed.linear",
    "attention_y_norm": "caption_norm",
    "final_layer.linear": "proj_out",
    "final_layer.scale_shift_table": "scale_shift_table",
}
BLOCK = {
    "scale_shift_table": "scale_shift_table",
    "attn.q_norm": "attn1.norm_q",
    "attn.k_norm": "attn1.norm_k",
    "attn.proj": "attn1.to_out.0",
    "mlp.inverted_conv.conv": "ff.conv_inverted",
    "mlp.depth_conv.conv": "ff.conv_depth",
    "mlp.point_conv.conv": "ff.conv_point",
    "cross_attn.q_linear": "attn2.to_q",
    "cross_attn.q_norm": "attn2.norm_q",
    "cross_attn.k_norm": "attn2.norm_k",
    "cross_attn.proj": "attn2.to_out.0",
}
# Layers that the original stores in one matrix.
JOINED = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
}


def tensors(name):
    return safetensors.numpy.load_file(GOLDEN / name / "diffusion_pytorch_model.safetensors")


def original_state(name, config):
    """The state dict of a golden network in the names of the original code.

    Args:
      name: of the golden network.
      config: its `SanaConfig`; its embedding of places is stored.
    """
    theirs = tensors(name)
    state = {}

    def take(ours, *sources):
        for ending in ("", ".weight", ".bias"):
            found = [theirs.get(source + ending) for source in sources]
            if all(part is not None for part in found):
                state[ours + ending] = np.concatenate(found)

    for ours, source in NAMES.items():
        take(ours, source)
    for i in range(config.depth):
        for ours, source in BLOCK.items():
            take(f"blocks.{i}.{ours}", f"transformer_blocks.{i}.{source}")
        for ours, sources in JOINED.items():
            take(f"blocks.{i}.{ours}", *(f"transformer_blocks.{i}.{s}" for s in sources))
    places = np.zeros((config.tokens, config.width))
    if config.interpolation is not None:
        places = sana.positions(config)
    state["pos_embed"] = places[None].astype(np.float32)
    # The learned null text, which sampling does not use.
    state["y_embedder.y_embedding"] = np.ones((300, config.caption), np.float32)
    return state


def pipeline_folder(folder, transformer="sana_a", vae="dc_ae_a", scheduler=SCHEDULER):
    """A SanaPipeline folder of golden networks."""
    for part, name in (("transformer", transformer), ("vae", vae)):
        (folder / part).mkdir(parents=True)
        for file in ("config.json", "diffusion_pytorch_model.safetensors"):
            shutil.copy(GOLDEN / name / file, folder / part / file)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "SanaPipeline"}))
    return folder
