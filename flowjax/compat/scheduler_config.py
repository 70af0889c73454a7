"""A scheduler_config.json of diffusers, read: every option checked, and its path.

`read` fills in what a file leaves out and refuses what no plan can follow; `schedule_of` makes the
path, and `betas_of` the VP path of the betas, which some flows use too.
"""

import functools
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from flowjax.compat.scheduler_options import (
    DEFAULTS,
    OPTIONS,
    REFUSED,
    SYNONYMS,
    USED,
    WAYS_OUT,
    full_name,
    is_known_anywhere,
)
from flowjax.errors import check_choice
from flowjax.schedules import Cosine, Linear, Schedule, VPDiscrete, of_betas

# All options of one class with their values, and the short name of the class under "class".
Options: TypeAlias = dict[str, Any]

# Options that respace the times of the evaluations, and the rule that each one switches on.
RESPACINGS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_lu_lambdas": "lu",
}

# Our names of the predictions.
NETWORKS = {
    "epsilon": "noise",
    "sample": "data",
    "original_sample": "data",
    "v_prediction": "v",
    "flow_prediction": "velocity",
}
# alpha^2 at the last training step of rescaled betas; at 0 log-SNR would be infinite.
LAST_ALPHA_SQUARED = 2.0**-24


def read(name: str, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Options:
    """All options of the class of `config` with their values.

    Args:
      name: the public function whose name the errors carry.
      config: the dictionary of a scheduler_config.json, with "_class_name".
      overrides: options that replace those of `config`. "_class_name" reads the file as another
        class, as from_config of diffusers does.

    Returns:
      The options of `DEFAULTS` for this class, and the short name of the class under "class".

    Raises:
      ValueError: a class, option or value is not known here, or a plan cannot follow it.
    """
    if not isinstance(config, Mapping):
        raise ValueError(
            f"{name}: the config is {_described(config)}; wanted the dictionary of a "
            'scheduler_config.json, for example {"_class_name": "DDIMScheduler"}.'
        )
    short_name = _class_of(name, {**config, **overrides})
    known = OPTIONS[short_name]
    # The caller types an override, so one that the class does not have is an error.
    for key in overrides:
        if key != "_class_name":
            check_choice(name, "option", key, tuple(known))

    options = {**DEFAULTS[short_name], "class": short_name}
    for key, value in _given(config, overrides).items():
        use = known[key].use if key in known else None
        if use == USED:
            value = _translated(short_name, key, value)
            known[key].check(name, key, value)
            options[key] = value
        elif use == REFUSED and value:
            raise ValueError(f"{name}: a plan cannot follow {key}={value!r}; {WAYS_OUT[key]}.")
        elif use is None:
            _check_foreign(name, short_name, key, value)
    _check_together(name, options)
    return options


def without_effect(config: Mapping[str, Any], **overrides: Any) -> dict[str, Any]:
    """The options of a config that its class does not have, though another scheduler has them.

    Diffusers drops them, so the plan does not follow them either. A file that was written for one
    class and is read as another has such options.

    Args:
      config: the dictionary of a scheduler_config.json.
      overrides: options that replace those of `config`.

    Returns:
      {option: value}; those that are off or null are left out.
    """
    options = read("compat.without_effect", config, overrides)
    known = OPTIONS[options["class"]]
    return {key: value for key, value in _given(config, {}).items() if key not in known and value}


def schedule_of(options: Options) -> Schedule:
    """The path of options that `read` returned: one object for the same betas.

    It is the linear path of a flow, or the VP path of the betas. A network that is told its noise
    level, and no training step, knows no betas, and its sigma may lie outside their range: there
    the path is `Cosine`, which has every sigma/alpha = tan(pi t/2).
    """
    # The classes of flow matching have no betas at all.
    if "beta_schedule" not in options or options.get("use_flow_sigmas"):
        return Linear()
    if is_told_noise_level(options):
        return Cosine()
    return betas_of(options)


def betas_of(options: Options) -> VPDiscrete:
    """The VP path of the betas of these options, also where they describe a flow."""
    betas = options["trained_betas"]
    arguments = (
        options["beta_schedule"],
        options["num_train_timesteps"],
        options["beta_start"],
        options["beta_end"],
        # The schedule is cached by its arguments, so they must be hashable.
        None if betas is None else tuple(betas),
    )
    if options.get("rescale_betas_zero_snr"):
        return _rescaled_betas(*arguments)
    return of_betas(*arguments)


@functools.cache
def _rescaled_betas(*arguments):
    """The path whose last training step is (almost) pure noise (Lin et al., arXiv:2305.08891).

    alpha is shifted to 0 at the last step and scaled back to its first value (algorithm 1).
    """
    betas = of_betas(*arguments).betas
    alpha = np.sqrt(np.cumprod(1 - betas))
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    alpha_squared = np.append(alpha[:-1] ** 2, LAST_ALPHA_SQUARED)
    if alpha_squared[-2] <= LAST_ALPHA_SQUARED:
        raise ValueError(
            f"compat: rescale_betas_zero_snr=True makes alpha^2 = {alpha_squared[-2]:.1e} at the "
            f"last training step but one of these betas, below the {LAST_ALPHA_SQUARED:.1e} that "
            "diffusers sets at the last one, so that the noise would not grow; set it to False."
        )
    ratios = alpha_squared[1:] / alpha_squared[:-1]
    return VPDiscrete(1 - np.append(alpha_squared[0], ratios), log_snr_min=None)


def is_told_noise_level(options: Options) -> bool:
    """Whether the network receives log(sigma)/4 in place of a training step."""
    is_continuous = options.get("timestep_type") == "continuous"
    # diffusers looks at the prediction too.
    return is_continuous and options["prediction_type"] == "v_prediction"


def respacing(options: Options) -> str | None:
    """The rule that respaces the times, a value of `RESPACINGS`, or None."""
    return next((rule for key, rule in RESPACINGS.items() if options.get(key)), None)


def network_of(options: Options) -> str:
    """What the network predicts, one of `flowjax.schedules.PREDICTIONS`."""
    # The classes of flow matching have no such option: their networks predict the velocity.
    return NETWORKS[options.get("prediction_type", "flow_prediction")]


def _class_of(name, config):
    """The key of `OPTIONS` that "_class_name" names."""
    given = config.get("_class_name")
    choices = {full_name(short_name): short_name for short_name in OPTIONS}
    if given is None:
        raise ValueError(
            f'{name}: the config has no "_class_name"; give the class of the scheduler, one of '
            f"{', '.join(choices)}."
        )
    check_choice(name, "_class_name", given, tuple(choices))
    return choices[given]


def _given(config, overrides):
    """The options that were given, without the records of diffusers."""
    # The config of a scheduler in memory lists under this key what its file left out.
    defaulted = config.get("_use_default_values") or ()
    given = {key: value for key, value in config.items() if key not in defaulted}
    # The keys of such records begin with "_".
    return {key: v for key, v in {**given, **overrides}.items() if not key.startswith("_")}


def _translated(short_name, key, value):
    """The value under the name that it has in this class."""
    synonyms = SYNONYMS.get((short_name, key), {})
    return synonyms.get(value, value) if isinstance(value, str) else value


def _check_foreign(name, short_name, key, value):
    """Refuse an option that no scheduler has, if it is on; diffusers may know it and we do not."""
    if not value or is_known_anywhere(key):
        return
    raise ValueError(
        f"{name}: {full_name(short_name)} with {key}={value!r} is not known here; remove it if no "
        f"plan depends on it. The options are {', '.join(OPTIONS[short_name])}."
    )


def _check_together(name, options):
    """Refuse values that contradict each other."""
    if sum(bool(options.get(key)) for key in RESPACINGS) > 1:
        raise ValueError(f"{name}: more than one of {', '.join(RESPACINGS)} is on; keep one.")

    # The range of a respacing
    low, high = options.get("sigma_min"), options.get("sigma_max")
    if low is not None and high is not None and low >= high:
        raise ValueError(
            f"{name}: sigma_min={low!r} and sigma_max={high!r}; wanted sigma_min < sigma_max."
        )

    # The prediction and the path
    if "use_flow_sigmas" not in options:
        return
    prediction, is_flow = options["prediction_type"], options["use_flow_sigmas"]
    if prediction == "flow_prediction" and not is_flow:
        raise ValueError(
            f"{name}: prediction_type='flow_prediction' without use_flow_sigmas would step a flow "
            "network along the path of the betas; set use_flow_sigmas=True."
        )
    if prediction == "v_prediction" and is_flow:
        raise ValueError(
            f"{name}: prediction_type='v_prediction' with use_flow_sigmas: diffusers takes alpha x "
            "- sigma v for the data, which needs alpha^2 + sigma^2 = 1, and a flow has 1 - t and "
            "t; set use_flow_sigmas=False, or prediction_type='flow_prediction'."
        )
    if options.get("shift_terminal") and not is_flow:
        raise ValueError(
            f"{name}: shift_terminal={options['shift_terminal']!r} acts on flows only; set "
            "use_flow_sigmas=True, or shift_terminal=None."
        )


def _described(value):
    """The type of a value of JSON in words."""
    if value is None:
        return "null"
    return f"a {type(value).__name__}"
