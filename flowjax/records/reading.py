"""Reading a work directory: its rows, its configuration, and what was measured where."""

import json
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from flowjax.records.values import decoded

_log = logging.getLogger(__name__)


def read_json(path: pathlib.Path, *names: str, decode: bool = True) -> dict:
    """The object in a file of a work directory, which must have these names.

    Raises:
      ValueError: the file is missing, damaged or of another form.
    """
    # Without the hook a NaN stays an object, which is equal to itself.
    hook = decoded if decode else None
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_hook=hook)
        is_whole = isinstance(found, dict) and found.keys() >= set(names)
        reason = " and ".join(["wanted an object", *names])
    except (OSError, ValueError) as error:
        is_whole, reason = False, str(error)
    if not is_whole:
        raise ValueError(
            f"records: {path} was not written by this program, or it is damaged ({reason}); "
            "restore it, or use --overwrite."
        )
    return found


def complete_lines(path: pathlib.Path) -> tuple[bytes, bytes]:
    """(bytes up to the last newline, the torn line after it)."""
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def read(workdir: str | os.PathLike) -> list[dict]:
    """The rows of a work directory, in the order in which they were measured.

    A last line without its newline is dropped with a warning in the log: a run was killed while it
    wrote that line. No kill explains a broken line anywhere else, so that is an error.

    Returns:
      A list of dicts; NaN and infinity are floats again, arrays are lists.

    Raises:
      ValueError: there are no rows, or a line is not JSON.
    """
    # The file, up to the line in which a killed run ended.
    path = pathlib.Path(workdir) / "rows.jsonl"
    if not path.exists():
        raise ValueError(
            f"records.read: there are no rows in {workdir}; "
            f"run the experiment with --workdir={workdir}."
        )
    complete, torn = complete_lines(path)
    if torn:
        _log.warning(
            "records: %s ends within a line (%d bytes); that row is dropped.", path, len(torn)
        )

    # Each line is an object.
    rows = []
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            row = json.loads(line, object_hook=decoded)
        except ValueError as error:  # JSON's and UTF-8's errors are both ValueErrors
            raise ValueError(
                f"records.read: line {number} of {path} is not JSON ({error}); "
                "restore it, or use --overwrite."
            ) from None
        if not isinstance(row, dict):
            raise ValueError(
                f"records.read: line {number} of {path} is no row, but a {type(row).__name__}; "
                "restore it, or use --overwrite."
            )
        rows.append(row)
    return rows


def read_config(workdir: str | os.PathLike) -> dict:
    """The configuration of a work directory, a plain dict (tuples are lists)."""
    return read_json(pathlib.Path(workdir) / "config.json", "config")["config"]


def read_environments(workdir: str | os.PathLike) -> dict[str, dict]:
    """{hash: environment} of a work directory; a row's "environment" is one of the hashes."""
    path = pathlib.Path(workdir) / "environment.json"
    return read_json(path) if path.exists() else {}


def read_summary(workdir: str | os.PathLike) -> dict | None:
    """The summary that was given to `finish`, or None while the run is not complete."""
    path = pathlib.Path(workdir) / "done.json"
    return read_json(path, "config", "rows") if path.exists() else None


def table(rows: Sequence[dict], by: str | tuple[str, ...], value: str) -> dict[Any, list]:
    """{cell: list of values}: `row[value]` of all rows, gathered by `row[by]`.

    Args:
      rows: see `read`.
      by: the name of a field, or a tuple of names.
      value: the name of the field that is gathered.
    """
    # A cell is one value of a field, or a tuple of the values of several.
    cells = {}
    for row in rows:
        cell = row[by] if isinstance(by, str) else tuple(row[name] for name in by)
        cells.setdefault(cell, []).append(row[value])
    return cells
