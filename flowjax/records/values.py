"""Values of rows and configurations as strict JSON, and their hashes."""

import dataclasses
import enum
import hashlib
import json
import math
import os
from typing import Any

import numpy as np

FLOAT = "__float__"  # the key that stands for a float which JSON does not have


def unrecorded(default: Any, *, is_named: bool = False) -> Any:
    """A field of a configuration that `Records` leaves out.

    It selects what is measured in this run, and no number depends on it. So two configurations
    that differ only in it have the same hash, and share a work directory:

        @dataclasses.dataclass
        class Config:
            steps: int = 8
            questions: tuple[str, ...] = unrecorded(())

    A command on a page leaves such a field out too, and so makes all rows that there may be. It
    names a field (`is_named`) that asks for what the default does not contain, as a model of the
    reader's.
    """
    metadata = {"recorded": False, "named": is_named}
    return dataclasses.field(default=default, metadata=metadata)


def is_recorded(field: dataclasses.Field) -> bool:
    """Whether `field` belongs to the configuration that Records keeps, see `unrecorded`."""
    return field.metadata.get("recorded", True)


def is_named(field: dataclasses.Field) -> bool:
    """Whether the command on a page names `field`, see `unrecorded`."""
    return is_recorded(field) or field.metadata.get("named", False)


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


def decoded(item: dict) -> dict | float:
    """The hook for json.loads that restores NaN and infinity."""
    return float(item[FLOAT]) if item.keys() == {FLOAT} else item


def canonical(value: Any) -> str:
    """The one JSON text of a plain value: sorted, without spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def hash_of(value: Any) -> str:
    """12 hexadecimal digits that tell a plain value from another."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:12]


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """{"a.b": value} of a nested dict such as a configuration: one entry a field."""
    is_value = not isinstance(config, dict) or (prefix and config.keys() == {FLOAT})
    if is_value:
        return {prefix[:-1]: config}
    entries = {}
    for name, item in config.items():
        entries |= flat(item, f"{prefix}{name}.")
    return entries


def differences(old: dict, new: dict) -> list[str]:
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
