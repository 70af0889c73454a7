"""The smaller variants of a configuration, chosen after the colon of `--config=FILE:quick`.

@dataclasses.dataclass
class Config:
    steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    samples: int = 4096

def get_config(arg=""):
    return shrink(Config(), arg, quick={"steps": (4, 8), "samples": 64})
"""

import dataclasses
from typing import Any, TypeVar

from flowjax.errors import suggestion

Config = TypeVar("Config")


def _enlarges(new, old):
    """Whether `new` is not a smaller `old`: a larger number, a longer list, or another type."""
    if isinstance(old, (list, tuple)):
        return not isinstance(new, type(old)) or len(new) > len(old)
    if isinstance(old, bool) or not isinstance(old, (int, float)):
        return True  # this field is no size
    return not isinstance(new, (int, float)) or not new <= old


def shrink(config: Config, arg: str = "", **variants: dict[str, Any]) -> Config:
    """`config` itself when `arg` is empty, else a copy with the sizes of `variants[arg]`.

    Args:
      config: a dataclass.
      arg: the text after the colon.
      **variants: by name, {field: smaller number, or shorter tuple}. A quick run answers the same
        question with less data, so a variant may change sizes only, and only to smaller ones.

    Raises:
      ValueError: an unknown variant or field; a variant that enlarges a field, or changes a field
        that is no size.
    """
    if not arg:
        return config
    if arg not in variants:
        raise ValueError(f"this config has no variant {arg!r}; {suggestion(arg, variants)}")
    fields = [field.name for field in dataclasses.fields(config)]
    for name, new in variants[arg].items():
        if name not in fields:
            raise ValueError(
                f"variant {arg!r} names {name!r}, which is no field; {suggestion(name, fields)}"
            )
        old = getattr(config, name)
        if _enlarges(new, old):
            raise ValueError(
                f"variant {arg!r} makes {name} {new!r} of {old!r}; a variant only shrinks."
            )
    return dataclasses.replace(config, **variants[arg])
