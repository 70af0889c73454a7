"""The flags of an experiment's command: --config with its overrides, --workdir, --overwrite.

Flags are absl's, and ml_collections makes one of each field of the configuration. What these two
let pass is checked here: a misspelt field is refused by name with the nearest field, and so is a
tuple with an item of the wrong type.
"""

import ast
import dataclasses
import itertools
import os
import re
import shlex
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments.cli import help
from flowjax.errors import suggestion
from flowjax.records import is_named

HELP = {
    "config": "File with get_config(), as configs/order.py or configs/order.py:quick; "
    "--config.field=value overrides.",
    "workdir": "Directory of what the command makes; it may be new.",
    "overwrite": "Forget what the work directory holds.",
    "traceback": "Show where an error came from.",
    "help": "Show this text.",
}


def parse(
    argv: Sequence[str], workdir: Callable[[str], str] | None = None
) -> tuple[Any, flags.FlagValues]:
    """The configuration and the flags of a command line.

    Args:
      argv: the command line with the program's name first.
      workdir: the function (path of the configuration) -> directory, where no --workdir is given.

    Returns:
      The configuration, a dataclass; the flag values.

    Raises:
      ValueError: with one sentence, for any mistake in the command line.
      SystemExit: after --help.
    """
    if any(word in ("--help", "-help", "-h") for word in argv):
        print(_help(argv))
        raise SystemExit(0)

    # Fields are checked before the flag parser sees them: it does not name the nearest field.
    path = _config_path(argv)
    config = _load(path)
    _check_fields(config, argv)
    argv, without_value = _split_none(config, _quote_texts(config, argv))
    try:
        values, rest = _apply(argv)
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if rest:
        raise ValueError(
            f"{rest[0]!r} is no flag; a value follows its flag, as --workdir=runs/order."
        )

    if not values.workdir and workdir:
        values.workdir = workdir(path)
    if not values.workdir:
        raise ValueError(
            "--workdir is needed: the directory of the rows and the page, as --workdir=runs/order."
        )
    _settle_tuples(values.config, values["config"].override_values)
    for field in without_value:
        setattr(values.config, field, None)
    return values.config, values


def command(argv: Sequence[str], config: Any) -> str:
    """The command that makes all rows of a work directory, as a reader would type it.

    Flags of this call alone are left out: --overwrite, --traceback, and fields of the
    configuration that only select a part of the rows (`flowjax.records.unrecorded`).
    """
    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()
    selecting = [f"config.{field.name}" for field in fields if not is_named(field)]
    words = []
    follows = False  # whether this word is the value of a flag that was left out
    for word in argv[1:]:
        flag, _, value = word.lstrip("-").partition("=")
        leave_out = word.startswith("-") and flag in ("overwrite", "traceback", *selecting)
        if not leave_out and not follows:
            words.append(word)
        follows = leave_out and flag in selecting and "=" not in word

    return f"{_program(argv)} {shlex.join(words)}"


def _program(argv: Sequence[str]) -> str:
    """The command without its flags."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec and argv is sys.argv else None
    return f"python -m {module}" if module else f"python {shlex.quote(argv[0])}"


def _help(argv: Sequence[str]) -> str:
    """The text of --help: of the command, or of the configuration that is named beside it."""
    try:
        path = _config_path(argv)
    except ValueError:
        return help.overview(_program(argv), HELP)
    return help.of_config(_program(argv), path, _load(path), HELP)


def _quote_texts(config: Any, argv: Sequence[str]) -> list[str]:
    """The words of a command line, with the value of each list of texts as one literal.

    The parser refuses spaces in a list, and names of solvers have them: Euler,DPM++ 2M.
    """
    types = _field_types(config)
    words = list(argv)
    for i, word in enumerate(argv):
        match = re.fullmatch(r"--?config\.(\w+)(?:=(.*))?", word)
        field, value = match.groups() if match else (None, None)
        if _item_type(types.get(field)) is not str:
            continue
        if value is not None and not _is_literal(value):
            words[i] = f"--config.{field}={value!r}"
        # The value may be the next word.
        elif value is None and i + 1 < len(words) and not _is_literal(words[i + 1]):
            words[i + 1] = repr(words[i + 1])
    return words


def _is_literal(text: str) -> bool:
    """Whether a text is a literal of Python, such as 'a','b'."""
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True


def _split_none(config: Any, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the words for the flag parser, the fields that get None).

    The parser cannot read None for a field such as `int | None`; "None" and "none" mean it.
    """
    # One pass over the words, of which a flag may take two.
    words, fields = [], []
    rest = iter(argv)
    for word in rest:
        match = re.fullmatch(r"--?config\.(\w+)(?:=(.*))?", word)
        field, value = match.groups() if match else (None, None)
        may_be_none = match and type(None) in typing.get_args(_field_types(config).get(field))
        # The value may be the next word.
        following = [] if value is not None or not may_be_none else list(itertools.islice(rest, 1))
        value = following[0] if following else value
        if may_be_none and value in ("None", "none"):
            fields.append(field)
        else:
            words += [word, *following]
    return words, fields


