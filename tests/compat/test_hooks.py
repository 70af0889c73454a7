"""Clipping and thresholding: the hooks give the steps that the classes of diffusers take."""

import itertools
import types

import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from experiments import sample
from flowjax import compat
from flowjax.schedules import as_velocity
from tests.compat.configs import DDIM, DEIS, DPM, EULER, HEUN, UNIPC

X = np.random.default_rng(0).normal(size=(3, 16))
# A file of a VP pixel model that leaves clip_sample out.
PIXELS = {key: value for key, value in DDIM.items() if key != "clip_sample"}


def network(x, index):
    """The noise that a network predicts: any smooth function, with data far outside [-1, 1]."""
    return jnp.sin(0.7 * x + 0.003 * index) + 0.3 * jnp.cos(x)


def end_of(config, plan, hook):
    schedule, label = compat.diffusers_schedule(config), compat.diffusers_label(config)
    velocity = as_velocity(network, schedule, "noise", label)
    return flowjax.sample(velocity, jnp.asarray(X), plan, data_hook=hook).x


def ddim_loop(config, steps, correct):
    """DDIM with the corrected data and the noise of the prediction as it was."""
    schedule = compat.diffusers_schedule(config)
    plan = compat.diffusers_plan(config, steps, with_hook=True)
    x = X
    for t0, t1 in itertools.pairwise(plan.grid):
        noise = np.asarray(network(x, 1000 * t0 - 1))
        data = (x - schedule.sigma(t0) * noise) / schedule.alpha(t0)
        x = schedule.alpha(t1) * correct(data) + schedule.sigma(t1) * noise
    return x


def clip(limit):
    return lambda data: np.clip(data, -limit, limit)


def threshold(quantile, most):
    def correct(data):
        s = np.clip(np.quantile(np.abs(data), quantile, axis=1), 1, most)[:, None]
        return np.clip(data, -s, s) / s

    return correct


@pytest.mark.parametrize(
    "options, correct",
    [
        ({}, clip(1.0)),
        ({"clip_sample_range": 0.3}, clip(0.3)),
        ({"timestep_spacing": "trailing"}, clip(1.0)),
        ({"thresholding": True}, threshold(0.995, 1.0)),
        (
            {"thresholding": True, "sample_max_value": 2.0, "dynamic_thresholding_ratio": 0.7},
            threshold(0.7, 2.0),
        ),
    ],
)
def test_hook_gives_the_step_of_ddim(options, correct):
    config = PIXELS | options
    plan = compat.diffusers_plan(config, 10, with_hook=True)
    hook = compat.diffusers_data_hook(config, plan)
    end = end_of(config, plan, hook)
    np.testing.assert_allclose(end, ddim_loop(config, 10, correct), atol=1e-10)
    # The correction matters.
    assert np.max(np.abs(end - end_of(config, plan, None))) > 0.1


@pytest.mark.parametrize("config", [PIXELS, DDIM | {"thresholding": True}])
def test_correction_is_refused_until_the_caller_has_the_hook(config):
    with pytest.raises(ValueError, match="compat.diffusers_data_hook"):
        compat.diffusers_plan(config, 10)
    off = {"clip_sample": False, "thresholding": False}
    assert compat.diffusers_data_hook(config, None, **off) is None
    assert compat.diffusers_plan(config, 10, **off).nfe == 10


@pytest.mark.parametrize("config", [DPM, DEIS, UNIPC])
def test_threshold_of_the_other_classes_replaces_the_data(config):
    config = {**config, "thresholding": True, "dynamic_thresholding_ratio": 0.7}
    hook = compat.diffusers_data_hook(config, None)
    data = 3 * X
    np.testing.assert_allclose(hook(jnp.asarray(data), 0.5), threshold(0.7, 1.0)(data), atol=1e-12)


def test_classes_that_correct_nothing_have_no_hook():
    # UniPC corrects nothing in its noise form, and Euler of diffusers has no such option.
    noise_form = {**UNIPC, "thresholding": True, "predict_x0": False}
    assert compat.diffusers_data_hook(noise_form, None) is None
    assert compat.diffusers_data_hook({**EULER, "clip_sample": True}, None) is None
    hook = compat.diffusers_data_hook({**HEUN, "clip_sample": True, "clip_sample_range": 0.5}, None)
    np.testing.assert_array_equal(hook(jnp.asarray([2.0, -0.2]), 0.5), [0.5, -0.2])


def pixel_card(**options):
    schedule = compat.diffusers_schedule(PIXELS)
    scheduler = PIXELS | options
    return types.SimpleNamespace(name="pixels", scheduler=scheduler, schedule=schedule)


def settings(mesh=None):
    return types.SimpleNamespace(
        solver="scheduler",
        grid="uniform",
        shift=1.0,
        steps=10,
        order=1,
        plan="",
        strength=None,
        mesh=mesh,
    )


def test_sample_command_clips_as_the_scheduler_does():
    card = pixel_card()
    plan = sample.plan_of(settings(), card)
    hook = sample.data_hook_of(settings(), card, plan)
    np.testing.assert_allclose(
        end_of(PIXELS, plan, hook), ddim_loop(PIXELS, 10, clip(1.0)), atol=1e-10
    )
    assert sample.data_hook_of(settings(), pixel_card(clip_sample=False), plan) is None
    with pytest.raises(ValueError, match="one device only"):
        sample.data_hook_of(settings(mesh="seq=2"), card, plan)


def test_sample_command_refuses_a_scheduler_of_another_path():
    flow = pixel_card(
        _class_name="UniPCMultistepScheduler",
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
    )
    with pytest.raises(ValueError, match="steps along Linear"):
        sample.plan_of(settings(), flow)
