"""The range of every number in a configuration, by the name of its field, checked before a run.

A field that is new in a configuration needs a line here; a test walks through all configurations.
The items of a tuple have the range of its field. What depends on a model, on data or on other
fields (a patch that divides the image, a warm-up within the steps) is checked where that is known.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from flowjax.errors import number_within
from flowjax.seeds import MOST as LARGEST_SEED


class Range(NamedTuple):
    """Finite numbers from `least` to `most`; with `above`, `least` itself is refused."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False

    def holds(self, value: int | float) -> bool:
        """Whether a finite number lies in the range."""
        if value > self.most:
            return False
        return value > self.least if self.above else value >= self.least

    def words(self, is_whole: bool) -> str:
        """What is wanted, such as "a whole number from 1 to 2147483647"."""
        if is_whole:
            return f"a whole number from {self.least} to {self.most}"
        return number_within(*self)


# Sizes and counts are lengths of arrays and of loops, which have 32 bits.
COUNT = Range(1, 2**31 - 1)
COUNT_OR_NONE = Range(0, 2**31 - 1)  # 0 stands for none, or for "as it is"
SEED = Range(0, LARGEST_SEED)
POSITIVE = Range(0, above=True)
FRACTION = Range(0, 1)
FINITE = Range()

RANGES: dict[str, Range] = {
    # Image to image, and advice.
    "strength": Range(0, 1, above=True),
    "most_starts": COUNT,
    "factor": Range(1, above=True),
    # Tuned tables, and texts.
    "iterations": COUNT_OR_NONE,
    "unseen_seed": SEED,
    "field_unseen": COUNT,
    "network_unseen": COUNT,
    "field_reference": COUNT,
    "network_reference": COUNT,
    "parts_steps": COUNT,
    "depths": COUNT,
    "jump_shifts": POSITIVE,
    "transfer_steps": COUNT,
    "between_steps": COUNT,
    "between_guidance": FINITE,
    "rates": POSITIVE,
    "adam_budget": POSITIVE,
    "draws": COUNT,
    "field_samples": COUNT,
    "stale_steps": COUNT,
    "length": COUNT,
    # What is shown of staleness.
    "network_guidance": FINITE,
    "viewer_starts": COUNT,
    "viewer_steps": COUNT,
    "viewer_devices": COUNT,
    "viewer_fine_steps": COUNT,
    # Random numbers, and how many of what is drawn.
    "seed": SEED,
    "seeds": COUNT,
    "samples": COUNT,
    "count": COUNT,
    "batch": COUNT,
    "batches": COUNT,
    "adaptive_batches": COUNT,
    "reference": COUNT,
    "field_starts": COUNT,
    "network_starts": COUNT,
    "compared_field_starts": COUNT,
    "compared_network_starts": COUNT,
    "compared_emoji_starts": COUNT,
    "compared_pixel_starts": COUNT,
    "pictures": COUNT_OR_NONE,
    "gallery_pictures": COUNT_OR_NONE,
    # The solver.
    "steps": COUNT,
    "nfe": COUNT,
    "order": COUNT,
    "shift": POSITIVE,
    "shifts": POSITIVE,
    "claim_steps": COUNT,
    "dial_nfe": COUNT,
    "crossover_nfe": COUNT,
    "network_nfe": COUNT,
    "network_steps": COUNT,
    "reference_steps": COUNT,
    "one_steps": COUNT,
    "order_steps": COUNT,
    "solver_steps": COUNT,
    "fine_steps": COUNT,
    "emoji_fine_steps": COUNT,
    "rtol": POSITIVE,
    "tolerances": POSITIVE,
    # Guidance.
    "guidance": FINITE,
    "emoji_guidance": FINITE,
    "pair_guidance": FINITE,
    "scales": FINITE,
    "network_scales": FINITE,
    "guidance_channels": COUNT,
    "guidance_interval": FRACTION,
    # Networks, images and exact fields.
    "size": COUNT,
    "sizes": COUNT,
    "pixels": COUNT,
    "tile": COUNT,
    "patch": COUNT,
    "width": COUNT,
    "depth": COUNT,
    "layers": COUNT,
    "heads": COUNT,
    "tokens": COUNT,
    "stds": POSITIVE,
    "couplings": FRACTION,
    # Devices, and what they exchange.
    "devices": COUNT,
    "shown": COUNT,
    "gpus": COUNT_OR_NONE,
    "parts": COUNT,
    "patches": COUNT,
    "warmup": COUNT,
    "warmups": COUNT,
    "placed": COUNT,
    "stale_synchronous": FRACTION,
    "linear_steps": COUNT,
    "linear_starts": COUNT,
    "refresh": COUNT,
    "correction": FRACTION,
    "bits": Range(1, 32),
    "pays": FRACTION,
    # Timing.
    "plans": COUNT,
    "repeats": COUNT,
    "errors": POSITIVE,
    "peak": COUNT,
    "large": FRACTION,
    "seconds": POSITIVE,
    # Training.
    "clock_scale": POSITIVE,
    "time_mean": FINITE,
    "time_std": POSITIVE,
    "time_shift": POSITIVE,
    "pool": COUNT,
    "pairs": COUNT,
    "pair_steps": COUNT,
    "label_dropout": FRACTION,
    "microbatches": COUNT,
    "learning_rate": POSITIVE,
    "weight_decay": Range(0),
    "clip": POSITIVE,
    "ema": FRACTION,
    "log_every": COUNT,
    "save_every": COUNT,
    "sample_every": COUNT,
    "keep": COUNT,
    "sample_rows": COUNT,
    "sample_steps": COUNT,
}

