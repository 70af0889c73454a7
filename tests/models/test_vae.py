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

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "models" / "vae_kl"
PUBLISHED = vae.AutoencoderConfig((128, 256, 512, 512), layers=2, groups=32, latent_channels=4)
decode, encode = jax.jit(Autoencoder.decode), jax.jit(Autoencoder.encode)


def config(**changes):
    return {**json.loads((GOLDEN / "config.json").read_text()), **changes}


def tensors():
    return load_file(GOLDEN / "diffusion_pytorch_model.safetensors")


def expected(name):
    return np.load(GOLDEN / "expected.npz")[name].transpose(0, 2, 3, 1)


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(scope="module")
def golden():
    return vae.from_diffusers(tensors(), config())


def small(changed=lambda tensors: tensors, **changes):
    """A small autoencoder in float64; `changed` acts on its tensors."""
    sizes = config(
        block_out_channels=[4, 8],
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    names = vae.shapes(vae.config_from_diffusers(sizes))
    drawn_ = {name: 0.3 * drawn(i, *shape) for i, (name, shape) in enumerate(names.items())}
    found = vae.from_diffusers(changed(drawn_), sizes | changes)
    return jax.tree.map(lambda p: p.astype(jnp.float64), found)


@pytest.fixture(scope="module")
def exact():
    return small()


Z = drawn(0, 2, 5, 7, 4)  # latents: a batch of two, no side a power of two


def assert_close(found, wanted, bound=2e-5):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound * np.abs(wanted).max())


def test_decode_is_the_original(golden):
    assert_close(decode(golden, expected("z")), expected("image"))


def test_encode_is_the_original(golden):
    mean, log_variance = encode(golden, np.clip(expected("image"), -1, 1))
    assert_close(mean, expected("posterior_mean"))
    assert_close(log_variance, expected("posterior_logvar"))


@pytest.mark.parametrize("tile", [2, 4])
def test_tiled_decode_is_the_whole_decode(exact, tile):
    assert_close(exact.decode(Z, tile=tile), decode(exact, Z), 1e-13)


def test_a_tile_bounds_what_the_device_sees(exact, monkeypatch):
    seen = []

    def spy(layer):
        return lambda p, *arrays: seen.extend(a.shape[1:3] for a in arrays) or layer(p, *arrays)

    tiled = tiles.run
    monkeypatch.setattr(
        tiles, "run", lambda side, layer, p, *arrays: tiled(side, spy(layer), p, *arrays)
    )
    exact.decode(Z, tile=2)
    assert set(seen) == {(4, 4)}


