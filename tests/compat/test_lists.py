"""Image-to-image and the times of the caller: the last part of a grid, and lists."""

import numpy as np
import pytest

from flowjax import compat, plans
from flowjax.schedules import Linear
from tests.compat.configs import (
    ALL,
    DDIM,
    DEIS,
    DPM,
    EULER,
    FLOW,
    FLOW_EULER,
    FLOW_HEUN,
    HEUN,
    SINGLE,
    UNIPC,
    name_of,
    run,
)

INDICES = [900, 700, 400, 100, 10]


def assert_same_rows(first, second):
    for name, ours, theirs in zip(first._fields, first, second, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=name)


# Strength.


@pytest.mark.parametrize("config", ALL, ids=name_of)
@pytest.mark.parametrize("strength, steps", [(0.6, 12), (0.25, 5), (1.0, 20)])
def test_strength_takes_the_last_steps_of_the_grid(config, strength, steps):
    whole = compat.diffusers_plan(config, 20)
    part = compat.diffusers_plan(config, 20, strength=strength)
    times = np.unique(whole.t)[::-1]
    np.testing.assert_array_equal(np.unique(part.t)[::-1], times[20 - steps :])
    assert part.t_next[-1] == whole.t_next[-1]


@pytest.mark.parametrize(
    "steps, strength, up, down",
    [(28, 0.6, 17, 16), (50, 0.75, 38, 37), (10, 0.7, 7, 7), (20, 0.29, 6, 5), (20, 0.04, 1, None)],
)
def test_part_of_a_step_is_rounded_as_the_pipelines_of_the_class_do(steps, strength, up, down):
    """The rules of get_timesteps, of Stable Diffusion 3 and Flux, and of Stable Diffusion."""
    assert up == steps - int(max(steps - min(steps * strength, steps), 0))
    for config in (FLOW_EULER, FLOW_HEUN):
        assert compat.diffusers_plan(config, steps, strength=strength).steps == up
    if down is None:  # the next test
        return
    assert down == min(int(steps * strength), steps)
    for config, options in ((DDIM, {}), (EULER, {}), (UNIPC, FLOW), (DPM, FLOW)):
        assert compat.diffusers_plan(config, steps, strength=strength, **options).steps == down


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("steps, kept", [(20, 12), (12, 7)])
def test_history_of_the_last_steps_starts_anew(order, steps, kept):
    whole = compat.diffusers_plan(DPM, steps, flow_shift=3.0, solver_order=order, **FLOW)
    part = compat.diffusers_plan(
        DPM, steps, strength=0.6, flow_shift=3.0, solver_order=order, **FLOW
    )
    # diffusers lowers the last orders by the number of steps of the complete grid.
    final = (2, 1) if steps < 15 else (3, 1)
    wanted = plans.dpm_solver_pp(
        Linear(), whole.grid[-kept - 1 :], order, third_order="published", final=final
    )
    assert_same_rows(part, wanted)
    np.testing.assert_array_equal(np.count_nonzero(part.b, axis=1)[:2], [1, 2])


def test_rows_of_a_multistep_plan_are_another_method():
    """What cutting the rows would give is off by far more than a step's error."""
    whole = compat.diffusers_plan(DPM, 20, flow_shift=3.0, **FLOW)
    part = compat.diffusers_plan(DPM, 20, strength=0.6, flow_shift=3.0, **FLOW)
    cut = plans.Plan(*(column[8:] for column in whole))
    x = np.random.default_rng(0).normal(size=(4, 3))

    def model(x, t):
        return np.sin(3 * x) + x

    assert np.max(np.abs(run(cut, model, x) - run(part, model, x))) > 1e-2


def test_singlestep_that_begins_inside_a_block_takes_its_rest():
    # Blocks of 20 evaluations of order 3: 3, 3, 3, 3, 3, 3, 1, 1. The last 11 begin at the tenth.
    part = compat.diffusers_plan(SINGLE, 20, strength=0.55, solver_order=3)
    ends = np.flatnonzero(np.append(True, part.ends_step))
    assert np.diff(ends).tolist() == [3, 3, 3, 1, 1]
    part = compat.diffusers_plan(SINGLE, 20, strength=0.5, solver_order=3)
    ends = np.flatnonzero(np.append(True, part.ends_step))
    assert np.diff(ends).tolist() == [2, 3, 3, 1, 1]


def test_corrector_counts_the_steps_of_the_complete_grid():
    off = compat.diffusers_plan(UNIPC, 10, strength=0.5, disable_corrector=[5, 6, 7, 8])
    never = compat.diffusers_plan(UNIPC, 10, strength=0.5, disable_corrector=list(range(10)))
    on = compat.diffusers_plan(UNIPC, 10, strength=0.5, disable_corrector=[0, 1, 2, 3, 4])
    assert_same_rows(off, never)
    assert_same_rows(on, compat.diffusers_plan(UNIPC, 10, strength=0.5))


@pytest.mark.parametrize("strength", [0, -0.1, 1.2, "0.6", None, float("nan"), True])
def test_strength_is_a_number_up_to_one(strength):
    with pytest.raises(ValueError, match="strength="):
        compat.diffusers_plan(DDIM, 20, strength=strength)


def test_strength_that_leaves_no_step_is_refused():
    with pytest.raises(ValueError, match="strength of at least 0.05"):
        compat.diffusers_plan(DDIM, 20, strength=0.04)


