"""Which policy buys most for its synchronous steps: fixed ones, rules, or a tolerance?"""

from experiments.staleness.pareto.numbers import (
    FORECASTS,
    KINDS,
    QUESTION,
    cells,
    check,
    duels,
    front,
    groups,
    kind,
    measure,
    names,
    policy,
    regrets,
    seconds,
)
from experiments.staleness.pareto.words import section

__all__ = [
    "FORECASTS",
    "KINDS",
    "QUESTION",
    "cells",
    "check",
    "duels",
    "front",
    "groups",
    "kind",
    "measure",
    "names",
    "policy",
    "regrets",
    "seconds",
    "section",
]
