"""The transformer: equations, layers, attention, precision, labels, tokens and sizes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import guidance, models
from flowjax.models import Card, DiTConfig, dit
from tests.models import reference

CONFIG = DiTConfig(
    (4, 6), channels=3, patch=2, width=16, depth=2, heads=2, classes=5, out_channels=6
)
LABEL = np.array([0, 4, 5])  # the last one is the null label
TIME = np.array([0.2, 0.9, 0.5])


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


X = drawn(0, 3, 4, 6, 3)


@pytest.fixture(scope="module")
def params():
    """Parameters of which none is zero, in float64: biases and modulations too."""
    leaves, tree = jax.tree.flatten(dit.network(CONFIG).shapes())
    values = [jnp.asarray(0.3 * drawn(i, *leaf.shape)) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, values)


def card(**changes):
    return Card(**{"name": "tiny", "config": CONFIG, **changes})


@functools.cache
def compiled(method, **changes):
    """A method of a card, as a program that several tests use."""
    return jax.jit(getattr(card(**changes), method), static_argnames="attention")


def velocity(params, x=X, t=TIME, label=LABEL, *, attention=None, carry=None, **changes):
    return compiled("velocity", **changes)(params, x, t, label, attention=attention, carry=carry)


def raw(params, clock, **changes):
    return compiled("raw", **changes)(params, X, clock, LABEL)


def single(params):
    """(params, x, t) in float32, as `velocity` takes them."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    return half, X.astype(np.float32), TIME.astype(np.float32)


def relative(found, wanted):
    return np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted)


# The network.


@pytest.mark.parametrize(
    "changes", [{}, {"frequency_shift": 1, "mlp_epsilon": 0.1}], ids=["paper", "diffusers"]
)
def test_the_network_is_the_papers(params, changes):
    config = dataclasses.replace(CONFIG, **changes)
    clock = 1000 * TIME
    found = raw(params, clock, config=config)
    each = [
        reference.on_our_parameters(config, params, x, c, label)
        for x, c, label in zip(X, clock, LABEL, strict=True)
    ]
    wanted = np.stack(each)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def test_learned_variances_are_dropped(params):
    output = raw(params, 1000 * TIME, config=CONFIG)
    assert output.shape == (3, 4, 6, 6)
    np.testing.assert_allclose(velocity(params), output[..., :3], rtol=1e-12)


def test_output_is_zero_at_the_start():
    start = models.init(CONFIG, jax.random.key(0))
    _, x, t = single(())
    assert not np.any(velocity(start.params, x, t))
    # The layers start from different random numbers.
    layers = start.params["blocks"]["query"]["kernel"]
    assert layers.shape == (2, 16, 16)
    assert not np.allclose(layers[0], layers[1])


# The scan over layers.

TOKENS, CONDITION = drawn(0, 3, 6, 16), drawn(1, 3, 16)


@functools.partial(jax.jit, static_argnames="remat")
def layers(blocks, tokens, first=0, remat=False):
    """The tokens after the layers `blocks`, the first of which has the number `first`."""
    network = dit.network(dataclasses.replace(CONFIG, remat=remat))
    # Only the blocks are used, so shapes may stand for the other parameters.
    params = network.shapes() | {"blocks": blocks}
    arguments = (tokens, CONDITION, decaying_attention, 0, first)
    return network.part("layers", params, *arguments)[0]


def decaying_attention(q, k, v, layer, carry):
    """Attention that depends on the layer's number."""
    out, carry = dit.softmax_attention(q, k, v, layer, carry)
    return out / (1 + layer), carry


def test_scanned_layers_are_the_layers_one_by_one(params):
    x = TOKENS
    for i in range(2):
        block = jax.tree.map(lambda leaf: leaf[i : i + 1], params["blocks"])  # noqa: B023
        x = layers(block, x, first=i)
    np.testing.assert_allclose(layers(params["blocks"], TOKENS), x, rtol=1e-11)


