import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import guidance, models
from flowjax.models import Card, DiTConfig, dit
from flowjax.schedules import Cosine, Linear, VPDiscrete

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
    return jax.tree.unflatten(
        tree, [jnp.asarray(0.3 * drawn(i, *leaf.shape)) for i, leaf in enumerate(leaves)]
    )


def card(**changes):
    return Card(**{"name": "tiny", "config": CONFIG, **changes})


@functools.cache
def compiled(method, **changes):
    """A method of a card, as a program that the tests share."""
    return jax.jit(getattr(card(**changes), method), static_argnames="attention")


def velocity(params, x=X, t=TIME, label=LABEL, *, attention=None, carry=None, **changes):
    return compiled("velocity", **changes)(params, x, t, label, attention=attention, carry=carry)


def raw(params, clock, **changes):
    return compiled("raw", **changes)(params, X, clock, LABEL)


def single(params):
    """What `velocity` takes, in float32."""
    return (
        jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params),
        X.astype(np.float32),
        TIME.astype(np.float32),
    )


def relative(found, wanted):
    return np.linalg.norm(np.asarray(found, np.float64) - wanted) / np.linalg.norm(wanted)


def silu(x):
    return x / (1 + np.exp(-x))


def normed(x, epsilon):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)


def numpy_attention(q, k, v):
    """softmax(q k' / sqrt(d)) v of (B, L, heads, d) arrays, one sample and one head at a time."""
    out = np.empty_like(q)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            weights = np.exp(q[b, :, h] @ k[b, :, h].T / np.sqrt(q.shape[-1]))
            out[b, :, h] = weights / weights.sum(1, keepdims=True) @ v[b, :, h]
    return out


