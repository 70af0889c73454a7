"""A plan as a file: readable JSON, exact to the last bit.

    {"format": "flowjax plan",
     "version": 1,
     "facts": {"network": "digits-smooth", "guidance": 1.0},
     "columns": {"t": [1.0, 0.5], ..., "b": [[-0.5, 0.0, 0.0, 0.0], ...], "counted": [true, true]}}

Python writes a float64 with the fewest digits that give the same bits when they are read, the sign
of -0.0 included.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

from flowjax import files
from flowjax.plans.table import DEPTH, Plan, check_finite

FORMAT = "flowjax plan"
VERSION = 1
FLAGS = ("ends_step", "counted")  # columns of bool
LAGGED = ("b", "d")  # columns of (N, 4)


def save(path: str | os.PathLike, plan: Plan, /, **facts: Any) -> None:
    """Write a plan to a JSON file.

    Args:
      path: the file; it is replaced in one move, so that a reader never finds a part of it.
      plan: any plan of one table, padded or not.
      **facts: what the plan was made for, for example network="digits", guidance=1.5; anything
        that JSON can hold. `load_with_facts` returns it.

    Raises:
      ValueError: a number of the plan is not finite, its shapes do not fit, or a fact is not JSON.
      files.WriteError: the file cannot be written.
    """
    columns = {name: np.asarray(column) for name, column in plan._asdict().items()}
    _check_shapes("plans.save: the plan", columns)
    check_finite(plan, "plans.save", way_out="give a plan of finite numbers")
    listed = {}
    for name, column in columns.items():
        # float64 holds the numbers of a float32 table exactly.
        dtype = bool if name in FLAGS else np.float64
        listed[name] = column.astype(dtype).tolist()
    try:
        text = _text(facts, listed)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"plans.save: the facts cannot be written as JSON ({error}); give strings, finite "
            "numbers, lists and dicts of them."
        ) from error
    files.write_text(path, text)


def load(path: str | os.PathLike) -> Plan:
    """Read a plan that `save` wrote: the same numbers to the last bit.

    Raises:
      ValueError: the file is no complete plan of this version; the sentence says what is wrong.
      OSError: the file cannot be read.
    """
    plan, _ = load_with_facts(path)
    return plan


def load_with_facts(path: str | os.PathLike) -> tuple[Plan, dict[str, Any]]:
    """Read a plan and the facts that were saved with it, see `load`."""
    name = f"plans.load: {path}"
    content = _content(name, pathlib.Path(path).read_bytes())
    stored = content.get("columns")
    if not isinstance(stored, dict):
        raise ValueError(f"{name} has no columns; save the plan again.")
    # A column that is unknown means a plan that this code would run wrongly.
    missing = [column for column in Plan._fields if column not in stored]
    unknown = [column for column in stored if column not in Plan._fields]
    if missing or unknown:
        raise ValueError(
            f"{name} lacks the columns {missing} and has the unknown columns {unknown}; wanted "
            "those of flowjax.Plan. Save the plan again."
        )
    columns = {column: _array(name, column, stored[column]) for column in Plan._fields}
    _check_shapes(name, columns)
    plan = Plan(**columns)
    check_finite(plan, name, way_out="save the plan again")
    facts = content.get("facts", {})
    if not isinstance(facts, dict):
        raise ValueError(
            f"{name} has the facts {facts!r}; wanted a JSON object. Save the plan again."
        )
    return plan, facts


def _text(facts: dict[str, Any], columns: dict[str, list]) -> str:
    """The file: one column a line, so that people can read and compare it."""
    lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in columns.items()]
    described = json.dumps(facts, allow_nan=False, ensure_ascii=False)
    head = (
        f'{{"format": "{FORMAT}",\n "version": {VERSION},\n "facts": {described},\n "columns": {{\n'
    )
    return head + ",\n".join(lines) + "\n }}\n"


def _content(name: str, written: bytes) -> dict[str, Any]:
    """The JSON of a file, with its format and version checked."""
    try:
        content = json.loads(written.decode())
    except ValueError as error:  # of the encoding or of JSON
        raise ValueError(
            f"{name} is no complete JSON file ({error}); it was cut off or is another kind of "
            "file. Save the plan again."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'{name} is no plan: wanted "format": "{FORMAT}", as plans.save writes.')
    version = content.get("version")
    if version != VERSION:
        raise ValueError(
            f"{name} has version {version!r} of the format, and this flowjax reads version "
            f"{VERSION}; save the plan again with this flowjax, or install the one that wrote it."
        )
    return content


def _array(name: str, column: str, values: Any) -> np.ndarray:
    """A column of the file as an array of the type that a plan has."""
    wanted = bool if column in FLAGS else float
    try:
        flat = np.asarray(values, object).ravel()
        # JSON's 1 is a number of a table, too, but true is none; and NumPy takes both for both.
        kinds = (bool,) if wanted is bool else (int, float)
        if not all(type(value) in kinds for value in flat):
            raise TypeError
        return np.asarray(values, wanted)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name}: column {column} is not an array of {wanted.__name__}; save the plan again."
        ) from error


def _check_shapes(name: str, columns: dict[str, np.ndarray]) -> None:
    """Check that all columns belong to one table of N >= 1 rows."""
    rows = len(columns["t"]) if columns["t"].ndim == 1 else 0
    if rows == 0:
        raise ValueError(f"{name}: column t has shape {columns['t'].shape}; wanted (N,), N >= 1.")
    for column, values in columns.items():
        wanted = (rows, DEPTH) if column in LAGGED else (rows,)
        if values.shape != wanted:
            raise ValueError(
                f"{name}: column {column} has shape {values.shape}; wanted {wanted}, since t has "
                f"{rows} rows."
            )