def test_remat_changes_neither_values_nor_gradients(params):
    """The gradient along a direction, against central differences without remat."""
    blocks = params["blocks"]
    leaves, tree = jax.tree.flatten(blocks)
    direction = jax.tree.unflatten(tree, [drawn(i, *leaf.shape) for i, leaf in enumerate(leaves)])

    def with_remat(blocks):
        return jnp.sum(layers(blocks, TOKENS, remat=True) ** 2)

    def without_remat(step):
        moved = jax.tree.map(lambda b, d: b + step * d, blocks, direction)
        return np.sum(layers(moved, TOKENS) ** 2)

    # The derivative along the direction, by the gradient and by differences.
    value, gradient = jax.jit(jax.value_and_grad(with_remat))(blocks)
    products = jax.tree.map(lambda g, d: np.sum(g * d), gradient, direction)
    along = sum(jax.tree.leaves(products))
    np.testing.assert_allclose(value, without_remat(0.0), rtol=1e-11)
    difference = (without_remat(1e-5) - without_remat(-1e-5)) / 2e-5
    np.testing.assert_allclose(along, difference, rtol=1e-6)


# Attention.


def start_of_count():
    """No call so far, and no layer called."""
    return jnp.array(0), jnp.full(2, -1)


def counting(attention):
    """Attention whose carry is (calls so far, the number of the call of each layer)."""

    def counted(q, k, v, layer, carry):
        calls, order = carry
        return attention(q, k, v)[0], (calls + 1, order.at[layer].set(calls))

    return counted


def test_attention_gets_the_layers_in_order_and_passes_its_carry_on(params):
    counted = counting(dit.softmax_attention)
    found, (calls, order) = velocity(params, attention=counted, carry=start_of_count())
    assert calls == 2
    assert order.tolist() == [0, 1]
    np.testing.assert_allclose(found, velocity(params), rtol=1e-11)


def test_attention_is_an_argument(params):
    """Another attention, of every token to itself, gives another velocity."""

    def to_itself(q, k, v, layer, carry):
        return v, carry

    found = velocity(params, attention=to_itself)
    assert relative(found, velocity(params)) > 1e-2


@pytest.mark.parametrize("queries", [7, 3])
def test_default_attention_is_softmax_attention(queries):
    q = drawn(0, 2, queries, 2, 4)
    k, v = drawn(1, 2, 7, 2, 4), drawn(2, 2, 7, 2, 4)
    out, carry = dit.softmax_attention(q, k, v, 0, "carry")
    assert carry == "carry"
    np.testing.assert_allclose(out, reference.attention(q, k, v), rtol=1e-12)


# Precision.


def test_softmax_is_not_in_half_precision():
    q, k, v = (drawn(i, 2, 7, 2, 4).astype(jnp.bfloat16) for i in range(3))
    out, _ = dit.softmax_attention(q, k, v)
    exact = reference.attention(*(a.astype(np.float64) for a in (q, k, v)))
    assert out.dtype == jnp.bfloat16
    # bfloat16 has 8 bits: only inputs and output are rounded to it.
    assert relative(out, exact) < 2**-8


def test_bfloat16_is_near_float32(params):
    wanted = velocity(*single(params))
    half = velocity(*single(params), config=dataclasses.replace(CONFIG, dtype="bfloat16"))
    assert half.dtype == wanted.dtype == jnp.float32
    # It differs, so bfloat16 is used, by no more than a few roundings of 4e-3.
    assert 1e-4 < relative(half, wanted) < 2e-2


@pytest.mark.parametrize("dtype", [np.float64, np.float32, jnp.bfloat16])
def test_state_is_in_its_own_dtype_and_at_least_float32(params, dtype):
    wide = jnp.promote_types(dtype, jnp.float32)
    params = jax.tree.map(lambda leaf: leaf.astype(wide), params)
    x, t = X.astype(dtype), TIME.astype(wide)
    found = velocity(params, x, t)
    assert found.dtype == wide
    np.testing.assert_array_equal(found, velocity(params, x.astype(wide), t))


# Labels.


def test_null_label_is_no_label(params):
    # Without a label the network receives the null label, the one after the last class.
    none = velocity(params, label=None)
    null = velocity(params, label=np.full(3, CONFIG.classes))
    np.testing.assert_array_equal(none, null)
    assert card().null_label == CONFIG.classes


