"""Checkpoints. The oracle for other sizes than the golden ones is a DiT in numpy, written from the paper below."""

import dataclasses
import json
import pathlib
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from flowjax import compat, models
from flowjax.models.weights import own
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear, predict
from tests.golden import network_cases as golden_models

GOLDEN = golden_models.HERE
WIDTH, DEPTH, HEADS, CLASSES, CHANNELS = 16, 2, 2, 5, 3


# A DiT in numpy, on the original state dict.


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def place(row, column):
    """Sines and cosines of the column, then of the row."""
    w = [10000.0 ** (-4 * i / WIDTH) for i in range(WIDTH // 4)]
    return [f(u * wi) for u in (column, row) for f in (np.sin, np.cos) for wi in w]


def layer_norm(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def reference(state, x, t, y, shift=0, epsilon=1e-6):
    """One image x (H, W, C) -> (H, W, outputs)."""
    w = {name: tensor.astype(np.float64) for name, tensor in state.items()}
    linear = lambda name, a: a @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    patch = state["x_embedder.proj.weight"].shape[2]
    rows, columns = x.shape[0] // patch, x.shape[1] // patch
    kernel, tokens = w["x_embedder.proj.weight"], []
    for r in range(rows):
        for c in range(columns):
            cut = x[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
            token = np.einsum("echw,hwc->e", kernel, cut) + w["x_embedder.proj.bias"]
            tokens.append(token + place(r, c))
    h = np.array(tokens)  # (L, E)
    angles = t * 10000.0 ** (-np.arange(128) / (128 - shift))
    features = np.concatenate([np.cos(angles), np.sin(angles)])
    time = linear("t_embedder.mlp.2", silu(linear("t_embedder.mlp.0", features)))
    condition = silu(time + w["y_embedder.embedding_table.weight"][y])
    for i in range(DEPTH):
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(
            linear(f"blocks.{i}.adaLN_modulation.1", condition), 6
        )
        q, k, v = np.split(
            linear(f"blocks.{i}.attn.qkv", layer_norm(h, 1e-6) * (1 + scale1) + shift1), 3, axis=1
        )
        heads = []
        for part in np.split(np.arange(WIDTH), HEADS):
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(len(part)))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        h = h + gate1 * linear(f"blocks.{i}.attn.proj", np.concatenate(heads, axis=1))
        a = gelu(linear(f"blocks.{i}.mlp.fc1", layer_norm(h, epsilon) * (1 + scale2) + shift2))
        h = h + gate2 * linear(f"blocks.{i}.mlp.fc2", a)
    shift, scale = np.split(linear("final_layer.adaLN_modulation.1", condition), 2)
    out = linear("final_layer.linear", layer_norm(h, 1e-6) * (1 + scale) + shift)
    out = out.reshape(rows, columns, patch, patch, -1)
    return np.concatenate([np.concatenate(list(row), axis=1) for row in out], axis=0)


# Files in the published layouts.


def original_state(patch, grid=(3, 5), outputs=2 * CHANNELS, seed=0):
    """A random state dict with the names of the original DiT and SiT."""
    rng = np.random.default_rng(seed)
    state = {}

    def add(name, *shape):
        state[f"{name}.weight"] = rng.normal(0, 0.3, shape)
        if "table" not in name:
            state[f"{name}.bias"] = rng.normal(0, 0.3, shape[0])

    add("x_embedder.proj", WIDTH, CHANNELS, patch, patch)
    add("t_embedder.mlp.0", WIDTH, 256)
    add("t_embedder.mlp.2", WIDTH, WIDTH)
    add("y_embedder.embedding_table", CLASSES + 1, WIDTH)
    for i in range(DEPTH):
        add(f"blocks.{i}.adaLN_modulation.1", 6 * WIDTH, WIDTH)
        add(f"blocks.{i}.attn.qkv", 3 * WIDTH, WIDTH)
        add(f"blocks.{i}.attn.proj", WIDTH, WIDTH)
        add(f"blocks.{i}.mlp.fc1", 4 * WIDTH, WIDTH)
        add(f"blocks.{i}.mlp.fc2", WIDTH, 4 * WIDTH)
    add("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    add("final_layer.linear", patch**2 * outputs, WIDTH)
    places = [place(r, c) for r in range(grid[0]) for c in range(grid[1])]
    return {
        name: a.astype(np.float32)
        for name, a in (state | {"pos_embed": np.array([places])}).items()
    }


def diffusers_state(state):
    """The same network under the names of diffusers."""
    names = {
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for i in range(DEPTH):
        block = f"transformer_blocks.{i}"
        names |= {
            f"blocks.{i}.adaLN_modulation.1": f"{block}.norm1.linear",
            f"blocks.{i}.attn.proj": f"{block}.attn1.to_out.0",
            f"blocks.{i}.mlp.fc1": f"{block}.ff.net.0.proj",
            f"blocks.{i}.mlp.fc2": f"{block}.ff.net.2",
        }
    embedders = {
        "t_embedder.mlp.0": "timestep_embedder.linear_1",
        "t_embedder.mlp.2": "timestep_embedder.linear_2",
        "y_embedder.embedding_table": "class_embedder.embedding_table",
    }
    out = {}
    for name, tensor in state.items():
        stem, _, kind = name.rpartition(".")
        if stem in names:
            out[f"{names[stem]}.{kind}"] = tensor
        elif stem in embedders:
            out |= {
                f"transformer_blocks.{i}.norm1.emb.{embedders[stem]}.{kind}": tensor
                for i in range(DEPTH)
            }
        elif stem.endswith("qkv"):
            block = f"transformer_blocks.{stem.split('.')[1]}.attn1"
            out |= {
                f"{block}.to_{x}.{kind}": part
                for x, part in zip("qkv", np.split(tensor, 3), strict=True)
            }
    return out


def write(path, tensors):
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path
    )


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def diffusers_config(patch, grid=(3, 5), **options):
    return {
        "_class_name": "DiTTransformer2DModel", "num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS,
        "in_channels": CHANNELS, "out_channels": 2 * CHANNELS, "num_layers": DEPTH, "patch_size": patch,
        "sample_size": [n * patch for n in grid], "num_embeds_ada_norm": CLASSES, **options,
    }  # fmt: skip


def diffusers_folder(folder, patch=1, change=lambda tensors: None, **options):
    tensors = diffusers_state(original_state(patch))
    change(tensors)
    write_json(folder / "config.json", diffusers_config(patch, **options))
    write(folder / "diffusion_pytorch_model.safetensors", tensors)
    return folder


def original_file(folder, name="model.safetensors", patch=1, change=lambda tensors: None, **told):
    tensors = original_state(patch)
    change(tensors)
    write_json(
        folder / "config.json", {"input_size": [3 * patch, 5 * patch], "num_heads": HEADS, **told}
    )
    write(folder / name, tensors)
    return folder / name


def assert_is_reference(model, patch, clock, wanted):
    """The network's own output, in float64, is that of the reference."""
    x = np.random.default_rng(1).normal(size=(2, 3 * patch, 5 * patch, CHANNELS))
    params = jax.tree.map(lambda a: a.astype(jnp.float64), model.params)
    labels = [1, CLASSES]  # the second is the null label
    out = jax.jit(model.card.raw)(params, x, np.array([clock, clock / 2]), np.array(labels))
    both = [wanted(x[i], clock / (i + 1), labels[i]) for i in range(2)]
    np.testing.assert_allclose(out, both, rtol=1e-9, atol=1e-9 * np.max(np.abs(both)))


@pytest.mark.parametrize(
    "name, cases",
    [
        ("dit_diffusers_a", 5), ("sit_original", 2), ("vae_kl", 4),
        pytest.param("dit_diffusers_b", 5, marks=pytest.mark.slow),  # as the first, with another patch
    ],
)  # fmt: skip
def test_golden_networks_give_what_the_originals_give(name, cases):
    lines = []
    passed, failed = golden_models.run_folder(GOLDEN / name, show=lines.append)
    assert (passed, failed) == (cases, 0), "\n".join(lines)


def test_golden_command_counts_what_cannot_be_loaded_or_differs(tmp_path, capsys):
    shutil.copytree(GOLDEN / "vae_kl", tmp_path / "wrong")
    with np.load(tmp_path / "wrong" / "expected.npz") as file:
        given = dict(file)
    np.savez(tmp_path / "wrong" / "expected.npz", **given | {"scaling_factor": 0.2})
    (tmp_path / "empty").mkdir()
    shutil.copy(GOLDEN / "vae_kl" / "expected.npz", tmp_path / "empty")
    assert golden_models.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "3 passed, 2 failed"
    assert [line.split()[0] for line in lines if line.endswith("FAILED")] == ["empty:", "wrong"]


@pytest.mark.parametrize("patch", [1, 4])
def test_diffusers_folder_is_the_network_of_the_paper(tmp_path, patch):
    folder = diffusers_folder(tmp_path / "net", patch, norm_eps=1e-2)
    assert_is_reference(
        models.load(folder), patch, 700.0,
        lambda x, t, y: reference(original_state(patch), x, t, y, shift=1, epsilon=1e-2),
    )  # fmt: skip


def test_original_dit_keeps_its_learned_variance_and_sit_drops_it_as_its_own_code_does(tmp_path):
    path = original_file(tmp_path / "net", patch=4)
    network = lambda x, t, y: reference(original_state(4), x, t, y)
    dit, sit = models.load(path, kind="DiT"), models.load(path, kind="SiT")
    assert_is_reference(dit, 4, 700.0, network)
    assert_is_reference(sit, 4, 0.7, lambda x, t, y: network(x, t, y)[..., :CHANNELS])
    assert (dit.card.clock, dit.card.prediction) == ("index", "noise")
    assert (sit.card.clock, sit.card.prediction, sit.card.schedule) == (
        "1 - t",
        "velocity",
        Linear(),
    )


def test_velocity_is_the_original_prediction_at_its_time():
    dit, sit = (models.load(GOLDEN / name) for name in ("dit_diffusers_a", "sit_original"))
    given = golden_models.arrays(GOLDEN / "dit_diffusers_a" / "expected.npz")
    t = (given["t"] + 1) / 1000
    noise = predict(
        dit.card.schedule,
        "noise",
        jax.jit(dit.apply)(dit.params, given["x"], t, given["y"]),
        given["x"],
        t,
    )
    np.testing.assert_allclose(noise, given["out"][..., :4], atol=1e-4)
    given = golden_models.arrays(GOLDEN / "sit_original" / "expected.npz")
    velocity = jax.jit(sit.apply)(sit.params, given["x"], 1 - given["t"], given["y"])
    np.testing.assert_allclose(
        velocity, -given["out"], atol=1e-5
    )  # from data to noise, theirs towards data


def test_slope_at_a_node_is_that_of_float64_where_float32_lies_below_the_node():
    model = models.load(GOLDEN / "dit_diffusers_a")
    nodes = np.arange(1, 1001)
    below = nodes[np.floor(np.float32(nodes / 1000) * np.float32(1000)) < nodes]
    assert len(below)  # 251 among them, which DDIM meets in 4 and in 20 steps
    x = np.zeros((len(below), 8, 8, 4), np.float32)
    label = np.zeros(len(below), int)
    exact = jax.tree.map(lambda a: a.astype(jnp.float64), model.params)
    velocity = jax.jit(model.apply)
    found = velocity(model.params, x, np.float32(below / 1000), label)
    wanted = velocity(exact, x.astype(np.float64), below / 1000, label)
    assert (
        golden_models.error_of(found, wanted) < 1e-4
    )  # the other segment's slope differs by 2e-3 and more


# Pipelines.

DPM = golden_models.SCHEDULERS["dpmpp_2m"]


def pipeline_folder(folder, **scheduler):
    shutil.copytree(GOLDEN / "dit_diffusers_a", folder / "transformer")
    shutil.copytree(GOLDEN / "vae_kl", folder / "vae")
    write_json(folder / "scheduler" / "scheduler_config.json", DPM | scheduler)
    write_json(
        folder / "model_index.json",
        {"_class_name": "DiTPipeline", "id2label": {"3": "giant panda, panda"}},
    )
    return folder


def test_pipeline_samples_as_diffusers_from_its_own_scheduler(tmp_path):
    model = models.load(pipeline_folder(tmp_path / "net"))
    assert model.card.details["labels"] == {"3": "giant panda, panda"}
    assert model.card.scheduler == DPM
    run, file = (
        golden_models.sampler(model),
        GOLDEN / "dit_diffusers_a" / "sample_dpmpp_2m_10_4.0.npz",
    )
    found, wanted = golden_models.diffusers_run(run, file, model.card.scheduler, 10)
    assert golden_models.error_of(found, wanted) < golden_models.RUN
    assert model.card.vae.to_images(found).shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"beta_schedule": "scaled_linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3]},
    ],
)
def test_pipeline_has_the_schedule_of_its_scheduler(tmp_path, options):
    schedule = models.load(pipeline_folder(tmp_path / "net", **options)).card.schedule
    wanted = compat.diffusers_schedule(DPM, **options)
    np.testing.assert_array_equal(schedule.betas, wanted.betas)
    assert schedule.log_snr_min == wanted.log_snr_min


def test_pipeline_without_a_part_or_of_another_kind_is_refused(tmp_path):
    folder = pipeline_folder(tmp_path / "net", prediction_type="flow_prediction")
    with pytest.raises(ValueError, match="prediction_type='flow_prediction' is not known"):
        models.load(folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(FileNotFoundError, match="without vae/config.json"):
        models.load(folder)
    write_json(folder / "model_index.json", {"_class_name": "FluxPipeline"})
    with pytest.raises(ValueError, match="is a FluxPipeline, which is not read here"):
        models.load(folder)


# Files in pieces, of fewer bits, and broken ones.


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_shards_of_an_index_are_one_file(tmp_path):
    whole, folder = diffusers_folder(tmp_path / "whole"), tmp_path / "shards"
    tensors = diffusers_state(original_state(1))
    names = sorted(tensors)
    files = {
        "a-00001-of-00002.safetensors": names[::2],
        "a-00002-of-00002.safetensors": names[1::2],
    }
    write_json(folder / "config.json", diffusers_config(1))
    for file, part in files.items():
        write(folder / file, {name: tensors[name] for name in part})
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    write_json(folder / "a.safetensors.index.json", index)
    assert_same(models.load(folder).params, models.load(whole).params)
    (folder / "a-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="a-00002-of-00002"):
        models.load(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_raised_to_float32(tmp_path, dtype):
    def halve(tensors):
        tensors |= {name: tensor.astype(dtype) for name, tensor in tensors.items()}

    model = models.load(original_file(tmp_path / "half", "SiT.safetensors", change=halve))
    exact = models.load(original_file(tmp_path / "whole", "SiT.safetensors"))
    assert {a.dtype for a in jax.tree.leaves(model.params)} == {jnp.dtype("float32")}
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(
            a, np.asarray(b).astype(dtype).astype("float32")
        ),
        model.params,
        exact.params,
    )
    again = models.load(tmp_path / "half", kind="SiT", params_dtype=dtype, dtype="bfloat16")
    assert {a.dtype for a in jax.tree.leaves(again.params)} == {jnp.dtype(dtype)}
    assert again.card.config.dtype == "bfloat16"


def drop(*names):
    return lambda tensors: [tensors.pop(name) for name in names]


def put(name, change):
    return lambda tensors: tensors.update({name: change(tensors)})


FIRST, LATER = (f"transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1.bias" for i in (0, 1))
FAULTS = {
    "missing": (drop("proj_out_2.bias"), "1 missing: proj_out_2.bias"),
    "many missing": (
        lambda tensors: [tensors.pop(name) for name in list(tensors) if ".1." in name], r"missing: .* and \d+ more",
    ),
    "unexpected": (put("proj_out_3.bias", lambda t: t["proj_out_2.bias"]), "1 unexpected: proj_out_3.bias"),
    "another block": (
        put("transformer_blocks.2.ff.net.2.bias", lambda t: t["proj_out_1.bias"]), "1 unexpected: transformer_blocks.2.ff",
    ),
    "misshapen": (
        put("proj_out_1.bias", lambda t: t["proj_out_1.bias"][:-1]), r"1 misshapen: proj_out_1.bias \(31,\) \(wanted \(32,\)",
    ),
    "two embedders": (put(LATER, lambda t: t[FIRST] + 1), f"different embedders .* 1 tensor.* block 0's: {LATER}"),
    "other positions": (put("pos_embed.pos_embed", lambda t: np.zeros((1, 15, WIDTH), np.float32)), "differs by up to 1"),
    "whole numbers": (put("proj_out_1.bias", lambda t: np.zeros(32, np.int8)), "is int8; quantised"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_tensor_is_accounted_for(tmp_path, fault):
    change, sentence = FAULTS[fault]
    with pytest.raises(ValueError, match=sentence):
        models.load(diffusers_folder(tmp_path / "net", change=change))


@pytest.mark.parametrize(
    "change", [drop("pos_embed"), put("pos_embed", lambda t: t["pos_embed"][:, ::-1])]
)
def test_original_state_dict_must_hold_our_positions(tmp_path, change):
    with pytest.raises(ValueError, match="pos_embed of .* (missing|differs)"):
        models.load(original_file(tmp_path / "net", "SiT.safetensors", change=change))


@pytest.mark.parametrize(
    "sizes", [{"depth": 3}, {"num_classes": 6}, {"learn_sigma": False}, {"patch_size": 3}]
)
def test_sizes_in_a_config_must_be_those_of_the_tensors(tmp_path, sizes):
    with pytest.raises(ValueError, match="missing|misshapen|multiples"):
        models.load(original_file(tmp_path / "net", "SiT.safetensors", **sizes))


@pytest.mark.parametrize("keep", [0, 5, 1000, -4])
def test_truncated_file_is_refused(tmp_path, keep):
    folder = diffusers_folder(tmp_path / "net")
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="no whole safetensors file"):
        models.load(folder)


# Which network it is.


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "FluxTransformer2DModel"}, {"_class_name": "UNet2DConditionModel"},
        {"_class_name": "SD3Transformer2DModel"}, {"_class_name": "PixArtTransformer2DModel"},
        {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"}, {"_class_name": "Transformer2DModel"},
        {"_class_name": "DiTTransformer2DModel", "activation_fn": "geglu"},
    ],
)  # fmt: skip
def test_other_networks_of_diffusers_are_refused_by_name(tmp_path, config):
    write_json(tmp_path / "config.json", config)
    write(tmp_path / "model.safetensors", {"a": np.zeros(1)})
    with pytest.raises(
        ValueError,
        match=config.get("norm_type", config.get("activation_fn", config["_class_name"])),
    ):
        models.load(tmp_path)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("double_blocks.0.img_attn.qkv.weight", "Flux"), ("joint_blocks.0.x", "Stable Diffusion 3"),
        ("down_blocks.0.x", "U-Net"), ("transformer_blocks.0.x", "pass the folder"), ("h.0.attn", "no DiT or SiT"),
    ],
)  # fmt: skip
def test_other_state_dicts_are_refused_by_name(tmp_path, name, sentence):
    write(tmp_path / "model.safetensors", {name: np.zeros(1)})
    with pytest.raises(ValueError, match=sentence):
        models.load(tmp_path / "model.safetensors")


def test_old_class_name_of_diffusers_dit_is_read(tmp_path):
    folder = diffusers_folder(
        tmp_path / "net", _class_name="Transformer2DModel", norm_type="ada_norm_zero"
    )
    assert (
        models.load(folder).card.config.mlp_epsilon == 1e-5
    )  # what diffusers takes where the option is left out


@pytest.mark.parametrize(
    "name, told, kind",
    [
        ("SiT-S-2.safetensors", {}, "SiT"), ("my_dit.safetensors", {}, "DiT"), ("a.safetensors", {"kind": "SiT"}, "SiT"),
        ("a.safetensors", {"_class_name": "DiT"}, "DiT"), ("a.safetensors", {"time": "t=1 is DATA"}, "SiT"),
        ("site.safetensors", {}, None), ("DiT_or_SiT.safetensors", {}, None),
    ],
)  # fmt: skip
def test_dit_and_sit_are_told_apart_by_what_stands_beside_the_tensors(tmp_path, name, told, kind):
    path = original_file(tmp_path / "net", name, **told)
    if kind is None:
        with pytest.raises(ValueError, match='pass kind="DiT" or kind="SiT"'):
            models.load(path)
    else:
        assert models.load(path).card.clock == {"SiT": "1 - t", "DiT": "index"}[kind]


def test_heads_are_asked_for_and_square_sizes_read_from_the_tensors(tmp_path):
    tensors = original_state(4, grid=(5, 5))
    write(tmp_path / "SiT.safetensors", tensors)
    with pytest.raises(
        ValueError, match="width 16, and no tensor tells the number of heads; pass heads="
    ):
        models.load(tmp_path / "SiT.safetensors")
    config = models.load(tmp_path / "SiT.safetensors", heads=2).card.config
    assert config == models.DiTConfig(
        (20, 20), channels=3, patch=4, width=16, depth=2, heads=2, classes=5
    )
    write(tmp_path / "SiT.safetensors", original_state(4))
    with pytest.raises(ValueError, match=r"15 tokens, no square; .* input_size"):
        models.load(tmp_path / "SiT.safetensors", heads=2)


def test_autoencoder_folder_gives_an_autoencoder_and_two_files_are_asked_about(tmp_path):
    assert isinstance(models.load(GOLDEN / "vae_kl"), models.Autoencoder)
    folder = original_file(tmp_path / "net", "SiT.safetensors").parent
    shutil.copy(folder / "SiT.safetensors", folder / "ema.safetensors")
    with pytest.raises(
        ValueError, match=r"2 files of tensors: SiT.safetensors, ema.safetensors. Pass one"
    ):
        models.load(folder)
    shutil.move(folder / "ema.safetensors", folder / "SiT.fp16.safetensors")
    assert models.load(folder).card.name == "net"  # a variant comes second


def test_pickle_without_torch_says_how_to_convert(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="(?s)torch, which is not installed.*save_file"):
        models.load(GOLDEN / "sit_original" / "model.pt")


def test_missing_path_says_what_is_wanted(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="wanted a folder, a file of tensors, a name on the hub"
    ):
        models.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no tensors"):
        models.load(tmp_path)


# The hub.


def hub(monkeypatch, folder=None):
    """A hub that gives `folder`, or no connection; the patterns that it was asked for."""
    asked = []

    def snapshot_download(name, *, allow_patterns, ignore_patterns):
        asked.append(allow_patterns)
        if folder is None:
            raise ConnectionError("no route to host")
        return str(folder)

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download)
    )
    return asked


