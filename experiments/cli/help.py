"""What `--help` prints: the configurations of a command, or the fields of one with their meanings.

The meaning of a field is the comment in the source of its configuration, so it is written once: the
comment at the end of its line, or else the comment above it, or above the first field of its group
(fields without an empty line between them).
"""

import ast
import dataclasses
import inspect
import io
import pathlib
import re
import textwrap
import tokenize
from collections.abc import Mapping
from typing import Any

import configs

WIDTH = 100  # columns of the text
LONGEST = 40  # of a value; a longer one is cut


def overview(program: str, flags: Mapping[str, str]) -> str:
    """The help of a command without a configuration.

    Args:
      program: the command, such as "python -m experiments.sample".
      flags: {name: meaning} of the flags.

    Returns:
      The configurations that name the command in their docstring (all, where none does), each with
      its first sentence; and the flags.
    """
    found = {path: text for path, text in _docstrings().items() if f"{program} " in text}
    listed = [
        f"  --config={path}\n      {_first_sentence(text)}"
        for path, text in (found or _docstrings()).items()
    ]
    parts = [
        f"{program} --config=FILE [--config.FIELD=VALUE ...] [--workdir=DIRECTORY]",
        "Configurations, whose fields are shown by --config=FILE --help:\n\n" + "\n".join(listed),
        _flags(flags),
    ]
    return "\n\n".join(parts)


def of_config(program: str, path: str, config: Any, flags: Mapping[str, str]) -> str:
    """The help of a command with a configuration: its docstring, and each field with its value.

    Args:
      program, flags: as in `overview`.
      path: the value of --config.
      config: the configuration, a dataclass.
    """
    # The file's own text; that of the class's module where the file is not one of ours.
    docstring = inspect.getdoc(inspect.getmodule(type(config))) or ""
    own = _docstrings().get(path.split(":")[0], docstring)
    # Each field with its value, and below it what it means.
    lines = []
    for field, meaning in meanings(type(config)).items():
        value = repr(getattr(config, field))
        shown = value if len(value) <= LONGEST else f"{value[: LONGEST - 3]}..."
        lines.append(f"  --config.{field}={shown}")
        lines += _wrapped(meaning, "      ")
    parts = [
        f"{program} --config={path} [--config.FIELD=VALUE ...] [--workdir=DIRECTORY]",
        own.strip(),
        "Fields, with the values that they have here:\n\n" + "\n".join(lines),
        _flags(flags),
    ]
    return "\n\n".join(parts)


def meanings(kind: type) -> dict[str, str]:
    """{field: its meaning, "" where none is written} of a dataclass, in the order of its fields."""
    own, of_group = {}, {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        for name, (text, group) in _meanings_in_source(base).items():
            # A subclass repeats a field for another default; the comments of its base remain.
            own[name] = text or own.get(name, "")
            of_group.setdefault(name, group)
    return {
        field.name: own.get(field.name) or of_group.get(field.name, "")
        for field in dataclasses.fields(kind)
    }


@dataclasses.dataclass
class _Comments:
    """Comments of a source by line number: those that fill a line, and those that end one."""

    above: dict[int, str]
    beside: dict[int, str]


def _meanings_in_source(kind: type) -> dict[str, tuple[str, str]]:
    """{field: (its comment, that of its group)} of the fields that the class itself defines."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}  # the class was made without a source, as by dataclasses.make_dataclass
    comments = _comments(source)
    body = ast.parse(source).body[0].body
    fields = [
        node
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    ]
    # A group begins with a field that does not follow another one directly.
    ends = {node.end_lineno for node in fields}
    found, group = {}, ""
    for node in fields:
        above = _above(node.lineno, comments.above)
        line_above = node.lineno - 1 - above.count("\n") - bool(above)
        if line_above not in ends:
            group = above
        beside = comments.beside.get(node.lineno) or comments.beside.get(node.end_lineno, "")
        parts = [above if above != group else "", beside]
        text = " ".join(part.replace("\n", " ") for part in parts if part)
        found[node.target.id] = (text, group.replace("\n", " "))
    return found


def _comments(source: str) -> _Comments:
    comments = _Comments({}, {})
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            fills_the_line = not lines[number - 1][:column].strip()
            kind = comments.above if fills_the_line else comments.beside
            kind[number] = token.string.lstrip("# ").rstrip()
    return comments


def _above(number: int, above: dict[int, str]) -> str:
    """The comment lines directly above a line, joined by newlines."""
    first = number
    while first - 1 in above:
        first -= 1
    return "\n".join(above[i] for i in range(first, number))


def _docstrings() -> dict[str, str]:
    """{path: docstring} of the configurations that come with flowjax."""
    folder = pathlib.Path(configs.__path__[0])
    found = {}
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        # Files without get_config() are parts of others.
        names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        if "get_config" in names:
            found[f"{folder.name}/{path.name}"] = ast.get_docstring(tree) or ""
    return found


def _first_sentence(text: str) -> str:
    """The first sentence of a docstring, in one line."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s", paragraph)[0]


def _flags(flags: Mapping[str, str]) -> str:
    lines = []
    for name, meaning in flags.items():
        lines.append(f"  --{name}")
        lines += _wrapped(meaning, "      ")
    return "Flags:\n\n" + "\n".join(lines)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent)
