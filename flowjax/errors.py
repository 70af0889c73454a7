"""Sentences for a caller's mistakes that several modules share."""

import difflib

import numpy as np


def check_choice(name, option, value, choices):
    """Raise a ValueError in the name of `name` if `value` is not among `choices`, with the nearest one."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1, cutoff=0.0)[0]
        raise ValueError(
            f"{name}: {option}={value!r} is not known; did you mean {near!r}? The choices are {', '.join(map(repr, choices))}."
        )


def check_order(name, order, most, steps=None):
    """Raise if `order` is not one of 1..most, or if `steps` steps are too few for a multistep method to reach it."""
    if not isinstance(order, (int, np.integer)) or order not in range(1, most + 1):
        raise ValueError(f"{name}: order={order!r}; wanted a whole number from 1 to {most}.")
    if steps is not None and steps < order:
        raise ValueError(
            f"{name}: {steps} step(s) are too few for order {order}, which would never be reached; take at least {order} "
            f"steps, or order={steps}."
        )
