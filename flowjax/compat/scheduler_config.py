"""The classes and options that a scheduler_config.json of diffusers may have, and their defaults.

`read` checks a config and fills in what it leaves out; `schedule_of` makes its schedule.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from flowjax.errors import check_choice
from flowjax.schedules import Linear, Schedule, of_betas

# All options of one class with their values, and the short name of the class under "class".
Options: TypeAlias = dict[str, Any]

# Options that respace the times of the evaluations, and the rule that each one switches on.
RESPACINGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "lu",
}

# Groups of options that several classes share.
_VP = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_SPACED = {"timestep_spacing": "linspace", "steps_offset": 0}
_RESPACED = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_FLOW = {
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
}
_DPM = {
    **_VP,
    **_SPACED,
    **_RESPACED,
    **_FLOW,
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "final_sigmas_type": "zero",
    "lambda_min_clipped": -math.inf,
}

# The options that shape a plan, with the values that diffusers takes where a config leaves them
# out. A key is the name of the class without "Scheduler" or "DiscreteScheduler" at its end.
DEFAULTS = {
    "FlowMatchEuler": {
        **_RESPACED,
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
        "shift_terminal": None,
    },
    "FlowMatchHeun": {"num_train_timesteps": 1000, "shift": 1.0},
    "DPMSolverMultistep": {**_DPM, "euler_at_final": False, "use_lu_lambdas": False},
    "DPMSolverSinglestep": {**_DPM, "lower_order_final": False},
    "UniPCMultistep": {
        **_VP,
        **_SPACED,
        **_RESPACED,
        **_FLOW,
        "solver_order": 2,
        "solver_type": "bh2",
        "predict_x0": True,
        "lower_order_final": True,
        "disable_corrector": [],
        "final_sigmas_type": "zero",
        "shift_terminal": None,
    },
    "DEISMultistep": {
        **_VP,
        **_SPACED,
        **_RESPACED,
        **_FLOW,
        "solver_order": 2,
        "solver_type": "logrho",
        "algorithm_type": "deis",
        "lower_order_final": True,
    },
    "DDIM": {
        **_VP,
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "set_alpha_to_one": True,
    },
    "Euler": {
        **_VP,
        **_SPACED,
        **_RESPACED,
        "interpolation_type": "linear",
        "final_sigmas_type": "zero",
    },
    "Heun": {
        **_VP,
        **_SPACED,
        **_RESPACED,
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
}
# The classes whose full name ends in "DiscreteScheduler".
_DISCRETE = ("FlowMatchEuler", "FlowMatchHeun", "Euler", "Heun")

# The values of the options that have the same closed set in every class.
CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "prediction_type": ("epsilon", "sample", "v_prediction", "flow_prediction"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "time_shift_type": ("exponential", "linear"),
    "interpolation_type": ("linear",),
    "solver_order": (1, 2, 3),
}
# The values of the two options whose set depends on the class.
SOLVER_TYPES = {
    "DPMSolverMultistep": ("midpoint", "heun"),
    "DPMSolverSinglestep": ("midpoint", "heun"),
    "UniPCMultistep": ("bh2", "bh1"),
    "DEISMultistep": ("logrho",),
}
ALGORITHMS = {
    "DPMSolverMultistep": ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
    "DPMSolverSinglestep": ("dpmsolver++", "dpmsolver"),
    "DEISMultistep": ("deis",),
}

# Our names of the predictions.
NETWORKS = {
    "epsilon": "noise",
    "sample": "data",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}

# Options that no plan depends on: parameters of switches that are off, or of other parts of a
# pipeline.
IGNORED = (
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "clip_sample_range",
    "variance_type",
    "sigma_min",
    "sigma_max",
    "timestep_type",
    "skip_prk_steps",
)
# Options that a plan cannot follow when they are on, and what to do instead.
ELSEWHERE = {
    "thresholding": (
        "it corrects the data prediction: set it to False and pass data_hook to flowjax.sample"
    ),
    "clip_sample": (
        "it corrects the data prediction: set it to False and pass "
        "data_hook=lambda data, t: jax.numpy.clip(data, -1, 1) to flowjax.sample"
    ),
    "invert_sigmas": (
        "it reverses the times that the network receives: set it to False and pass 1 - t to the "
        "network where you wrap it"
    ),
    "rescale_betas_zero_snr": (
        "pass the rescaled betas as trained_betas, all below 1, and set it to False"
    ),
    "stochastic_sampling": (
        "no plan draws all of the noise anew; set it to False, or use plans.ddim with eta=1"
    ),
    "solver_p": "plans.unipc has its own predictor only; set it to None",
}


def read(name: str, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Options:
    """All options of the class of `config` with their values.

    Args:
      name: the public function whose name the errors carry.
      config: the dictionary of a scheduler_config.json, with "_class_name".
      overrides: options that replace those of `config`.

    Returns:
      The options of `DEFAULTS` for this class, and the short name of the class under "class".

    Raises:
      ValueError: a class, option or value is not known here, or a plan cannot follow it.
    """
    full_name = config.get("_class_name", "")
    short_name = full_name.removesuffix("Scheduler").removesuffix("Discrete")
    if short_name not in DEFAULTS:
        check_choice(name, "_class_name", full_name, [_full_name(known) for known in DEFAULTS])
    known = DEFAULTS[short_name]
    # The caller types an override, so a name that is not known is an error even if it is off.
    for key in overrides:
        check_choice(name, "option", key, (*known, *ELSEWHERE, *IGNORED))
    # A config holds many options without effect, so a name that is not known is accepted if off.
    options = {**known, "class": short_name}
    for key, value in {**config, **overrides}.items():
        if key in known:
            options[key] = value
        else:
            _check_unused(name, full_name, key, value, known)
    _check_values(name, options)
    return options


def schedule_of(options: Options) -> Schedule:
    """The schedule of options that `read` returned, the same object for the same betas."""
    # The classes of flow matching have no betas at all.
    if "beta_schedule" not in options or options.get("use_flow_sigmas"):
        return Linear()
    betas = options["trained_betas"]
    return of_betas(
        options["beta_schedule"],
        options["num_train_timesteps"],
        options["beta_start"],
        options["beta_end"],
        # `of_betas` caches by its arguments, so they must be hashable.
        None if betas is None else tuple(betas),
    )


def respacing(options: Options) -> str | None:
    """The rule that respaces the times, a value of `RESPACINGS`, or None."""
    return next((rule for key, rule in RESPACINGS.items() if options.get(key)), None)


def _full_name(short_name):
    ending = "DiscreteScheduler" if short_name in _DISCRETE else "Scheduler"
    return short_name + ending


def _check_unused(name, full_name, key, value, known):
    """Refuse an option that no plan here can follow; what is off or has no effect is accepted."""
    # diffusers begins the keys of its own records, such as _diffusers_version, with "_".
    if not value or key.startswith("_") or key in IGNORED:
        return
    if key in ELSEWHERE:
        raise ValueError(f"{name}: a plan cannot follow {key}={value!r}; {ELSEWHERE[key]}.")
    raise ValueError(
        f"{name}: {full_name} with {key}={value!r} is not known here; remove it if no plan "
        f"depends on it. The options are {', '.join(known)}."
    )


def _check_values(name, options):
    """Refuse a value outside its closed set, and two rules of respacing at once."""
    short_name = options["class"]
    choices = {
        **CHOICES,
        "solver_type": SOLVER_TYPES.get(short_name),
        "algorithm_type": ALGORITHMS.get(short_name),
    }
    for key, values in choices.items():
        if key in options:
            check_choice(name, key, options[key], values)
    if sum(bool(options.get(key)) for key in RESPACINGS) > 1:
        raise ValueError(f"{name}: more than one of {', '.join(RESPACINGS)} is on; keep one.")
