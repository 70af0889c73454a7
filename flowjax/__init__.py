"""Sampling from flow and diffusion transformers in JAX: solvers as tables, fields known exactly, measured claims."""

from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear

__all__ = ["Cosine", "Linear", "VPDiscrete", "VPLinear"]
