"""The straight path of another one has its data, its noise and its velocity, at new times."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax.schedules import (
    PREDICTIONS,
    Cosine,
    Linear,
    Straight,
    VPDiscrete,
    VPLinear,
    straight,
)

SOURCES = {"cosine": Cosine(), "vp": VPLinear(), "discrete": VPDiscrete.linear(log_snr_min=None)}
every_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
# No multiple of 1/1000: a discrete schedule has a kink at its nodes.
TIMES = np.array([0.0137, 0.1003, 0.5001, 0.7777, 0.9003])


def ends(seed=0):
    """Data and noise (5, 3), one row a time."""
    return np.random.default_rng(seed).normal(size=(2, len(TIMES), 3))


def test_the_linear_path_is_its_own():
    assert straight(Linear()) == Linear()
    assert straight(straight(Cosine())) == Straight(Cosine())


@every_source
def test_states_differ_by_the_scale_alone(source):
    path = straight(source)
    data, noise = ends()
    own = source.add_noise(data, noise, TIMES)
    here = path.add_noise(data, noise, path.time_of_source(TIMES))
    np.testing.assert_allclose(here * path.scale(TIMES)[:, None], own, rtol=1e-12, atol=1e-12)


@every_source
@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
def test_times_go_there_and_back_and_the_ends_are_exact(source, module):
    path = straight(source)
    times = module.asarray([0.0, *TIMES, 1.0])
    there = path.time_of_source(times)
    assert there[0] == 0 and there[-1] <= 1 and there[-1] == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(path.source_time(there), times, rtol=0, atol=1e-9)


@every_source
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_velocity_of_a_prediction_is_noise_less_data(source, kind):
    path = straight(source)
    data, noise = ends()
    state = source.add_noise(data, noise, TIMES)
    alpha, sigma = source.alpha(TIMES)[:, None], source.sigma(TIMES)[:, None]
    sigma_dot = (source.sigma_sigma_dot(TIMES) / source.sigma(TIMES))[:, None]
    prediction = {
        "velocity": source.alpha_dot(TIMES)[:, None] * data + sigma_dot * noise,
        "data": data,
        "noise": noise,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * data,
    }[kind]
    found = path.velocity_of(kind, prediction, state, TIMES)
    np.testing.assert_allclose(found, path.most_noise * (noise - data), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("time", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["noise", "v"])
def test_the_velocity_is_finite_at_both_ends(kind, time):
    """On the network's own path dx/dt is infinite at the data."""
    source = SOURCES["discrete"]
    data, noise = ends()[:, :1]
    alpha, sigma = source.alpha(time), source.sigma(time)
    prediction = {"noise": noise, "v": alpha * noise - sigma * data}[kind]
    state = source.add_noise(data, noise, time)
    found = straight(source).velocity_of(kind, prediction, state, time)
    np.testing.assert_allclose(found, straight(source).most_noise * (noise - data), rtol=1e-9)


def test_a_path_that_begins_with_some_data_begins_below_the_noise_of_the_linear_one():
    assert straight(Cosine()).most_noise == 1
    found = straight(SOURCES["discrete"]).most_noise
    alpha = SOURCES["discrete"].alpha(1.0)
    assert found == pytest.approx(np.sqrt(1 - alpha**2) / (alpha + np.sqrt(1 - alpha**2)))
