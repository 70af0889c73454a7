"""Files that are damaged or wrapped: each is read, or refused with one sentence and its way out."""

import argparse
import json

import jax
import numpy as np
import pytest

from flowjax import models
from flowjax.models.weights import content, files
from tests.models.weights.checkpoints import (
    CHANNELS,
    CLASSES,
    HEADS,
    diffusers_config,
    diffusers_folder,
    diffusers_state,
    original_file,
    original_state,
    write,
    write_json,
)

HTML = b"\n<!DOCTYPE html><html><body>Sign in</body></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
UNSAFE = ("weights_only", "allow_pickle", "trusted")


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def refused(path, match, **options):
    """The sentence with which a file is refused, which never advises to load it unsafely."""
    with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
        models.load(path, **options)
    message = str(error.value)
    assert not any(word in message for word in UNSAFE) and "\n" not in message
    return message


# Files that hold no tensors.


@pytest.mark.parametrize("name", ["DiT.pt", "DiT.safetensors", "DiT.bin", "DiT.ckpt"])
@pytest.mark.parametrize(
    "bytes_of_file, message",
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (HTML, "is a page of the web"),
        (POINTER, "is a pointer of git-lfs.*git lfs pull"),
    ],
)
def test_what_is_no_file_of_tensors_is_named(tmp_path, name, bytes_of_file, message):
    (tmp_path / name).write_bytes(bytes_of_file)
    assert name in refused(tmp_path / name, message)
    # Alone in a folder too.
    refused(tmp_path, message)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.safetensors", "x.bin"])
def test_a_pointer_in_a_folder_of_diffusers_is_named(tmp_path, name):
    write_json(tmp_path / "config.json", diffusers_config(1))
    (tmp_path / name).write_bytes(POINTER)
    refused(tmp_path, "is a pointer of git-lfs")


# The beginnings of what torch raises, which end with the advice to load the file unsafely.
GLOBAL = (
    "Weights only load failed. Re-running `torch.load` with `weights_only` set to `False` will "
    "likely succeed.\nWeightsUnpickler error: Unsupported global: GLOBAL os.system was not an "
    "allowed global by default."
)
OTHER = "Weights only load failed. In PyTorch 2.6, we changed the default of `weights_only`."


@pytest.mark.parametrize(
    "error, message", [(GLOBAL, "objects of os.system beside tensors"), (OTHER, "is damaged")]
)
def test_the_advice_of_torch_is_not_handed_on(tmp_path, error, message):
    (tmp_path / "a.pt").write_bytes(b"anything")
    found = content.torch_fault(tmp_path / "a.pt", RuntimeError(error))
    assert message in found and not any(word in found for word in UNSAFE)


class Dangerous:
    """An object whose unpickling would call a function."""

    def __reduce__(self):
        return (print, ("called",))


def test_a_pickle_that_would_run_code_is_refused_by_torch(tmp_path, capsys):
    torch = pytest.importorskip("torch")
    torch.save({"model": {"a": torch.zeros(1)}, "args": Dangerous()}, tmp_path / "DiT.pt")
    refused(tmp_path / "DiT.pt", "holds objects of .*print beside tensors")
    assert "called" not in capsys.readouterr().out
    (tmp_path / "DiT.pt").write_bytes((tmp_path / "DiT.pt").read_bytes()[:-300])
    refused(tmp_path / "DiT.pt", "is damaged, or torch.save did not write it")


# Several files of torch, and names within wrappers.


@pytest.fixture
def bin_is_safetensors(monkeypatch):
    """Files of torch are read as safetensors, so that this needs no torch."""
    monkeypatch.setattr(files, "_torch", files._safetensors)


def sharded_folder(folder):
    """A folder of diffusers whose tensors lie in two .bin files, with their index."""
    tensors = diffusers_state(original_state(1))
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.bin": names[i::2] for i in range(2)}
    write_json(folder / "config.json", diffusers_config(1))
    for file, part in parts.items():
        write(folder / file, {name: tensors[name] for name in part})
    file_of = {name: file for file, part in parts.items() for name in part}
    write_json(folder / "pytorch_model.bin.index.json", {"weight_map": file_of})
    return folder


def test_the_bin_files_of_an_index_are_one_checkpoint(tmp_path, bin_is_safetensors):
    folder, complete = sharded_folder(tmp_path / "parts"), diffusers_folder(tmp_path / "complete")
    assert_same(models.load(folder).params, models.load(complete).params)
    # A shard that is missing, one that is a pointer, and an index that gives no names.
    (folder / "model-00001-of-00002.bin").write_bytes(POINTER)
    refused(folder, "model-00001-of-00002.bin is a pointer of git-lfs")
    (folder / "model-00001-of-00002.bin").unlink()
    refused(folder, "there is no .*model-00001-of-00002.bin")
    write_json(folder / "pytorch_model.bin.index.json", {"weight_map": {"a": 3}})
    refused(folder, "weight_map .* names of files")


