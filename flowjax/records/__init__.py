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

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from flowjax.environment import environment
from flowjax.files import make_folder, write_text
from flowjax.records.reading import (
    complete_lines,
    read,
    read_config,
    read_environments,
    read_json,
    read_summary,
    table,
)
from flowjax.records.values import (
    FLOAT,
    canonical,
    decoded,
    differences,
    flat,
    hash_of,
    is_named,
    is_recorded,
    plain,
    unrecorded,
)

__all__ = [
    "FLOAT",
    "RESERVED",
    "Records",
    "environment",
    "flat",
    "is_named",
    "is_recorded",
    "plain",
    "read",
    "read_config",
    "read_environments",
    "read_summary",
    "table",
    "unrecorded",
]

RESERVED = ("config", "environment")  # fields of a row that Records writes itself


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
        self.config_hash = hash_of(self.config)
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
        complete, torn = complete_lines(self._path)
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
        found = read_json(path, "hash", "config", decode=False)
        earlier = found.get("earlier", {})
        if not isinstance(found["config"], dict) or not isinstance(earlier, dict):
            raise ValueError(f"Records: {path} holds no configuration. {way_out}")
        if found["hash"] == self.config_hash:
            return earlier

        gained = sorted(self.config.keys() - found["config"].keys())
        without_gained = {n: value for n, value in self.config.items() if n not in gained}
        if found["config"] != without_gained:
            differ = "; ".join(differences(found["config"], self.config))
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
            self._index[names] = {canonical(key) for key in keys}
        return self._index[names]

    def done(self, key: Mapping[str, Any]) -> bool:
        """Whether there is a row with all the items of `key`."""
        return canonical(plain(dict(key))) in self._cells(tuple(sorted(key)))

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

        self.rows.append(json.loads(line, object_hook=decoded))
        for names, cells in self._index.items():
            if row.keys() >= set(names):
                cells.add(canonical({name: row[name] for name in names}))
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
            self._environment_hash = hash_of(found)
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


def _write_json(path: pathlib.Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
