"""What keeps order 3 from paying? Seven causes, mended one by one and in every combination."""

from experiments.order.ledger.numbers import (
    COUPLED,
    FACTORS,
    QUESTION,
    cells,
    check,
    exact_plan,
    ledger,
    measure,
    of_order,
    over_order_2,
    thousandths,
)
from experiments.order.ledger.words import section

__all__ = [
    "COUPLED",
    "FACTORS",
    "QUESTION",
    "cells",
    "check",
    "exact_plan",
    "ledger",
    "measure",
    "of_order",
    "over_order_2",
    "section",
    "thousandths",
]
