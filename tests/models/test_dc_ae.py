"""The deep compression autoencoder: tiles, scaling, resamplings, and what is refused.

That its numbers are the original's is a matter of the golden networks (test_published.py).
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from flowjax.models import AutoencoderDC, dc_ae
from flowjax.models.weights import dc_ae as files
from flowjax.models.weights.files import Tensors

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "models"
NAMES = ["dc_ae_a", "dc_ae_b"]


def config(name="dc_ae_a", **changes):
    """The config.json of a golden network, with changes."""
    return {**json.loads((GOLDEN / name / "config.json").read_text()), **changes}


def tensors(arrays):
    shapes = {name: array.shape for name, array in arrays.items()}
    return Tensors(pathlib.Path("made"), shapes, arrays.__getitem__)


@functools.cache
def exact(name):
    """A golden network in float64."""
    arrays = load_file(GOLDEN / name / "diffusion_pytorch_model.safetensors")
    found = files.from_tensors(tensors(arrays), config(name))
    return jax.tree.map(lambda p: p.astype(jnp.float64), found)


def latents(vae, height, width):
    shape = (2, height, width, vae.config.latent_channels)
    return np.random.default_rng(0).standard_normal(shape)


@pytest.mark.parametrize("tile", [3, 8])
@pytest.mark.parametrize("name", NAMES)
def test_tiled_decode_is_the_decode_in_one_piece(name, tile):
    vae = exact(name)
    z = latents(vae, 5, 7)  # no side a multiple of the tile
    whole = jax.jit(AutoencoderDC.decode)(vae, z)
    np.testing.assert_allclose(vae.decode(z, tile=tile), whole, rtol=0, atol=1e-12)


def test_tiles_inside_jit_are_refused():
    vae = exact("dc_ae_a")
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda z: vae.decode(z, tile=4))(latents(vae, 2, 2))


@pytest.mark.parametrize("name", NAMES)
def test_sizes_and_scale_are_those_of_the_config(name):
    vae = exact(name)
    factor = 2 ** (len(config(name)["encoder_block_out_channels"]) - 1)
    z = latents(vae, 2, 3)
    images = vae.to_images(z)
    assert images.shape == (2, 2 * factor, 3 * factor, 3)
    np.testing.assert_allclose(images, vae.decode(z / config(name)["scaling_factor"]))
    scaled = vae.encode(images) * config(name)["scaling_factor"]
    np.testing.assert_allclose(vae.to_latents(images), scaled)


def test_channels_of_pixels_and_pixels_of_channels_are_inverse():
    x = np.random.default_rng(1).standard_normal((2, 4, 6, 3))
    moved = dc_ae._channels_of_pixels(x)
    assert moved.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(dc_ae._pixels_of_channels(moved), x)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoder_block_types": "UNetBlock"}, "UNetBlock"),
        ({"decoder_norm_types": "layer_norm"}, "layer_norm"),
        ({"decoder_act_fns": "relu6"}, "relu6"),
        ({"encoder_layers_per_block": [1, 0, 2]}, "without layers"),
        ({"encoder_layers_per_block": [1, 2]}, "2 entries for 3 stages"),
        ({"decoder_qkv_multiscales": [[], [], [4]]}, "odd sides"),
        ({"temporal": 3}, "'temporal' is not known"),
    ],
)
def test_another_config_is_refused_by_name(changes, words):
    with pytest.raises(ValueError, match=words):
        files.config_from_diffusers(config(**changes))


def test_missing_unexpected_and_misshapen_tensors_are_named():
    arrays = load_file(GOLDEN / "dc_ae_a" / "diffusion_pytorch_model.safetensors")
    arrays["decoder.extra.weight"] = arrays.pop("decoder.conv_in.weight")
    arrays["encoder.conv_in.bias"] = np.zeros(3, np.float32)
    words = "missing decoder.conv_in.weight.*unexpected decoder.extra.*encoder.conv_in.bias has"
    with pytest.raises(ValueError, match=words):
        files.from_tensors(tensors(arrays), config())


@pytest.mark.parametrize("shape", [(2, 8, 8, 4), (2, 6, 8, 3), (8, 8, 3)])
def test_images_of_other_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted \(B, H, W, 3\), H and W multiples of 4"):
        exact("dc_ae_a").encode(np.zeros(shape))
