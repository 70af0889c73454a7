"""What all configurations share: the variants after the colon of `--config=configs/order.py:quick`.

@dataclasses.dataclass
class Config:
    steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    samples: int = 4096

def get_config(arg=""):
    return shrink(Config(), arg, quick={"steps": (4, 8), "samples": 64})
"""

import dataclasses
from typing import Any

from flowjax.errors import suggestion


def _is_smaller(new: Any, old: Any) -> bool:
    """Whether `new` is `old` or a smaller size: a number at most as large, a list as long."""
    if isinstance(old, (list, tuple)):
        return isinstance(new, type(old)) and len(new) <= len(old)
    # A bool is an int for Python, and it is no size.
    is_number = isinstance(old, (int, float)) and not isinstance(old, bool)
    return is_number and isinstance(new, (int, float)) and new <= old


def shrink(config: Any, arg: str = "", **variants: dict[str, Any]) -> Any:
    """`config` itself when `arg` is empty, else a copy with the smaller sizes of `variants[arg]`.

    Args:
      config: a dataclass.
      arg: the text after the colon.
      **variants: {field: smaller number, or shorter tuple} by name.

    Raises:
      ValueError: an unknown variant or field; a variant that enlarges a field, or changes one that
        is no size. A quick run answers the same questions on less.
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
        if not _is_smaller(new, old):
            raise ValueError(
                f"variant {arg!r} makes {name} {new!r} of {old!r}; a variant only shrinks."
            )
    return dataclasses.replace(config, **variants[arg])
