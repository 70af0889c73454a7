"""Sampling with error control: steps chosen while running, per sample or in lockstep."""

from flowjax.adaptive.control import Tolerance
from flowjax.adaptive.solve import AdaptiveStats, sample_adaptive, sample_adaptive_many

__all__ = ["AdaptiveStats", "Tolerance", "sample_adaptive", "sample_adaptive_many"]
