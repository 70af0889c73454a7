"""Checkpoints of random numbers in the published layouts, and small ones of our own."""

import json

import numpy as np
import safetensors.numpy

from tests.models import reference

WIDTH, DEPTH, HEADS, CLASSES, CHANNELS = 16, 2, 2, 5, 3
GRID = (3, 5)  # rows and columns of tokens


def original_state(patch, grid=GRID):
    """A random state dict with the names of the original DiT and SiT, with learned variances."""
    rng = np.random.default_rng(0)
    state = {}

    def add(name, *shape):
        state[f"{name}.weight"] = rng.normal(0, 0.3, shape)
        if "table" not in name:  # an embedding has no bias
            state[f"{name}.bias"] = rng.normal(0, 0.3, shape[0])

    # The embedders. The null label has a row of its own.
    add("x_embedder.proj", WIDTH, CHANNELS, patch, patch)
    add("t_embedder.mlp.0", WIDTH, 256)
    add("t_embedder.mlp.2", WIDTH, WIDTH)
    add("y_embedder.embedding_table", CLASSES + 1, WIDTH)
    # The layers: six parts of the modulation; queries, keys and values in one matrix.
    for i in range(DEPTH):
        add(f"blocks.{i}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
        add(f"blocks.{i}.attn.qkv", 3 * WIDTH, WIDTH)
        add(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
        add(f"blocks.{i}.mlp.fc1", 4 * WIDTH, WIDTH)
        add(f"blocks.{i}.mlp.fc2", WIDTH, 4 * WIDTH)
    # The last layer, with a variance for each channel.
    add("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    add("final_layer.linear", patch**2 * 2 * CHANNELS, WIDTH)
    places = [
        reference.place_features(row, column, WIDTH)
        for row in range(grid[0])
        for column in range(grid[1])
    ]
    state["pos_embed"] = np.array([places])
    return {name: a.astype(np.float32) for name, a in state.items()}


def original_network(patch, image, clock, label, **options):
    """What the network of `original_state` gives, by the oracle in numpy."""
    state = original_state(patch)
    return reference.on_original_state(
        state, image, clock, label, heads=HEADS, depth=DEPTH, **options
    )


# Names of layers in the original code, and in diffusers.
DIFFUSERS_NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
DIFFUSERS_BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
# diffusers stores these in every block.
DIFFUSERS_EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}


def diffusers_state(state):
    """The same network under the names of diffusers."""
    names = dict(DIFFUSERS_NAMES)
    for i in range(DEPTH):
        for original, ours in DIFFUSERS_BLOCK.items():
            names[f"blocks.{i}.{original}"] = f"transformer_blocks.{i}.{ours}"
    out = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if layer in names:
            out[f"{names[layer]}.{kind}"] = tensor
        elif layer in DIFFUSERS_EMBEDDERS:
            for i in range(DEPTH):
                embedder = f"transformer_blocks.{i}.norm1.emb.{DIFFUSERS_EMBEDDERS[layer]}"
                out[f"{embedder}.{kind}"] = tensor
        elif layer.endswith("qkv"):
            # diffusers has three matrices for the queries, keys and values.
            number = layer.split(".")[1]
            for part, third in zip("qkv", np.split(tensor, 3), strict=True):
                out[f"transformer_blocks.{number}.attn1.to_{part}.{kind}"] = third
    return out


def diffusers_config(patch, grid=GRID, **options):
    return {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": HEADS,
        "attention_head_dim": WIDTH // HEADS,
        "in_channels": CHANNELS,
        "out_channels": 2 * CHANNELS,
        "num_layers": DEPTH,
        "patch_size": patch,
        "sample_size": [n * patch for n in grid],
        "num_embeds_ada_norm": CLASSES,
        **options,
    }


# Files.


def write(path, tensors):
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(contiguous, path)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def nothing(tensors):
    """A change of tensors that changes nothing."""


def diffusers_folder(folder, patch=1, change=nothing, **options):
    """A folder of diffusers' DiT; `change` acts on its tensors, `options` on its config.json."""
    tensors = diffusers_state(original_state(patch))
    change(tensors)
    write_json(folder / "config.json", diffusers_config(patch, **options))
    write(folder / "diffusion_pytorch_model.safetensors", tensors)
    return folder


def original_file(folder, name="model.safetensors", patch=1, change=nothing, **options):
    """An original state dict beside a config.json with `options`; `change` acts on its tensors."""
    tensors = original_state(patch)
    change(tensors)
    size = [n * patch for n in GRID]
    write_json(folder / "config.json", {"input_size": size, "num_heads": HEADS, **options})
    write(folder / name, tensors)
    return folder / name
