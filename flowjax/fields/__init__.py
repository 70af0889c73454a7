"""Velocities known exactly: Gaussians, mixtures of them, finite data sets, and named presets.

A field answers what a perfect network would, on every schedule and at every t in [0, 1], so the
error of a sampler can be told from the error of a network. `base` has the formulas that all of them
share.
"""

from flowjax.fields.coupled import CoupledMixture, couple
from flowjax.fields.dataset import DataSet
from flowjax.fields.mixture import Gaussian, GaussianMixture
from flowjax.fields.presets import digits, emoji, power_law, random_mixture, ring, two_points

__all__ = [
    "CoupledMixture",
    "DataSet",
    "Gaussian",
    "GaussianMixture",
    "couple",
    "digits",
    "emoji",
    "power_law",
    "random_mixture",
    "ring",
    "two_points",
]