def test_moments_on_the_host_are_those_of_the_device():
    x = 1000 + drawn(0, 2, 5, 3, 8)
    for found, wanted in zip(tiles.moments(x, 4), vae._moments(x, 4), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_attention_in_parts_is_attention(exact, monkeypatch):
    p, x = exact.params["decoder"]["mid_block"]["attentions"]["0"], drawn(0, 2, 5, 7, 8)
    flat = x.reshape(2, 35, 2, 4)
    flat = (flat - flat.mean((1, 3), keepdims=True)) / np.sqrt(
        flat.var((1, 3), keepdims=True) + 1e-6
    )
    flat = (
        flat.reshape(2, 35, 8) * p["group_norm"]["weight"][None, None]
        + p["group_norm"]["bias"][None, None]
    )
    q, k, v = (
        np.asarray(flat @ p[n]["weight"] + p[n]["bias"][None, None])
        for n in ("to_q", "to_k", "to_v")
    )
    weights = np.exp(q @ k.swapaxes(1, 2) / 8**0.5)
    out = (
        weights / weights.sum(-1, keepdims=True) @ v @ p["to_out"]["0"]["weight"]
        + p["to_out"]["0"]["bias"][None, None]
    )
    monkeypatch.setattr(vae, "QUERIES", 9)  # 35 pixels: three parts and a rest of 8
    assert_close(vae._attention(p, x, 2), x + out.reshape(x.shape), 1e-13)


def test_an_image_does_not_depend_on_its_batch(exact):
    other = np.stack([drawn(1, 5, 7, 4), Z[0]])
    assert_close(decode(exact, Z)[0], decode(exact, other)[1], 1e-13)


def test_parameters_are_arguments(exact):
    """No array is baked into the program, so one serves all parameters."""
    assert jax.make_jaxpr(Autoencoder.decode)(exact, Z).consts == []


def test_latents_of_the_diffusion_are_scaled_and_shifted(golden, monkeypatch):
    monkeypatch.setattr(Autoencoder, "decode", lambda self, z, *, tile: z)
    monkeypatch.setattr(Autoencoder, "encode", lambda self, images: (images, None))
    z = expected("z")
    shifted = vae.from_diffusers(tensors(), config(scaling_factor=0.5, shift_factor=0.25))
    np.testing.assert_allclose(golden.to_latents(z), 0.18215 * z, rtol=1e-6)
    np.testing.assert_allclose(shifted.to_latents(z), (z - 0.25) * 0.5, rtol=1e-6)
    np.testing.assert_allclose(shifted.to_images(shifted.to_latents(z)), z, atol=1e-6)


def test_log_variance_is_clipped():
    limits = np.array([100, -100, 0, 0], np.float32)
    changed = tensors() | {"quant_conv.bias": np.concatenate([np.zeros(4, np.float32), limits])}
    found = encode(vae.from_diffusers(changed, config()), expected("image"))[1]
    assert (found[..., 0] == 20).all() and (found[..., 1] == -30).all()


def test_parts_that_are_left_out_do_nothing():
    """No outer convolutions and no attention: as the identity, and as attention that adds zero."""

    def idle(tensors):
        tensors |= {
            name: 0 * t for name, t in tensors.items() if "quant_conv" in name or "to_out" in name
        }
        eyes = {"quant_conv.weight": np.eye(8), "post_quant_conv.weight": np.eye(4)}
        return tensors | {name: eye[:, :, None, None] for name, eye in eyes.items()}

    def absent(tensors):
        return {
            name: t
            for name, t in tensors.items()
            if "quant_conv" not in name and "attentions" not in name
        }

    one = small(idle)
    two = small(
        absent, use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False
    )
    assert_close(decode(one, Z), decode(two, Z), 1e-13)
    images = drawn(0, 2, 6, 4, 3)
    for found, wanted in zip(encode(one, images), encode(two, images), strict=True):
        assert_close(found, wanted, 1e-13)


@pytest.mark.parametrize("convolution", [False, True])
def test_old_names_of_the_attention_are_read(golden, convolution):
    old = {}
    for name, tensor in tensors().items():
        for before, now in vae.OLD_ATTENTION.items():
            name = name.replace(now, before)
        old[name] = (
            tensor[:, :, None, None]
            if convolution and "attentions" in name and tensor.ndim == 2
            else tensor
        )
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in old
    assert jax.tree.all(
        jax.tree.map(np.array_equal, vae.from_diffusers(old, config()).params, golden.params)
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_files_are_computed_in_float32(dtype):
    half = {name: tensor.astype(dtype) for name, tensor in tensors().items()}
    same = {name: tensor.astype(np.float32) for name, tensor in half.items()}
    found, wanted = vae.from_diffusers(half, config()), vae.from_diffusers(same, config())
    assert jax.tree.all(
        jax.tree.map(lambda a, b: a.dtype == jnp.float32 and np.array_equal(a, b), found, wanted)
    )


def test_blocks_are_taken_by_number():
    blocks = jax.tree.map(
        lambda i: i, {str(i): i for i in range(11)}
    )  # jax sorts the keys: "10" before "2"
    assert vae._list(blocks) == list(range(11))


def test_the_published_autoencoder_has_its_published_size():
    assert sum(map(math.prod, vae.shapes(PUBLISHED).values())) == 83_653_863


def test_tensors_that_do_not_fit_are_named():
    wrong = tensors() | {"decoder.extra": np.zeros(3), "quant_conv.bias": np.zeros(5)}
    del wrong["encoder.conv_in.bias"]
    with pytest.raises(
        ValueError,
        match="3 of .* missing encoder.conv_in.bias; unexpected decoder.extra; quant_conv.bias",
    ):
        vae.from_diffusers(wrong, config())


@pytest.mark.parametrize(
    "changes",
    [
        {
            "down_block_types": [
                "DownEncoderBlock2D",
                "DownEncoderBlock2D",
                "AttnDownEncoderBlock2D",
            ]
        },
        {"up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"]},
        {"act_fn": "gelu"},
        {"latents_mean": [0.0, 0.0, 0.0, 0.0]},
        {"_class_name": "AutoencoderDC"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_autoencoder_is_refused_by_name(changes):
    (name, _), = changes.items()  # fmt: skip
    with pytest.raises(ValueError, match=name):
        vae.config_from_diffusers(config(**changes))


def test_a_config_of_something_else_is_refused():
    with pytest.raises(ValueError, match="block_out_channels"):
        vae.from_diffusers(tensors(), {"num_layers": 3})


@pytest.mark.parametrize("shape", [(1, 30, 32, 3), (1, 32, 33, 3), (1, 32, 32, 4), (32, 32, 3)])
def test_images_that_do_not_fit_are_refused(golden, shape):
    with pytest.raises(ValueError, match="wanted .B, H, W, 3., H and W multiples of 4"):
        golden.encode(np.zeros(shape, np.float32))


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (8, 8, 4)])
def test_latents_that_do_not_fit_are_refused(golden, shape):
    with pytest.raises(ValueError, match="wanted .B, H, W, 4."):
        golden.decode(np.zeros(shape, np.float32))


def test_tiles_inside_jit_are_refused(golden):
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda z: golden.decode(z, tile=8))(expected("z"))


@pytest.mark.parametrize("tile", [0, -4])
def test_a_tile_of_nothing_is_refused(golden, tile):
    with pytest.raises(ValueError, match=f"tile={tile}"):
        golden.decode(expected("z"), tile=tile)
