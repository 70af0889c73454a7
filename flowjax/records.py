"""Rows and their folder: what was measured, with which configuration, in which environment.

A row is one measured number, or several of one cell, with everything that made it: the key (the
cell: solver, steps, seed, ...), the values, and two short hashes whose contents lie beside the
rows. A work directory holds

    config.json        {"hash": ..., "config": ...,      the configuration as plain JSON; for rows
                        "earlier": {hash: [field]}}      that are older than some of its fields:
                                                         their hash, and the names of these fields
    environment.json   {hash: environment(), ...}        several when a run was resumed elsewhere
    rows.jsonl         {**key, **values,                 one JSON object a line
                        "config": hash, "environment": hash}
    done.json          the summary given to `finish`     present only when the run is complete

JSON has no NaN and no infinity: they are written as {"__float__": "nan" | "inf" | "-inf"} and read
back as floats. Arrays and tuples become lists; NamedTuples and dataclasses become objects. Each row
is appended by a single write, so a killed run leaves complete lines and at most one torn line at
the end, which is dropped and measured again. Only one process may write at a time.
"""

import dataclasses
import enum
import hashlib
import json
import logging
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flowjax.environment import environment
from flowjax.files import make_folder, write_text

RESERVED = ("config", "environment")  # fields of a row that Records writes itself
FLOAT = "__float__"  # the key that stands for a float which JSON does not have
_log = logging.getLogger(__name__)


# ---- values as JSON


def unrecorded(default: Any) -> Any:
    """A field of a configuration that `Records` leaves out.

    It selects what is measured in this run, and no number depends on it. So two configurations
    that differ only in it have the same hash, and share a work directory:

        @dataclasses.dataclass
        class Config:
            steps: int = 8
            questions: tuple[str, ...] = unrecorded(())
    """
    return dataclasses.field(default=default, metadata={"recorded": False})


def is_recorded(field: dataclasses.Field) -> bool:
    """Whether `field` belongs to the configuration that Records keeps, see `unrecorded`."""
    return field.metadata.get("recorded", True)