def test_the_bin_files_of_an_index_are_read_by_torch(tmp_path):
    torch = pytest.importorskip("torch")
    folder, complete = sharded_folder(tmp_path / "parts"), diffusers_folder(tmp_path / "complete")
    tensors = diffusers_state(original_state(1))
    weight_map = json.loads((folder / "pytorch_model.bin.index.json").read_text())["weight_map"]
    for file in set(weight_map.values()):
        part = {name: torch.tensor(tensors[name]) for name in tensors if weight_map[name] == file}
        torch.save(part, folder / file)
    assert_same(models.load(folder).params, models.load(complete).params)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"_orig_mod.module.{name}",
        # Each block was compiled alone.
        lambda name: name.replace("blocks.0.", "blocks.0._orig_mod."),
    ],
)
def test_wrappers_of_training_are_taken_off_the_names(tmp_path, wrap):
    def rename(tensors):
        wrapped = {wrap(name): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(wrapped)

    plain = models.load(original_file(tmp_path / "plain", "DiT.safetensors"))
    found = models.load(original_file(tmp_path / "wrapped", "DiT.safetensors", change=rename))
    assert_same(found.params, plain.params)
    folder = diffusers_folder(tmp_path / "diffusers", change=rename)
    assert_same(models.load(folder).params, models.load(diffusers_folder(tmp_path / "d")).params)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    def double(tensors):
        tensors["module.pos_embed"] = tensors["pos_embed"]

    refused(
        original_file(tmp_path / "net", "DiT.safetensors", change=double),
        "the tensor pos_embed twice",
    )


# A network that was trained without the null label.

ROWS = CLASSES + 1
TABLE = "y_embedder.embedding_table.weight"


def without_null(folder, **options):
    return original_file(folder, "DiT.safetensors", **options)


@pytest.mark.parametrize(
    "options", [{"num_classes": ROWS}, {"class_dropout_prob": 0}, {"class_dropout_prob": 0.0}]
)
def test_a_table_without_the_null_label_keeps_its_last_class(tmp_path, options):
    model = models.load(without_null(tmp_path / "net", **options))
    assert (model.card.config.classes, model.card.config.has_null) == (ROWS, False)
    assert np.array_equal(model.params["labels"]["embedding"], original_state(1)[TABLE])


def test_a_network_without_the_null_label_answers_for_its_classes_alone(tmp_path):
    model = models.load(without_null(tmp_path / "net", num_classes=ROWS))
    x, labels = np.zeros((2, 3, 5, CHANNELS), np.float32), np.array([ROWS - 1, ROWS])
    with pytest.raises(ValueError, match=f"wanted integers from 0 to {ROWS - 1}[.]"):
        model.apply(model.params, x, 0.5, labels)
    for missing in (lambda: model.card.null_label, lambda: model.apply(model.params, x, 0.5, None)):
        with pytest.raises(ValueError, match="trained without a null label"):
            missing()
    # Inside jit a label out of range is not a number.
    found = jax.jit(model.apply)(model.params, x, 0.5, labels)
    assert np.all(np.isfinite(found[0])) and np.all(np.isnan(found[1]))


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": CLASSES}, {"class_dropout_prob": 0.1}, {"num_classes": None}]
)
def test_the_null_label_is_the_last_row_where_the_file_says_so_or_nothing(tmp_path, options):
    config = models.load(without_null(tmp_path / "net", **options)).card.config
    assert (config.classes, config.has_null) == (CLASSES, True)


def test_a_table_of_a_thousand_rows_has_the_classes_of_imagenet_and_no_null_label(tmp_path):
    def enlarge(tensors):
        tensors[TABLE] = np.zeros((1000, tensors[TABLE].shape[1]), np.float32)

    config = models.load(without_null(tmp_path / "net", change=enlarge)).card.config
    assert (config.classes, config.has_null) == (1000, False)


def test_the_command_of_the_training_tells_the_number_of_classes(tmp_path):
    torch = pytest.importorskip("torch")
    original_file(tmp_path / "net", "unused.safetensors")
    state = {name: torch.tensor(tensor) for name, tensor in original_state(1).items()}
    for rows, has_null in ((ROWS, False), (CLASSES, True)):
        arguments = argparse.Namespace(num_classes=rows, model="DiT-S/2")
        torch.save({"ema": state, "args": arguments}, tmp_path / "net" / "DiT.pt")
        config = models.load(tmp_path / "net" / "DiT.pt").card.config
        assert (config.classes, config.has_null) == (rows, has_null)


