"""Checks of the values of a scheduler's options: one function a kind of value.

Each check is a function (name, option, value) that raises a ValueError with a sentence: `name` is
the public function that the sentence speaks for. JSON may hold anything, so every type is expected.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from flowjax.errors import check_choice, check_whole

Check = Callable[[str, str, Any], None]


def is_number(value: Any) -> bool:
    """Whether `value` is a real number of Python or numpy; True and False are none."""
    # bool is a subclass of int.
    is_real = isinstance(value, int | float | np.integer | np.floating)
    return is_real and not isinstance(value, bool)


def check_number(
    name: str,
    option: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
    example: float = 1.0,
) -> None:
    """Check that `value` is a finite number in a range.

    Args:
      name: the public function that the error speaks for.
      option: the name of the value.
      value: what was given.
      above, below: limits that are not allowed themselves.
      least, most: limits that are allowed.
      example: a number in the range, for the sentence.

    Raises:
      ValueError: it is no number, or lies outside the range.
    """
    if is_number(value) and math.isfinite(value):
        if above < value < below and least <= value <= most:
            return
    # Name the limits that there are.
    limits = [
        f"{word} {limit:g}"
        for word, limit in (
            ("above", above),
            ("of at least", least),
            ("below", below),
            ("of at most", most),
        )
        if math.isfinite(limit)
    ]
    wanted = " ".join(["a finite number", " and ".join(limits)]).strip()
    # The usual mistake of a file that was written by hand
    hint = ", not a string" if isinstance(value, str) else ""
    raise ValueError(f"{name}: {option}={value!r}; wanted {wanted}, for example {example:g}{hint}.")


def number(**limits: float) -> Check:
    """The check of a number; `limits` are those of `check_number`."""
    return functools.partial(check_number, **limits)


def whole(least: int, most: int | None = None) -> Check:
    """The check of a whole number from `least` to `most`; None sets no upper limit."""

    def check(name: str, option: str, value: Any) -> None:
        check_whole(name, option, value, least, most)

    return check


def one_of(*choices: str) -> Check:
    """The check of an option with a closed set of names."""

    def check(name: str, option: str, value: Any) -> None:
        check_choice(name, option, value, choices)

    return check


def optional(check: Check) -> Check:
    """The check of an option that may also be null."""

    def check_if_given(name: str, option: str, value: Any) -> None:
        if value is not None:
            check(name, option, value)

    return check_if_given


def check_switch(name: str, option: str, value: Any) -> None:
    """Check that `value` is true, false or null, which is off."""
    # Public files have null for switches that are off.
    if value is None or isinstance(value, bool | np.bool_):
        return
    hint = ", not a string" if isinstance(value, str) else ""
    raise ValueError(f"{name}: {option}={value!r}; wanted true or false{hint}.")


def check_clip(name: str, option: str, value: Any) -> None:
    """Check a lower limit of log-SNR: a number, or minus infinity for no limit."""
    # JSON of Python has -Infinity, which diffusers writes as its default.
    if is_number(value) and value == -math.inf:
        return
    check_number(name, option, value, example=-5.1)


def check_betas(name: str, option: str, value: Any) -> None:
    """Check that `value` is null or two or more numbers between 0 and 1."""
    if value is None:
        return
    # Text is a sequence too, but of letters.
    is_sequence = isinstance(value, list | tuple | np.ndarray) and np.ndim(value) == 1
    if is_sequence and len(value) >= 2 and all(is_number(b) and 0 < b < 1 for b in value):
        return
    raise ValueError(
        f"{name}: {option}={_short(value)}; wanted null or a list of two or more numbers between 0 "
        "and 1."
    )


def check_indices(name: str, option: str, value: Any) -> None:
    """Check that `value` is a list of whole numbers of at least 0."""
    # A single number is no list, though it looks like one step.
    if isinstance(value, list | tuple):
        for index in value:
            check_whole(name, f"{option} entry", index, 0)
        return
    raise ValueError(
        f"{name}: {option}={value!r}; wanted a list of steps, counted from 0, for example [0, 1]."
    )


def _short(value: Any) -> str:
    """`value` as text of at most 60 letters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