def plain(value: Any) -> Any:
    """`value` as None, bool, int, float, str, list and dict only, ready for strict JSON.

    Takes numpy and JAX scalars and arrays (bfloat16 too), NamedTuples, dataclasses (without their
    `unrecorded` fields), enums (by name) and paths.

    Raises:
      ValueError: for anything else, and for a dict with a key that is not a string. Silently
        changed, such a row would read back wrong.
    """
    # An enum may be an int or a str too, so it comes first.
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {FLOAT: repr(float(value))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field for field in dataclasses.fields(value) if is_recorded(field)]
        return plain({field.name: getattr(value, field.name) for field in fields})
    # A NamedTuple is a tuple too, and its names must not be lost.
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        return _plain_dict(value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        # Kind "V" is how numpy sees bfloat16 and its relatives; structured arrays have names.
        if array.dtype.kind in "biufUV" and not array.dtype.names:
            exact = array.dtype.kind in "biuU"
            return plain((array if exact else array.astype(np.float64)).tolist())
    raise ValueError(
        f"records: a {type(value).__name__} cannot stand in a row or a configuration; "
        "give numbers or text."
    )


def _plain_dict(value: dict) -> dict:
    for name in value:
        if not isinstance(name, str):
            raise ValueError(
                f"records: the key {name!r} of a dict is not a string, as JSON needs; "
                "write it as one."
            )
    return {name: plain(item) for name, item in value.items()}


def _decode(item: dict) -> dict | float:
    """The hook for json.loads that restores NaN and infinity."""
    return float(item[FLOAT]) if item.keys() == {FLOAT} else item


def _canonical(value: Any) -> str:
    """The one JSON text of a plain value: sorted, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(value: Any) -> str:
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:12]


def _write_json(path: pathlib.Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _read_json(path: pathlib.Path, *names: str, decode: bool = True) -> dict:
    """The object in a file of a work directory, which must have these names.

    Raises:
      ValueError: the file is missing, damaged or of another form.
    """
    hook = _decode if decode else None
    try:
        found = json.loads(path.read_text(encoding="utf-8"), object_hook=hook)
        is_whole = isinstance(found, dict) and found.keys() >= set(names)
        reason = f"it lacks {' or '.join(names)}"
    except (OSError, ValueError) as error:
        is_whole, reason = False, str(error)
    if not is_whole:
        raise ValueError(
            f"records: {path} was not written by this program, or it is damaged ({reason}); "
            "restore it, or use --overwrite."
        )
    return found


# ---- reading a work directory


def _complete_lines(path: pathlib.Path) -> tuple[bytes, bytes]:
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
    path = pathlib.Path(workdir) / "rows.jsonl"
    if not path.exists():
        raise ValueError(
            f"records.read: there are no rows in {workdir}; "
            f"run the experiment with --workdir={workdir}."
        )
    complete, torn = _complete_lines(path)
    if torn:
        _log.warning(
            "records: %s ends within a line (%d bytes); that row is dropped.", path, len(torn)
        )

    rows = []
    for number, line in enumerate(complete.splitlines(), 1):
        try:
            row = json.loads(line, object_hook=_decode)
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
    return _read_json(pathlib.Path(workdir) / "config.json", "config")["config"]


def read_environments(workdir: str | os.PathLike) -> dict[str, dict]:
    """{hash: environment} of a work directory; a row's "environment" is one of the hashes."""
    path = pathlib.Path(workdir) / "environment.json"
    return _read_json(path) if path.exists() else {}


def read_summary(workdir: str | os.PathLike) -> dict | None:
    """The summary that was given to `finish`, or None while the run is not complete."""
    path = pathlib.Path(workdir) / "done.json"
    return _read_json(path, "config", "rows") if path.exists() else None


def table(rows: Sequence[dict], by: str | tuple[str, ...], value: str) -> dict[Any, list]:
    """{cell: list of values}: `row[value]` of all rows, gathered by `row[by]`.

    Args:
      rows: see `read`.
      by: the name of a field, or a tuple of names.
      value: the name of the field that is gathered.
    """
    cells = {}
    for row in rows:
        cell = row[by] if isinstance(by, str) else tuple(row[name] for name in by)
        cells.setdefault(cell, []).append(row[value])
    return cells


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of a nested dict such as a configuration: one entry a field."""
    is_value = not isinstance(config, dict) or (prefix and config.keys() == {FLOAT})
    if is_value:
        return {prefix[:-1]: config}
    entries = {}
    for name, item in config.items():
        entries |= flat(item, f"{prefix}{name}.")
    return entries


def _differences(old: dict, new: dict) -> list[str]:
    """One text a differing field: "steps: 8 there, 16 now"."""
    old, new = flat(old), flat(new)
    texts = []
    for name in dict.fromkeys([*old, *new]):
        if name in old and name in new and old[name] == new[name]:
            continue
        there = json.dumps(old[name]) if name in old else "no such field"
        now = json.dumps(new[name]) if name in new else "no such field"
        texts.append(f"{name}: {there} there, {now} now")
    return texts


# ---- writing one


class Records:
    """The rows of one configuration in one work directory, added to as they are measured.

    A directory that holds rows of the same configuration is continued: `rows` has them at once,
    and `done` answers which cells to skip. A directory whose configuration lacks some fields of
    this one is continued too, as when an experiment gains a question: no number of the old rows can
    depend on a field that was not there. Nothing is written before these checks have passed.

        records = Records(workdir, config)
        for key in cells:                         # {"solver": "euler", "steps": 8, "seed": 0}
            if not records.done(key):
                records.add(key, error=..., nfe=...)
        return records.rows

    Args:
      workdir: the directory; made when it does not exist.
      config: a dataclass or a dict, see `plain`.
      overwrite: forget the rows, the environment, the summary and the configuration found there;
        other files stay.

    Raises:
      ValueError: the directory holds rows of another configuration (the text names the fields that
        differ).
    """

    def __init__(self, workdir: str | os.PathLike, config: Any, *, overwrite: bool = False):
        self.workdir = pathlib.Path(workdir)
        self.config = plain(config)
        self.config_hash = _hash(self.config)
        self._path = self.workdir / "rows.jsonl"
        self._environment_hash = None
        self._index = {}  # {names of a key: its cells as canonical texts}, filled by `_cells`

        earlier = self._check(overwrite)
        make_folder(self.workdir, "--workdir")
        if overwrite:
            # The mark of success goes first: a kill in between must not leave it without rows.
            for name in ("done.json", "rows.jsonl", "environment.json", "config.json"):
                (self.workdir / name).unlink(missing_ok=True)

        found = {"hash": self.config_hash, "config": self.config}
        if earlier:
            found["earlier"] = earlier
        _write_json(self.workdir / "config.json", found)

        self.rows = read(self.workdir) if self._path.exists() else []
        # The next row must not be appended to a torn line.
        complete, torn = _complete_lines(self._path)
        if torn:
            os.truncate(self._path, len(complete))

    def _check(self, overwrite: bool) -> dict[str, list[str]]:
        """Refuse a directory whose rows another configuration made.

        Returns:
          {hash: fields} of the configurations from which this one has grown: the fields that it
          has and they lack.
        """
        if self.workdir.exists() and not self.workdir.is_dir():
            raise ValueError(
                f"Records: {self.workdir} is a file, and a directory is needed; "
                "give another --workdir."
            )
        if overwrite or not self._path.exists() or not self._path.stat().st_size:
            return {}

        way_out = "Give another --workdir, or --overwrite to lose those rows."
        path = self.workdir / "config.json"
        if not path.exists():
            raise ValueError(
                f"Records: {self.workdir} holds rows, but no config.json that describes them. "
                f"{way_out}"
            )
        # Without the hook that decodes NaN: a NaN must be equal to itself in this comparison.
        found = _read_json(path, "hash", "config", decode=False)
        earlier = found.get("earlier", {})
        if not isinstance(found["config"], dict) or not isinstance(earlier, dict):
            raise ValueError(f"Records: {path} holds no configuration. {way_out}")
        if found["hash"] == self.config_hash:
            return earlier

        gained = sorted(self.config.keys() - found["config"].keys())
        without_gained = {n: value for n, value in self.config.items() if n not in gained}
        if found["config"] != without_gained:
            differ = "; ".join(_differences(found["config"], self.config))
            raise ValueError(
                f"Records: {self.workdir} holds rows of another configuration ({differ}). {way_out}"
            )
        older = earlier | {found["hash"]: []}
        return {digest: sorted({*names, *gained}) for digest, names in older.items()}

    def _cells(self, names: tuple[str, ...]) -> set[str]:
        """The cells present for one set of key names; gathered once, then kept up by `add`."""
        if names not in self._index:
            present = [row for row in self.rows if row.keys() >= set(names)]
            keys = [plain({name: row[name] for name in names}) for row in present]
            self._index[names] = {_canonical(key) for key in keys}
        return self._index[names]

    def done(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a row with all the items of `key`."""
        return _canonical(plain(dict(key))) in self._cells(tuple(sorted(key)))

    def add(self, key: Mapping[str, Any], **values: Any) -> dict:
        """Append one row, `{**key, **values}` with its hashes.

        Returns:
          The row as `read` will give it back.

        Raises:
          ValueError: a name stands in the key and in the values, or is reserved; the cell has a
            row already; a value is none that `plain` takes.
          OSError: the disk is full.
        """
        self._check_names(key, values)
        if self.done(key):
            raise ValueError(
                f"Records.add: the cell {key} is measured already; "
                "ask done(key) first, or widen the key."
            )
        row = plain({**key, **values})
        row |= {"config": self.config_hash, "environment": self._environment()}
        line = json.dumps(row, separators=(",", ":"), allow_nan=False)
        self._append(line.encode() + b"\n")

        self.rows.append(json.loads(line, object_hook=_decode))
        for names, cells in self._index.items():
            if row.keys() >= set(names):
                cells.add(_canonical({name: row[name] for name in names}))
        return self.rows[-1]

    def _check_names(self, key: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        for name in (*key, *values):
            if name in RESERVED:
                raise ValueError(f"Records.add: Records itself writes {name!r}; rename it.")
            if name in key and name in values:
                raise ValueError(
                    f"Records.add: {name!r} stands in the key and in the values; rename it."
                )

    def _append(self, data: bytes) -> None:
        # Unbuffered, so that a row is one write: a kill tears at most the last line.
        with open(self._path, "ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(
                    f"Records.add: {self._path} took only a part of a row; is the disk full?"
                )

    def _environment(self) -> str:
        """The hash of this process's environment, written beside the rows.

        It is taken at the first row, when JAX's flags do not change any more.
        """
        if self._environment_hash is None:
            found = plain(environment())
            self._environment_hash = _hash(found)
            known = read_environments(self.workdir)
            if self._environment_hash not in known:
                known = {**known, self._environment_hash: found}
                _write_json(self.workdir / "environment.json", known)
        return self._environment_hash

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Mark the run complete.

        Args:
          summary: facts of the run, which go to done.json with the number of rows and the hash of
            the configuration.
        """
        facts = plain(dict(summary or {}))
        facts |= {"rows": len(self.rows), "config": self.config_hash}
        _write_json(self.workdir / "done.json", facts)

    @property
    def finished(self) -> bool:
        """Whether `finish` was called with this configuration and as many rows as there are now."""
        found = read_summary(self.workdir)
        if not found:
            return False
        return (found["config"], found["rows"]) == (self.config_hash, len(self.rows))
