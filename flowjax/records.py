"""Rows and their folder: what was measured, under which configuration, in which environment.

A row is one measured number, or a few of one cell, with everything that made it: the key (the cell: solver, steps,
seed, ...), the values, and two short hashes whose contents lie beside the rows. A work directory holds

    config.json        {"hash": ..., "config": ...,      the configuration as plain JSON, and for rows made before it
                        "earlier": {hash: [field]}}      gained fields: their hash, and the fields that were not there
    environment.json   {hash: environment(), ...}        more than one entry when a run was resumed elsewhere
    rows.jsonl         one JSON object a line            {**key, **values, "config": hash, "environment": hash}
    done.json          the summary given to `finish`     present only when the run is complete

JSON has no NaN and no infinity: they are written {"__float__": "nan" | "inf" | "-inf"} and read back as floats. Arrays
and tuples become lists, NamedTuples and dataclasses become objects. A line is appended by one write, so a killed run
leaves whole lines and at most one torn tail, which is dropped and measured again. One process writes at a time.
"""

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import pathlib
import platform
import subprocess
import sys
import tempfile

import numpy as np

_RESERVED = ("config", "environment")
_log = logging.getLogger(__name__)


def plain(value):
    """`value` as None, bool, int, float, str, list and dict only, ready for strict JSON.

    Takes numpy and JAX scalars and arrays (bfloat16 too), NamedTuples, dataclasses, enums (by name) and paths.
    Everything else, and a dict with a key that is not a string, is refused: silently changed rows read back wrong.
    """
    if isinstance(value, enum.Enum):
        return value.name
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"__float__": repr(float(value))}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(
                    f"records: the key {name!r} of a dict is not a string, as JSON needs; write it as one."
                )
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        # kind "V" is how numpy sees bfloat16 and its relatives
        if array.dtype.kind in "biufUV" and not array.dtype.names:
            return plain(
                (array if array.dtype.kind in "biuU" else array.astype(np.float64)).tolist()
            )
    raise ValueError(
        f"records: a {type(value).__name__} cannot stand in a row or a configuration; give numbers or text."
    )


def _decode(item):
    return float(item["__float__"]) if item.keys() == {"__float__"} else item


def _canonical(value):
    """The one JSON text of a plain value: sorted, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(value):
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:12]


def write_text(path, text):
    """Write a file so that a reader finds the old text or all of the new: a temporary file, then a move."""
    path = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp gives 0600
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _write_json(path, value):
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def _read_json(path):
    return json.loads(path.read_text(encoding="utf-8"), object_hook=_decode)


def _git(*arguments):
    """What git says about the folder of this file; None where there is no git or this file is not tracked."""
    folder = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def environment():
    """What a number may depend on besides its configuration: versions, devices, precision flags, commit.

    JAX is asked for its devices only when it is already imported. `commit` is None outside a git checkout; `dirty` says
    that tracked files differ from it.
    """
    jax = sys.modules.get("jax")
    devices = jax.devices() if jax else []
    tracked = _git("ls-files", "--error-unmatch", pathlib.Path(__file__).name) is not None
    packages = ["jax", "jaxlib", "numpy"] + (["flax"] if "flax" in sys.modules else [])
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        **versions,
        "platform": devices[0].platform if devices else None,
        "device_kind": ", ".join(sorted({d.device_kind for d in devices})) or None,
        "device_count": len(devices),
        "x64": bool(jax.config.jax_enable_x64) if jax else None,
        "matmul_precision": jax.config.jax_default_matmul_precision if jax else None,
        "xla_flags": os.environ.get("XLA_FLAGS"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "commit": _git("rev-parse", "HEAD") if tracked else None,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if tracked else None,
    }


def _whole_lines(path):
    """(bytes up to the last newline, the torn tail after it)."""
    content = path.read_bytes() if path.exists() else b""
    end = content.rfind(b"\n") + 1
    return content[:end], content[end:]


def read(workdir):
    """The rows of a work directory, in the order in which they were measured.

    A last line without its end (a run was killed while it wrote) is dropped, and the log says so; a broken line
    anywhere else is an error, because no kill explains it.

    Returns:
      list of dicts; NaN and infinity are floats again, arrays are lists.
    """
    path = pathlib.Path(workdir) / "rows.jsonl"
    if not path.exists():
        raise ValueError(
            f"records.read: there are no rows in {workdir}; run the experiment with --workdir={workdir}."
        )
    whole, torn = _whole_lines(path)
    if torn:
        _log.warning(
            "records: %s ends within a line (%d bytes); that row is dropped.", path, len(torn)
        )
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line, object_hook=_decode))
        except ValueError as error:  # JSON's and UTF-8's errors are both ValueErrors
            raise ValueError(
                f"records.read: line {number} of {path} is not JSON ({error}); restore it, or use --overwrite."
            ) from None
    return rows


def read_config(workdir):
    """The configuration of a work directory, a plain dict (tuples are lists)."""
    return _read_json(pathlib.Path(workdir) / "config.json")["config"]


def read_environments(workdir):
    """{hash: environment} of a work directory; a row's "environment" is one of the hashes."""
    path = pathlib.Path(workdir) / "environment.json"
    return _read_json(path) if path.exists() else {}


