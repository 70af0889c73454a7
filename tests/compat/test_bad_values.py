"""Whatever a JSON file or a command line holds ends in a plan or in one sentence."""

import itertools
import json
import types

import pytest

from experiments import sample
from flowjax import compat, schedules
from flowjax.compat import __main__ as command
from flowjax.compat.scheduler_options import OPTIONS, USED, full_name
from tests.compat.configs import ALL, DDIM, DPM, EULER, FLOW, FLOW_EULER, FLOW_HEUN, UNIPC

# Values of the wrong type for any option, as JSON can hold them.
STRANGE = ["1000", "1e-4", "", [], [1], {}, {"a": 1}, True, False, None, -1, 0, 2.5, 1e400]
STRANGE += [float("nan"), -float("inf"), "true", "linear"]

BAD = [
    # Numbers as text
    (FLOW_EULER, {"shift": "3.0"}, "shift='3.0'; wanted a finite number above 0.*not a string"),
    (DPM, {"num_train_timesteps": "1000"}, "num_train_timesteps='1000'.*not a string"),
    (DPM, {"beta_start": "1e-4"}, "beta_start='1e-4'.*not a string"),
    (DPM, {"flow_shift": "3.0", **FLOW}, "flow_shift='3.0'"),
    (EULER, {"sigma_max": "80", "use_karras_sigmas": True}, "sigma_max='80'"),
    (DPM, {"trained_betas": "0.1, 0.2"}, "trained_betas='0.1, 0.2'; wanted null or a list"),
    (DPM, {"trained_betas": ["0.1", "0.2"]}, "trained_betas"),
    (DPM, {"trained_betas": 3}, "trained_betas=3"),
    (DPM, {"use_karras_sigmas": "false"}, "wanted true or false, not a string"),
    (DPM, {"solver_order": "2"}, "solver_order='2'"),
    # Numbers out of range
    (DPM, {"num_train_timesteps": 0}, "num_train_timesteps=0"),
    (FLOW_HEUN, {"num_train_timesteps": 0}, "num_train_timesteps=0"),
    (DPM, {"num_train_timesteps": 1000.0}, "1000 instead of 1000.0"),
    (DPM, {"beta_end": 2}, "beta_end=2"),
    (FLOW_EULER, {"shift": 0}, "shift=0"),
    (FLOW_EULER, {"shift": float("nan")}, "shift=nan"),
    (FLOW_EULER, {"shift_terminal": 1}, "shift_terminal=1"),
    (DPM, {"steps_offset": -1}, "steps_offset=-1"),
    (EULER, {"steps_offset": 999, "timestep_spacing": "leading"}, "smaller steps_offset"),
    (DPM, {"lambda_min_clipped": 50.0}, "leaves no training step"),
    (DDIM, {"clip_sample": True, "clip_sample_range": 0}, "clip_sample_range=0"),
    # Lists and nulls
    (UNIPC, {"disable_corrector": 3}, "disable_corrector=3; wanted a list"),
    (UNIPC, {"disable_corrector": ["a"]}, "disable_corrector"),
    (UNIPC, {"disable_corrector": None}, "disable_corrector=None"),
    (DPM, {"solver_type": None}, "solver_type=None"),
    (DPM, {"prediction_type": ["epsilon"]}, "prediction_type"),
    (DPM, {"_class_name": None}, 'has no "_class_name"'),
    (DPM, {"_class_name": 7}, "_class_name=7"),
    (DPM, {"_class_name": ["a", "b"]}, "_class_name"),
    (DPM, {"_class_name": "DPMSolverMultistep"}, "did you mean 'DPMSolverMultistepScheduler'"),
]
# Arguments of the call: (config, arguments, message).
BAD_CALLS = [
    (DDIM, {"steps": 0}, "steps=0; wanted a whole number of at least 1"),
    (DDIM, {"steps": -3}, "steps=-3"),
    (DDIM, {"steps": 2.0}, "for example 2 instead of 2.0"),
    (DDIM, {"steps": "20"}, "not a string"),
    (DDIM, {"steps": True}, "steps=True"),
    (DDIM, {"steps": 1001}, "more than num_train_timesteps=1000"),
    (DPM, {"steps": 1001}, "more than num_train_timesteps=1000"),
    (DPM, {"steps": 1000}, "the step between them has no length"),
    (DDIM, {"steps": 5, "eta": "0"}, "eta='0'"),
    (DDIM, {"steps": 5, "eta": 2}, "eta=2"),
    (FLOW_EULER, {"steps": 5, "mu": "1.15", "use_dynamic_shifting": True}, "mu='1.15'"),
    (FLOW_EULER, {"steps": 5, "mu": 1000.0, "use_dynamic_shifting": True}, "exp"),
    (FLOW_EULER, {"steps": 5, "mu": -1000.0, "use_dynamic_shifting": True}, "mu=-1000.0"),
    (FLOW_EULER, {"steps": 5, "mu": 100.0, "use_dynamic_shifting": True}, "smaller shift"),
    (FLOW_EULER, {"steps": 5, "mu": float("inf"), "use_dynamic_shifting": True}, "mu=inf"),
    (
        FLOW_EULER,
        {"steps": 5, "mu": -1, "use_dynamic_shifting": True, "time_shift_type": "linear"},
        "positive shift",
    ),
    (FLOW_EULER, {"steps": 5, "with_hok": True}, "option='with_hok' is not known"),
]


