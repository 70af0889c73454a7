"""What every configuration shares: the answer to the argument after the colon of `--config=configs/order.py:quick`.

@dataclasses.dataclass
class Config:
    steps: tuple[int, ...] = (4, 8, 16, 32, 64)
    samples: int = 4096

def get_config(arg=""):
    return shrink(Config(), arg, quick={"steps": (4, 8), "samples": 64})
"""

import dataclasses

from flowjax.errors import suggestion


def _larger(new, old):
    """Whether `new` is no shrunken `old`: a larger number, a longer list, or another kind of thing."""
    if isinstance(old, (list, tuple)):
        return not isinstance(new, type(old)) or len(new) > len(old)
    number = isinstance(old, (int, float)) and not isinstance(old, bool)
    return not (number and isinstance(new, (int, float)) and new <= old)


def shrink(config, arg="", **variants):
    """`config` itself when `arg` is empty, else a copy with the smaller sizes that `variants[arg]` gives.

    Args:
      config: a dataclass.
      arg: what stood after the colon.
      **variants: {field: smaller number, or shorter tuple} by name. A quick run answers the same question on less, so a
        variant that enlarges a field, or changes what is no size, is refused.
    """
    if not arg:
        return config
    if arg not in variants:
        raise ValueError(f"this config has no variant {arg!r}; {suggestion(arg, variants)}")
    fields = [f.name for f in dataclasses.fields(config)]
    for name, new in variants[arg].items():
        if name not in fields:
            raise ValueError(
                f"variant {arg!r} names {name!r}, which is no field; {suggestion(name, fields)}"
            )
        if _larger(new, getattr(config, name)):
            raise ValueError(
                f"variant {arg!r} makes {name} {new!r} of {getattr(config, name)!r}; a variant only shrinks."
            )
    return dataclasses.replace(config, **variants[arg])
