"""A card: the clock and the sign of a network, and what a card refuses.

The network is replaced with one that gives a known output and records the clock that it receives.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flowjax
from flowjax import plans, train
from flowjax.models import Card, DiTConfig, Model, dit
from flowjax.schedules import PREDICTIONS, Cosine, Linear, VPDiscrete

CONFIG = DiTConfig((4, 6), channels=3, patch=2, width=16, depth=2, heads=2, classes=5)
LABEL = np.array([0, 4, 5])  # the last one is the null label
TIME = np.array([0.2, 0.9, 0.5])
WIDE_TIME = TIME.reshape(3, 1, 1, 1)

# Each clock on a path of a network that uses it. "index" needs a schedule with a number of steps.
CLOCKS_AND_PATHS = [
    ("1000 t", Linear()),
    ("1 - t", Linear()),
    ("1 - t", Cosine()),
    ("index", VPDiscrete.linear()),
]
CLOCK_IDS = [f"{clock}, {type(schedule).__name__}" for clock, schedule in CLOCKS_AND_PATHS]


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


X = drawn(0, 3, 4, 6, 3)


def card(**changes):
    return Card(**{"name": "tiny", "config": CONFIG, **changes})


def rates(schedule, t, step=1e-6):
    """alpha'(t) and sigma'(t) by central differences."""
    alpha_rate = (schedule.alpha(t + step) - schedule.alpha(t - step)) / (2 * step)
    sigma_rate = (schedule.sigma(t + step) - schedule.sigma(t - step)) / (2 * step)
    return alpha_rate, sigma_rate


@pytest.fixture
def answer(monkeypatch):
    """answer(output): every network gives this output from now on; returns the clocks it gets."""
    clocks = []

    def set_answer(output):
        def call(self, params, patches, clock, *rest):
            clocks.append(clock)
            return dit.patchify(output, 2), None

        monkeypatch.setattr(Card, "_call", call)
        return clocks

    return set_answer


# Predictions.


def exact_outputs(schedule, data, noise, t):
    """What a network with a clock that runs as t should give for known data and noise."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    alpha_rate, sigma_rate = rates(schedule, t)
    return {
        "velocity": alpha_rate * data + sigma_rate * noise,
        "data": data,
        "noise": noise,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * data,
    }


