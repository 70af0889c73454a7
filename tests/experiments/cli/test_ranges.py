"""Every number of every configuration has a range, and a command refuses what lies outside."""

import dataclasses
import importlib
import math
import os
import pathlib
import pkgutil
import typing

import pytest

import configs
from experiments import sample, train
from experiments.cli import ranges
from experiments.cli.run import main
from flowjax import records

ROOT = pathlib.Path(__file__).parents[3]
MODULES = [
    module
    for found in pkgutil.iter_modules(configs.__path__)
    if hasattr(module := importlib.import_module(f"configs.{found.name}"), "get_config")
]


def variants(module):
    """The configurations of a module: its own, and the quick one where there is one."""
    found = [module.get_config()]
    if hasattr(module, "QUICK"):
        found.append(module.get_config("quick"))
    return found


def special(module):
    """The ranges that the command of a configuration has of its own."""
    kind = module.__name__.removeprefix("configs.").split("_")[0]
    return {"sample": ranges.OF_SAMPLING, "train": ranges.OF_TRAINING}.get(kind, {})


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_number_of_every_configuration_has_a_range_and_lies_in_it(module):
    for config in variants(module):
        fields = ranges.numeric_fields(config)
        assert fields and fields.keys() <= ranges.RANGES.keys()
        ranges.check(config, special(module))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_number_is_refused_outside_its_range(module):
    config = module.get_config()
    for name, numbers in ranges.numeric_fields(config).items():
        wanted = (ranges.RANGES | special(module))[name]
        # Of another type, not finite, and beyond both limits.
        wrong = [math.nan, math.inf, -math.inf, "3", True]
        wrong += [wanted.least - 1] if math.isfinite(wanted.least) else []
        wrong += [wanted.least] if wanted.above else []
        wrong += [wanted.most + 1, 10**24] if math.isfinite(wanted.most) else []
        wrong += [1.5] if numbers.is_whole else []
        wrong += [] if numbers.may_be_none else [None]
        for value in wrong:
            given = (value,) if numbers.is_tuple else value
            changed = dataclasses.replace(config, **{name: given})
            with pytest.raises(ValueError, match=f"--config.{name}=.*; wanted a"):
                ranges.check(changed, special(module))


def test_the_ranges_name_no_field_that_no_configuration_has():
    used = {name for module in MODULES for name in ranges.numeric_fields(module.get_config())}
    assert ranges.RANGES.keys() == used


@pytest.mark.parametrize(
    "annotation, numbers",
    [
        (int, (True, False, False)),
        (float | None, (False, True, False)),
        (typing.Optional[int], (True, True, False)),  # noqa: UP045 (the older form is read too)
        (tuple[int, ...], (True, False, True)),
        (tuple[float, ...] | None, (False, True, True)),
        (str, None),
        (bool, None),
        (int | str | None, None),
        (tuple[str, ...], None),
        (dict, None),
    ],
)
def test_annotations_tell_which_fields_are_numbers(annotation, numbers):
    assert ranges.numbers_of(annotation) == numbers


def test_a_field_of_a_configuration_of_ones_own_is_left_to_it():
    own = dataclasses.make_dataclass("Own", [("my_rate", float, math.nan), ("steps", int, 3)])
    ranges.check(own())
    with pytest.raises(ValueError, match="--config.steps=0; wanted a whole number from 1"):
        ranges.check(own(steps=0))


# ---- the commands


def refused(capsys, command, *words):
    """The single line with which a command ends."""
    with pytest.raises(SystemExit) as stopped:
        command(["command", *words])
    message = capsys.readouterr().err
    assert stopped.value.code == 2 and message.count("\n") == 1 and "Traceback" not in message
    return message


def never(*args):
    raise AssertionError("the run began")


COMMANDS = {
    "train_digits": lambda argv: main(never, never, argv, special=ranges.OF_TRAINING),
    "sample_digits": lambda argv: sample.main(argv),
    "order": lambda argv: main(never, never, argv),
}


@pytest.mark.parametrize(
    "config, word",
    [
        ("train_digits", "ema=1.5"),
        ("train_digits", "label_dropout=-0.1"),
        ("train_digits", "learning_rate=-1e-3"),
        ("train_digits", "devices=-1"),
        ("train_digits", "microbatches=0"),
        ("train_digits", "patch=0"),
        ("train_digits", "log_every=0"),
        ("train_digits", "sample_rows=-2"),
        ("train_digits", "guidance=nan"),
        ("sample_digits", "guidance=inf"),
        ("sample_digits", "steps=0"),
        ("sample_digits", "tile=-8"),
        ("sample_digits", "guidance_interval=0.2,1.5"),
        ("order", "nfe=5,0"),
        ("order", "repeats=-1"),
    ],
)
def test_a_command_refuses_a_number_in_one_line_and_writes_nothing(capsys, tmp_path, config, word):
    words = [f"--config={ROOT}/configs/{config}.py", f"--workdir={tmp_path}/new"]
    message = refused(capsys, COMMANDS[config], *words, f"--config.{word}")
    assert f"--config.{word.split('=')[0]}=" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [-1, 2**64, 10**24])
@pytest.mark.parametrize("config", ["train_digits", "sample_digits"])
def test_every_command_refuses_the_same_seeds(capsys, tmp_path, config, seed):
    words = [f"--config={ROOT}/configs/{config}.py", f"--workdir={tmp_path}/new"]
    message = refused(capsys, COMMANDS[config], *words, f"--config.seed={seed}")
    assert f"seed={seed}; wanted a whole number from 0 to {2**64 - 1}" in message


def test_sizes_that_do_not_fit_the_data_are_refused_before_anything_is_written(capsys, tmp_path):
    def command(argv):
        main(never, never, argv, check=train.check, special=ranges.OF_TRAINING)

    words = [f"--config={ROOT}/configs/train_digits.py", f"--workdir={tmp_path}/new"]
    for word, message in {
        "patch=3": "multiples of patch=3",
        "heads=7": "multiple of heads=7",
        "batch=63": "a batch of 63 does not divide",
        "data=nowhere": "neither 'digits' nor 'emoji'",
        "coupling=to": "the choices are",
    }.items():
        devices = [] if word.startswith("batch") else ["--config.devices=1"]
        assert message in refused(capsys, command, *words, *devices, f"--config.{word}")
    assert not list(tmp_path.iterdir())


# ---- work directories


@pytest.mark.parametrize("config", COMMANDS)
def test_a_work_directory_that_cannot_be_made_is_refused_in_one_line(
    capsys, tmp_path, config, monkeypatch
):
    (tmp_path / "file").write_text("")
    words = [f"--config={ROOT}/configs/{config}.py"]
    for place in ("file", "file/inside/deeper"):
        message = refused(capsys, COMMANDS[config], *words, f"--workdir={tmp_path}/{place}")
        assert "cannot be written to" in message and "is a file" in message
    # The owner of the machine may write everywhere, so the question is answered for it.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    message = refused(capsys, COMMANDS[config], *words, f"--workdir={tmp_path}/new/folder")
    assert f"there is no permission to write in {tmp_path}" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_records_refuse_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        records.Records(tmp_path / "file" / "inside", {"steps": 3})


def test_a_file_that_cannot_be_read_ends_a_run_in_one_line(capsys, tmp_path):
    def run(config, workdir):
        raise FileNotFoundError("there is no folder\n    owner/name")

    words = [f"--config={ROOT}/configs/order.py:quick", f"--workdir={tmp_path}/new"]
    message = refused(capsys, lambda argv: main(run, None, argv), *words)
    assert "there is no folder owner/name" in message
