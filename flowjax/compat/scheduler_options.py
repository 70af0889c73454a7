"""Every option of the scheduler classes that are read: its default, its use here, its values.

The table follows the constructors of diffusers 0.42.1. `sigma_min` and `sigma_max` stand also where
a constructor does not list them and the class reads them from the file all the same. An option that
a class does not have is without effect in it: diffusers drops it too, which happens whenever a file
of one class is read as another.
"""

import math
from typing import Any, NamedTuple

from flowjax.compat import scheduler_values as values
from flowjax.compat.scheduler_values import Check

USED, REFUSED, NO_EFFECT = "used", "refused", "no effect"


class Option(NamedTuple):
    """One option of one class.

    Attributes:
      default: what diffusers takes where a file leaves it out.
      use: "used": the plan, its hook or its labels follow it; "refused": it is refused when it is
        on; "no effect": neither diffusers' steps nor the plan depend on it.
      check: (name, option, value), which refuses a wrong value; None for any value.
    """

    default: Any
    use: str
    check: Check | None = None


def _used(default: Any, check: Check) -> Option:
    return Option(default, USED, check)


def _switch(default: bool) -> Option:
    return Option(default, USED, values.check_switch)


def _refused(default: Any) -> Option:
    return Option(default, REFUSED)


def _idle(default: Any) -> Option:
    return Option(default, NO_EFFECT)


# ---- groups of options that several classes share

_POSITIVE = values.number(above=0)
_INSIDE = values.number(above=0, below=1, example=0.02)
_BETA_SCHEDULES = values.one_of("linear", "scaled_linear", "squaredcos_cap_v2")
_SPACINGS = values.one_of("leading", "linspace", "trailing")
_ENDS = values.one_of("zero", "sigma_min")

_VP = {
    "num_train_timesteps": _used(1000, values.whole(2)),
    "beta_start": _used(1e-4, _INSIDE),
    "beta_end": _used(0.02, _INSIDE),
    "beta_schedule": _used("linear", _BETA_SCHEDULES),
    "trained_betas": _used(None, values.check_betas),
}


def _prediction(*choices: str) -> dict[str, Option]:
    return {"prediction_type": _used("epsilon", values.one_of(*choices))}


_ON_VP = _prediction("epsilon", "sample", "v_prediction")
_ON_BOTH = _prediction("epsilon", "sample", "v_prediction", "flow_prediction")
# On VP networks only: a flow spreads its times itself.
_SPACED = {
    "timestep_spacing": _used("linspace", _SPACINGS),
    "steps_offset": _used(0, values.whole(0)),
}
_RESPACED = {
    "use_karras_sigmas": _switch(False),
    "use_exponential_sigmas": _switch(False),
    "use_beta_sigmas": _switch(False),
    "sigma_min": _used(None, values.optional(_POSITIVE)),
    "sigma_max": _used(None, values.optional(_POSITIVE)),
}
# Corrections of the data prediction, which become hooks
_THRESHOLDED = {
    "thresholding": _switch(False),
    "dynamic_thresholding_ratio": _used(0.995, values.number(least=0, most=1, example=0.995)),
    "sample_max_value": _used(1.0, values.number(least=1)),
}
_CLIPPED = {"clip_sample_range": _used(1.0, _POSITIVE)}
# The DPM-Solver classes and DEIS know the exponential shift alone.
_FLOW = {
    "use_flow_sigmas": _switch(False),
    "flow_shift": _used(1.0, _POSITIVE),
    "use_dynamic_shifting": _switch(False),
    "time_shift_type": _used("exponential", values.one_of("exponential")),
}
_LINEAR_TOO = {"time_shift_type": _used("exponential", values.one_of("exponential", "linear"))}
_TERMINAL = {
    "shift_terminal": _used(None, values.optional(values.number(least=0, below=1, example=0.1)))
}
_MULTISTEP = {
    "solver_order": _used(2, values.whole(1, 3)),
    "lower_order_final": _switch(True),
}
_DPM = {
    **_VP,
    **_ON_BOTH,
    **_THRESHOLDED,
    **_RESPACED,
    **_FLOW,
    **_MULTISTEP,
    "solver_type": _used("midpoint", values.one_of("midpoint", "heun")),
    "final_sigmas_type": _used("zero", _ENDS),
    "lambda_min_clipped": _used(-math.inf, values.check_clip),
    "variance_type": _idle(None),
}

# ---- the classes