@pytest.mark.parametrize("clock", ["1000 t", "1 - t"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_any_prediction_becomes_the_velocity_of_the_same_data_and_noise(
    schedule, prediction, clock, answer
):
    """It is alpha' data + sigma' noise, whatever the network predicts and by which clock."""
    data, noise = X, drawn(1, *X.shape)
    outputs = exact_outputs(schedule, data, noise, WIDE_TIME)
    wanted = outputs["velocity"]
    # By a clock s = 1 - t the velocity is dx/ds = -dx/dt. No other prediction is such a rate.
    turned = clock == "1 - t" and prediction == "velocity"
    answer(-wanted if turned else outputs[prediction])
    x = schedule.add_noise(data, noise, TIME)
    found = card(schedule=schedule, prediction=prediction, clock=clock)
    # Central differences are exact to about 1e-9, and score and noise divide by alpha or sigma.
    np.testing.assert_allclose(found.velocity(None, x, TIME, LABEL), wanted, atol=1e-7)


def test_a_clock_towards_the_data_does_not_turn_data_around(answer):
    """A prediction of the data is the same for every clock; only a velocity changes its sign."""
    data = drawn(1, *X.shape)
    answer(data)
    found = card(clock="1 - t", prediction="data").velocity(None, X, TIME, LABEL)
    # On the linear path data = x - t velocity.
    np.testing.assert_allclose(X - WIDE_TIME * found, data, rtol=1e-11, atol=1e-12)


def test_predictions_drop_the_learned_variance(answer):
    output = drawn(1, 3, 4, 6, 6)
    answer(output)
    config = dataclasses.replace(CONFIG, out_channels=6)
    found = card(config=config).predict(None, X, TIME, LABEL)
    np.testing.assert_array_equal(found, output[..., :3])


# Clocks.


@pytest.mark.parametrize("method", ["velocity", "predict"])
@pytest.mark.parametrize(
    "clock, value, sign", [("1000 t", 1000 * TIME, 1), ("1 - t", 1 - TIME, -1)]
)
def test_a_clock_is_the_number_that_the_network_receives(clock, value, sign, method, answer):
    """Sampling and training agree on the clock, and on the sign of a velocity by it."""
    output = drawn(1, *X.shape)
    clocks = answer(output)
    found = getattr(card(clock=clock), method)(None, X, TIME, LABEL)
    np.testing.assert_array_equal(found, sign * output)
    np.testing.assert_allclose(clocks[0], value, rtol=1e-15)


def test_a_discrete_network_receives_the_step_before_its_node(answer):
    """Node n of 1000 is t = n/1000, and DiT calls it n - 1."""
    schedule, nodes = VPDiscrete.linear(), np.array([1, 400, 1000])
    noise, t = drawn(1, *X.shape), (nodes / 1000).reshape(3, 1, 1, 1)
    clocks = answer(noise)
    found = card(schedule=schedule, prediction="noise", clock="index")
    velocity = found.velocity(None, X, nodes / 1000, LABEL)
    np.testing.assert_allclose(clocks[0], nodes - 1, atol=1e-9)
    # The velocity is alpha' data + sigma' noise with data = (x - sigma noise) / alpha. Here
    # alpha' = rate alpha, and alpha^2 + sigma^2 = 1 gives sigma' = -rate alpha^2 / sigma.
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    rate = schedule.log_alpha_dot(t)
    wanted = rate * (X - sigma * noise) - rate * alpha**2 / sigma * noise
    np.testing.assert_allclose(velocity, wanted, rtol=1e-8, atol=1e-8)


# Training and sampling together.


class Lookup(Card):
    """A card whose network is its parameter: the output for the one batch of the test."""

    def _call(self, params, patches, clock, label, positions, attention, carry):
        return params["output"], carry


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clock, schedule", CLOCKS_AND_PATHS, ids=CLOCK_IDS)
def test_what_is_trained_is_sampled(clock, schedule, prediction):
    """A network fitted to one batch by training takes its noisy images back to its images.

    The test assumes nothing about the sign. The loss is quadratic in the output, so one gradient
    step of the right length ends at its minimum. DDIM is exact where the prediction of the data is
    constant, so its one step ends at the images.
    """
    time, images, noise = 0.3, X, drawn(1, *X.shape)
    network = Lookup("lookup", CONFIG, schedule, prediction, clock)
    state, step = one_step_to_the_minimum(network, time, count=images.size)
    # Train.
    batch = {"images": images, "noise": noise, "labels": np.array([0, 1, 2], np.int32)}
    state, _ = step(state, batch, jax.random.key(0))

    # Sample, from the same noisy images.
    model = Model(network.velocity, state.params, network)
    x = schedule.add_noise(images, noise, time)
    found = flowjax.sample(
        lambda x, t: model.apply(model.params, x, t, batch["labels"]),
        jnp.asarray(x),
        plans.ddim(schedule, np.array([time, 0.0])),
    )
    np.testing.assert_allclose(found.x, images, atol=1e-9)


def one_step_to_the_minimum(network, time, count):
    """The state and the training step of a `Lookup`, at one time.

    The loss is sum (output - target)^2 / count, so its gradient is 2 (output - target) / count.
    """
    optimizer = optax.sgd(count / 2)
    output = jnp.asarray(drawn(2, 3, CONFIG.tokens, CONFIG.patch**2 * CONFIG.outputs))
    mesh = train.data_mesh(jax.devices()[:1])
    step = train.make_step(
        network, optimizer, mesh, times=functools.partial(constant_time, time), label_dropout=0.0
    )
    return train.start({"output": output}, optimizer), step


def constant_time(time, key, dtype):
    return jnp.asarray(time, dtype)


# What is refused.


@pytest.mark.parametrize(
    "shape, wanted",
    [
        ((3, 4, 6, 4), r"wanted \(B, H, W, 3\)"),
        ((4, 6, 3), r"wanted \(B, H, W, 3\)"),
        ((3, 4, 5, 3), "multiples of 2"),
    ],
)
def test_states_that_do_not_fit_are_refused(shape, wanted):
    with pytest.raises(ValueError, match=wanted):
        card().velocity({}, np.zeros(shape), 0.5, LABEL)


@pytest.mark.parametrize("label", [[0, 1, 6], [0, 1, -1], [0.0, 1.0, 2.0]])
def test_labels_out_of_range_are_refused(label):
    with pytest.raises(ValueError, match="wanted integers from 0 to 4, or 5, the null label"):
        card().velocity({}, X, 0.5, np.array(label))


@pytest.mark.parametrize("changes", [{"prediction": "flow"}, {"clock": "t"}])
def test_unknown_predictions_and_clocks_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes.values()))):
        card(**changes)