def test_a_network_without_the_null_label_is_saved_and_loaded(tmp_path):
    model = models.load(without_null(tmp_path / "net", num_classes=ROWS))
    models.save(tmp_path / "own", model, dtype="float32")
    assert models.load(tmp_path / "own").card.config == model.card.config
    assert_same(models.load(tmp_path / "own").params, model.params)


# Sizes that are none.


@pytest.mark.parametrize("value", [0, -1, None, "2", 1.5, True, [2]])
@pytest.mark.parametrize(
    "name",
    ["num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "patch_size"],
)
def test_a_size_of_a_diffusers_config_that_is_none_is_named(tmp_path, name, value):
    refused(diffusers_folder(tmp_path / "net", **{name: value}), f"{name}=.* a whole number")


@pytest.mark.parametrize(
    "options",
    [
        {"sample_size": None},
        {"sample_size": [0, 4]},
        {"sample_size": "32"},
        {"sample_size": {"height": 3}},
        {"out_channels": 0},
        {"norm_eps": None},
        {"norm_eps": -1.0},
    ],
)
def test_another_option_of_a_diffusers_config_that_is_none_is_named(tmp_path, options):
    refused(diffusers_folder(tmp_path / "net", **options), "DiTConfig: .*; wanted|has size=")


@pytest.mark.parametrize("value", [0, -1, "2", 1.5, True])
@pytest.mark.parametrize(
    "name", ["depth", "num_heads", "hidden_size", "in_channels", "patch_size", "num_classes"]
)
def test_a_size_of_an_original_config_that_is_none_is_named(tmp_path, name, value):
    path = original_file(tmp_path / "net", "DiT.safetensors", **{name: value})
    refused(path, f"{name}=.* a whole number of at least 1")


def test_what_is_null_in_an_original_config_is_not_given(tmp_path):
    path = original_file(tmp_path / "net", "DiT.safetensors", depth=None, hidden_size=None)
    assert models.load(path).card.config.depth == 2
    path = original_file(tmp_path / "other", "DiT.safetensors", learn_sigma="yes")
    refused(path, "learn_sigma='yes' is not known")
    refused(path, "heads=0; wanted a whole number", heads=0)


def small():
    sizes = models.DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=3)
    return models.init(sizes, jax.random.key(0))


@pytest.mark.parametrize("name", ["heads", "depth", "patch", "width", "channels", "classes"])
@pytest.mark.parametrize("value", [None, -1, "2", 1.5])
def test_a_size_of_a_card_that_is_none_is_named(tmp_path, name, value):
    models.save(tmp_path, small())
    card = json.loads((tmp_path / "card.json").read_text())
    card["config"][name] = value
    write_json(tmp_path / "card.json", card)
    refused(tmp_path, f"card.json is refused: DiTConfig: {name}=")


@pytest.mark.parametrize(
    "change",
    [{"config": None}, {"schedule": None}, {"details": [1]}, {"scheduler": "x"}, {"config": {}}],
)
def test_a_part_of_a_card_that_is_none_is_named(tmp_path, change):
    models.save(tmp_path, small())
    card = json.loads((tmp_path / "card.json").read_text()) | change
    write_json(tmp_path / "card.json", card)
    refused(tmp_path, "card.json is refused")


@pytest.mark.parametrize(
    "options",
    [
        {"layers_per_block": None},
        {"layers_per_block": 0},
        {"block_out_channels": None},
        {"block_out_channels": []},
        {"block_out_channels": [16, 0]},
        {"norm_num_groups": 0},
        {"norm_num_groups": 5},
        {"scaling_factor": 0},
        {"scaling_factor": "x"},
    ],
)
def test_a_size_of_an_autoencoder_that_is_none_is_named(tmp_path, options):
    sizes = {"block_out_channels": [16, 16], "layers_per_block": 1, "norm_num_groups": 4}
    write_json(tmp_path / "config.json", {"_class_name": "AutoencoderKL"} | sizes | options)
    write(tmp_path / "model.safetensors", {"a": np.zeros(1)})
    refused(tmp_path, "the sizes in config.json are refused|lacks block_out_channels")


def test_heads_that_are_given_are_used(tmp_path):
    path = original_file(tmp_path / "net", "DiT.safetensors")
    assert models.load(path, heads=4).card.config.heads == 4
    assert models.load(path).card.config.heads == HEADS
