"""The text of --help: the configurations of a command, and each field with meaning and value."""

import dataclasses
import importlib
import pathlib
import pkgutil

import pytest

import configs
from experiments.cli import flags, help

ROOT = pathlib.Path(__file__).parents[3]
MODULES = [
    module
    for found in pkgutil.iter_modules(configs.__path__)
    if hasattr(module := importlib.import_module(f"configs.{found.name}"), "get_config")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_field_of_every_configuration_has_a_meaning(module):
    config = module.get_config()
    found = help.meanings(type(config))
    assert list(found) == [field.name for field in dataclasses.fields(config)]
    assert [name for name, text in found.items() if not text] == []


SOURCE = '''
"""What it does. More of it.

    python -m experiments.toy --config=toy.py
"""

import dataclasses
from flowjax.records import unrecorded

@dataclasses.dataclass
class Base:
    """A docstring with steps: int = 3  # no field."""

    # The first group.
    steps: int = 8
    rate: float = 0.5  # of growth
    # Two lines
    # above it.
    names: tuple[str, ...] = (
        "a",  # no meaning
        "b",
    )

    seeds: tuple[int, ...] = unrecorded(())  # of # all
    bare: int = 1

@dataclasses.dataclass
class Config(Base):
    # Other defaults.
    steps: int = 9
    rate: float = 0.25

    # Of its own.
    own: int = 2

def get_config(arg=""):
    return Config()
'''


def printed(capsys, *words):
    """What a command prints for --help, which ends it with success."""
    with pytest.raises(SystemExit) as stopped:
        flags.parse(["toy", "--help", *words])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.py"
    path.write_text(SOURCE)
    return f"--config={path}"


def test_a_meaning_is_the_comment_beside_or_above_a_field_or_its_group(capsys, toy):
    text = printed(capsys, toy)
    entries = dict(
        entry.split("\n", 1) if "\n" in entry else (entry, "")
        for entry in text.split("Fields")[1].split("Flags")[0].split("  --config.")[1:]
    )
    found = {name: " ".join(meaning.split()) for name, meaning in entries.items()}
    assert found == {
        "steps=9": "The first group.",
        "rate=0.25": "of growth",
        "names=('a', 'b')": "Two lines above it.",
        "seeds=()": "of # all",
        "bare=1": "",
        "own=2": "Of its own.",
    }


def test_the_help_of_a_configuration_shows_its_docstring_values_and_flags(capsys):
    text = printed(capsys, f"--config={ROOT}/configs/train_emoji.py:quick")
    assert "Train a transformer on 1906 Noto emoji" in text
    # The value of the variant, and the comment of the class that it extends.
    assert "--config.steps=8\n      of the optimizer" in text
    assert "--config.data='emoji'" in text
    # Without the path of this checkout, which may be long.
    lines = text.replace(f"{ROOT}/", "").splitlines()
    assert "--workdir" in "".join(lines) and max(map(len, lines)) <= 120


def test_the_help_of_a_command_lists_its_configurations_with_their_first_sentences():
    text = help.overview("python -m experiments.sample", flags.HELP)
    wanted = (
        "--config=configs/sample_digits.py\n      Draw handwritten digits, 8 x 8, with the model"
    )
    assert wanted in text
    # Neither those of other commands, nor files that are parts of others.
    for name in ("train_digits", "order", "common", "sample"):
        assert f"--config=configs/{name}.py" not in text
    # Every command has one at least.
    for name in ("order", "train", "staleness", "quality", "latency", "benchmarks.samplers"):
        found = help.overview(f"python -m experiments.{name}", flags.HELP)
        assert 1 <= found.count("--config=configs/") <= 2


def test_the_help_of_an_unknown_program_lists_all_configurations(capsys):
    text = printed(capsys)
    for module in MODULES:
        assert f"--config={module.__name__.replace('.', '/')}.py" in text
