"""What a scheduler_config.json of diffusers may say: its classes, their options and defaults, and its schedule."""

import math

from flowjax.errors import check_choice
from flowjax.schedules import Linear, of_betas

_VP = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None,
    "prediction_type": "epsilon",
}  # fmt: skip
_SPACED = {"timestep_spacing": "linspace", "steps_offset": 0}
RESPACED = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_FLOW = {
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
_DPM = {
    **_VP, **RESPACED, **_FLOW, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint",
    "lower_order_final": True, "final_sigmas_type": "zero", "lambda_min_clipped": -math.inf,
}  # fmt: skip
# The options that shape a plan, with the values that a config leaves out; "DPMSolverMultistep" is the class's name
# without "Scheduler" or "DiscreteScheduler" at its end.
DEFAULTS = {
    "FlowMatchEuler": {
        "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential",
        "shift_terminal": None, **RESPACED,
    },
    "FlowMatchHeun": {"num_train_timesteps": 1000, "shift": 1.0},
    "DPMSolverMultistep": {**_DPM, **_SPACED, "euler_at_final": False, "use_lu_lambdas": False},
    "DPMSolverSinglestep": {**_DPM, **_SPACED, "lower_order_final": False},
    "UniPCMultistep": {
        **_VP, **_SPACED, **RESPACED, **_FLOW, "solver_order": 2, "solver_type": "bh2", "predict_x0": True,
        "lower_order_final": True, "disable_corrector": [], "final_sigmas_type": "zero", "shift_terminal": None,
    },
    "DEISMultistep": {
        **_VP, **_SPACED, **RESPACED, **_FLOW, "solver_order": 2, "solver_type": "logrho", "algorithm_type": "deis",
        "lower_order_final": True,
    },
    "DDIM": {**_VP, "timestep_spacing": "leading", "steps_offset": 0, "set_alpha_to_one": True},
    "Euler": {**_VP, **_SPACED, **RESPACED, "interpolation_type": "linear", "final_sigmas_type": "zero"},
    "Heun": {**_VP, **_SPACED, **RESPACED, "beta_start": 0.00085, "beta_end": 0.012},
}  # fmt: skip
CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "time_shift_type": ("exponential", "linear"),
    "interpolation_type": ("linear",),
    "solver_order": (1, 2, 3),
}
SOLVER_TYPES = {
    "DPMSolverMultistep": ("midpoint", "heun"), "DPMSolverSinglestep": ("midpoint", "heun"),
    "UniPCMultistep": ("bh2", "bh1"), "DEISMultistep": ("logrho",),
}  # fmt: skip
ALGORITHMS = {
    "DPMSolverMultistep": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
    "DPMSolverSinglestep": ("dpmsolver++", "dpmsolver"), "DEISMultistep": ("deis",),
}  # fmt: skip
NETWORKS = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}
# Options that no plan depends on: parameters of switches that are off, and of other parts of a pipeline.
IGNORED = (
    "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "dynamic_thresholding_ratio",
    "sample_max_value", "clip_sample_range", "variance_type", "sigma_min", "sigma_max", "timestep_type", "skip_prk_steps",
)  # fmt: skip
# Switches that are no part of a plan, and what does their work here.
ELSEWHERE = {
    "thresholding": "it corrects the data prediction: set it to False and pass data_hook to flowjax.sample",
    "clip_sample": "it corrects the data prediction: set it to False and pass "
    "data_hook=lambda data, t: jax.numpy.clip(data, -1, 1) to flowjax.sample",
    "invert_sigmas": "it renames the network's times: set it to False and tell the network 1 - t where it is wrapped",
    "rescale_betas_zero_snr": "give the rescaled betas as trained_betas, all below 1, and set it to False",
    "stochastic_sampling": "no plan redraws all of the noise; set it to False, or use plans.ddim with eta=1",
    "solver_p": "only UniPC's own predictor is there; set it to None",
}
_DISCRETE = ("FlowMatchEuler", "FlowMatchHeun", "Euler", "Heun")


def read(name, config, overrides):
    """All options of the class with their values, and the class's short name under "class"."""
    full = config.get("_class_name", "")
    short = full.removesuffix("Scheduler").removesuffix("Discrete")
    if short not in DEFAULTS:
        known = [f"{k}{'DiscreteScheduler' if k in _DISCRETE else 'Scheduler'}" for k in DEFAULTS]
        check_choice(name, "_class_name", full, known)
    known = DEFAULTS[short]
    for key in overrides:
        check_choice(name, "option", key, (*known, *ELSEWHERE, *IGNORED))
    c = {**known, "class": short}
    for key, value in {**config, **overrides}.items():
        if key in known:
            c[key] = value
        elif key in ELSEWHERE and value:
            raise ValueError(f"{name}: {key}={value!r} is no part of a plan; {ELSEWHERE[key]}.")
        elif value and not key.startswith("_") and key not in (*ELSEWHERE, *IGNORED):
            raise ValueError(
                f"{name}: {full} with {key}={value!r} is not known here; remove it if no plan depends on it. The options "
                f"are {', '.join(known)}."
            )
    choices = CHOICES | {
        "solver_type": SOLVER_TYPES.get(short),
        "algorithm_type": ALGORITHMS.get(short),
    }
    for key, values in choices.items():
        if key in c:
            check_choice(name, key, c[key], values)
    if sum(bool(c.get(key)) for key in (*RESPACED, "use_lu_lambdas")) > 1:
        raise ValueError(
            f"{name}: more than one of {', '.join(RESPACED)}, use_lu_lambdas is set; keep one."
        )
    return c


def schedule_of(c):
    """The schedule of options that `read` returned, the same object for the same betas."""
    if c["class"].startswith("FlowMatch") or c.get("use_flow_sigmas"):
        return Linear()
    betas = None if c["trained_betas"] is None else tuple(c["trained_betas"])
    return of_betas(
        c["beta_schedule"], c["num_train_timesteps"], c["beta_start"], c["beta_end"], betas
    )