def read_summary(workdir):
    """What `finish` was told, or None while the run is not complete."""
    path = pathlib.Path(workdir) / "done.json"
    return _read_json(path) if path.exists() else None


def table(rows, by, value):
    """{cell: list of values}: `row[value]` of all rows, gathered by `row[by]` (a name, or a tuple of names)."""
    cells = {}
    for row in rows:
        cell = row[by] if isinstance(by, str) else tuple(row[name] for name in by)
        cells.setdefault(cell, []).append(row[value])
    return cells


def flat(config, prefix=""):
    """{"a.b": value} of a nested dict: a configuration, one line a field."""
    if not isinstance(config, dict) or (prefix and config.keys() == {"__float__"}):
        return {prefix[:-1]: config}
    return {
        k: v for name, item in config.items() for k, v in flat(item, f"{prefix}{name}.").items()
    }


def _differences(old, new):
    """One text a differing field: "steps: 8 there, 16 now"."""
    old, new, none = flat(old), flat(new), "no such field"
    texts = {name: (json.dumps(old[name]) if name in old else none) for name in [*old, *new]}
    return [
        f"{name}: {text} there, {json.dumps(new[name]) if name in new else none} now"
        for name, text in texts.items()
        if name not in old or name not in new or old[name] != new[name]
    ]