def test_hub_name_without_internet_or_package_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub(monkeypatch)
    with pytest.raises(
        FileNotFoundError, match="(?s)no route to host.*hf download someone/DiT --local-dir DiT"
    ):
        models.load("someone/DiT")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        FileNotFoundError, match="(?s)not installed.*hf download someone/DiT --local-dir DiT"
    ):
        models.load("someone/DiT")


def test_hub_gives_the_needed_files_only_and_a_folder_of_that_name_comes_first(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = diffusers_folder(tmp_path / "net")
    asked = hub(monkeypatch, folder)
    assert_same(models.load("someone/DiT").params, models.load(folder).params)
    assert asked == ["*.json", ["*.safetensors"]]
    diffusers_folder(pathlib.Path("someone/DiT"), patch=4)
    assert models.load("someone/DiT").card.config.patch == 4
    assert len(asked) == 2
    write_json(folder / "config.json", {"_class_name": "FluxTransformer2DModel"})
    with pytest.raises(ValueError, match="Flux"):
        models.load("someone/Flux")
    assert asked[2:] == ["*.json"]  # refused before any weights are fetched


# Our own.

SMALL = models.DiTConfig(
    (4, 6), channels=1, patch=2, width=8, depth=2, heads=2, classes=3, dtype="bfloat16"
)


def small(**card):
    shapes = models.network(SMALL).shapes()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), "float32"), shapes)
    return models.model(models.Card("small", SMALL, **card), params)