def numpy_dit(config, params, image, clock, label):
    """The paper's network (arXiv:2212.09748, section 3) on one image (H, W, C): numpy, one token and one head at a time."""
    p = jax.tree.map(np.asarray, params)
    patch, width = config.patch, config.width
    rows, columns = image.shape[0] // patch, image.shape[1] // patch

    def linear(layer, x):
        return x @ layer["kernel"] + layer["bias"]

    tokens = []
    for row in range(rows):
        for column in range(columns):
            piece = image[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            angles = [
                place / 10000 ** (i / (width // 4))
                for place in (column, row)
                for i in range(width // 4)
            ]
            angles = np.reshape(angles, (2, -1))
            place = np.concatenate(
                [np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])]
            )
            tokens.append(linear(p["patches"], piece.ravel()) + place)
    x = np.stack(tokens)
    angles = clock * np.exp(-np.log(10000) * np.arange(128) / (128 - config.frequency_shift))
    time = linear(
        p["time2"], silu(linear(p["time1"], np.concatenate([np.cos(angles), np.sin(angles)])))
    )
    condition = silu(time + p["labels"]["embedding"][label])
    for i in range(config.depth):
        block = jax.tree.map(lambda leaf: leaf[i], p["blocks"])  # noqa: B023
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(
            block["modulation"], condition
        ).reshape(6, width)
        y = normed(x, 1e-6) * (1 + scale1) + shift1
        q, k, v = (
            linear(block[name], y).reshape(1, len(y), config.heads, -1)
            for name in ("query", "key", "value")
        )
        x = x + gate1 * linear(block["out"], numpy_attention(q, k, v).reshape(len(y), width))
        y = linear(block["mlp1"], normed(x, config.mlp_epsilon) * (1 + scale2) + shift2)
        y = 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        x = x + gate2 * linear(block["mlp2"], y)
    shift, scale = linear(p["modulation"], condition).reshape(2, width)
    x = linear(p["outputs"], normed(x, 1e-6) * (1 + scale) + shift)
    out = np.empty((*image.shape[:2], config.outputs))
    for i, token in enumerate(x):
        row, column = patch * (i // columns), patch * (i % columns)
        out[row : row + patch, column : column + patch] = token.reshape(patch, patch, -1)
    return out


@pytest.mark.parametrize(
    "changes", [{}, {"frequency_shift": 1, "mlp_epsilon": 0.1}], ids=["paper", "diffusers"]
)
def test_the_network_is_the_papers(params, changes):
    config = dataclasses.replace(CONFIG, **changes)
    clock = 1000 * TIME
    found = raw(params, clock, config=config)
    wanted = np.stack(
        [numpy_dit(config, params, *each) for each in zip(X, clock, LABEL, strict=True)]
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * np.abs(wanted).max())


def test_learned_variances_are_dropped(params):
    whole = raw(params, 1000 * TIME, config=CONFIG)
    assert whole.shape == (3, 4, 6, 6)
    np.testing.assert_allclose(velocity(params), whole[..., :3], rtol=1e-12)


def test_output_is_zero_at_the_start():
    start = models.init(CONFIG, jax.random.key(0))
    assert not np.any(velocity(start.params, *single(())[1:]))
    layers = start.params["blocks"]["query"]["kernel"]
    assert layers.shape == (2, 16, 16) and not np.allclose(layers[0], layers[1])


TOKENS, CONDITION = drawn(0, 3, 6, 16), drawn(1, 3, 16)


@functools.partial(jax.jit, static_argnames="remat")
def layers(blocks, tokens, first=0, remat=False):
    part = dit.network(dataclasses.replace(CONFIG, remat=remat)).part
    start = dit.network(CONFIG).shapes()  # only the blocks are used
    return part(
        "layers", start | {"blocks": blocks}, tokens, CONDITION, decaying_attention, 0, first
    )[0]


def decaying_attention(q, k, v, layer, carry):
    """Attention that depends on the layer's number."""
    out, carry = dit.softmax_attention(q, k, v, layer, carry)
    return out / (1 + layer), carry


def test_scanned_layers_are_the_layers_one_by_one(params):
    x = TOKENS
    for i in range(2):
        x = layers(jax.tree.map(lambda leaf: leaf[i : i + 1], params["blocks"]), x, first=i)  # noqa: B023
    np.testing.assert_allclose(layers(params["blocks"], TOKENS), x, rtol=1e-11)


def test_remat_changes_neither_values_nor_gradients(params):
    """The gradient along a direction, against central differences without remat."""
    blocks = params["blocks"]
    leaves, tree = jax.tree.flatten(blocks)
    direction = jax.tree.unflatten(tree, [drawn(i, *leaf.shape) for i, leaf in enumerate(leaves)])
    value, gradient = jax.jit(
        jax.value_and_grad(lambda b: jnp.sum(layers(b, TOKENS, remat=True) ** 2))
    )(blocks)
    along = sum(jax.tree.leaves(jax.tree.map(lambda g, d: np.sum(g * d), gradient, direction)))

    def plain(step):
        return np.sum(
            layers(jax.tree.map(lambda b, d: b + step * d, blocks, direction), TOKENS) ** 2
        )

    np.testing.assert_allclose(value, plain(0.0), rtol=1e-11)
    np.testing.assert_allclose(along, (plain(1e-5) - plain(-1e-5)) / 2e-5, rtol=1e-6)


def start_of_count():
    return jnp.array(0), jnp.full(2, -1)


def counting(attention):
    """Attention whose carry is (calls so far, the number of the call that each layer was)."""

    def counted(q, k, v, layer, carry):
        calls, order = carry
        return attention(q, k, v)[0], (calls + 1, order.at[layer].set(calls))

    return counted


def test_attention_sees_the_layers_in_order_and_threads_its_carry(params):
    found, (calls, order) = velocity(
        params, attention=counting(dit.softmax_attention), carry=start_of_count()
    )
    assert calls == 2 and order.tolist() == [0, 1]
    np.testing.assert_allclose(found, velocity(params), rtol=1e-11)


def test_attention_is_an_argument(params):
    """Another attention, of every token to itself, gives another velocity."""
    found = velocity(params, attention=lambda q, k, v, layer, carry: (v, carry))
    assert relative(found, velocity(params)) > 1e-2


@pytest.mark.parametrize("queries", [7, 3])
def test_default_attention_is_softmax_attention(queries):
    q, k, v = drawn(0, 2, queries, 2, 4), drawn(1, 2, 7, 2, 4), drawn(2, 2, 7, 2, 4)
    out, carry = dit.softmax_attention(q, k, v, 0, "carry")
    assert carry == "carry"
    np.testing.assert_allclose(out, numpy_attention(q, k, v), rtol=1e-12)


def test_softmax_is_not_in_half_precision():
    q, k, v = (drawn(i, 2, 7, 2, 4).astype(jnp.bfloat16) for i in range(3))
    out, _ = dit.softmax_attention(q, k, v)
    exact = numpy_attention(*(a.astype(np.float64) for a in (q, k, v)))
    assert out.dtype == jnp.bfloat16
    assert relative(out, exact) < 2**-8


def test_null_label_is_no_label(params):
    one, two = velocity(params, label=None), velocity(params, label=np.full(3, CONFIG.classes))
    np.testing.assert_array_equal(one, two)
    assert card().null_label == CONFIG.classes


@pytest.mark.parametrize("scale, label", [(1.0, LABEL), (0.0, None)], ids=["conditional", "null"])
def test_guidance_of_one_is_conditional_and_of_zero_is_null(params, scale, label):
    found = guided(params, scale)
    np.testing.assert_allclose(found, velocity(params, label=label), rtol=1e-11)


@jax.jit
def guided(params, scale):
    def network(x, t, label):
        return card().velocity(params, x, t, label)

    return guidance.classifier_free(network, LABEL, CONFIG.classes, scale)(X, TIME)


def test_bfloat16_is_near_float32(params):
    wanted = velocity(*single(params))
    half = velocity(*single(params), config=dataclasses.replace(CONFIG, dtype="bfloat16"))
    assert half.dtype == wanted.dtype == jnp.float32
    assert 1e-4 < relative(half, wanted) < 2e-2


@pytest.mark.parametrize("dtype", [np.float64, np.float32, jnp.bfloat16])
def test_state_is_in_its_own_dtype_and_at_least_float32(params, dtype):
    wide = jnp.promote_types(dtype, jnp.float32)
    params = jax.tree.map(lambda leaf: leaf.astype(wide), params)
    x, t = X.astype(dtype), TIME.astype(wide)
    found = velocity(params, x, t)
    assert found.dtype == wide
    np.testing.assert_array_equal(found, velocity(params, x.astype(wide), t))


def test_a_patch_is_cut_row_by_row():
    patches = dit.patchify(X, 2)
    for row, column, r, c, channel in np.ndindex(2, 3, 2, 2, 3):
        found = patches[:, 3 * row + column, (2 * r + c) * 3 + channel]
        np.testing.assert_array_equal(found, X[:, 2 * row + r, 2 * column + c, channel])
    np.testing.assert_array_equal(dit.unpatchify(patches, 2, (4, 6)), X)


def test_tokens_may_come_in_any_order(params):
    """What a device computes of its tokens depends on their positions, not on their order."""
    order = np.random.default_rng(0).permutation(6)
    patches, positions = dit.patchify(X, 2), dit.positions(CONFIG)
    share = jax.jit(
        lambda patches, positions: card().velocity_of_patches(
            params, patches, TIME, LABEL, positions
        )[0]
    )
    wanted = share(patches, positions)
    np.testing.assert_allclose(
        share(patches[:, order], positions[order]), wanted[:, order], rtol=1e-10
    )
    np.testing.assert_allclose(dit.unpatchify(wanted, 2, (4, 6)), velocity(params), rtol=1e-10)


def test_a_sample_does_not_depend_on_its_batch(params):
    alone = velocity(params, X[1:2], TIME[1:2], LABEL[1:2])
    np.testing.assert_allclose(alone[0], velocity(params)[1], rtol=1e-10)


def test_images_of_other_sizes_cover_the_same_places(params):
    found = dit.positions(CONFIG, (8, 12)).reshape(4, 6, 16)
    np.testing.assert_allclose(found[::2, ::2].reshape(6, 16), dit.positions(CONFIG), atol=1e-14)
    assert velocity(params, drawn(1, 3, 8, 2, 3)).shape == (3, 8, 2, 3)


# Predictions and clocks, of a network that answers what it is told to and keeps the clock that it saw.


@pytest.fixture
def answer(monkeypatch):
    seen = []

    def set_answer(out):
        def call(self, params, patches, clock, *rest):
            seen.append(clock)
            return dit.patchify(out, 2), None

        monkeypatch.setattr(Card, "_call", call)
        return seen

    return set_answer


PLAIN = dataclasses.replace(CONFIG, out_channels=None)


def rates(schedule, t, step=1e-6):
    return [(f(t + step) - f(t - step)) / (2 * step) for f in (schedule.alpha, schedule.sigma)]


@pytest.mark.parametrize("prediction", ["velocity", "data", "noise", "score", "v"])
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_any_prediction_becomes_the_velocity_of_the_same_data_and_noise(
    schedule, prediction, answer
):
    """A network that predicts what it is asked for of known data and noise: all have the velocity alpha' data + sigma' noise."""
    data, noise, t = X, drawn(1, *X.shape), TIME.reshape(3, 1, 1, 1)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_rate, sigma_rate = rates(schedule, t)
    wanted = alpha_rate * data + sigma_rate * noise
    outputs = {
        "velocity": wanted,
        "data": data,
        "noise": noise,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * data,
    }
    answer(outputs[prediction])
    of = card(schedule=schedule, prediction=prediction, config=PLAIN)
    np.testing.assert_allclose(
        of.velocity(None, alpha * data + sigma * noise, TIME, LABEL), wanted, atol=1e-7
    )


@pytest.mark.parametrize("clock, told, sign", [("1000 t", 1000 * TIME, 1), ("1 - t", 1 - TIME, -1)])
def test_a_clock_is_what_the_network_is_told(clock, told, sign, answer):
    """Where the clock runs towards the data so does the velocity."""
    out = drawn(1, *X.shape)
    seen = answer(out)
    np.testing.assert_array_equal(
        card(clock=clock, config=PLAIN).velocity(None, X, TIME, LABEL), sign * out
    )
    np.testing.assert_allclose(seen[0], told, rtol=1e-15)


def test_a_clock_towards_the_data_does_not_turn_data_around(answer):
    """A prediction of the data is the same whichever way time is counted; only a velocity changes its sign."""
    data = drawn(1, *X.shape)
    answer(data)
    found = card(clock="1 - t", prediction="data", config=PLAIN).velocity(None, X, TIME, LABEL)
    np.testing.assert_allclose(X - TIME.reshape(3, 1, 1, 1) * found, data, rtol=1e-11, atol=1e-12)


def test_a_discrete_network_is_told_the_step_before_its_node(answer):
    """Node n of 1000 is t = n/1000, and DiT calls it n - 1."""
    schedule, nodes = VPDiscrete.linear(), np.array([1, 400, 1000])
    noise, t = drawn(1, *X.shape), (nodes / 1000).reshape(3, 1, 1, 1)
    seen = answer(noise)
    of = card(schedule=schedule, prediction="noise", clock="index", config=PLAIN)
    found = of.velocity(None, X, nodes / 1000, LABEL)
    np.testing.assert_allclose(seen[0], nodes - 1, atol=1e-9)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    rate = schedule.log_alpha_dot(t)  # alpha'/alpha; and sigma sigma' = -alpha alpha'
    wanted = rate * (X - sigma * noise) - rate * alpha**2 / sigma * noise
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-8)


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
    assert config.tokens == 1024 and config.depth == 28 and config.outputs == 8


def test_overview_is_a_table(params):
    table = models.overview(params)
    assert "blocks/query/kernel" in table and "(2, 16, 16)" in table


# What is refused.


@pytest.mark.parametrize(
    "shape, wanted",
    [
        ((3, 4, 6, 4), r"wanted \(B, H, W, 3\)"),
        ((4, 6, 3), r"wanted \(B, H, W, 3\)"),
        ((3, 4, 5, 3), "multiples of 2"),
    ],
)
def test_states_that_do_not_fit_are_refused(params, shape, wanted):
    with pytest.raises(ValueError, match=wanted):
        card().velocity(params, np.zeros(shape), 0.5, LABEL)


@pytest.mark.parametrize("label", [[0, 1, 6], [0, 1, -1], [0.0, 1.0, 2.0]])
def test_labels_out_of_range_are_refused(params, label):
    with pytest.raises(ValueError, match="wanted integers from 0 to 4, or 5, the null label"):
        card().velocity(params, X, 0.5, np.array(label))


def test_labels_out_of_range_inside_jit_give_nan(params):
    found = velocity(params, label=np.array([0, 6, -1]))
    assert np.isnan(found).all(axis=(1, 2, 3)).tolist() == [False, True, True]


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


@pytest.mark.parametrize("changes", [{"prediction": "flow"}, {"clock": "t"}])
def test_unknown_predictions_and_clocks_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes.values()))):
        card(**changes)