@pytest.mark.parametrize("config, change, message", BAD)
def test_bad_value_is_one_sentence_from_the_call_and_from_the_command(
    config, change, message, tmp_path, capsys
):
    bad = {**config, **change}
    with pytest.raises(ValueError, match=message):
        compat.diffusers_plan(bad, 20, mu=1.0, with_hook=True)
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps(bad), encoding="utf-8")
    assert command.main([str(path)]) == 2
    sentence = capsys.readouterr().err
    assert sentence.count("\n") == 1 and "scheduler_config.json" in sentence


@pytest.mark.parametrize("config, arguments, message", BAD_CALLS)
def test_bad_argument_is_one_sentence(config, arguments, message):
    with pytest.raises(ValueError, match=message):
        compat.diffusers_plan(config, **arguments)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"text"', "true"])
def test_file_that_holds_no_dictionary_is_one_sentence(content, tmp_path, capsys):
    for function in (compat.diffusers_schedule, compat.diffusers_label):
        with pytest.raises(ValueError, match="wanted the dictionary"):
            function(json.loads(content))
    path = tmp_path / "scheduler_config.json"
    path.write_text(content, encoding="utf-8")
    assert command.main([str(path)]) == 2
    assert "wanted the dictionary" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"_class_name"'])
def test_file_that_is_no_json_is_one_sentence(content, tmp_path, capsys):
    path = tmp_path / "scheduler_config.json"
    path.write_bytes(content)
    assert command.main([str(path)]) == 2
    assert str(path) in capsys.readouterr().err
    # Neither is a folder.
    assert command.main([str(tmp_path)]) == 2


@pytest.mark.parametrize(
    "words, message",
    [
        (["--steps", "0"], "steps=0"),
        (["--steps", "-3"], "steps=-3"),
        (["--steps", "1001"], "num_train_timesteps"),
        (["--strength", "0"], "strength=0"),
        (["--strength", "nan"], "strength=nan"),
        (["--timesteps", "900,300"], "takes no timesteps"),
        (["--eta", "3"], "eta=3"),
        (["--labels", "peer"], "did you mean 'peers'"),
        (["--grid", "exact"], "grid='exact'"),
        (["--third-order", "third"], "third_order='third'"),
    ],
)
def test_bad_word_of_the_command_is_one_sentence(words, message, tmp_path, capsys):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({**DDIM, "_class_name": config_of(words)}), encoding="utf-8")
    assert command.main([str(path), *words]) == 2
    assert message in capsys.readouterr().err


def config_of(words):
    """The class with which the words of a command act."""
    return "DPMSolverMultistepScheduler" if "--third-order" in words else "DDIMScheduler"


def test_mu_of_the_command_is_checked(tmp_path, capsys):
    path = tmp_path / "scheduler_config.json"
    config = {**FLOW_EULER, "use_dynamic_shifting": True}
    path.write_text(json.dumps(config), encoding="utf-8")
    for words in (["--mu", "1000"], ["--mu", "nan"], []):
        assert command.main([str(path), *words]) == 2
        assert "mu" in capsys.readouterr().err


def test_command_takes_strength_and_lists(tmp_path, capsys):
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({**EULER, "clip_sample": True}), encoding="utf-8")
    assert command.main([str(path), "--strength", "0.5", "--steps", "10"]) == 0
    assert "5 evaluations" in capsys.readouterr().out
    assert command.main([str(path), "--sigmas", "14,3,1,0"]) == 0
    sentence = capsys.readouterr().out
    assert "3 evaluations" in sentence and "without effect in this class" in sentence
    path.write_text(json.dumps({**DDIM, "clip_sample": True}), encoding="utf-8")
    assert command.main([str(path)]) == 0
    assert "diffusers_data_hook" in capsys.readouterr().out


@pytest.mark.parametrize("name", OPTIONS)
def test_no_value_of_any_option_is_a_traceback(name):
    """Every option with every strange value gives a plan or a ValueError with its name."""
    used = [key for key, option in OPTIONS[name].items() if option.use == USED]
    for key, value in itertools.product(used, STRANGE):
        config = {"_class_name": full_name(name), "clip_sample": False, key: value}
        try:
            compat.diffusers_plan(config, 4, mu=0.5, with_hook=True)
        except ValueError as error:
            assert str(error).startswith("compat")


@pytest.mark.parametrize("config", ALL)
def test_solver_of_the_sample_command_refuses_bad_numbers(config):
    card = types.SimpleNamespace(
        name="toy",
        scheduler={**config, "num_train_timesteps": "1000"},
        schedule=compat.diffusers_schedule(config),
    )
    settings = types.SimpleNamespace(
        solver="scheduler", grid="uniform", shift=1.0, steps=10, order=1, plan="", strength=None
    )
    with pytest.raises(ValueError, match="num_train_timesteps='1000'"):
        sample.plan_of(settings, card)
    card.scheduler = config
    settings.steps = 0
    with pytest.raises(ValueError, match="steps=0"):
        sample.plan_of(settings, card)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("linear", "1000", 1e-4, 0.02), "num_train_timesteps='1000'"),
        (("linear", 0, 1e-4, 0.02), "num_train_timesteps=0"),
        (("linear", 1000, "1e-4", 0.02), "beta_start='1e-4'.*not a string"),
        (("linear", 1000, 1e-4, [0.02]), "beta_end"),
        (("linear", 1000, 1e-4, 0.02, "0.1"), "trained_betas='0.1'"),
        (("linear", 1000, 1e-4, 0.02, ["0.1", 0.2]), "trained_betas='0.1'"),
        ((["linear"], 1000, 1e-4, 0.02), "kind"),
    ],
)
def test_betas_of_a_file_are_checked_where_a_network_is_loaded(arguments, message):
    with pytest.raises(ValueError, match=message):
        schedules.of_betas(*arguments)
