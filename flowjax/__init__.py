"""Sampling from flow and diffusion transformers in JAX, by solvers that are tables.

Every public submodule is an attribute of the package (flowjax.fields, flowjax.models, ...). Those
that need flax, optax, orbax or scipy are imported when they are first named, so that
`import flowjax` stays light.
"""

import importlib
import pkgutil

from flowjax import adaptive, errors, grids, guidance, plans, schedules
from flowjax.adaptive import Tolerance, sample_adaptive, sample_adaptive_many
from flowjax.plans import Plan
from flowjax.sampling import Solution, draw_noise, sample
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear

__all__ = [
    "Cosine",
    "Linear",
    "Plan",
    "Solution",
    "Tolerance",
    "VPDiscrete",
    "VPLinear",
    "adaptive",
    "draw_noise",
    "errors",
    "grids",
    "guidance",
    "plans",
    "sample",
    "sample_adaptive",
    "sample_adaptive_many",
    "schedules",
]

_SUBMODULES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def __getattr__(name):
    if name in _SUBMODULES:
        return importlib.import_module(f"flowjax.{name}")
    raise AttributeError(f"module 'flowjax' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *_SUBMODULES})
