"""Settings of other codes become the plans that direct calls give, or are refused by name."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

import flowjax
from flowjax import compat, fields, grids, plans
from flowjax.compat import __main__ as command
from flowjax.compat.scheduler_options import DEFAULTS
from flowjax.compat.scheduler_rules import RULES
from flowjax.schedules import Linear, VPDiscrete, VPLinear

# Groups of options that the published configs share.
VP = {
    "_diffusers_version": "0.30.0",
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
OFF = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "rescale_betas_zero_snr": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}

# Configs as published beside the models that they are named after.
SD3 = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
}
FLUX = {
    **SD3,
    "use_dynamic_shifting": True,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}
SANA = {
    **VP,
    **OFF,
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "flow_shift": 3.0,
    "lambda_min_clipped": -float("inf"),
    "lower_order_final": True,
    "prediction_type": "flow_prediction",
    "steps_offset": 0,
    "timestep_spacing": "linspace",
    "use_flow_sigmas": True,
    "use_lu_lambdas": False,
    "variance_type": None,
}
WAN = {
    **VP,
    **OFF,
    "_class_name": "UniPCMultistepScheduler",
    "disable_corrector": [],
    "final_sigmas_type": "zero",
    "flow_shift": 5.0,
    "lower_order_final": True,
    "predict_x0": True,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "solver_p": None,
    "solver_type": "bh2",
    "timestep_spacing": "linspace",
    "use_flow_sigmas": True,
}
DIT = {
    **VP,
    "_class_name": "DDIMScheduler",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
}
SDXL = {
    **VP,
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
PIXART = {**SANA, "use_flow_sigmas": False, "prediction_type": "epsilon", "flow_shift": 1.0}

# Configs of the other classes, made here.
ONLY_MULTISTEP = ("euler_at_final", "use_lu_lambdas")
SINGLE = {
    **{key: value for key, value in PIXART.items() if key not in ONLY_MULTISTEP},
    "_class_name": "DPMSolverSinglestepScheduler",
}
DEIS = {**VP, **OFF, "_class_name": "DEISMultistepScheduler", "solver_order": 3}
HEUN = {**VP, "_class_name": "HeunDiscreteScheduler", "timestep_spacing": "linspace"}
FLOW_HEUN = {**SD3, "_class_name": "FlowMatchHeunDiscreteScheduler"}
CONFIGS = [SD3, FLUX, SANA, WAN, DIT, SDXL, PIXART, SINGLE, DEIS, HEUN, FLOW_HEUN]


def assert_equal_plans(first, second):
    assert first.rows == second.rows
    for name, ours, theirs in zip(first._fields, first, second, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12, err_msg=name)


def times_of_index(*index):
    """The times of the training steps `index` of 1000."""
    return (np.array(index) + 1) / 1000


# Configurations of diffusers.


@pytest.mark.parametrize(
    "config",
    CONFIGS,
    ids=lambda config: config["_class_name"] + str(config.get("solver_order", "")),
)
def test_published_config_is_understood(config):
    plan = compat.diffusers_plan(config, 20, mu=0.8)
    # Heun's last step, to t = 0, has a single evaluation.
    nfe = 39 if "Heun" in config["_class_name"] else 20
    assert plan.nfe == nfe
    assert plan.t_next[-1] == (0.001 if config is DEIS else 0)


def test_every_class_has_rules_and_a_config_here():
    full_names = {config["_class_name"] for config in CONFIGS}
    names = {name.removesuffix("Scheduler").removesuffix("Discrete") for name in full_names}
    assert names == set(DEFAULTS) == set(RULES)


def test_rules_cover_the_paths_that_the_options_allow():
    for name, rules in RULES.items():
        has_betas = "beta_schedule" in DEFAULTS[name]
        assert (rules.vp is not None) == has_betas
        assert (rules.flow is not None) == (not has_betas or "use_flow_sigmas" in DEFAULTS[name])


def test_flow_euler_is_euler_on_the_shifted_grid():
    assert_equal_plans(compat.diffusers_plan(SD3, 28), plans.euler(grids.uniform(28, shift=3.0)))


def test_dynamic_shift_is_the_exponential_of_mu():
    # FLUX's shift at 4096 tokens is exp(1.15).
    mu = np.log(grids.dynamic_shift(4096))
    assert_equal_plans(
        compat.diffusers_plan(FLUX, 20, mu=mu), plans.euler(grids.uniform(20, shift=np.exp(1.15)))
    )
    linear = compat.diffusers_plan(FLUX, 20, mu=2.0, time_shift_type="linear")
    assert_equal_plans(linear, plans.euler(grids.uniform(20, shift=2.0)))


def test_dynamic_shift_needs_mu():
    with pytest.raises(ValueError, match="grids.dynamic_shift"):
        compat.diffusers_plan(FLUX, 20)


def test_terminal_stretch():
    assert compat.diffusers_plan(SD3, 20, shift_terminal=0.1).grid[-2] == pytest.approx(0.1)


def test_flow_dpm_solver_is_ours_with_the_published_rules():
    grid = grids.uniform(20, shift=3.0, start=0.999)
    ours = plans.dpm_solver_pp(Linear(), grid, 3, third_order="published", final="diffusers")
    assert_equal_plans(compat.diffusers_plan(SANA, 20, solver_order=3), ours)
    exact = plans.dpm_solver_pp(Linear(), grid, 3, third_order="exact", final="diffusers")
    assert_equal_plans(compat.diffusers_plan(SANA, 20, solver_order=3, third_order="exact"), exact)


def test_flow_unipc_begins_at_pure_noise():
    # diffusers begins at 1 - 1e-6, to keep log-SNR finite.
    grid = np.append(grids.shifted(np.linspace(1, 0.001, 21)[:-1], 5.0), 0.0)
    assert_equal_plans(compat.diffusers_plan(WAN, 20), plans.unipc(Linear(), grid, 2, final="sana"))
    assert compat.diffusers_plan(WAN, 20, grid="peers").t[0] == 1 - 1e-6


@pytest.mark.parametrize(
    "spacing, index",
    [
        ("leading", [800, 600, 400, 200, 0]),
        ("trailing", [999, 799, 599, 399, 199]),
        ("linspace", [999, 749, 500, 250, 0]),
    ],
)
def test_ddim_grid(spacing, index):
    plan = compat.diffusers_plan(DIT, 5, timestep_spacing=spacing)
    assert_equal_plans(
        plan, plans.ddim(compat.diffusers_schedule(DIT), np.append(times_of_index(*index), 0.0))
    )


def test_ddim_without_a_last_step_costs_one_evaluation_less():
    ours = compat.diffusers_plan(DIT, 5, set_alpha_to_one=False)
    theirs = compat.diffusers_plan(DIT, 5, set_alpha_to_one=False, grid="peers")
    assert (ours.nfe, theirs.nfe) == (4, 5)
    assert_equal_plans(ours, plans.Plan(*(column[:4] for column in theirs)))


@pytest.mark.parametrize("grid", ["corrected", "peers"])
def test_a_single_step_of_no_length_is_refused(grid):
    with pytest.raises(ValueError, match="take more steps"):
        compat.diffusers_plan(DIT, 1, set_alpha_to_one=False, grid=grid)


def test_ancestral_ddim_takes_eta():
    grid = np.append(times_of_index(800, 600, 400, 200, 0), 0.0)
    assert_equal_plans(
        compat.diffusers_plan(DIT, 5, eta=1.0),
        plans.ddim(compat.diffusers_schedule(DIT), grid, 1.0),
    )


def test_vp_euler_is_ddim():
    grid = np.append(times_of_index(801, 601, 401, 201, 1), 0.0)
    assert_equal_plans(
        compat.diffusers_plan(SDXL, 5), plans.ddim(compat.diffusers_schedule(SDXL), grid)
    )


@pytest.mark.parametrize(
    "option, law", [("karras", lambda r: r ** (1 / 7)), ("exponential", np.log)]
)
def test_respaced_noise_levels(option, law):
    schedule = compat.diffusers_schedule(PIXART)
    plan = compat.diffusers_plan(PIXART, 12, **{f"use_{option}_sigmas": True})
    # The rule makes equal steps in a function of sigma/alpha.
    steps = np.diff(law(np.exp(-schedule.log_snr(plan.t))))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    assert (plan.t[0], plan.t[-1]) == pytest.approx((1, 0.001), rel=1e-9)


@pytest.mark.parametrize("count", [20, 27])
def test_singlestep_blocks_spend_the_steps(count):
    plan = compat.diffusers_plan(SINGLE, count, solver_order=3)
    # Lengths of the blocks: from the end of one step to the end of the next.
    sizes = np.diff(np.flatnonzero(np.append(True, plan.ends_step)))
    assert plan.nfe == count and set(sizes[:-2]) == {3} and sizes[-1] == 1


def test_deis_integrates_a_polynomial_in_log_rho():
    """The weights of a full third-order step against quadrature in rho = sigma/alpha."""
    schedule = compat.diffusers_schedule(DEIS)
    plan = compat.diffusers_plan(DEIS, 20)
    row = 9  # any row whose history is full
    log_rho = -schedule.log_snr(np.append(plan.t, plan.t_next[-1]))
    used = log_rho[[row, row - 1, row - 2]]
    rho_start, rho_end = np.exp(log_rho[row : row + 2])
    alpha = schedule.alpha(plan.t_next[row])

    def lagrange(rho, j):
        """The Lagrange polynomial in log(rho) that is 1 at the evaluation `j`."""
        others = np.delete(used, j)
        return np.prod((np.log(rho) - others) / (used[j] - others))

    for j in range(3):
        integral, _ = integrate.quad(lagrange, rho_start, rho_end, args=(j,), epsabs=1e-13)
        assert plan.b[row, j] == pytest.approx(alpha * integral, rel=1e-9)


def test_vp_heun_is_the_trapezoid_in_rho():
    schedule = compat.diffusers_schedule(HEUN)
    plan = compat.diffusers_plan(HEUN, 8)
    field = fields.ring(schedule)
    x = np.random.default_rng(0).normal(size=(5, 2))
    grid = plan.grid

    def rho(t):
        return schedule.sigma(t) / schedule.alpha(t)

    def slope(y, t):
        return np.asarray(field.noise(y * schedule.alpha(t), t))

    # With y = x/alpha the ODE is dy/drho = noise.
    y = x / schedule.alpha(grid[0])
    for t0, t1 in itertools.pairwise(grid):
        step = rho(t1) - rho(t0)
        first = slope(y, t0)
        # The step to t = 0 is Euler's.
        mean = first if t1 == 0 else (first + slope(y + step * first, t1)) / 2
        y = y + step * mean
    np.testing.assert_allclose(flowjax.sample(field.velocity, x, plan).x, y, atol=1e-10)


def test_labels_of_the_peers_are_whole():
    # On a flow the labels are truncated.
    plan = compat.diffusers_plan(SANA, 20, labels="peers")
    assert np.array_equal(plan.label_time * 1000, np.floor(plan.t * 1000))
    # After a respacing they are rounded to the nearest training step.
    karras = compat.diffusers_plan(PIXART, 20, labels="peers", use_karras_sigmas=True)
    labels = karras.label_time * 1000
    np.testing.assert_allclose(labels, np.round(labels), atol=1e-9)
    assert np.max(np.abs(karras.label_time - karras.t)) < 1e-3


def test_trained_betas_make_the_schedule():
    betas = list(np.linspace(1e-3, 0.1, 100))
    # The other options of the betas no longer count.
    schedule = compat.diffusers_schedule(DIT, trained_betas=betas, num_train_timesteps=100)
    t = np.linspace(0.01, 1, 7)
    np.testing.assert_array_equal(
        schedule.alpha(t), VPDiscrete(np.array(betas), log_snr_min=None).alpha(t)
    )


def test_same_betas_are_the_same_schedule():
    # One object is one static argument, and so one compiled program.
    assert compat.diffusers_schedule(DIT) is compat.diffusers_schedule(PIXART)


@pytest.mark.parametrize(
    "config, change, message",
    [
        (SD3, {"_class_name": "PNDMScheduler"}, "did you mean"),
        (SANA, {"algorithm_type": "dpmsolver+++"}, "did you mean 'dpmsolver\\+\\+'"),
        (SANA, {"thresholding": True}, "data_hook"),
        (DIT, {"clip_sample": True}, "data_hook"),
        (SANA, {"solver_order": 4}, "solver_order=4"),
        (DIT, {"rescale_betas_zero_snr": True}, "EulerDiscreteScheduler"),
        (SANA, {"zeal": 3}, "zeal=3"),
        (SANA, {"use_karras_sigmas": True, "use_beta_sigmas": True}, "keep one"),
        (WAN, {"disable_corrector": [0]}, "disable_corrector"),
        (DIT, {"beta_schedule": "sigmoid"}, "squaredcos_cap_v2"),
        (SDXL, {"interpolation_type": "log_linear"}, "interpolation_type"),
    ],
)
def test_what_is_not_understood_is_named(config, change, message):
    with pytest.raises(ValueError, match=message):
        compat.diffusers_plan(config | change, 20)


def test_misspelt_override_is_refused():
    with pytest.raises(ValueError, match="did you mean 'flow_shift'"):
        compat.diffusers_plan(SANA, 20, flow_shfit=3.0)


# Options of DPM-Solver and SANA.

FLOW = {
    "schedule": "discrete_flow",
    "skip_type": "time_uniform_flow",
    "flow_shift": 3.0,
    "steps": 20,
    "order": 2,
}


def test_flow_options_are_ours():
    grid = grids.uniform(20, shift=3.0, start=0.999)
    # SANA's rule for the last orders is the default.
    for order in (1, 2, 3):
        ours = plans.dpm_solver_pp(Linear(), grid, order, third_order="published", final="sana")
        assert_equal_plans(compat.dpm_solver_plan(FLOW | {"order": order}), ours)


def test_without_lowering_the_step_to_data_still_has_order_one():
    plan = compat.dpm_solver_plan(FLOW | {"lower_order_final": False, "denoise_to_zero": True})
    order_before_last, last_order = np.count_nonzero(plan.b[-2:], axis=1)
    # The end at t = 0 is already the data prediction: denoise_to_zero adds no evaluation.
    assert plan.nfe == 20
    assert (order_before_last, last_order) == (2, 1)


@pytest.mark.parametrize(
    "code, steps, order", [("sana", 12, 1), ("upstream", 12, 3), ("upstream", 8, 1)]
)
def test_whose_rule_lowers_the_end(code, steps, order):
    options = {"noise_schedule": VPLinear(), "steps": steps, "order": 3}
    assert np.count_nonzero(compat.dpm_solver_plan(options, code=code).b[-1]) == order


def test_denoise_to_zero_is_one_data_prediction():
    # The continuous VP SDE, whose grid ends above 0.
    plan = compat.dpm_solver_plan({"schedule": "linear", "denoise_to_zero": True})
    assert plan.nfe == 21 and plan.t[-1] == 0.001 and plan.t_next[-1] == 0
    assert plan.a[-1] == 0 and plan.b[-1, 0] == 1


@pytest.mark.parametrize("steps", range(3, 13))
@pytest.mark.parametrize("order", [1, 2, 3])
def test_singlestep_orders_spend_the_steps(steps, order):
    orders = compat.singlestep_orders(steps, order)
    # Three evaluations make the blocks 2 and 1: a block of three never comes last.
    highest = 2 if order == 3 and steps == 3 else order
    assert sum(orders) == steps
    assert max(orders) == highest


@pytest.mark.parametrize("order", [2, 3])
def test_singlestep_reaches_both_ends_of_the_flow(order):
    singlestep = FLOW | {"method": "singlestep", "order": order}
    # On the flow grid, t_start = 1 makes the grid end at t = 0.
    plan = compat.dpm_solver_plan(singlestep | {"t_start": 1.0})
    assert plan.nfe == 20 and plan.t_next[-1] == 0
    np.testing.assert_allclose(plan.t, grids.uniform(20, shift=3.0, start=0.999)[:-1], atol=1e-12)
    # The uniform grid begins at t = 1.
    uniform = compat.dpm_solver_plan(singlestep | {"skip_type": "time_uniform"})
    assert uniform.nfe == 20 and uniform.t[0] == 1


def test_options_that_invert_increase():
    # From data to noise: the grid is the one that samples, reversed.
    plan = compat.dpm_solver_plan({"schedule": "discrete_linear", "t_start": 0.001, "t_end": 1.0})
    np.testing.assert_allclose(plan.grid, grids.uniform(20, end=0.001)[::-1], atol=1e-12)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"method": "adaptive"}, "flowjax.sample_adaptive"),
        ({"skip_type": "time_unifrom"}, "did you mean 'time_uniform'"),
        ({"schedule": "discrete_floe"}, "did you mean 'discrete_flow'"),
        ({"stepz": 3}, "did you mean 'steps'"),
        ({"solver_type": "tailor"}, "did you mean 'taylor'"),
        ({"schedule": "discrete_cosine", "total_N": 123}, "996"),
        ({"method": "singlestep", "steps": 2, "order": 3}, "order=2"),
        ({"skip_type": "logSNR"}, "start=0.999"),
    ],
)
def test_options_that_are_not_understood_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        compat.dpm_solver_plan(FLOW | change)


def test_third_order_sde_of_diffusers_has_order_one():
    """Slopes of the error from 40 steps to 160, with noise of size zero.

    They are 3 for the exact integral, 2 for the published form, and 1 for the form of diffusers.
    """
    schedule = VPLinear()
    field = fields.random_mixture(0, schedule, dim=6, modes=4)
    x = np.random.default_rng(0).normal(size=(16, 6))
    rows = 640
    # All plans are padded to one length, so that they share a compiled program.
    no_noise = jnp.zeros((rows, *x.shape))
    run = jax.jit(lambda plan: flowjax.sample(field.velocity, x, plan, key=no_noise).x)

    def end(steps, third_order):
        grid = grids.log_snr(schedule, steps, start=0.95, end=0.05)
        plan = plans.dpm_solver_sde(schedule, grid, 3, third_order=third_order)
        return run(plans.pad(plan, rows))

    reference = end(rows, "exact")

    def slope(third_order):
        coarse = np.linalg.norm(end(40, third_order) - reference)
        fine = np.linalg.norm(end(160, third_order) - reference)
        return np.log(coarse / fine) / np.log(4)

    assert slope("exact") > 2.8
    assert 0.9 < slope("diffusers") < 1.4
    with pytest.raises(ValueError, match="third_order='diffusers'"):
        plans.dpm_solver_sde(
            schedule, [0.9, 0.5, 0.2, 0.1], 3, third_order="diffusers", prediction="noise"
        )


# The printed plan.


def test_few_steps_are_unsafe_and_many_are_not():
    linear = Linear()
    few = compat.unsafe_rows(compat.diffusers_plan(SANA, 5), linear)
    assert any("order 2 is unsafe" in sentence for sentence in few)
    assert compat.unsafe_rows(compat.diffusers_plan(SANA, 20), linear) == []
    # Euler's method has no history, so that even 4 steps are safe.
    assert compat.unsafe_rows(compat.diffusers_plan(SD3, 4), linear) == []
    # A last step to 1e-5 covers a long way in log-SNR.
    long_end = np.append(np.linspace(0.9, 0.05, 8), 1e-5)
    sentences = compat.unsafe_rows(plans.dpm_solver_pp(linear, long_end, 3), linear)
    assert any("order 3" in sentence for sentence in sentences)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["_class_name"])
def test_command_prints_a_line_for_each_row(config, tmp_path, capsys):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    assert command.main([str(path), "--steps", "7", "--mu", "0.8", "--labels", "peers"]) == 0
    # A line of the table begins with its number; so does the last line, which counts evaluations.
    lines = capsys.readouterr().out.splitlines()
    plan = compat.diffusers_plan(config, 7, mu=0.8)
    rows = [line for line in lines if line.lstrip()[:1].isdigit() and "evaluations," not in line]
    assert len(rows) == plan.rows and f"{plan.nfe} evaluations" in lines[-1]


def test_command_warns(tmp_path, capsys):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(SANA), encoding="utf-8")
    for steps, warned in [("5", True), ("20", False)]:
        assert command.main([str(path), "--steps", steps]) == 0
        assert ("warning:" in capsys.readouterr().out) is warned


def test_command_refuses_in_a_sentence(tmp_path, capsys):
    # A class that is not known here.
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "PNDMScheduler"}), encoding="utf-8")
    assert command.main([str(path)]) == 2
    assert "PNDMScheduler" in capsys.readouterr().err
    # A file that does not exist.
    assert command.main([str(tmp_path / "none.json")]) == 2
