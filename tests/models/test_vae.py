"""The KL autoencoder: the original's numbers, tiles, layers, scaling and published files."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from flowjax.models import Autoencoder, tiles, vae
from flowjax.models.weights import autoencoder

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "models" / "vae_kl"
PUBLISHED = vae.AutoencoderConfig((128, 256, 512, 512), layers=2, groups=32, latent_channels=4)
decode, encode = jax.jit(Autoencoder.decode), jax.jit(Autoencoder.encode)


def config(**changes):
    """The config.json of the golden network, with changes."""
    return {**json.loads((GOLDEN / "config.json").read_text()), **changes}


def tensors():
    return load_file(GOLDEN / "diffusion_pytorch_model.safetensors")


def expected(name):
    """An array that the original computed, (B, H, W, C)."""
    return np.load(GOLDEN / "expected.npz")[name].transpose(0, 2, 3, 1)


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(scope="module")
def golden():
    return autoencoder.from_diffusers(tensors(), config())


def unchanged(tensors):
    return tensors


def small(change=unchanged, **options):
    """A small autoencoder in float64: `change` acts on its tensors, `options` on its config."""
    sizes = config(
        block_out_channels=[4, 8],
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    shapes = autoencoder.shapes(autoencoder.config_from_diffusers(sizes))
    values = {name: 0.3 * drawn(i, *shape) for i, (name, shape) in enumerate(shapes.items())}
    found = autoencoder.from_diffusers(change(values), sizes | options)
    return jax.tree.map(lambda p: p.astype(jnp.float64), found)


@pytest.fixture(scope="module")
def exact():
    return small()


Z = drawn(0, 2, 5, 7, 4)  # latents: a batch of two, no side a power of two


def assert_close(found, wanted, bound=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound * np.abs(wanted).max())


def assert_same(tree, other):
    assert jax.tree.all(jax.tree.map(np.array_equal, tree, other))


# The original.


def test_decode_is_the_original(golden):
    assert_close(decode(golden, expected("z")), expected("image"))


def test_encode_is_the_original(golden):
    mean, log_variance = encode(golden, np.clip(expected("image"), -1, 1))
    assert_close(mean, expected("posterior_mean"))
    assert_close(log_variance, expected("posterior_logvar"))


def test_the_published_autoencoder_has_its_published_size():
    sizes = map(math.prod, autoencoder.shapes(PUBLISHED).values())
    assert sum(sizes) == 83_653_863


# Tiles.


@pytest.mark.parametrize("tile", [2, 4])
def test_tiled_decode_is_the_decode_in_one_piece(exact, tile):
    # In float64, so that only rounding remains.
    assert_close(exact.decode(Z, tile=tile), decode(exact, Z), 1e-13)


def test_a_tile_bounds_what_the_device_sees(exact, monkeypatch):
    sizes = set()
    run = tiles.run

    def recording_run(side, layer, p, *arrays):
        def recorded(p, *windows):
            sizes.update(window.shape[1:3] for window in windows)
            return layer(p, *windows)

        return run(side, recorded, p, *arrays)

    monkeypatch.setattr(tiles, "run", recording_run)
    exact.decode(Z, tile=2)
    # One pixel on each side of the tile, at every resolution.
    assert sizes == {(4, 4)}


def test_moments_on_the_host_are_those_of_the_device():
    # A mean far from zero, where a sum of squares would lose the variance.
    x = 1000 + drawn(0, 2, 5, 3, 8)
    for found, wanted in zip(tiles.moments(x, 4), vae._moments(x, 4), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("tile", [0, -4])
def test_a_tile_of_nothing_is_refused(golden, tile):
    with pytest.raises(ValueError, match=f"tile={tile}"):
        golden.decode(expected("z"), tile=tile)


def test_tiles_inside_jit_are_refused(golden):
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda z: golden.decode(z, tile=8))(expected("z"))


# Layers.


def numpy_attention(p, x, groups):
    """GroupNorm, and attention with one head between all pixels, added to x (B, h, w, C)."""
    batch, height, width, channels = x.shape
    # GroupNorm
    grouped = x.reshape(batch, height * width, groups, channels // groups)
    mean, variance = grouped.mean((1, 3), keepdims=True), grouped.var((1, 3), keepdims=True)
    normed = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(batch, -1, channels)
    p = jax.tree.map(np.asarray, p)

    def linear(layer, x):
        return x @ layer["weight"] + layer["bias"]

    # softmax(q k' / sqrt(C)) v
    flat = normed * p["group_norm"]["weight"] + p["group_norm"]["bias"]
    q, k, v = (linear(p[name], flat) for name in ("to_q", "to_k", "to_v"))
    weights = np.exp(q @ k.swapaxes(1, 2) / channels**0.5)
    weights = weights / weights.sum(-1, keepdims=True)
    return x + linear(p["to_out"]["0"], weights @ v).reshape(x.shape)


def test_attention_in_parts_is_attention(exact, monkeypatch):
    p, x = exact.params["decoder"]["mid_block"]["attentions"]["0"], drawn(0, 2, 5, 7, 8)
    monkeypatch.setattr(vae, "QUERIES", 9)  # 35 pixels: three parts and a rest of 8
    assert_close(vae._attention(p, x, 2), numpy_attention(p, x, 2), 1e-13)


def test_parts_that_are_left_out_do_nothing():
    """Without outer convolutions and attention: as with the identity, and attention that adds 0."""

    def idle(tensors):
        zeros = {
            name: 0 * t for name, t in tensors.items() if "quant_conv" in name or "to_out" in name
        }
        eyes = {"quant_conv.weight": np.eye(8), "post_quant_conv.weight": np.eye(4)}
        identities = {name: eye[:, :, None, None] for name, eye in eyes.items()}
        return tensors | zeros | identities

    def absent(tensors):
        left_out = ("quant_conv", "attentions")
        return {
            name: t for name, t in tensors.items() if not any(part in name for part in left_out)
        }

    one = small(idle)
    two = small(
        absent, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    )
    assert_close(decode(one, Z), decode(two, Z), 1e-13)
    images = drawn(0, 2, 6, 4, 3)
    for found, wanted in zip(encode(one, images), encode(two, images), strict=True):
        assert_close(found, wanted, 1e-13)


def test_blocks_are_taken_by_number():
    # A map over a dictionary sorts its keys as text: "10" comes before "2".
    blocks = jax.tree.map(lambda i: i, {str(i): i for i in range(11)})
    assert vae._by_number(blocks) == list(range(11))


# The use in a diffusion.


def test_an_image_does_not_depend_on_its_batch(exact):
    other = np.stack([drawn(1, 5, 7, 4), Z[0]])
    assert_close(decode(exact, Z)[0], decode(exact, other)[1], 1e-13)


def test_parameters_are_arguments(exact):
    """No array is a constant of the program, so one program serves all parameters."""
    assert jax.make_jaxpr(Autoencoder.decode)(exact, Z).consts == []


def test_latents_of_the_diffusion_are_scaled_and_shifted(golden, monkeypatch):
    # An autoencoder that changes nothing, so that only the scale and the shift remain.
    monkeypatch.setattr(Autoencoder, "decode", lambda self, z, *, tile: z)
    monkeypatch.setattr(Autoencoder, "encode", lambda self, images: (images, None))
    z = expected("z")
    options = config(scaling_factor=0.5, shift_factor=0.25)
    shifted = autoencoder.from_diffusers(tensors(), options)
    np.testing.assert_allclose(golden.to_latents(z), 0.18215 * z, rtol=1e-6)
    np.testing.assert_allclose(shifted.to_latents(z), (z - 0.25) * 0.5, rtol=1e-6)
    np.testing.assert_allclose(shifted.to_images(shifted.to_latents(z)), z, atol=1e-6)


def test_log_variance_is_clipped():
    # The bias of the last convolution moves the log-variances of two channels out of range.
    limits = np.array([100, -100, 0, 0], np.float32)
    bias = np.concatenate([np.zeros(4, np.float32), limits])
    changed = autoencoder.from_diffusers(tensors() | {"quant_conv.bias": bias}, config())
    log_variance = encode(changed, expected("image"))[1]
    assert (log_variance[..., 0] == 20).all()
    assert (log_variance[..., 1] == -30).all()


# Published files.


def old_name(name):
    for old, new in autoencoder.OLD_ATTENTION.items():
        name = name.replace(new, old)
    return name


@pytest.mark.parametrize("convolution", [False, True])
def test_old_names_of_the_attention_are_read(golden, convolution):
    old = {}
    for name, tensor in tensors().items():
        if convolution and "attentions" in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        old[old_name(name)] = tensor
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in old
    assert_same(autoencoder.from_diffusers(old, config()).params, golden.params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_computed_in_float32(dtype):
    half = {name: tensor.astype(dtype) for name, tensor in tensors().items()}
    same = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    found = autoencoder.from_diffusers(half, config())
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    assert_same(found, autoencoder.from_diffusers(same, config()))


def test_tensors_that_do_not_fit_are_named():
    # One tensor too many, one of another shape, and one missing.
    wrong = tensors() | {"decoder.extra": np.zeros(3), "quant_conv.bias": np.zeros(5)}
    del wrong["encoder.conv_in.bias"]
    message = (
        "3 of .* missing encoder.conv_in.bias; unexpected decoder.extra; quant_conv.bias has shape"
    )
    with pytest.raises(ValueError, match=message):
        autoencoder.from_diffusers(wrong, config())


# Options of other autoencoders of diffusers, each of which must be refused.
OTHER_NETWORKS = {
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"],
    "act_fn": "gelu",
    "latents_mean": [0.0, 0.0, 0.0, 0.0],
    "_class_name": "AutoencoderDC",
}


@pytest.mark.parametrize("option", OTHER_NETWORKS)
def test_another_autoencoder_is_refused_by_name(option):
    changed = config(**{option: OTHER_NETWORKS[option]})
    with pytest.raises(ValueError, match=option):
        autoencoder.config_from_diffusers(changed)


def test_a_config_of_something_else_is_refused():
    with pytest.raises(ValueError, match="block_out_channels"):
        autoencoder.from_diffusers(tensors(), {"num_layers": 3})


# Arrays that do not fit.


@pytest.mark.parametrize("shape", [(1, 30, 32, 3), (1, 32, 33, 3), (1, 32, 32, 4), (32, 32, 3)])
def test_images_that_do_not_fit_are_refused(golden, shape):
    with pytest.raises(ValueError, match="wanted .B, H, W, 3., H and W multiples of 4"):
        golden.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (8, 8, 4)])
def test_latents_that_do_not_fit_are_refused(golden, shape):
    with pytest.raises(ValueError, match="wanted .B, H, W, 4."):
        golden.decode(np.zeros(shape, np.float32))
