"""Sampling with error control: steps are chosen while running, per sample or in lockstep."""

from flowjax.adaptive.control import Tolerance
from flowjax.adaptive.many import sample_adaptive_many
from flowjax.adaptive.solve import AdaptiveStats, sample_adaptive

__all__ = ["AdaptiveStats", "Tolerance", "sample_adaptive", "sample_adaptive_many"]
