"""Public files of SANA: the golden networks, original state dicts, pipelines, and refusals."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from flowjax import models
from tests.golden import network_cases
from tests.models.weights import sana_files

GOLDEN = sana_files.GOLDEN


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


@pytest.mark.parametrize(
    ("name", "cases"),
    [
        ("sana_a", 4),
        ("dc_ae_b", 4),
        # As the other ones, with other sizes.
        pytest.param("sana_b", 4, marks=pytest.mark.slow),
        pytest.param("dc_ae_a", 4, marks=pytest.mark.slow),
    ],
)
def test_golden_networks_give_what_the_originals_give(name, cases):
    lines = []
    found = network_cases.run_folder(GOLDEN / name, show=lines.append)
    assert found == (cases, 0), lines


# Original state dicts.


def original_file(folder, name, config, **beside):
    """The original file of a golden network, with this config.json beside it."""
    state = sana_files.original_state(name, config)
    path = folder / "sana.safetensors"
    safetensors.numpy.save_file(state, path)
    (folder / "config.json").write_text(json.dumps(beside))
    return path, state


@pytest.mark.parametrize("name", ["sana_a", "sana_b"])
def test_an_original_state_dict_is_the_network_of_its_diffusers_folder(tmp_path, name):
    wanted = models.load(GOLDEN / name)
    config = wanted.card.config
    heads = {"num_heads": config.cross_heads, "linear_head_dim": config.width // config.heads}
    path, _ = original_file(tmp_path, name, config, **heads)
    found = models.load(path)
    assert found.card.config == config
    same(found.params, wanted.params)
    assert (found.card.prediction, found.card.clock) == ("velocity", "1000 t")


@pytest.mark.parametrize("interpolation", [1.0, 2.0])
def test_the_stored_embedding_of_places_tells_the_interpolation(tmp_path, interpolation):
    config = models.load(GOLDEN / "sana_a").card.config
    config = dataclasses.replace(config, interpolation=interpolation)
    path, state = original_file(tmp_path, "sana_a", config, num_heads=2, linear_head_dim=8)
    assert models.load(path).card.config == config
    # Another table of places is refused.
    state["pos_embed"] = state["pos_embed"] + 0.1 * np.eye(64, 32, dtype=np.float32)[None]
    safetensors.numpy.save_file(state, path)
    with pytest.raises(ValueError, match="pos_embed.*differs"):
        models.load(path)


def test_a_state_dict_of_torch_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    wanted = models.load(GOLDEN / "sana_a")
    path, state = original_file(
        tmp_path, "sana_a", wanted.card.config, num_heads=2, linear_head_dim=8
    )
    path.unlink()
    state = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "sana.pth")
    same(models.load(tmp_path / "sana.pth").params, wanted.params)


def test_an_original_state_dict_of_an_unknown_width_wants_its_heads(tmp_path):
    config = models.load(GOLDEN / "sana_a").card.config
    path, _ = original_file(tmp_path, "sana_a", config, linear_head_dim=8)
    with pytest.raises(ValueError, match=r"width 32.*pass heads= .*16 for 1152"):
        models.load(path)
    assert models.load(path, heads=2).card.config == config


# Pipelines.


def test_a_pipeline_has_its_scheduler_and_its_autoencoder(tmp_path):
    folder = sana_files.pipeline_folder(tmp_path / "tiny-sana")
    model = models.load(folder, dtype="bfloat16")
    assert model.card.name == "tiny-sana" and model.card.config.dtype == "bfloat16"
    assert model.card.scheduler == sana_files.SCHEDULER
    assert isinstance(model.card.vae, models.AutoencoderDC)
    same(model.params, models.load(GOLDEN / "sana_a").params)


def half_precision_shards(folder, variant):
    """Replace the transformer's file by two shards in half precision, with their index."""
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    path.unlink()
    names = sorted(arrays)
    where = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"diffusion_pytorch_model.{variant}-0000{i + 1}-of-00002.safetensors"
        dtype = jnp.dtype({"fp16": "float16", "bf16": "bfloat16"}[variant])
        shard = {name: np.asarray(arrays[name]).astype(dtype) for name in part}
        safetensors.numpy.save_file(shard, path.with_name(file))
        where |= dict.fromkeys(part, file)
    index = path.with_name(f"diffusion_pytorch_model.safetensors.index.{variant}.json")
    index.write_text(json.dumps({"weight_map": where}))


@pytest.mark.parametrize(("variant", "bits"), [("fp16", 11), ("bf16", 8)])
def test_shards_of_a_variant_in_half_precision_are_read(tmp_path, variant, bits):
    folder = sana_files.pipeline_folder(tmp_path / "net")
    half_precision_shards(folder, variant)
    found, wanted = models.load(folder).params, models.load(GOLDEN / "sana_a").params
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2.0**-bits, atol=1e-7), found, wanted
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("part", ["scheduler/scheduler_config.json", "vae/config.json"])
def test_a_pipeline_that_lacks_a_part_is_refused(tmp_path, part):
    folder = sana_files.pipeline_folder(tmp_path / "net")
    (folder / part).unlink()
    with pytest.raises(FileNotFoundError, match=f"SanaPipeline without {part}"):
        models.load(folder)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    folder = sana_files.pipeline_folder(tmp_path / "channels", vae="dc_ae_b")
    with pytest.raises(ValueError, match="latents of 8 channels.*decodes 16"):
        models.load(folder)
    folder = sana_files.pipeline_folder(tmp_path / "kind", vae="vae_kl")
    with pytest.raises(ValueError, match="_class_name='AutoencoderKL'"):
        models.load(folder)
    epsilon = {**sana_files.SCHEDULER, "prediction_type": "epsilon"}
    folder = sana_files.pipeline_folder(tmp_path / "scheduler", scheduler=epsilon)
    with pytest.raises(ValueError, match="prediction_type='epsilon'"):
        models.load(folder)


def changed_folder(tmp_path, **changes):
    """The golden network with another config.json."""
    folder = sana_files.pipeline_folder(tmp_path / "net") / "transformer"
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cross_attention_dim": 48}, "cross_attention_dim=48; wanted the width"),
        ({"qk_norm": "rms_norm"}, "qk_norm='rms_norm' is not known"),
        ({"rope": True}, "'rope' is not known"),
        ({"num_layers": 4}, "is no SANA of .*depth=4.*missing: transformer_blocks.3"),
        ({"attention_bias": True}, "missing: transformer_blocks.0.attn1.to_k.bias"),
        ({"caption_channels": 25}, "caption=25.*misshapen: caption_projection.linear_1.weight"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_by_name(tmp_path, changes, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        models.load(changed_folder(tmp_path, **changes))


def test_the_scale_of_the_clock_is_that_of_the_config(tmp_path):
    card = models.load(changed_folder(tmp_path, timestep_scale=0.001)).card
    assert card.clock_at(0.25) == 0.25


def test_what_is_saved_is_loaded(tmp_path):
    model = models.load(GOLDEN / "sana_b")
    models.save(tmp_path / "own", model, dtype="float32")
    loaded = models.load(tmp_path / "own")
    assert loaded.card == model.card
    same(loaded.params, model.params)