# A key is the name of the class without "Scheduler" or "DiscreteScheduler" at its end.
OPTIONS: dict[str, dict[str, Option]] = {
    "FlowMatchEuler": {
        "num_train_timesteps": _used(1000, values.whole(1)),
        "shift": _used(1.0, _POSITIVE),
        "use_dynamic_shifting": _switch(False),
        "base_shift": _idle(0.5),
        "max_shift": _idle(1.15),
        "base_image_seq_len": _idle(256),
        "max_image_seq_len": _idle(4096),
        "invert_sigmas": _refused(False),
        "stochastic_sampling": _refused(False),
        **_LINEAR_TOO,
        **_TERMINAL,
        **_RESPACED,
    },
    "FlowMatchHeun": {
        "num_train_timesteps": _used(1000, values.whole(1)),
        "shift": _used(1.0, _POSITIVE),
    },
    "DPMSolverMultistep": {
        **_DPM,
        **_SPACED,
        "algorithm_type": _used(
            "dpmsolver++",
            values.one_of("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"),
        ),
        "euler_at_final": _switch(False),
        "use_lu_lambdas": _switch(False),
        "rescale_betas_zero_snr": _switch(False),
    },
    # It has no spacing of its timesteps.
    "DPMSolverSinglestep": {
        **_DPM,
        "lower_order_final": _switch(False),
        "algorithm_type": _used("dpmsolver++", values.one_of("dpmsolver++", "dpmsolver")),
    },
    "UniPCMultistep": {
        **_VP,
        **_ON_BOTH,
        **_SPACED,
        **_THRESHOLDED,
        **_RESPACED,
        **_FLOW,
        **_LINEAR_TOO,
        **_TERMINAL,
        **_MULTISTEP,
        "solver_type": _used("bh2", values.one_of("bh2", "bh1")),
        "predict_x0": _switch(True),
        "disable_corrector": _used([], values.check_indices),
        "solver_p": _refused(None),
        "final_sigmas_type": _used("zero", _ENDS),
        "rescale_betas_zero_snr": _switch(False),
    },
    # It has no final_sigmas_type.
    "DEISMultistep": {
        **_VP,
        **_ON_BOTH,
        **_SPACED,
        **_THRESHOLDED,
        **_RESPACED,
        **_FLOW,
        **_MULTISTEP,
        "solver_type": _used("logrho", values.one_of("logrho")),
        "algorithm_type": _used("deis", values.one_of("deis")),
    },
    "DDIM": {
        **_VP,
        **_ON_VP,
        **_SPACED,
        **_THRESHOLDED,
        **_CLIPPED,
        # Its defaults differ from those of the other classes.
        "timestep_spacing": _used("leading", _SPACINGS),
        "clip_sample": _switch(True),
        "set_alpha_to_one": _switch(True),
        "rescale_betas_zero_snr": _refused(False),
    },
    "Euler": {
        **_VP,
        **_prediction("epsilon", "sample", "v_prediction", "original_sample"),
        **_SPACED,
        **_RESPACED,
        "interpolation_type": _used("linear", values.one_of("linear")),
        "timestep_type": _used("discrete", values.one_of("discrete", "continuous")),
        "final_sigmas_type": _used("zero", _ENDS),
        "rescale_betas_zero_snr": _switch(False),
    },
    "Heun": {
        **_VP,
        **_ON_VP,
        **_SPACED,
        **_RESPACED,
        **_CLIPPED,
        # The defaults of Stable Diffusion, though with linear betas
        "beta_start": _used(0.00085, _INSIDE),
        "beta_end": _used(0.012, _INSIDE),
        "clip_sample": _switch(False),
    },
}
# The classes whose full name ends in "DiscreteScheduler".
_DISCRETE = ("FlowMatchEuler", "FlowMatchHeun", "Euler", "Heun")

# The values that diffusers takes where a file leaves an option out, of the options that are used.
DEFAULTS = {
    name: {key: option.default for key, option in options.items() if option.use == USED}
    for name, options in OPTIONS.items()
}

# Names of the same thing in files of other classes, which diffusers translates as it reads them.
SYNONYMS = {
    ("DPMSolverMultistep", "algorithm_type"): {"deis": "dpmsolver++"},
    ("DPMSolverSinglestep", "algorithm_type"): {"deis": "dpmsolver++"},
    ("DEISMultistep", "algorithm_type"): {"dpmsolver": "deis", "dpmsolver++": "deis"},
    ("DPMSolverMultistep", "solver_type"): dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    ("DPMSolverSinglestep", "solver_type"): dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint"),
    ("UniPCMultistep", "solver_type"): dict.fromkeys(("midpoint", "heun", "logrho"), "bh2"),
    ("DEISMultistep", "solver_type"): dict.fromkeys(("midpoint", "heun", "bh1", "bh2"), "logrho"),
}

# What to do instead of an option that is refused.
WAYS_OUT = {
    "invert_sigmas": (
        "it reverses the times that the network receives: set it to False and pass 1 - t to the "
        "network where you wrap it"
    ),
    "stochastic_sampling": (
        "no plan draws all of the noise anew; set it to False, or use plans.ddim with eta=1"
    ),
    "rescale_betas_zero_snr": (
        "it makes alpha = 0 at the last training step, where log-SNR is infinite; read the file as "
        "an EulerDiscreteScheduler, which takes alpha = 2**-12 there, or set it to False"
    ),
    "solver_p": "plans.unipc has its own predictor only; set it to None",
}

# Options of other schedulers that public files keep: no class here reads them.
ELSEWHERE = ("skip_prk_steps", "sigma_data", "rho", "sigma_schedule", "snr_shift_scale")


def full_name(short_name: str) -> str:
    """The name of the class in diffusers, from a key of `OPTIONS`."""
    return short_name + ("DiscreteScheduler" if short_name in _DISCRETE else "Scheduler")


def is_known_anywhere(option: str) -> bool:
    """Whether some scheduler has an option of this name."""
    return option in ELSEWHERE or any(option in options for options in OPTIONS.values())
