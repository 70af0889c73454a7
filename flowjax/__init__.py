"""Sampling from flow and diffusion transformers in JAX: solvers as tables, fields known exactly, measured claims."""

import importlib

from flowjax import grids, guidance, plans
from flowjax.adaptive import Tolerance, sample_adaptive, sample_adaptive_many
from flowjax.plans import Plan
from flowjax.sampling import Solution, draw_noise, sample
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear

__all__ = [
    "Cosine", "Linear", "Plan", "Solution", "Tolerance", "VPDiscrete", "VPLinear", "draw_noise", "grids", "guidance",
    "plans", "sample", "sample_adaptive", "sample_adaptive_many",
]  # fmt: skip

_LATER = (
    "models",
    "parallel",
    "train",
    "data",
    "checkpoint",
)  # they need flax, optax or orbax: imported when first named


def __getattr__(name):
    if name in _LATER:
        return importlib.import_module(f"flowjax.{name}")
    raise AttributeError(f"module 'flowjax' has no attribute {name!r}")
