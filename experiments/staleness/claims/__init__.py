"""The claims that circulate about staleness, each with its evidence and a verdict by rule."""

from experiments.staleness.claims.asked import Asked, asked
from experiments.staleness.claims.numbers import (
    Reading,
    listed,
    of_claims,
    readings,
    verdict_of,
)
from experiments.staleness.claims.words import RULE, section, sentences

__all__ = [
    "RULE",
    "Asked",
    "Reading",
    "asked",
    "listed",
    "of_claims",
    "readings",
    "section",
    "sentences",
    "verdict_of",
]
