"""The table of options says what the plans do, option by option, and has diffusers' defaults."""

import inspect
import itertools
import json
import pathlib

import numpy as np
import pytest

from flowjax import compat
from flowjax.compat.option_table import option_table
from flowjax.compat.scheduler_options import ELSEWHERE, NO_EFFECT, OPTIONS, REFUSED, full_name
from flowjax.schedules import PREDICTIONS

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS = 6
# The arguments of the constructors of diffusers, of the version that the file names.
PEERS = json.loads((pathlib.Path(__file__).parent / "diffusers_defaults.json").read_text())
# Options that diffusers reads from the file, though the constructor does not list them.
HIDDEN = {"sigma_min", "sigma_max"}

# Settings in which some options act that do not act in others. A class takes those that it has.
SETTINGS = [
    {},
    {"use_karras_sigmas": True},
    {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    {
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
        "use_dynamic_shifting": True,
    },
    # The limit must be above 1 for the quantile to act.
    {"thresholding": True, "sample_max_value": 3.0},
    {"thresholding": True},
    {"sample_max_value": 3.0},
    {"clip_sample": True},
    {"timestep_spacing": "leading"},
    {"final_sigmas_type": "sigma_min", "lower_order_final": False, "solver_order": 3},
    {"final_sigmas_type": "sigma_min", "solver_order": 3},
    {"prediction_type": "v_prediction"},
]
# Values of each option that differ from its defaults; a switch is turned over.
PROBES = {
    "num_train_timesteps": [500],
    "beta_start": [2e-4],
    "beta_end": [0.03],
    "beta_schedule": ["squaredcos_cap_v2", "scaled_linear"],
    "trained_betas": [list(np.linspace(0.001, 0.03, 1000))],
    "prediction_type": ["sample"],
    "timestep_spacing": ["trailing", "leading"],
    "steps_offset": [1],
    "sigma_min": [0.3],
    "sigma_max": [0.9],
    "dynamic_thresholding_ratio": [0.5],
    "sample_max_value": [1.3],
    "clip_sample_range": [0.4],
    "flow_shift": [2.5],
    "shift": [2.5],
    "time_shift_type": ["linear"],
    "shift_terminal": [0.2],
    "solver_order": [1],
    "solver_type": ["heun", "bh1"],
    "algorithm_type": ["sde-dpmsolver++", "dpmsolver"],
    "final_sigmas_type": ["sigma_min"],
    "lambda_min_clipped": [-1.0],
    "variance_type": ["learned"],
    "disable_corrector": [list(range(STEPS))],
    "solver_p": ["anything"],
    "interpolation_type": ["log_linear"],
    "timestep_type": ["continuous"],
    "base_shift": [0.7],
    "max_shift": [2.0],
    "base_image_seq_len": [300],
    "max_image_seq_len": [5000],
}
# Options with one value alone: there is no other one that could act.
SINGLE_VALUED = {
    ("DEISMultistep", "algorithm_type"),
    ("DEISMultistep", "solver_type"),
    ("DPMSolverMultistep", "time_shift_type"),
    ("DPMSolverSinglestep", "time_shift_type"),
    ("DEISMultistep", "time_shift_type"),
    ("Euler", "interpolation_type"),
}
BIG_DATA = np.random.default_rng(0).normal(size=(2, 8)) * 3


def behaviour(config):
    """Numbers of all that a caller gets from a config: plan, labels, kinds and corrections."""
    numbers = []
    for grid in ("corrected", "peers"):
        try:
            plan = compat.diffusers_plan(
                config, STEPS, mu=0.6, labels="peers", grid=grid, with_hook=True
            )
        except ValueError as error:
            # A sentence about a grid that diffusers does not have is no behaviour of its own.
            if grid == "peers":
                continue
            return str(error)
        numbers += [np.ravel(column) for column in plan]
        numbers.append(np.ravel(compat.diffusers_label(config)(plan.label_time)))
        numbers.append([PREDICTIONS.index(compat.diffusers_prediction(config))])
        hook = compat.diffusers_data_hook(config, plan)
        if hook is not None:
            numbers.append(np.ravel(hook(BIG_DATA, plan.t[1])))
    return np.concatenate(numbers).astype(np.float64)


def differ(first, second):
    if isinstance(first, str) or isinstance(second, str):
        return str(first) != str(second)
    return first.shape != second.shape or not np.array_equal(first, second)


def settings_of(name):
    """The settings of SETTINGS that this class has, without repetitions."""
    known = OPTIONS[name]
    made = []
    for setting in SETTINGS:
        config = {key: value for key, value in setting.items() if key in known}
        # Only the classes with flows know this prediction.
        if config.get("prediction_type") == "flow_prediction" and "use_flow_sigmas" not in config:
            del config["prediction_type"]
        if config not in made:
            made.append(config)
    return made


def probes_of(option, default):
    if option in PROBES:
        return PROBES[option]
    return [not default]


def acts(name, option, probes):
    """Whether some probe of the option changes what the caller gets, in some setting."""
    class_name = full_name(name)
    for setting, probe in itertools.product(settings_of(name), probes):
        base = {"_class_name": class_name, **setting}
        if option in setting:
            continue
        if differ(behaviour(base), behaviour({**base, option: probe})):
            return True
    return False


EVERY = [(name, option) for name, options in OPTIONS.items() for option in options]


@pytest.mark.parametrize("name", OPTIONS)
def test_table_has_the_options_and_defaults_of_the_constructors(name):
    theirs = PEERS["classes"][full_name(name)]
    ours = {key: option.default for key, option in OPTIONS[name].items()}
    hidden = {key: ours.pop(key) for key in HIDDEN - set(theirs) if key in ours}
    assert ours == theirs
    assert all(default is None for default in hidden.values())


@pytest.mark.parametrize("name", OPTIONS)
def test_defaults_of_the_file_are_what_is_left_out(name):
    theirs = PEERS["classes"][full_name(name)]
    empty = {"_class_name": full_name(name)}
    assert not differ(behaviour(empty), behaviour({**theirs, **empty}))


@pytest.mark.parametrize("name, option", EVERY)
def test_an_option_acts_or_is_refused_as_the_table_says(name, option):
    known = OPTIONS[name][option]
    probes = probes_of(option, known.default)
    config = {"_class_name": full_name(name), option: probes[0]}
    if known.use == REFUSED:
        with pytest.raises(ValueError, match=option):
            compat.diffusers_plan(config, STEPS, with_hook=True)
    elif known.use == NO_EFFECT:
        assert not acts(name, option, probes)
    elif (name, option) not in SINGLE_VALUED:
        assert acts(name, option, probes)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_other_classes_are_without_effect(name):
    """A file of one class that is read as another keeps options, and diffusers drops them."""
    foreign = {key for options in OPTIONS.values() for key in options} - set(OPTIONS[name])
    base = {"_class_name": full_name(name)}
    values = {key: probes_of(key, False)[0] for key in foreign} | dict.fromkeys(ELSEWHERE, True)
    assert not differ(behaviour(base), behaviour({**base, **values}))
    assert compat.without_effect({**base, **values}) == values
    # Who types such an option means it.
    for key in foreign:
        with pytest.raises(ValueError, match=f"option='{key}'"):
            compat.diffusers_plan(base, STEPS, **{key: values[key]})


def test_page_has_the_table_of_the_code():
    assert option_table() in (ROOT / "docs" / "compat.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_kept_defaults_are_those_of_the_installed_diffusers():
    diffusers = pytest.importorskip("diffusers")
    if diffusers.__version__ != PEERS["version"]:
        pytest.skip(f"the kept defaults are those of diffusers {PEERS['version']}")
    for name, kept in PEERS["classes"].items():
        parameters = inspect.signature(getattr(diffusers, name).__init__).parameters
        assert {k: p.default for k, p in parameters.items() if k != "self"} == kept