CARDS = [
    {}, {"schedule": Cosine(), "prediction": "v"}, {"schedule": VPLinear(0.2, 10.0), "prediction": "data"},
    {
        "schedule": VPDiscrete.scaled_linear(50, log_snr_min=None), "prediction": "noise", "clock": "index",
        "details": {"steps": 7, "loss": [1.5, 0.25]}, "scheduler": {"_class_name": "DDIMScheduler"},
    },
]  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_what_is_saved_is_loaded(tmp_path, card):
    model = small(**card)
    models.save(tmp_path / "net", model, dtype="float32")
    models.save(tmp_path / "net", model, dtype="float32")  # over the first
    loaded = models.load(tmp_path / "net")
    assert_same(loaded.params, model.params)
    plain = lambda card: dataclasses.replace(card, schedule=Linear())
    assert plain(loaded.card) == plain(model.card)
    t = np.linspace(0, 1, 9)
    np.testing.assert_array_equal(loaded.card.schedule.log_snr(t), model.card.schedule.log_snr(t))


def test_float16_is_the_default_and_numbers_beyond_it_are_refused(tmp_path):
    model = small()
    models.save(tmp_path, model)
    loaded = models.load(tmp_path, dtype="float32")
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(
            a, np.asarray(b).astype("float16").astype("float32")
        ),
        loaded.params,
        model.params,
    )
    assert loaded.card.config.dtype == "float32"
    large = model._replace(params=jax.tree.map(lambda a: 1e6 * a, model.params))
    with (
        pytest.raises(ValueError, match="blocks.key.bias is not finite in float16"),
        np.errstate(over="ignore"),
    ):
        models.save(tmp_path, large)
    assert_same(
        models.load(tmp_path).params, loaded.params
    )  # the refused save left the old one whole


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda card: "{", "card.json is no JSON"),
        (lambda card: "[]", "holds a list"),
        (lambda card: card.pop("schedule"), "card.json lacks 'schedule'"),
        (lambda card: card["schedule"].update(name="Quadratic"), "'Quadratic' is not known"),
        (lambda card: card.update(prediction="x"), "prediction='x'"),
        (lambda card: card.update(colour="red"), "colour"),
        (lambda card: card["config"].update(heads=3), "multiple of heads=3"),
        (lambda card: card["config"].update(depth=3), r"14 tensor\(s\) of .* do not fit"),
    ],
)
def test_broken_card_is_refused(tmp_path, change, sentence):
    models.save(tmp_path, small())
    path = tmp_path / own.CARD
    card = json.loads(path.read_text())
    text = change(card)
    path.write_text(text if text in ("{", "[]") else json.dumps(card))
    with pytest.raises(ValueError, match=sentence):
        models.load(tmp_path)


def test_shipped_network_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(models.weights, "ASSETS", tmp_path)
    with pytest.raises(
        FileNotFoundError, match="the network 'digits' is not in this copy of flowjax"
    ):
        models.load("digits")
    models.save(tmp_path / "digits", small())
    assert models.load("digits").card.name == "small"
