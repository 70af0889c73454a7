"""Laws of the noise schedules.

Both ends are exact, the inverse is an inverse, the rates are derivatives, and the predictions are
one linear map.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import grids, schedules
from flowjax.schedules import (
    PREDICTIONS,
    Cosine,
    Linear,
    Straight,
    VPDiscrete,
    VPLinear,
    as_velocity,
    predict,
    to_velocity,
)

SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "vp": VPLinear(),
    "discrete": VPDiscrete.linear(),
    "scaled": VPDiscrete.scaled_linear(),
    "discrete-cosine": VPDiscrete.cosine(),
    "straight": Straight(VPDiscrete.linear()),
}
REACHES_NOISE = ("linear", "cosine")  # alpha(1) = 0; the others stop at a finite log-SNR
VARIANCE_PRESERVING = [name for name in SCHEDULES if name not in ("linear", "straight")]
every_schedule = pytest.mark.parametrize("name", SCHEDULES)

# No multiple of 1/1000: a discrete schedule has a kink at its nodes.
INTERIOR = np.array([0.00213, 0.0137, 0.1003, 0.3333, 0.5001, 0.7777, 0.9003, 0.9891])


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def methods(schedule):
    """Every method of one argument, as functions of the time; `rates` is summed with weights."""

    def rates(t):
        return sum(rate * weight for rate, weight in zip(schedule.rates(t), (1, 2, 3), strict=True))

    return {
        "alpha": schedule.alpha,
        "sigma": schedule.sigma,
        "log_snr": schedule.log_snr,
        "alpha_dot": schedule.alpha_dot,
        "sigma_sigma_dot": schedule.sigma_sigma_dot,
        "rates": rates,
        "inverse": lambda t: schedule.time_of_log_snr(schedule.log_snr(t)),
        "noise_p": lambda t: schedule.prediction_weights("noise", t)[0],
        "data_q": lambda t: schedule.prediction_weights("data", t)[1],
    }


# Ends and ranges


@every_schedule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
def test_time_zero_is_exactly_data(name, dtype, module):
    schedule, zero = SCHEDULES[name], module.asarray(0, dtype)
    assert (schedule.alpha(zero), schedule.sigma(zero), schedule.log_snr(zero)) == (1, 0, np.inf)
    assert schedule.time_of_log_snr(module.asarray(np.inf, dtype)) == 0


@pytest.mark.parametrize("name", REACHES_NOISE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
def test_time_one_is_exactly_noise(name, dtype, module):
    schedule, one = SCHEDULES[name], module.asarray(1, dtype)
    assert (schedule.alpha(one), schedule.sigma(one), schedule.log_snr(one)) == (0, 1, -np.inf)
    assert schedule.time_of_log_snr(module.asarray(-np.inf, dtype)) == 1


@every_schedule
def test_python_numbers_are_times(name):
    for method in methods(SCHEDULES[name]).values():
        assert method(1) == method(np.float64(1))
        assert method(0.25) == method(np.float64(0.25))


@every_schedule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(name, dtype):
    for module in (np, jnp):
        t = module.asarray([0.0, 0.3, 1.0], dtype)
        for method, function in methods(SCHEDULES[name]).items():
            assert function(t).dtype == dtype, (module.__name__, method)


@every_schedule
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rates_and_weights_are_finite_at_both_ends(name, dtype):
    schedule, t = SCHEDULES[name], np.array([0.0, 1.0], dtype)
    assert np.all(np.isfinite(schedule.rates(t)))
    for kind in ("velocity", "data", "noise", "v"):
        assert np.all(np.isfinite(schedule.prediction_weights(kind, t))), kind


@every_schedule
def test_alpha_falls_sigma_grows_and_log_snr_falls(name):
    schedule, t = SCHEDULES[name], np.linspace(0, 1, 10001)
    assert np.all(np.diff(schedule.alpha(t)) <= 0)
    assert np.all(np.diff(schedule.sigma(t)) >= 0)
    with np.errstate(invalid="ignore"):  # inf - inf where a discrete schedule holds alpha = 1
        steps = np.diff(schedule.log_snr(t))
    assert np.all((steps < 0) | np.isnan(steps))
    assert np.all(np.isfinite(steps[2:-1]))


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variance_is_preserved(name, dtype):
    schedule, t = SCHEDULES[name], np.linspace(0, 1, 997).astype(dtype)
    variance = schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2
    np.testing.assert_allclose(variance, 1, rtol=4 * np.finfo(dtype).eps)


@every_schedule
def test_log_snr_is_the_logarithm_of_the_ratio(name):
    schedule = SCHEDULES[name]
    ratio = schedule.alpha(INTERIOR) / schedule.sigma(INTERIOR)
    np.testing.assert_allclose(schedule.log_snr(INTERIOR), np.log(ratio), rtol=1e-12, atol=1e-13)


# The inverse


@every_schedule
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-13)])
@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
def test_inverse_undoes_log_snr(name, dtype, tolerance, module):
    schedule = SCHEDULES[name]
    t = np.concatenate([[0], np.geomspace(3e-4, 0.1, 200), np.linspace(0.1, 1, 777)]).astype(dtype)
    back = schedule.time_of_log_snr(schedule.log_snr(module.asarray(t)))
    np.testing.assert_allclose(back, t, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp"])
def test_inverse_keeps_relative_accuracy_of_tiny_times(name):
    schedule, t = SCHEDULES[name], np.geomspace(1e-15, 1e-2, 50)
    np.testing.assert_allclose(schedule.time_of_log_snr(schedule.log_snr(t)), t, rtol=1e-13)


def test_linear_inverse_is_sigmoid_and_not_the_noise_to_signal_ratio():
    log_snr = np.linspace(-30, 30, 61)
    times = Linear().time_of_log_snr(log_snr)
    np.testing.assert_allclose(times, jax.nn.sigmoid(-log_snr), rtol=1e-14)
    # exp(-log_snr), which some public codes have, passes 1 where log-SNR is negative.
    assert Linear().time_of_log_snr(-3.0) < 1 < np.exp(3.0)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_inverse_survives_log_snr_beyond_exp(name):
    for dtype in (np.float32, np.float64):
        assert np.array_equal(SCHEDULES[name].time_of_log_snr(np.array([-1e4, 1e4], dtype)), [1, 0])


# numpy, jax.numpy and jit are one formula


@every_schedule
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-5), (np.float64, 1e-12)])
def test_numpy_jax_and_jit_agree(name, dtype, tolerance):
    t = np.concatenate([[0.0], INTERIOR, [1.0]]).astype(dtype)
    functions = methods(SCHEDULES[name])
    compiled = jax.jit(lambda t: {method: function(t) for method, function in functions.items()})(t)
    for method, function in functions.items():
        expected = function(t)
        np.testing.assert_allclose(
            function(jnp.asarray(t)), expected, rtol=tolerance, atol=tolerance, err_msg=method
        )
        np.testing.assert_allclose(
            compiled[method], expected, rtol=tolerance, atol=tolerance, err_msg=method
        )


# Derivatives


def derivative(function, t):
    return jax.vmap(jax.grad(function))(jnp.asarray(t))


@every_schedule
def test_alpha_dot_is_the_derivative_of_alpha(name):
    schedule = SCHEDULES[name]
    expected = derivative(schedule.alpha, INTERIOR)
    np.testing.assert_allclose(schedule.alpha_dot(INTERIOR), expected, rtol=1e-10)


@every_schedule
def test_sigma_sigma_dot_is_half_the_derivative_of_sigma_squared(name):
    schedule = SCHEDULES[name]
    expected = derivative(lambda t: schedule.sigma(t) ** 2 / 2, INTERIOR)
    np.testing.assert_allclose(schedule.sigma_sigma_dot(INTERIOR), expected, rtol=1e-10)


@every_schedule
def test_rates_are_the_derivatives_over_the_wronskian(name):
    schedule = SCHEDULES[name]
    alpha, sigma = schedule.alpha(INTERIOR), schedule.sigma(INTERIOR)
    alpha_dot = derivative(schedule.alpha, INTERIOR)
    sigma_dot = derivative(schedule.sigma, INTERIOR)
    # W = alpha sigma' - alpha' sigma
    wronskian = alpha * sigma_dot - alpha_dot * sigma
    expected = (alpha_dot / wronskian, sigma_dot / wronskian, 1 / wronskian)
    np.testing.assert_allclose(schedule.rates(INTERIOR), expected, rtol=1e-9)


# Predictions: with data and noise known, x and the velocity are known, and each prediction must
# come out.


def pair(schedule, t):
    """(data, noise, x, velocity) with a batch of one entry a time."""
    data, noise = random(len(t), 3, 2), random(len(t), 3, 2, seed=1)
    # (B,) -> (B, 1, 1)
    alpha_dot = np.asarray(derivative(schedule.alpha, t))[:, None, None]
    sigma_dot = np.asarray(derivative(schedule.sigma, t))[:, None, None]
    velocity = alpha_dot * data + sigma_dot * noise
    return data, noise, schedule.add_noise(data, noise, t), velocity


@every_schedule
def test_state_is_alpha_data_plus_sigma_noise(name):
    schedule = SCHEDULES[name]
    data, noise, x, _ = pair(schedule, INTERIOR)
    for i, t in enumerate(INTERIOR):
        expected = schedule.alpha(t) * data[i] + schedule.sigma(t) * noise[i]
        np.testing.assert_array_equal(x[i], expected)
        # One time for the batch, as a scalar
        one = slice(i, i + 1)
        np.testing.assert_array_equal(x[one], schedule.add_noise(data[one], noise[one], t))


@every_schedule
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_prediction_comes_from_the_velocity(name, kind):
    schedule = SCHEDULES[name]
    data, noise, x, velocity = pair(schedule, INTERIOR)
    alpha, sigma = schedule.alpha(INTERIOR)[:, None, None], schedule.sigma(INTERIOR)[:, None, None]
    expected = {
        "velocity": velocity,
        "data": data,
        "noise": noise,
        "score": -noise / sigma,
        "v": alpha * noise - sigma * data,
    }
    got = predict(schedule, kind, velocity, x, INTERIOR)
    np.testing.assert_allclose(got, expected[kind], rtol=1e-9, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_to_velocity_undoes_predict(name, kind):
    schedule = SCHEDULES[name]
    x, velocity = random(len(INTERIOR), 5), random(len(INTERIOR), 5, seed=1)
    back = to_velocity(schedule, kind, predict(schedule, kind, velocity, x, INTERIOR), x, INTERIOR)
    # Where sigma is small the state is much larger than its velocity: x/sigma loses 3 digits of 16
    # at the first time.
    np.testing.assert_allclose(back, velocity, rtol=1e-10, atol=1e-10)


@every_schedule
def test_data_prediction_at_time_zero_is_the_state(name):
    x, velocity = random(4, 3), random(4, 3, seed=1)
    np.testing.assert_array_equal(predict(SCHEDULES[name], "data", velocity, x, 0.0), x)


@pytest.mark.parametrize("name", REACHES_NOISE)
def test_noise_prediction_at_time_one_is_the_state(name):
    x, velocity = random(4, 3), random(4, 3, seed=1)
    np.testing.assert_array_equal(predict(SCHEDULES[name], "noise", velocity, x, 1.0), x)


def test_linear_data_prediction_is_x_minus_t_velocity():
    x, velocity, t = random(3, 2), random(3, 2, seed=1), np.array([0.0, 0.4, 1.0])
    np.testing.assert_array_equal(
        predict(Linear(), "data", velocity, x, t), x - t[:, None] * velocity
    )


@pytest.mark.parametrize("kind", ["data", "noise", "v"])
def test_wrapped_network_receives_its_clock_and_gives_the_velocity(kind):
    schedule, t = Cosine(), 0.3
    data, noise = random(4, 3), random(4, 3, seed=1)
    clocks = []

    def network(x, clock):
        clocks.append(clock)
        v = schedule.alpha(t) * noise - schedule.sigma(t) * data
        return {"data": data, "noise": noise, "v": v}[kind]

    model = as_velocity(network, schedule, kind, label=lambda t: 1000 * t)
    velocity = model(schedule.add_noise(data, noise, t), t)
    assert clocks == [300]
    # alpha' data + sigma' noise, with sigma' = pi/2 alpha
    expected = schedule.alpha_dot(t) * data + np.pi / 2 * schedule.alpha(t) * noise
    np.testing.assert_allclose(velocity, expected, rtol=1e-12)


# Schedules of discrete networks


@pytest.mark.parametrize("name", ["discrete", "scaled"])
def test_nodes_are_the_cumulative_product(name):
    schedule = SCHEDULES[name]
    assert schedule.steps == 1000
    t = np.arange(1, 1001) / 1000
    np.testing.assert_allclose(
        schedule.alpha(t), np.sqrt(np.cumprod(1 - schedule.betas)), rtol=1e-12
    )


def test_betas_of_the_published_schedules():
    assert SCHEDULES["discrete"].betas[[0, -1]] == pytest.approx([1e-4, 2e-2])
    assert SCHEDULES["discrete"].betas[500] == pytest.approx((1e-4 * 499 + 2e-2 * 500) / 999)
    assert SCHEDULES["scaled"].betas[[0, -1]] == pytest.approx([0.00085, 0.012])
    assert SCHEDULES["scaled"].betas[500] ** 0.5 == pytest.approx(
        (0.00085**0.5 * 499 + 0.012**0.5 * 500) / 999
    )
    assert SCHEDULES["discrete-cosine"].betas[-1] == 0.999


def test_log_alpha_is_linear_between_nodes():
    schedule = SCHEDULES["discrete"]
    left, right = np.log(schedule.alpha(0.5)), np.log(schedule.alpha(0.501))
    assert np.log(schedule.alpha(0.50025)) == pytest.approx(0.75 * left + 0.25 * right, rel=1e-12)


def test_clip_leaves_996_nodes_of_the_cosine_schedule():
    schedule, unclipped = SCHEDULES["discrete-cosine"], VPDiscrete.cosine(log_snr_min=None)
    assert (schedule.steps, unclipped.steps) == (996, 1000)
    assert (
        schedule.log_snr(1.0) == pytest.approx(unclipped.log_snr(0.996))
        and schedule.log_snr(1.0) >= -5.1
    )
    assert unclipped.log_snr(0.997) < -5.1


def test_alpha_is_held_at_one_just_above_time_zero():
    # The first segment of the linear betas reaches alpha = 1 at t = 1/6000.
    schedule = SCHEDULES["discrete"]
    assert schedule.alpha(1.6e-4) == 1 and schedule.alpha(1.7e-4) < 1


# Mistakes


@pytest.mark.parametrize("betas", [[0.1], [0.0, 0.1], [0.1, 1.0], [[0.1, 0.2]], [], [0.1, np.nan]])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match=r"schedules\.VPDiscrete: betas .* wanted"):
        VPDiscrete(betas)


def test_clip_that_leaves_no_segment_is_refused():
    with pytest.raises(ValueError, match=r"schedules\.VPDiscrete: only 0 node.* lower log_snr_min"):
        VPDiscrete.linear(log_snr_min=20.0)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match=r"kind='epsilon' is not known; the choices are .*'noise'"):
        predict(Linear(), "epsilon", np.zeros((1, 2)), np.zeros((1, 2)), 0.5)


def test_nodes_keep_their_segment_in_float32():
    """At node n the slope is that of the segment after it.

    float32(n/N) N falls below n for some n, such as 251 of 1000.
    """
    schedule = VPDiscrete.linear(log_snr_min=None)
    t = np.arange(1, 1000) / 1000
    exact = schedule.log_alpha_dot(t)
    for module in (np, jnp):
        np.testing.assert_allclose(
            schedule.log_alpha_dot(module.asarray(t, np.float32)), exact, rtol=1e-6
        )


def test_unknown_beta_schedule_is_refused():
    """It was taken for "scaled_linear" before."""
    with pytest.raises(ValueError, match=r"schedules\.of_betas: kind='sigmoid' is not known"):
        schedules.of_betas("sigmoid", 1000, 1e-4, 2e-2)


NO_SCHEDULES = {
    "grid": (grids.uniform(4), r"the schedule is an array of shape \(5,\); .* the grid of times"),
    "list": ([1.0, 0.0], r"the schedule is an array of shape \(2,\)"),
    "class": (Cosine, r"the schedule is the class Cosine; wanted .* for example Cosine\(\)"),
    "name": ("linear", r"the schedule is 'linear'; wanted a schedule such as flowjax\.Linear\(\)"),
    "nothing": (None, r"the schedule is None; wanted a schedule"),
}


@pytest.mark.parametrize(("given", "message"), NO_SCHEDULES.values(), ids=NO_SCHEDULES)
def test_what_is_no_schedule_is_refused(given, message):
    with pytest.raises(ValueError, match="^here: " + message):
        schedules.check(given, "here")


@every_schedule
def test_every_schedule_passes_the_check(name):
    schedules.check(SCHEDULES[name], "here")


def test_an_object_with_the_methods_is_a_schedule():
    class Own:
        alpha = sigma = log_snr = staticmethod(lambda t: t)

    schedules.check(Own(), "here")