def _config_path(argv: Sequence[str]) -> str:
    """The value of --config, in one word ("--config=a.py") or in two."""
    given = [word.split("=", 1)[-1] for word in argv if re.match(r"--?config=", word)]
    for flag, word in zip(argv, argv[1:], strict=False):
        if flag in ("--config", "-config"):
            given.append(word)
    if not given:
        raise ValueError(
            "--config is needed: a file with get_config(), as --config=configs/order.py:quick."
        )
    return given[0]


def _load(path: str) -> Any:
    """The configuration of `path`, before any override.

    Raises:
      ValueError: there is no such file, or get_config() returns no dataclass or fails; the text is
        that of the error inside.
    """
    file = path.split(":")[0]
    if not os.path.isfile(file):
        raise ValueError(f"--config={path}: there is no file {file!r}.")
    try:
        config = _apply(["", f"--config={path}"])[0].config
    except flags.Error as error:
        # The flag parser wraps the configuration's error in its own, with the traceback as text.
        while error.__context__:
            error = error.__context__
        raise ValueError(f"--config={path}: {error}") from error
    if not dataclasses.is_dataclass(config):
        raise ValueError(
            f"--config={path}: get_config() gave a {type(config).__name__}, "
            "and a dataclass is wanted."
        )
    return config


def _define(argv: Sequence[str]) -> flags.FlagValues:
    """Fresh flag definitions: nothing of an earlier command line in this process remains."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, HELP["config"], flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string("workdir", None, HELP["workdir"], flag_values=values)
    flags.DEFINE_bool("overwrite", False, HELP["overwrite"], flag_values=values)
    flags.DEFINE_bool("traceback", False, HELP["traceback"], flag_values=values)
    flags.DEFINE_bool("help", False, HELP["help"], short_name="h", flag_values=values)
    return values


def _apply(argv: Sequence[str]) -> tuple[flags.FlagValues, list[str]]:
    """(flag values, words left over) of a command line."""
    # ml_collections' name for the file: a second file must not be given the module of the first.
    sys.modules.pop("config_config", None)
    values = _define(argv)
    # ml_collections loads the file by a deprecated method.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*load_module", category=DeprecationWarning)
        return values, values(argv)[1:]


def _field_types(config: Any) -> dict[str, Any]:
    """{field: its type} of a dataclass, {key: type of its value} of a mapping; empty for a leaf."""
    if dataclasses.is_dataclass(config):
        return typing.get_type_hints(type(config))
    if hasattr(config, "keys"):
        return {name: type(config[name]) for name in config}
    return {}


def _get(config: Any, field: str) -> Any:
    """A field of a dataclass, or an item of a mapping."""
    return getattr(config, field) if dataclasses.is_dataclass(config) else config[field]


def _check_fields(config: Any, argv: Sequence[str]) -> None:
    """Refuse `--config.field` where no such field is, with the nearest one."""
    for word in argv:
        match = re.match(r"--?(?:no)?config\.([^=]+)", word)
        path = match[1].split(".") if match else []
        here = config
        for depth, field in enumerate(path):
            known = _field_types(here)
            if field not in known:
                where = ".".join(["config", *path[:depth]])
                raise ValueError(
                    f"{word}: {where} has no field {field!r}; {suggestion(field, known)}"
                )
            here = _get(here, field)


def _settle_tuples(config: Any, overrides: dict[str, Any]) -> None:
    """Bring the tuples of a command line to their annotated type, or refuse them.

    The flag parser takes "a,b" for a tuple with the one text "a,b", and numbers of any type.
    """
    for path, value in overrides.items():
        *parents, field = path.split(".")
        holder = config
        for parent in parents:
            holder = _get(holder, parent)
        item_type = _item_type(_field_types(holder)[field])
        if not isinstance(value, tuple) or item_type is None:
            continue

        if item_type is str and dataclasses.is_dataclass(holder):
            names = [name.strip(" '\"") for text in value for name in str(text).split(",")]
            setattr(holder, field, tuple(name for name in names if name))
            continue
        if value == ("",):  # nothing after the "=": no items, as for texts
            setattr(holder, field, ())
            continue
        kinds = (float, int) if item_type is float else (item_type,)
        for item in value:
            if type(item) not in kinds:
                raise ValueError(
                    f"--config.{path}: {item!r} is no {item_type.__name__}, as its items must be."
                )


def _item_type(annotation: Any) -> type | None:
    """T of the annotation tuple[T, ...], and None for any other annotation."""
    arguments = typing.get_args(annotation)
    if len(arguments) == 2 and arguments[1] is ... and isinstance(arguments[0], type):
        return arguments[0]
    return None
