"""Checks of a caller's arguments that several modules share, and the sentences they raise.

A sentence names the function, the option and the value that was given, then what was wanted. An
option with a closed set of values is checked by `check_choice`, a whole number by `check_whole`,
another number by `check_number`, the order of a solver by `check_order`.
"""

import difflib
import math
from collections.abc import Collection
from typing import Any

import jax
import numpy as np

NEAR = 0.6  # similarity from 0 to 1 (difflib) above which a misspelt name is taken for a known one


def suggestion(value: Any, choices: Collection[Any]) -> str:
    """The end of a sentence about an unknown name: a name that is near, if any, and all names.

    Args:
      value: what was given.
      choices: what is known; strings are compared without regard to case.

    Returns:
      "did you mean 'heun'? The choices are 'cold', 'heun'." or "the choices are 'cold', 'heun'."
    """
    known = ", ".join(map(repr, choices))
    # Compared without regard to case, and shown as they are written
    spellings = {str(choice).casefold(): choice for choice in choices}
    near = []
    if isinstance(value, str):  # a number is never a misspelt number
        near = difflib.get_close_matches(value.casefold(), spellings, n=1, cutoff=NEAR)
    if not near:
        return f"the choices are {known}."
    return f"did you mean {spellings[near[0]]!r}? The choices are {known}."


def check_choice(name: str, option: str, value: Any, choices: Collection[Any]) -> None:
    """Check that `value` is one of `choices`.

    Args:
      name: the public function that the error speaks for, for example "plans.unipc".
      option: the argument of that function.
      value: what the caller gave.
      choices: all values that the argument may have.

    Raises:
      ValueError: `value` is not among them. The sentence suggests a choice only where one is near,
        and lists all.
    """
    try:
        is_known = value in choices
    except (TypeError, ValueError):  # a list is no key of a dict; an array has no single truth
        is_known = False
    if not is_known:
        raise ValueError(f"{name}: {option}={value!r} is not known; {suggestion(value, choices)}")


def check_whole(name: str, option: str, value: Any, least: int, most: int | None = None) -> None:
    """Check that `value` is a whole number from `least` to `most`, of Python or of numpy.

    Args:
      name: the public function that the error speaks for.
      option: the argument of that function.
      value: what the caller gave. 20.0 and True are refused, so that a mistake shows where it is
        made.
      least, most: both are allowed values; most=None sets no upper limit.

    Raises:
      ValueError: `value` is no whole number, or lies outside the limits.
    """
    if is_whole(value, least, most):
        return
    # Say what was wanted, and for the usual slips what to write in its place.
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"
    hint = ""
    if isinstance(value, str):
        hint = ", not a string"
    elif isinstance(value, float | np.floating) and float(value).is_integer():
        if is_whole(int(value), least, most):
            hint = f", for example {int(value)} instead of {value!r}"
    raise ValueError(f"{name}: {option}={value!r}; wanted a whole number {limits}{hint}.")


def is_whole(value: Any, least: int, most: int | None = None) -> bool:
    """Whether `value` is a whole number from `least` to `most`, as `check_whole` wants it.

    It is for a refusal that has a sentence of its own.
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        return False
    return bool(value >= least and (most is None or value <= most))


def check_number(
    name: str,
    option: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: bool = False,
) -> None:
    """Check that `value` is a finite number, or finite numbers, within limits.

    A traced value is not known, and passes.

    Args:
      name: the public function that the error speaks for.
      option: the argument of that function.
      value: what the caller gave: a number, or an array of numbers.
      least, most: both are allowed values; infinite for no limit.
      above: whether `least` itself is refused.

    Raises:
      ValueError: it is no number, not finite, or lies outside the limits.
    """
    if isinstance(value, jax.core.Tracer):
        return
    try:
        numbers = np.asarray(value)
        is_number = numbers.dtype.kind in "iuf" or isinstance(value, jax.Array)
        numbers = numbers.astype(np.float64) if is_number else np.asarray(np.nan)
    except (TypeError, ValueError, OverflowError):
        numbers = np.asarray(np.nan)
    inside = (numbers > least if above else numbers >= least) & (numbers <= most)
    if not np.all(np.isfinite(numbers) & inside):
        raise ValueError(f"{name}: {option}={value!r}; wanted {number_within(least, most, above)}.")


def number_within(least: float, most: float, above: bool = False) -> str:
    """The words for a finite number within limits, such as "a number from 0 to 1"."""
    if math.isinf(least) and math.isinf(most):
        return "a finite number"
    if math.isinf(least):
        return f"a finite number of at most {most:g}"
    if math.isinf(most):
        return f"a finite number {'above' if above else 'of at least'} {least:g}"
    if above:
        return f"a number above {least:g} and of at most {most:g}"
    return f"a number from {least:g} to {most:g}"


def check_order(name: str, order: Any, most: int, steps: int | None = None) -> None:
    """Check the order of a solver.

    Args:
      name: the public function that the error speaks for.
      order: what the caller gave; wanted a whole number from 1 to `most`.
      most: the highest order of the method.
      steps: number of steps of a multistep method, which reaches its order p at step p; None for
        other methods.

    Raises:
      ValueError: `order` is no such number, or `steps` steps are too few to reach it.
    """
    check_whole(name, "order", order, 1, most)
    if steps is not None and steps < order:
        raise ValueError(
            f"{name}: {steps} step(s) are too few for order {order}, which would never be "
            f"reached; take at least {order} steps, or order={steps}."
        )
