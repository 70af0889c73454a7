"""The claims that circulate about staleness, each with its evidence and a verdict by rule."""

from experiments.staleness.claims.numbers import Claim, claims, judged, of_claims
from experiments.staleness.claims.words import listed, section, sentences

__all__ = ["Claim", "claims", "judged", "listed", "of_claims", "section", "sentences"]
