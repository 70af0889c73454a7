"""Files: several files, fewer bits, broken ones; which network they hold; and the hub."""

import pathlib
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flowjax import models
from tests.golden import network_cases
from tests.models.weights.checkpoints import (
    WIDTH,
    diffusers_config,
    diffusers_folder,
    diffusers_state,
    original_file,
    original_state,
    write,
    write_json,
)

GOLDEN = network_cases.HERE


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# Several files, and fewer bits.


def test_the_files_of_an_index_are_one_checkpoint(tmp_path):
    complete, folder = diffusers_folder(tmp_path / "complete"), tmp_path / "parts"
    tensors = diffusers_state(original_state(1))
    names = sorted(tensors)
    # The tensors of one network in two files, and the index that joins them.
    files = {
        "a-00001-of-00002.safetensors": names[::2],
        "a-00002-of-00002.safetensors": names[1::2],
    }
    write_json(folder / "config.json", diffusers_config(1))
    for file, part in files.items():
        write(folder / file, {name: tensors[name] for name in part})
    file_of = {name: file for file, part in files.items() for name in part}
    write_json(folder / "a.safetensors.index.json", {"weight_map": file_of})

    assert_same(models.load(folder).params, models.load(complete).params)
    # A file of the index is missing.
    (folder / "a-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="a-00002-of-00002"):
        models.load(folder)


def dtypes(model):
    return {a.dtype for a in jax.tree.leaves(model.params)}


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_raised_to_float32(tmp_path, dtype):
    def halve(tensors):
        tensors |= {name: tensor.astype(dtype) for name, tensor in tensors.items()}

    def rounded(a):
        return np.asarray(a).astype(dtype).astype("float32")

    model = models.load(original_file(tmp_path / "half", "SiT.safetensors", change=halve))
    exact = models.load(original_file(tmp_path / "exact", "SiT.safetensors"))
    assert dtypes(model) == {jnp.dtype("float32")}
    assert_same(model.params, jax.tree.map(rounded, exact.params))

    # The caller may choose both dtypes.
    again = models.load(tmp_path / "half", kind="SiT", params_dtype=dtype, dtype="bfloat16")
    assert dtypes(again) == {jnp.dtype(dtype)}
    assert again.card.config.dtype == "bfloat16"


# Tensors that do not fit.


def drop(*names):
    """A change that removes tensors."""
    return lambda tensors: [tensors.pop(name) for name in names]


def drop_second_block(tensors):
    for name in [name for name in tensors if ".1." in name]:
        del tensors[name]


def put(name, value):
    """A change that sets a tensor to `value(tensors)`."""
    return lambda tensors: tensors.update({name: value(tensors)})


FIRST, LATER = (f"transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1.bias" for i in (0, 1))
THIRD_BLOCK = "transformer_blocks.2.ff.net.2.bias"

# name -> (change, the message that is wanted)
FAULTS = {
    "missing": (drop("proj_out_2.bias"), "1 missing: proj_out_2.bias"),
    "many missing": (drop_second_block, r"missing: .* and \d+ more"),
    "unexpected": (
        put("proj_out_3.bias", lambda t: t["proj_out_2.bias"]),
        "1 unexpected: proj_out_3.bias",
    ),
    "another block": (
        put(THIRD_BLOCK, lambda t: t["proj_out_1.bias"]),
        "1 unexpected: transformer_blocks.2.ff",
    ),
    "misshapen": (
        put("proj_out_1.bias", lambda t: t["proj_out_1.bias"][:-1]),
        r"1 misshapen: proj_out_1.bias \(31,\) \(wanted \(32,\)",
    ),
    "two embedders": (
        put(LATER, lambda t: t[FIRST] + 1),
        f"different embedders .* 1 tensor.* block 0's: {LATER}",
    ),
    "other positions": (
        put("pos_embed.pos_embed", lambda t: np.zeros((1, 15, WIDTH), np.float32)),
        "differs by up to 1",
    ),
    "integers": (
        put("proj_out_1.bias", lambda t: np.zeros(32, np.int8)),
        "is int8; quantised",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_tensor_is_accounted_for(tmp_path, fault):
    change, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        models.load(diffusers_folder(tmp_path / "net", change=change))


REVERSED_POSITIONS = put("pos_embed", lambda t: t["pos_embed"][:, ::-1])


@pytest.mark.parametrize("change", [drop("pos_embed"), REVERSED_POSITIONS])
def test_original_state_dict_must_hold_our_positions(tmp_path, change):
    with pytest.raises(ValueError, match="pos_embed of .* (missing|differs)"):
        models.load(original_file(tmp_path / "net", "SiT.safetensors", change=change))


@pytest.mark.parametrize(
    "sizes", [{"depth": 3}, {"num_classes": 7}, {"learn_sigma": False}, {"patch_size": 3}]
)
def test_sizes_in_a_config_must_be_those_of_the_tensors(tmp_path, sizes):
    with pytest.raises(ValueError, match="missing|misshapen|multiples"):
        models.load(original_file(tmp_path / "net", "SiT.safetensors", **sizes))


# Nothing, part of the header's length, part of the header, and all but the last number.
@pytest.mark.parametrize("keep", [0, 5, 1000, -4])
def test_truncated_file_is_refused(tmp_path, keep):
    folder = diffusers_folder(tmp_path / "net")
    file = folder / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="no complete safetensors file"):
        models.load(folder)


# Which network it is.


@pytest.mark.parametrize(
    "config, named",
    [
        ({"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
        ({"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        ({"_class_name": "SD3Transformer2DModel"}, "SD3Transformer2DModel"),
        ({"_class_name": "PixArtTransformer2DModel"}, "PixArtTransformer2DModel"),
        (
            {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"},
            "ada_norm_single",
        ),
        ({"_class_name": "Transformer2DModel"}, "Transformer2DModel"),
        ({"_class_name": "DiTTransformer2DModel", "activation_fn": "geglu"}, "geglu"),
    ],
)
def test_other_networks_of_diffusers_are_refused_by_name(tmp_path, config, named):
    write_json(tmp_path / "config.json", config)
    write(tmp_path / "model.safetensors", {"a": np.zeros(1)})
    with pytest.raises(ValueError, match=named):
        models.load(tmp_path)


@pytest.mark.parametrize(
    "name, message",
    [
        ("double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("joint_blocks.0.x", "Stable Diffusion 3"),
        ("down_blocks.0.x", "U-Net"),
        ("transformer_blocks.0.x", "pass the folder"),
        ("h.0.attn", "no DiT or SiT"),
    ],
)
def test_other_state_dicts_are_refused_by_name(tmp_path, name, message):
    write(tmp_path / "model.safetensors", {name: np.zeros(1)})
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path / "model.safetensors")


def test_old_class_name_of_diffusers_dit_is_read(tmp_path):
    folder = diffusers_folder(
        tmp_path / "net", _class_name="Transformer2DModel", norm_type="ada_norm_zero"
    )
    # diffusers takes 1e-5 where the option is left out.
    assert models.load(folder).card.config.mlp_epsilon == 1e-5


@pytest.mark.parametrize(
    "name, config, kind",
    [
        # By the name of the file.
        ("SiT-S-2.safetensors", {}, "SiT"),
        ("my_dit.safetensors", {}, "DiT"),
        # By config.json.
        ("a.safetensors", {"kind": "SiT"}, "SiT"),
        ("a.safetensors", {"_class_name": "DiT"}, "DiT"),
        ("a.safetensors", {"time": "t=1 is DATA"}, "SiT"),
        # By neither: a part of a word, and both names.
        ("site.safetensors", {}, None),
        ("DiT_or_SiT.safetensors", {}, None),
    ],
)
def test_dit_and_sit_are_distinguished_by_names_and_config(tmp_path, name, config, kind):
    path = original_file(tmp_path / "net", name, **config)
    if kind is None:
        with pytest.raises(ValueError, match='pass kind="DiT" or kind="SiT"'):
            models.load(path)
    else:
        assert models.load(path).card.clock == {"SiT": "1 - t", "DiT": "index"}[kind]


def test_unknown_heads_are_asked_for_and_square_sizes_read_from_the_tensors(tmp_path):
    file = tmp_path / "SiT.safetensors"
    write(file, original_state(4, grid=(5, 5)))
    message = "width 16, and no tensor tells the number of heads; pass heads="
    with pytest.raises(ValueError, match=message):
        models.load(file)
    config = models.load(file, heads=2).card.config
    assert config == models.DiTConfig(
        (20, 20), channels=3, patch=4, width=16, depth=2, heads=2, classes=5
    )
    # A grid of 3 x 5 tokens.
    write(file, original_state(4))
    with pytest.raises(ValueError, match=r"15 tokens, no square; .* input_size"):
        models.load(file, heads=2)


def test_autoencoder_folder_gives_an_autoencoder():
    assert isinstance(models.load(GOLDEN / "vae_kl"), models.Autoencoder)


def test_a_folder_with_two_files_of_tensors_is_refused_unless_one_is_a_variant(tmp_path):
    folder = original_file(tmp_path / "net", "SiT.safetensors").parent
    shutil.copy(folder / "SiT.safetensors", folder / "ema.safetensors")
    message = r"2 files of tensors: SiT.safetensors, ema.safetensors. Pass one"
    with pytest.raises(ValueError, match=message):
        models.load(folder)
    # Under the name of a variant it is passed over.
    shutil.move(folder / "ema.safetensors", folder / "SiT.fp16.safetensors")
    assert models.load(folder).card.name == "net"


def test_pickle_without_torch_gives_the_commands_that_convert_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match="(?s)torch, which is not installed.*save_file"):
        models.load(GOLDEN / "sit_original" / "model.pt")


def test_missing_path_gives_what_is_wanted(tmp_path):
    message = "wanted a folder, a file of tensors, a name on the hub"
    with pytest.raises(FileNotFoundError, match=message):
        models.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="holds no tensors"):
        models.load(tmp_path)


# The hub.


def replace_hub(monkeypatch, folder=None):
    """A hub that gives `folder`, or no connection. Returns the patterns of all requests."""
    requests = []

    def snapshot_download(name, *, allow_patterns, ignore_patterns):
        requests.append(allow_patterns)
        if folder is None:
            raise ConnectionError("no route to host")
        return str(folder)

    hub = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return requests


def test_hub_name_without_internet_or_package_gives_the_command_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = "hf download someone/DiT --local-dir DiT"
    replace_hub(monkeypatch)
    with pytest.raises(FileNotFoundError, match=f"(?s)no route to host.*{command}"):
        models.load("someone/DiT")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match=f"(?s)not installed.*{command}"):
        models.load("someone/DiT")


def test_hub_gives_only_the_needed_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = diffusers_folder(tmp_path / "net")
    requests = replace_hub(monkeypatch, folder)
    assert_same(models.load("someone/DiT").params, models.load(folder).params)
    assert requests == ["*.json", ["*.safetensors"]]

    # Another network is refused before any weights are fetched.
    write_json(folder / "config.json", {"_class_name": "FluxTransformer2DModel"})
    with pytest.raises(ValueError, match="Flux"):
        models.load("someone/Flux")
    assert requests[2:] == ["*.json"]


def test_a_folder_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    requests = replace_hub(monkeypatch)
    diffusers_folder(pathlib.Path("someone/DiT"), patch=4)
    assert models.load("someone/DiT").card.config.patch == 4
    assert requests == []