class Records:
    """The rows of one configuration in one work directory, added to as they are measured.

    A directory that holds rows of the same configuration is gone on with: `rows` are there at once, and `done` says
    which cells to skip. So is one whose configuration lacks fields that are new, as when an experiment learns to ask another
    question: no number of the old rows can depend on them. Nothing is written before the check has passed.

        records = Records(workdir, config)
        for key in cells:                                  key = {"solver": "euler", "steps": 8, "seed": 0}
            if not records.done(key):
                records.add(key, error=..., nfe=...)
        return records.rows

    Args:
      workdir: the directory; made when it does not exist.
      config: a dataclass or a dict, see `plain`.
      overwrite: forget the rows, the environment, the summary and the configuration found there; other files stay.

    Raises:
      ValueError: the directory holds rows of another configuration (the text names the fields that differ).
    """

    def __init__(self, workdir, config, *, overwrite=False):
        self.workdir = pathlib.Path(workdir)
        self.config = plain(config)
        self.config_hash = _hash(self.config)
        self._path = self.workdir / "rows.jsonl"
        self._environment_hash = None
        self._index = {}
        earlier = self._check(overwrite)
        self.workdir.mkdir(parents=True, exist_ok=True)
        if overwrite:
            for name in (
                "done.json",
                "rows.jsonl",
                "environment.json",
                "config.json",
            ):  # the mark of success goes first
                (self.workdir / name).unlink(missing_ok=True)
        found = {"hash": self.config_hash, "config": self.config} | (
            {"earlier": earlier} if earlier else {}
        )
        _write_json(self.workdir / "config.json", found)
        self.rows = read(self.workdir) if self._path.exists() else []
        whole, torn = _whole_lines(self._path)
        if torn:
            os.truncate(self._path, len(whole))

    def _check(self, overwrite):
        """Refuse a directory whose rows another configuration made; return {hash: fields} of what this one has grown from."""
        if self.workdir.exists() and not self.workdir.is_dir():
            raise ValueError(
                f"Records: {self.workdir} is a file, and a directory is needed; give another --workdir."
            )
        if overwrite or not self._path.exists() or not self._path.stat().st_size:
            return {}
        way_out = "Give another --workdir, or --overwrite to lose those rows."
        path = self.workdir / "config.json"
        if not path.exists():
            raise ValueError(
                f"Records: {self.workdir} holds rows, but no config.json says what made them. {way_out}"
            )
        found = json.loads(
            path.read_text(encoding="utf-8")
        )  # NaN stays encoded: it must equal itself here
        earlier = found.get("earlier", {})
        if found["hash"] == self.config_hash:
            return earlier
        gained = sorted(self.config.keys() - found["config"].keys())
        if found["config"] != {
            name: value for name, value in self.config.items() if name not in gained
        }:
            differ = "; ".join(_differences(found["config"], self.config))
            raise ValueError(
                f"Records: {self.workdir} holds rows of another configuration ({differ}). {way_out}"
            )
        return {
            hash: sorted({*names, *gained})
            for hash, names in (earlier | {found["hash"]: []}).items()
        }

    def _cells(self, names):
        """The cells present, as canonical text, for one set of key names; gathered once, kept up by `add`."""
        if names not in self._index:
            present = [row for row in self.rows if row.keys() >= set(names)]
            self._index[names] = {_canonical(plain({n: row[n] for n in names})) for row in present}
        return self._index[names]

    def done(self, key):
        """Whether a row with all the items of `key`, a dict, is there."""
        return _canonical(plain(key)) in self._cells(tuple(sorted(key)))

    def add(self, key, **values):
        """Append one row, `{**key, **values}` with its hashes, and return it as it will be read back."""
        for name in (*key, *values):
            if name in _RESERVED or (name in key and name in values):
                reason = (
                    "is written by Records itself"
                    if name in _RESERVED
                    else "stands in the key and in the values"
                )
                raise ValueError(f"Records.add: {name!r} {reason}; rename it.")
        if self.done(key):
            raise ValueError(
                f"Records.add: the cell {key} is measured already; ask done(key) first, or widen the key."
            )
        row = plain({**key, **values})
        row |= {"config": self.config_hash, "environment": self._environment()}
        line = json.dumps(row, separators=(",", ":"), allow_nan=False)
        with open(self._path, "ab", buffering=0) as file:  # one write a line
            data = line.encode() + b"\n"
            if file.write(data) != len(data):
                raise OSError(
                    f"Records.add: {self._path} took only a part of a row; is the disk full?"
                )
        self.rows.append(json.loads(line, object_hook=_decode))
        for names, cells in self._index.items():
            if row.keys() >= set(names):
                cells.add(_canonical({n: row[n] for n in names}))
        return self.rows[-1]

    def _environment(self):
        """The hash of this process's environment; asked at the first row, when JAX's flags are set for good."""
        if self._environment_hash is None:
            found = plain(environment())
            self._environment_hash = _hash(found)
            known = read_environments(self.workdir)
            if self._environment_hash not in known:
                _write_json(
                    self.workdir / "environment.json", {**known, self._environment_hash: found}
                )
        return self._environment_hash

    def finish(self, summary=None):
        """Mark the run complete: `summary`, a dict, goes to done.json with the count of rows and the configuration."""
        _write_json(
            self.workdir / "done.json",
            {**plain(summary or {}), "rows": len(self.rows), "config": self.config_hash},
        )

    @property
    def finished(self):
        """Whether this configuration was measured to its end, and the rows are still as many as then."""
        found = read_summary(self.workdir)
        return bool(found) and (found["config"], found["rows"]) == (
            self.config_hash,
            len(self.rows),
        )