@jax.jit
def guided(params, scale):
    network = functools.partial(card().velocity, params)
    return guidance.classifier_free(network, LABEL, CONFIG.classes, scale)(X, TIME)


@pytest.mark.parametrize("scale, label", [(1.0, LABEL), (0.0, None)], ids=["conditional", "null"])
def test_guidance_of_one_is_conditional_and_of_zero_is_null(params, scale, label):
    found = guided(params, scale)
    np.testing.assert_allclose(found, velocity(params, label=label), rtol=1e-11)


def test_labels_out_of_range_inside_jit_give_nan(params):
    found = velocity(params, label=np.array([0, 6, -1]))
    assert np.isnan(found).all(axis=(1, 2, 3)).tolist() == [False, True, True]


# Tokens.


def test_a_patch_is_cut_row_by_row():
    patches = dit.patchify(X, 2)
    for row, column, r, c, channel in np.ndindex(2, 3, 2, 2, 3):
        # The token is at (row, column), and the pixel at (r, c) inside it.
        found = patches[:, 3 * row + column, (2 * r + c) * 3 + channel]
        np.testing.assert_array_equal(found, X[:, 2 * row + r, 2 * column + c, channel])
    np.testing.assert_array_equal(dit.unpatchify(patches, 2, (4, 6)), X)


def test_tokens_may_come_in_any_order(params):
    """What a device computes of its tokens depends on their positions, not on their order."""
    order = np.random.default_rng(0).permutation(6)
    patches, positions = dit.patchify(X, 2), dit.positions(CONFIG)

    @jax.jit
    def of_tokens(patches, positions):
        return card().velocity_of_patches(params, patches, TIME, LABEL, positions)[0]

    wanted = of_tokens(patches, positions)
    permuted = of_tokens(patches[:, order], positions[order])
    np.testing.assert_allclose(permuted, wanted[:, order], rtol=1e-10)
    image = dit.unpatchify(wanted, 2, (4, 6))
    np.testing.assert_allclose(image, velocity(params), rtol=1e-10)


def test_a_sample_does_not_depend_on_its_batch(params):
    alone = velocity(params, X[1:2], TIME[1:2], LABEL[1:2])
    np.testing.assert_allclose(alone[0], velocity(params)[1], rtol=1e-10)


def test_images_of_other_sizes_cover_the_same_places(params):
    dense = dit.positions(CONFIG, (8, 12)).reshape(4, 6, 16)
    # Every second token of the dense image lies at a token of the configured size.
    every_second = dense[::2, ::2].reshape(6, 16)
    np.testing.assert_allclose(every_second, dit.positions(CONFIG), atol=1e-14)
    assert velocity(params, drawn(1, 3, 8, 2, 3)).shape == (3, 8, 2, 3)


# Sizes.


@pytest.mark.parametrize(
    "name, millions", [("DiT-S/2", 33), ("DiT-B/2", 130), ("DiT-L/2", 458), ("DiT-XL/2", 675)]
)
def test_presets_have_the_published_sizes(name, millions):
    """Table 1 and figure 2 of the paper, in millions."""
    shapes = dit.network(models.preset(name)).shapes()
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert count == pytest.approx(1e6 * millions, rel=1e-2)


def test_preset_takes_changes():
    config = models.preset("DiT-XL/2", size=(64, 64))
    assert config.tokens == 1024
    assert config.depth == 28
    assert config.outputs == 8


def test_overview_is_a_table(params):
    table = models.overview(params)
    assert "blocks/query/kernel" in table
    assert "(2, 16, 16)" in table


@pytest.mark.parametrize(
    "changes",
    [
        {"size": (5, 6)},
        {"size": (4,)},
        {"heads": 3},
        {"width": 18},
        {"out_channels": 2},
        {"dtype": "int8"},
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changes):
    with pytest.raises(ValueError, match="|".join(changes)):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.parametrize("name", ["DiT-XXL/2", "DiT-XL/3", "DiT-XL", "resnet"])
def test_unknown_presets_are_refused(name):
    with pytest.raises(ValueError, match="is not known"):
        models.preset(name)