# The caller's own times.


@pytest.mark.parametrize("config", [DPM, SINGLE, EULER, HEUN], ids=name_of)
def test_own_timesteps_are_training_steps(config):
    plan = compat.diffusers_plan(config, timesteps=INDICES)
    np.testing.assert_allclose(np.unique(plan.t)[::-1], (np.array(INDICES) + 1) / 1000)
    last = compat.diffusers_plan(config, timesteps=INDICES, strength=0.6)
    np.testing.assert_allclose(np.unique(last.t)[::-1], [0.401, 0.101, 0.011])


def test_own_sigmas_of_euler_name_the_end():
    sigmas = [14.0, 8.0, 3.0, 0.5, 0.1]
    plan = compat.diffusers_plan(EULER, sigmas=sigmas, use_karras_sigmas=True)
    schedule = compat.diffusers_schedule(EULER)
    np.testing.assert_allclose(np.exp(-schedule.log_snr(plan.grid)), sigmas)
    assert compat.diffusers_plan(EULER, sigmas=[3.0, 1.0, 0.0]).grid[-1] == 0


@pytest.mark.parametrize("config, options", [(FLOW_EULER, {"shift": 3.0}), (UNIPC, FLOW)])
def test_own_sigmas_of_a_flow_are_shifted(config, options):
    options = options | ({"flow_shift": 3.0} if config is UNIPC else {})
    plan = compat.diffusers_plan(config, sigmas=[1.0, 0.5, 0.25], **options)
    np.testing.assert_allclose(plan.grid, [1, 0.75, 0.5, 0])
    stretched = compat.diffusers_plan(config, sigmas=[1.0, 0.5], shift_terminal=0.3, **options)
    np.testing.assert_allclose(stretched.grid, [1, 0.3, 0])


def test_own_timesteps_of_flow_euler_are_states_before_the_shift_and_labels_of_the_peers():
    options = {"timesteps": [1000, 500], "shift": 3.0}
    ours = compat.diffusers_plan(FLOW_EULER, **options)
    np.testing.assert_allclose(ours.label_time, [1, 0.75])
    theirs = compat.diffusers_plan(FLOW_EULER, labels="peers", **options)
    np.testing.assert_allclose(theirs.t, [1, 0.75])
    np.testing.assert_allclose(theirs.label_time, [1, 0.5])
    both = compat.diffusers_plan(FLOW_EULER, sigmas=[0.9, 0.4], timesteps=[800, 300])
    np.testing.assert_allclose((both.t, both.label_time), [[0.9, 0.4], [0.8, 0.3]])


@pytest.mark.parametrize(
    "config, options, message",
    [
        # Classes that take none
        (DDIM, {"timesteps": INDICES}, "takes no timesteps"),
        (DEIS, {"timesteps": INDICES}, "takes no timesteps"),
        (FLOW_HEUN, {"sigmas": [1.0, 0.5]}, "takes no sigmas"),
        (UNIPC, {"timesteps": INDICES}, "takes no timesteps"),
        (DPM, {"sigmas": [3.0, 1.0]}, "takes no sigmas"),
        # Options that would replace them
        (DPM, {"timesteps": INDICES, "use_karras_sigmas": True}, "karras respacing"),
        (DPM, {"timesteps": INDICES, "use_lu_lambdas": True}, "lu respacing"),
        (DPM, {"timesteps": INDICES, **FLOW}, "use_flow_sigmas is on"),
        (UNIPC, {"sigmas": [0.9, 0.5]}, "use_flow_sigmas is off"),
        (UNIPC, {"sigmas": [0.9, 0.5], **FLOW, "use_beta_sigmas": True}, "beta respacing"),
        (EULER, {"timesteps": INDICES, "use_beta_sigmas": True}, "beta respacing"),
        (
            EULER,
            {
                "timesteps": INDICES,
                "timestep_type": "continuous",
                "prediction_type": "v_prediction",
            },
            "pass sigmas",
        ),
        (EULER, {"timesteps": INDICES, "sigmas": [3.0, 1.0]}, "both were given"),
        # Numbers
        (EULER, {"timesteps": [10, 20]}, "must decrease strictly"),
        (EULER, {"timesteps": [1000, 20]}, "at most 999"),
        (EULER, {"timesteps": []}, "the noisiest first"),
        (EULER, {"timesteps": ["900", 20]}, "a list of numbers"),
        (EULER, {"timesteps": 900}, "a list of numbers"),
        (EULER, {"sigmas": [3.0]}, "at least two"),
        (EULER, {"sigmas": [20.0, 1.0]}, "above 14.6"),
        (EULER, {"sigmas": [3.0, -1.0]}, "at least 0"),
        (DPM, {"timesteps": [900.5, 100]}, "whole training steps"),
        (FLOW_EULER, {"sigmas": [1.5, 0.5]}, "at most 1"),
        (FLOW_EULER, {"sigmas": [0.9, 0.5], "timesteps": [900]}, "as many of both"),
        (FLOW_EULER, {"sigmas": [0.9, float("nan")]}, "finite numbers"),
        (EULER, {"timesteps": INDICES, "steps": 3}, "the list has 5 steps"),
        (EULER, {}, "steps is None"),
    ],
)
def test_lists_that_a_scheduler_does_not_take_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        compat.diffusers_plan(config, **options)