# Where 0 has a meaning in one command only.
OF_SAMPLING = {"patches": COUNT_OR_NONE}
OF_TRAINING = {"size": COUNT_OR_NONE, "devices": COUNT_OR_NONE, "warmup": COUNT_OR_NONE}


class Numbers(NamedTuple):
    """What an annotation says of the numbers of a field.

    Attributes:
      is_whole: int, and not float.
      may_be_none: whether None is a value too.
      is_tuple: whether the field is a tuple of such numbers.
    """

    is_whole: bool
    may_be_none: bool
    is_tuple: bool


def numbers_of(annotation: Any) -> Numbers | None:
    """`Numbers` of int, float, tuple[int, ...], int | None and the like; None for another type."""
    choices = typing.get_args(annotation)
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    may_be_none = is_union and type(None) in choices
    if may_be_none:
        # What is left of "int | None" is int.
        (annotation, *others) = [choice for choice in choices if choice is not type(None)]
        if others:
            return None
    is_tuple = typing.get_origin(annotation) is tuple
    if is_tuple:
        annotation = typing.get_args(annotation)[0]
    if annotation not in (int, float):
        return None
    return Numbers(annotation is int, may_be_none, is_tuple)


def numeric_fields(config: Any) -> dict[str, Numbers]:
    """{field: its `Numbers`} of a configuration, without the fields that hold no numbers."""
    hints = typing.get_type_hints(type(config))
    found = {field.name: numbers_of(hints[field.name]) for field in dataclasses.fields(config)}
    return {name: numbers for name, numbers in found.items() if numbers is not None}


def check(config: Any, special: Mapping[str, Range] | None = None) -> None:
    """Refuse a number that lies outside the range of its field.

    A field that has no range here is one of the caller's own configuration, and is left to it.

    Args:
      config: a configuration, a dataclass.
      special: ranges that this command has in place of those of `RANGES`.

    Raises:
      ValueError: the first such number, with its range.
    """
    # A command's own range comes before the common one.
    ranges = RANGES | dict(special or {})
    for name, numbers in numeric_fields(config).items():
        value = getattr(config, name)
        if name not in ranges or (value is None and numbers.may_be_none):
            continue
        # Each item of a tuple, or the number itself.
        items = value if numbers.is_tuple and isinstance(value, (tuple, list)) else [value]
        for item in items:
            if not _is_in(ranges[name], item, numbers.is_whole):
                place = f", with {item!r} in it" if numbers.is_tuple else ""
                raise ValueError(
                    f"--config.{name}={value!r}{place}; "
                    f"wanted {ranges[name].words(numbers.is_whole)}"
                    + (" in each place." if numbers.is_tuple else ".")
                )


def _is_in(wanted: Range, value: Any, is_whole: bool) -> bool:
    """Whether a value is a number of the right kind, and in the range."""
    kinds = int if is_whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool):
        return False
    is_finite = isinstance(value, int) or math.isfinite(value)
    return is_finite and wanted.holds(value)
