"""SANA: its layers against numpy, what its condition and its clock mean, and its sizes."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import guidance, models
from flowjax.models import Condition, SanaConfig, sana
from flowjax.models.sana_sizes import NAMES

CONFIG = SanaConfig(
    (4, 6), channels=3, patch=2, width=16, depth=2, heads=2, cross_heads=4, caption=5
)
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((2, 4, 6, 3))
CONDITION = Condition(RANDOM.standard_normal((2, 4, 5)), np.array([[1, 1, 1, 0], [1, 1, 0, 0]]))
NEGATIVE = CONDITION._replace(
    negative=RANDOM.standard_normal((2, 2, 5)), negative_mask=np.array([[1, 0], [1, 1]])
)


def drawn(*shape):
    return RANDOM.standard_normal(shape)


@functools.cache
def network(**changes):
    """A tiny network in float64, none of whose weights is zero."""
    config = SanaConfig(**{**vars(CONFIG), **changes})
    shapes = models.network(config).shapes()
    random = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.4 * random.normal(size=leaf.shape)), shapes)
    return models.model(models.Card("tiny", config), params)


@functools.cache
def compiled(**changes):
    model = network(**changes)
    return functools.partial(jax.jit(model.apply), model.params)


# Layers.


def test_linear_attention_is_a_mean_with_the_kernel_of_relu():
    # Queries and keys with one positive number each, so that no query is without weight.
    q, k, v = (drawn(2, 7, 3, 4) for _ in range(3))
    q[..., 0], k[..., 0] = np.abs(q[..., 0]), np.abs(k[..., 0])
    weights = np.einsum("bqhd,bkhd->bhqk", np.maximum(q, 0), np.maximum(k, 0))
    wanted = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(sana.linear_attention(q, k, v)[0], wanted, rtol=1e-12)


def test_sums_of_parts_add_up_to_those_of_all_tokens():
    k, v = drawn(2, 7, 3, 4), drawn(2, 7, 3, 4)
    parts = sum(sana.key_value_sums(k[:, part], v[:, part]) for part in np.split(np.arange(7), [3]))
    np.testing.assert_allclose(parts, sana.key_value_sums(k, v), rtol=1e-12)


def test_depthwise_is_a_convolution_of_each_channel():
    x, kernel, bias = drawn(2, 5, 4, 3), drawn(3, 3, 3), drawn(3)
    wanted = jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    )
    rows, _ = sana.rows_of_image(4, x.reshape(2, 20, 3))
    found = sana.depthwise(rows, kernel, bias)
    np.testing.assert_allclose(found, wanted + bias[None, None, None], rtol=1e-12)


def test_interpolation_divides_the_coordinates_of_places():
    plain, halved = (sana.positions(network(interpolation=s).card.config) for s in (1.0, 2.0))
    # The first sine of the column: sin(u), and sin(u / 2).
    np.testing.assert_allclose(np.arcsin(plain[1, 0]), 2 * np.arcsin(halved[1, 0]))
    assert sana.positions(CONFIG).shape == (6, 1)  # no embedding at all


# The condition.


def test_masked_tokens_of_a_text_have_no_influence():
    other = np.where(CONDITION.mask[..., None] == 0, 9.0, CONDITION.embeddings)
    a = compiled()(X, 0.4, CONDITION)
    b = compiled()(X, 0.4, CONDITION._replace(embeddings=other))
    np.testing.assert_array_equal(a, b)
    assert np.max(np.abs(a - compiled()(X, 0.4, NEGATIVE._replace(mask=np.ones((2, 4)))))) > 1e-6


def test_samples_do_not_see_each_other():
    both = compiled()(X, np.array([0.3, 0.8]), CONDITION)
    second = compiled()(X[1:], 0.8, jax.tree.map(lambda a: a[1:], CONDITION))
    np.testing.assert_allclose(both[1:], second, rtol=1e-10, atol=1e-12)


def test_one_text_serves_all_samples():
    first = jax.tree.map(lambda a: a[:1], CONDITION)
    twice = jax.tree.map(lambda a: np.repeat(a, 2, axis=0), first)
    np.testing.assert_array_equal(compiled()(X, 0.4, first), compiled()(X, 0.4, twice))


def test_guidance_leads_away_from_the_negative_embeddings():
    apply, scale = compiled(), 3.0
    guided = guidance.classifier_free(apply, *network().card.branches(NEGATIVE), scale)
    given = apply(X, 0.4, CONDITION)
    null = apply(X, 0.4, Condition(NEGATIVE.negative, NEGATIVE.negative_mask))
    np.testing.assert_allclose(guided(X, 0.4), null + scale * (given - null), rtol=1e-9)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (None, "the condition is None; this network draws for a text"),
        (np.array([1, 2]), "the condition is a ndarray"),
        (Condition(CONDITION.embeddings, None), "no mask for the embeddings"),
        (CONDITION._replace(embeddings=drawn(2, 4, 6)), r"wanted \(B, T, 5\)"),
        (CONDITION._replace(negative=drawn(2, 2, 5)), "no mask for the negative"),
        (NEGATIVE._replace(negative=drawn(1, 2, 5), negative_mask=drawn(1, 2)), "1 negative"),
        (jax.tree.map(lambda a: np.repeat(a, 2, axis=0), CONDITION), "4 texts for 2 samples"),
        (CONDITION._replace(guidance=np.ones(2)), "guidance_embeds is False"),
    ],
)
def test_a_condition_that_does_not_fit_is_refused(condition, words):
    model = network()
    with pytest.raises(ValueError, match=words):
        model.apply(model.params, X, 0.4, condition)


def test_guidance_without_negative_embeddings_is_refused():
    with pytest.raises(ValueError, match="needs a condition with negative embeddings"):
        network().card.branches(CONDITION)


def test_a_network_with_an_embedding_of_guidance_wants_its_scale():
    model = network(guidance_embeds=True)
    with pytest.raises(ValueError, match="without guidance"):
        model.apply(model.params, X, 0.4, CONDITION)
    apply = compiled(guidance_embeds=True)
    low, high = (
        apply(X, 0.4, CONDITION._replace(guidance=np.full(2, scale))) for scale in (0.1, 0.9)
    )
    assert np.max(np.abs(low - high)) > 1e-6


# The clock, precision, sizes.


def test_the_network_receives_1000_t_times_the_scale_of_the_clock():
    model = network()
    card = models.Card("scaled", model.card.config, clock_scale=0.01)
    velocity = jax.jit(card.velocity)(model.params, X, 0.4, CONDITION)
    own = jax.jit(model.card.raw)(model.params, X, 1000 * 0.4 * 0.01, CONDITION)
    np.testing.assert_allclose(velocity, own, rtol=1e-9)


def test_bfloat16_is_near_float32():
    def in_float32(model):
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), model.params)
        return jax.jit(model.apply)(params, X.astype(np.float32), 0.4, CONDITION)

    exact, rough = in_float32(network()), in_float32(network(dtype="bfloat16"))
    assert rough.dtype == jnp.float32
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-5 < error < 0.05  # 8 bits a product


def test_recomputing_layers_changes_no_gradient():
    def gradient(model):
        def loss(params):
            return jnp.sum(model.apply(params, X, 0.4, CONDITION) ** 2)

        return jax.jit(jax.grad(loss))(model.params)

    plain, recomputed = gradient(network()), gradient(network(remat=True))
    # Some gradients are zero, for example those of a text whose norm takes the size away.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), plain, recomputed
    )


@pytest.mark.parametrize("name", NAMES)
def test_public_networks_have_the_parameters_of_their_names(name):
    shapes = jax.tree.leaves(models.network(models.preset(name)).shapes())
    billions = sum(math.prod(leaf.shape) for leaf in shapes) / 1e9
    assert abs(billions - float(name.split("-")[1].split("B")[0])) < 0.1


def test_an_unknown_public_network_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'SANA-1.6B/1024'"):
        models.preset("SANA-1.6B/1025")


def test_sizes_of_a_public_network_follow_from_the_changed_ones():
    changed = models.preset("SANA-0.6B/512", width=576, heads=18)
    assert (changed.cross_width, models.preset("SANA-0.6B/512").cross_width) == (576, 1152)
    assert models.preset("SANA-0.6B/512", width=576, heads=18, cross_width=1152).cross_width == 1152
    labelled = models.preset("SANA-0.6B/512", classes=10)
    assert (labelled.caption, labelled.labels) == (11, 11)


def test_another_number_of_labels_is_another_width_of_their_tokens():
    config = dataclasses.replace(CONFIG, caption=None, classes=3)
    assert dataclasses.replace(config, classes=5).caption == 6
    assert dataclasses.replace(config, classes=None, caption=7) == dataclasses.replace(
        CONFIG, caption=7
    )


def test_labels_without_a_null_label_are_as_wide_as_there_are_classes():
    model = network(classes=3, has_null=False)
    assert (model.card.config.caption, model.card.config.labels) == (3, 3)
    assert np.all(np.isfinite(compiled(classes=3, has_null=False)(X, 0.4, np.array([0, 2]))))
    with pytest.raises(ValueError, match="wanted integers from 0 to 2[.]"):
        model.apply(model.params, X, 0.4, np.array([0, 3]))
    with pytest.raises(ValueError, match="trained without a null label"):
        _ = model.card.null_label


def test_saved_sizes_are_read_as_they_were():
    config = dataclasses.replace(CONFIG, caption=None, classes=3, cross_width=8)
    saved = json.loads(json.dumps(dataclasses.asdict(config)))
    assert (saved["caption"], saved["cross_width"]) == (4, 8)
    assert SanaConfig(**saved) == config and hash(SanaConfig(**saved)) == hash(config)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        *(
            ({option: value}, f"{option}=")
            for option in ("channels", "patch", "width", "depth", "heads", "cross_heads")
            for value in (0, 8.0, None)
        ),
        *(
            ({option: value}, f"{option}=")
            for option in ("out_channels", "cross_width", "caption", "classes")
            for value in (0, 8.0)
        ),
        *(
            ({option: value}, f"{option}=")
            for option in ("mlp_ratio", "norm_epsilon", "interpolation")
            for value in (0, -1.0, "2", float("nan"))
        ),
        ({"out_channels": 2}, "out_channels=2 is less than channels=3"),
        ({"size": 4}, "size=4; wanted"),
        ({"size": (4, 6, 6)}, r"is not \(H, W\)"),
        ({"size": (4.0, 6.0)}, "size=4.0; wanted a whole number"),
        ({"caption": None}, "give caption= to a network"),
        ({"classes": 3, "guidance_embeds": True}, "classes=3 with guidance_embeds=True"),
        ({"size": (5, 6)}, "multiples of patch=2"),
        ({"heads": 3}, "16 does not divide into 3 heads"),
        ({"cross_width": 6}, "6 does not divide into 4 heads"),
        ({"qk_norm": "rms"}, "qk_norm='rms' is not known"),
        ({"dtype": "float8"}, "dtype='float8'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, words):
    with pytest.raises(ValueError, match=f"SanaConfig: .*{words}"):
        dataclasses.replace(CONFIG, **changes)
