"""Ranges of noise levels, ends and labels: numbers of diffusers 0.42.1, or closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import compat
from flowjax.schedules import Cosine
from tests.compat.configs import (
    ALL,
    DDIM,
    DEIS,
    DPM,
    EULER,
    FLOW,
    FLOW_EULER,
    HEUN,
    SD,
    SINGLE,
    UNIPC,
    VIDEO,
    name_of,
)

RANGE = {"use_karras_sigmas": True, "sigma_min": 0.147, "sigma_max": 200.0}
VP_CLASSES = [DPM, SINGLE, UNIPC, DEIS, EULER, HEUN]
RESPACED = ["karras", "exponential", "beta"]


def ratios(config, times):
    """sigma/alpha at these times."""
    schedule = compat.diffusers_schedule(config)
    return np.exp(-schedule.log_snr(np.asarray(times)))


def karras(high, low, count):
    return (high ** (1 / 7) + np.linspace(0, 1, count) * (low ** (1 / 7) - high ** (1 / 7))) ** 7


# Ranges of a respacing.


@pytest.mark.parametrize("config", [UNIPC, DPM, SINGLE, DEIS], ids=name_of)
def test_flow_follows_the_range_of_the_file(config):
    plan = compat.diffusers_plan(config, 4, **FLOW, **RANGE)
    # Places of the states: a singlestep plan has its substeps there too.
    np.testing.assert_allclose(plan.t, [0.9950, 0.9736, 0.7986, 0.1282], atol=5e-5)
    assert plan.t[0] == pytest.approx(200 / 201) and plan.t[-1] == pytest.approx(0.147 / 1.147)
    assert plan.t_next[-1] == 0
    peers = compat.diffusers_plan(config, 4, labels="peers", **FLOW, **RANGE)
    labels = compat.diffusers_label(config, **FLOW)(peers.label_time)
    np.testing.assert_allclose(labels, [995, 973, 798, 128], atol=1e-9)


@pytest.mark.parametrize("config", VP_CLASSES, ids=name_of)
@pytest.mark.parametrize("low, high", [(0.2, None), (None, 9.0), (0.2, 9.0)])
def test_vp_network_follows_the_range_of_the_file(config, low, high):
    given = {"sigma_min": low, "sigma_max": high, "use_karras_sigmas": True}
    plan = compat.diffusers_plan(config, 8, **given)
    first, last = ratios(config, plan.t[[0, -1]])
    betas_high, betas_low = ratios(config, [1.0, 0.001])
    assert first == pytest.approx(high or betas_high)
    # DEIS repeats its last noise level, and its last evaluation would change nothing.
    end = ratios(config, plan.t_next[-1:])[0] if config is DEIS else last
    assert end == pytest.approx(low or betas_low)


@pytest.mark.parametrize("rule", RESPACED)
def test_range_of_a_flow_matching_class_is_one_of_times(rule):
    given = {f"use_{rule}_sigmas": True, "sigma_min": 0.05, "sigma_max": 0.9}
    plan = compat.diffusers_plan(FLOW_EULER, 6, **given)
    assert (plan.t[0], plan.t[-1]) == pytest.approx((0.9, 0.05))
    with pytest.raises(ValueError, match="sigma_max=80 is a time t"):
        compat.diffusers_plan(FLOW_EULER, 6, **(given | {"sigma_max": 80.0}))


@pytest.mark.parametrize("config", [EULER, HEUN], ids=name_of)
@pytest.mark.parametrize("spacing, first", [("leading", 800), ("trailing", 999), ("linspace", 999)])
def test_respacing_of_euler_and_heun_begins_where_the_timestep_spacing_does(config, spacing, first):
    plan = compat.diffusers_plan(config, 5, timestep_spacing=spacing, use_karras_sigmas=True)
    assert plan.t[0] == pytest.approx((first + 1) / 1000)


def test_range_without_a_respacing_has_no_effect():
    plain = compat.diffusers_plan(EULER, 5)
    ranged = compat.diffusers_plan(EULER, 5, sigma_min=0.002, sigma_max=700.0)
    np.testing.assert_array_equal(plain.t, ranged.t)


@pytest.mark.parametrize("config", VP_CLASSES, ids=name_of)
def test_noise_level_above_the_betas_has_no_label_and_is_refused(config):
    with pytest.raises(ValueError, match="above 14.6"):
        compat.diffusers_plan(config, 5, use_exponential_sigmas=True, sigma_max=80.0)


@pytest.mark.parametrize("config", [DPM, EULER], ids=name_of)
def test_noise_level_below_the_betas_keeps_the_first_label(config):
    plan = compat.diffusers_plan(config, 8, use_karras_sigmas=True, sigma_min=0.002)
    assert ratios(config, plan.t[-1:])[0] == pytest.approx(0.002)
    assert plan.t[-1] < 0.001 and plan.label_time[-1] == 0.001
    assert compat.diffusers_label(config)(plan.label_time)[-1] == 0


def test_empty_range_is_refused():
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        compat.diffusers_plan(EULER, 5, use_karras_sigmas=True, sigma_min=3.0, sigma_max=2.0)
    # One end is given, the other one is that of the betas.
    with pytest.raises(ValueError, match="wanted sigma_min < sigma_max"):
        compat.diffusers_plan(EULER, 5, use_karras_sigmas=True, sigma_min=30.0)


# A network that receives its noise level.


def test_video_model_starts_at_its_sigma_and_receives_the_logarithm():
    schedule = compat.diffusers_schedule(VIDEO)
    assert schedule == Cosine()
    plan = compat.diffusers_plan(VIDEO, 25)
    sigma = ratios(VIDEO, plan.t)
    np.testing.assert_allclose(sigma, karras(700.0, 0.002, 25), rtol=1e-9)
    for labels in ("continuous", "peers"):
        plan = compat.diffusers_plan(VIDEO, 25, labels=labels)
        label = compat.diffusers_label(VIDEO)(plan.label_time)
        np.testing.assert_allclose(label, np.log(sigma) / 4, rtol=1e-9)
    assert plan.nfe == 25 and plan.t_next[-1] == 0


def test_noise_level_is_told_to_v_prediction_alone():
    # diffusers looks at both options.
    index = compat.diffusers_label(EULER, timestep_type="continuous")
    assert index(np.array(0.5)) == 499


# Labels.


@pytest.mark.parametrize("config", ALL, ids=name_of)
def test_label_of_the_first_evaluation(config):
    label = compat.diffusers_label(config)
    wanted = 1000 if "Flow" in config["_class_name"] else 999
    assert label(np.array(1.0)) == wanted
    # Times of jax.numpy give labels of jax.numpy.
    assert float(label(jnp.array(1.0))) == wanted
    half = compat.diffusers_label(config, num_train_timesteps=500)
    assert half(np.array(1.0)) == (500 if wanted == 1000 else 499)


def test_labels_of_a_flow_count_training_steps():
    assert compat.diffusers_label(DPM, **FLOW)(np.array(0.25)) == 250


@pytest.mark.parametrize(
    "config, options, wanted",
    [
        (DPM, {}, [999, 749, 500, 250]),
        (DPM, {"timestep_spacing": "trailing"}, [999, 749, 499, 249]),
        (DPM, FLOW | {"flow_shift": 3.0}, [999, 899, 749, 499]),
        (UNIPC, FLOW | {"flow_shift": 3.0}, [999, 900, 750, 500]),
        (EULER, {"timestep_spacing": "leading", "steps_offset": 1}, [751, 501, 251, 1]),
        (DDIM, {"timestep_spacing": "trailing"}, [999, 749, 499, 249]),
        (HEUN, {}, [999, 666, 666, 333, 333, 0, 0]),
    ],
)
def test_labels_are_the_timesteps_of_diffusers(config, options, wanted):
    plan = compat.diffusers_plan(config, 4, labels="peers", grid="peers", **options)
    labels = compat.diffusers_label(config, **options)(plan.label_time)
    np.testing.assert_allclose(labels, wanted[: plan.rows], atol=1e-6)


# Ends.


@pytest.mark.parametrize("config", [DPM, SINGLE], ids=name_of)
@pytest.mark.parametrize("betas, end", [({}, 0.0100013), (SD, 0.0291675)])
def test_flow_ends_at_the_first_noise_level_of_the_betas(config, betas, end):
    config = {"_class_name": config["_class_name"], **betas}
    plan = compat.diffusers_plan(config, 20, flow_shift=3.0, final_sigmas_type="sigma_min", **FLOW)
    assert plan.nfe == 20
    assert plan.t_next[-1] == pytest.approx(end, abs=1e-7)
    zero = compat.diffusers_plan(config, 20, flow_shift=3.0, **FLOW)
    np.testing.assert_array_equal(plan.t, zero.t)


def test_unipc_repeats_its_last_noise_level_on_a_flow():
    plan = compat.diffusers_plan(UNIPC, 20, final_sigmas_type="sigma_min", **FLOW)
    assert plan.nfe == 19 and plan.t_next[-1] == pytest.approx(0.05095)


@pytest.mark.parametrize("config", [DPM, SINGLE, EULER], ids=name_of)
def test_respaced_range_still_ends_at_the_first_training_step(config):
    plan = compat.diffusers_plan(
        config, 8, use_karras_sigmas=True, sigma_min=0.2, final_sigmas_type="sigma_min"
    )
    assert plan.nfe == 8 and plan.t_next[-1] == 0.001


def test_end_above_the_last_evaluation_is_refused():
    with pytest.raises(ValueError, match="the last evaluation lies below it"):
        compat.diffusers_plan(DPM, 200, final_sigmas_type="sigma_min", **FLOW)


@pytest.mark.parametrize("config, options", [(FLOW_EULER, {}), (UNIPC, FLOW)])
def test_one_step_with_a_terminal_shift_goes_from_noise_to_data(config, options):
    plan = compat.diffusers_plan(config, 1, shift_terminal=0.1, **options)
    np.testing.assert_array_equal(plan.grid, [1, 0])


@pytest.mark.parametrize("config", [DPM, UNIPC, EULER], ids=name_of)
def test_rescaled_betas_end_in_almost_pure_noise(config):
    schedule = compat.diffusers_schedule(config, rescale_betas_zero_snr=True)
    plain = compat.diffusers_schedule(config)
    assert schedule.alpha(1.0) == pytest.approx(2.0**-12)
    # The first training step stays; the others move less the less noise they have.
    assert schedule.alpha(0.001) == pytest.approx(plain.alpha(0.001))
    assert schedule is compat.diffusers_schedule(config, rescale_betas_zero_snr=True)
    # The default betas end in noise already, and the last step of diffusers goes back.
    defaults = {"_class_name": config["_class_name"], "rescale_betas_zero_snr": True}
    with pytest.raises(ValueError, match="the noise would not grow"):
        compat.diffusers_schedule(defaults)


# Contradictions.


@pytest.mark.parametrize(
    "config, options, message",
    [
        (DPM, {"prediction_type": "flow_prediction"}, "set use_flow_sigmas=True"),
        (UNIPC, {"prediction_type": "v_prediction", "use_flow_sigmas": True}, "v_prediction"),
        (UNIPC, {"shift_terminal": 0.1}, "acts on flows only"),
        (EULER, {"prediction_type": "flow_prediction"}, "prediction_type='flow_prediction'"),
        (DDIM, {"trained_betas": [0.1, 0.2]}, "num_train_timesteps=2"),
        (DPM, {"use_karras_sigmas": True, "use_lu_lambdas": True}, "keep one"),
    ],
)
def test_values_that_contradict_each_other_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        compat.diffusers_plan(config, 5, **options)


@pytest.mark.parametrize("config", [DPM, SINGLE, DEIS], ids=name_of)
def test_grid_that_diffusers_does_not_have_is_not_reproduced(config):
    with pytest.raises(ValueError, match="keep grid='corrected'"):
        compat.diffusers_plan(config, 5, grid="peers", **FLOW, **RANGE)


def test_file_is_read_as_another_class():
    file = {**DDIM, "clip_sample": True, "set_alpha_to_one": False, "skip_prk_steps": True}
    as_euler = compat.diffusers_plan(file, 5, _class_name="EulerDiscreteScheduler")
    np.testing.assert_array_equal(as_euler.t, compat.diffusers_plan(EULER, 5).t)
    # Names of other classes for the same thing
    as_unipc = compat.diffusers_plan(DPM, 5, _class_name="UniPCMultistepScheduler")
    named = {**DPM, "solver_type": "heun", "_class_name": "UniPCMultistepScheduler"}
    np.testing.assert_array_equal(as_unipc.b, compat.diffusers_plan(named, 5).b)
    # A config in memory lists what its file left out; another class has its own default.
    recorded = {
        **DPM,
        "final_sigmas_type": "sigma_min",
        "_use_default_values": ["final_sigmas_type"],
    }
    assert compat.diffusers_plan(recorded, 5).t_next[-1] == 0
