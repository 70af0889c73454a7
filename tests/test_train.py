"""Training: the loss and its minimum, and one step in all its forms.

Whole runs are tested in tests/experiments/test_train.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from flowjax import Cosine, Linear, fields, train
from flowjax.schedules import predict


class Layer:
    """Takes the place of a card where the network does not matter: one layer, quick to compile."""

    schedule = Linear()
    prediction = "velocity"
    null_label = 2
    shapes = {"mix": (16, 16), "label": (3, 16), "time": (16,), "out": (16, 16)}

    def predict(self, params, x, t, label):
        """(B, 4, 4, 1) -> (B, 4, 4, 1)."""
        time = jnp.sin(1000 * t)[:, None] * params["time"][None]
        hidden = jnp.tanh(x.reshape(-1, 16) @ params["mix"] + params["label"][label] + time)
        return (hidden @ params["out"]).reshape(x.shape)


LAYER = Layer()


# The loss.


def rate(f, t):
    """The derivative by central differences, the oracle for alpha' and sigma'."""
    return (f(t + 1e-6) - f(t - 1e-6)) / 2e-6


def target_weights(schedule, prediction, t):
    """(a, b) of the target a data + b noise."""
    alpha, sigma = schedule.alpha, schedule.sigma
    if prediction == "velocity":
        return rate(alpha, t), rate(sigma, t)
    return {"data": (1, 0), "noise": (0, 1), "v": (-sigma(t), alpha(t))}[prediction]


def least_loss(schedule, prediction, std):
    """The least mean squared error for data of standard deviation `std` and uniform times.

    x = alpha d + sigma n and the target a d + b n are jointly normal, so the least error is the
    conditional variance of the target given x.
    """

    def at(t):
        a, b = target_weights(schedule, prediction, t)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return (std * (a * sigma - b * alpha)) ** 2 / ((alpha * std) ** 2 + sigma**2)

    return integrate.quad(at, 1e-5, 1 - 1e-5)[0]


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
@pytest.mark.parametrize("kind", ["velocity", "data", "noise", "v"])
def test_loss_of_the_exact_predictor_is_the_known_minimum(schedule, kind):
    std = 0.5
    wanted = least_loss(schedule, kind, std)
    # The closed form of the integral in this case, as a check of the oracle.
    if kind == "velocity" and isinstance(schedule, Linear):
        assert wanted == pytest.approx(std * np.pi / 2, rel=1e-4)

    rng, count = np.random.default_rng(0), 200_000
    data = jnp.asarray(std * rng.standard_normal((count, 2)))
    noise = jnp.asarray(rng.standard_normal((count, 2)))
    t = jnp.asarray(rng.random(count))
    field = fields.Gaussian.from_eigen(np.zeros(2), np.eye(2), np.full(2, std**2), schedule)

    def exact(x, t):
        return predict(schedule, kind, field.velocity(x, t), x, t)

    errors = train.squared_errors(exact, schedule, kind, data, noise, t)
    # Four standard errors of the mean.
    assert abs(errors.mean() - wanted) < 4 * errors.std() / count**0.5


def test_score_is_the_noise_over_minus_sigma():
    t, noise = jnp.array([0.2, 0.9]), jnp.ones((2, 3))
    score = train.target(Cosine(), "score", 0 * noise, noise, t)
    np.testing.assert_allclose(score[:, 0], -1 / Cosine().sigma(t))


# Times.


def draws(kind, **options):
    keys = jax.random.split(jax.random.key(3), 4000)
    draw = functools.partial(train.draw_times, kind=kind, **options)
    return np.asarray(jax.vmap(draw)(keys))


def logit(t):
    return np.log(t / (1 - t))


def test_times_follow_their_laws():
    uniform = draws("uniform", dtype=jnp.float64)
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3

    # A shift by s moves the logit by log s.
    shifted = draws("shifted", shift=4.0, dtype=jnp.float64)
    np.testing.assert_allclose(logit(shifted), logit(uniform) + np.log(4), atol=1e-9)

    normal = draws("logit-normal", mean=0.5, std=2.0)
    assert normal.dtype == np.float32
    standardised = (logit(normal.astype(float)) - 0.5) / 2
    assert stats.kstest(standardised, "norm").pvalue > 1e-3


def test_unknown_times_are_refused():
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        train.draw_times(jax.random.key(0), "unform")


# One step.

OPTIMIZER = train.adamw(20, learning_rate=1e-2, warmup=1)


@functools.cache
def compiled(devices, microbatches, label_dropout):
    """The step (state, batch) -> (state, metrics) with a key of its own, used by several tests."""
    mesh = train.data_mesh(jax.devices()[:devices])
    step = train.make_step(
        LAYER,
        OPTIMIZER,
        mesh,
        times=functools.partial(train.draw_times, kind="logit-normal"),
        label_dropout=label_dropout,
        decay=0.9,
        microbatches=microbatches,
    )

    def placed_step(state, batch):
        state = train.replicate(state, mesh)
        key = train.replicate(jax.random.key(5), mesh)
        return step(state, train.shard(batch, mesh), key)

    return placed_step


def make(devices=1, microbatches=1, label_dropout=0.1):
    """(step, state, batch) of one layer, in float64."""
    rng = np.random.default_rng(0)
    params = {name: 0.3 * rng.standard_normal(shape) for name, shape in Layer.shapes.items()}
    images = rng.uniform(-1, 1, (8, 4, 4, 1))
    batch = {"images": images, "labels": np.arange(8, dtype=np.int32) % 2}
    step = compiled(devices, microbatches, label_dropout)
    return step, train.start(params, OPTIMIZER), batch


def after(steps, **options):
    """The state after some steps, and the losses before each."""
    step, state, batch = make(**options)
    losses = []
    for _ in range(steps):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses


@functools.cache
def reference():
    return after(3)


def assert_trees_close(found, wanted, **tolerance):
    compare = functools.partial(np.testing.assert_allclose, **tolerance)
    jax.tree.map(compare, found, wanted)


@pytest.mark.parametrize("devices, microbatches", [(1, 4), (2, 2)])
def test_devices_and_microbatches_train_as_one(devices, microbatches):
    state, losses = after(3, devices=devices, microbatches=microbatches)
    wanted_state, wanted_losses = reference()
    # Gradients are added in another order, and Adam divides by their small second moments.
    np.testing.assert_allclose(losses, wanted_losses, rtol=1e-13)
    assert_trees_close(state, wanted_state, rtol=0, atol=1e-10)


def test_training_lowers_the_loss_on_the_training_data():
    step, state, batch = make()
    for _ in range(20):
        state, _ = step(state, batch)
    # With step 0 again, the noise and times are those of the first loss.
    again = state._replace(step=jnp.zeros_like(state.step))
    loss = float(step(again, batch)[1]["loss"])
    first_loss = reference()[1][0]
    assert loss < 0.9 * first_loss


def test_running_mean_is_that_of_a_loop():
    step, state, batch = make()
    mean = jax.tree.map(np.array, state.params)
    for n in range(4):
        state, _ = step(state, batch)
        # mean <- decay mean + (1 - decay) params
        decay = min(0.9, (1 + n) / (10 + n))
        for name, value in state.params.items():
            mean[name] = decay * mean[name] + (1 - decay) * np.asarray(value)
    # The decay is a float32.
    assert_trees_close(state.ema, mean, rtol=1e-6, atol=1e-8)


def test_decay_of_the_running_mean_grows_to_its_limit():
    decays = train.ema_decay(jnp.array([0, 8, 10**6]), 0.99)
    np.testing.assert_allclose(decays, [0.1, 0.5, 0.99], rtol=1e-6)


@pytest.mark.parametrize("dropout", [0.1, 1.0])
def test_loss_depends_on_the_labels_unless_all_are_dropped(dropout):
    losses = []
    for label in (0, 1):
        step, state, batch = make(label_dropout=dropout)
        batch["labels"] = jnp.full(8, label, jnp.int32)
        losses.append(float(step(state, batch)[1]["loss"]))
    assert (losses[0] == losses[1]) == (dropout == 1)


class WithoutNull(Layer):
    """A layer whose card has no null label, and refuses as `Card` does."""

    @property
    def null_label(self):
        raise ValueError("trained without a null label")


def test_a_network_without_a_null_label_is_trained_where_no_label_is_dropped():
    _, state, batch = make()

    def loss(card, label_dropout):
        given = dict(card=card, times=functools.partial(train.draw_times, kind="uniform"))
        key, ids = jax.random.key(5), jnp.arange(8)
        return train.mean_loss(state.params, batch, ids, key, **given, label_dropout=label_dropout)

    # No draw depends on the dropout, so a tiny one gives the same loss.
    assert float(loss(WithoutNull(), 0.0)) == pytest.approx(float(loss(LAYER, 1e-30)), rel=1e-12)
    with pytest.raises(ValueError, match="trained without a null label"):
        loss(WithoutNull(), 0.1)


def test_noise_of_the_batch_takes_the_place_of_drawn_noise():
    # On the linear path noise = data makes the target 0, and so the loss of a network that gives 0.
    step, state, batch = make()
    state = state._replace(params={**state.params, "out": jnp.zeros((16, 16))})
    assert float(step(state, {**batch, "noise": batch["images"]})[1]["loss"]) == 0


def test_optimizer_warms_up_and_ends_at_rest():
    optimizer = train.adamw(10, learning_rate=0.1, warmup=2)
    params = jnp.ones(3)
    state, moves = optimizer.init(params), []
    update_by = jax.jit(optimizer.update)
    for _ in range(11):
        update, state = update_by(jnp.full(3, 5.0), state, params)
        moves.append(float(-update[0]))
    # The rate grows for two steps, then falls to 0. Adam moves by its rate while all gradients are
    # equal.
    np.testing.assert_allclose(moves[:3], [0, 0.05, 0.1], rtol=1e-5)
    assert all(a > b for a, b in zip(moves[2:], moves[3:]))
    assert moves[10] == 0


def step_of(**options):
    """A step whose numbers are looked at before all else."""
    return train.make_step(None, None, None, times=None, **options)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: train.adamw(0), "steps=0"),
        (lambda: train.adamw(10, learning_rate=-1.0), "learning_rate=-1.0"),
        (lambda: train.adamw(10, learning_rate=np.nan), "learning_rate=nan"),
        (lambda: train.adamw(10, warmup=-1), "warmup=-1"),
        (lambda: train.adamw(10, weight_decay=-0.1), "weight_decay=-0.1"),
        (lambda: train.adamw(10, clip=0.0), "clip=0.0"),
        (lambda: train.draw_times(jax.random.key(0), "shifted", shift=0.0), "shift=0.0"),
        (lambda: train.draw_times(jax.random.key(0), "logit-normal", std=-1.0), "std=-1.0"),
        (lambda: train.draw_times(jax.random.key(0), "logit-normal", mean=np.inf), "mean=inf"),
        (lambda: step_of(label_dropout=1.5), "label_dropout=1.5"),
        (lambda: step_of(decay=np.nan), "decay=nan"),
        (lambda: step_of(microbatches=0), "microbatches=0"),
        (lambda: train.check_split(8, 1, 0), "microbatches=0"),
        (lambda: train.check_split(0, 1, 1), "batch=0"),
    ],
)
def test_a_number_outside_its_range_is_refused(call, said):
    with pytest.raises(ValueError, match=f"train.*: {said}; wanted a"):
        call()


def test_batch_that_does_not_divide_names_sizes_that_do():
    wanted = "batch of 12 does not divide over 8 device.*take 8 or 16, or 1, 2, 3, 4, 6, 12 devices"
    with pytest.raises(ValueError, match=wanted):
        train.check_split(12, 8, 1)
    with pytest.raises(ValueError, match="take 6 or 12"):
        train.check_split(8, 2, 3)
    step, state, batch = make(devices=1, microbatches=3)
    with pytest.raises(ValueError, match="does not divide"):
        step(state, batch)
