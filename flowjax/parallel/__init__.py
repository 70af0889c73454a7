"""Sampling one image on many devices, exactly or with stale attention.

`emulate` and `emulate_adaptive` compute the same on one device, to check the programs on a mesh.
They, and the analysis of compiled programs, are imported when they are first used: sampling itself
needs neither.
"""

import importlib
from typing import Any

from flowjax.parallel import attention, mesh, options, traffic
from flowjax.parallel.facts import stale_facts, stale_options
from flowjax.parallel.mesh import make_mesh
from flowjax.parallel.sampling import place, program, sample
from flowjax.parallel.stale import forecast, policies, precision
from flowjax.parallel.stale.adaptive import sample_adaptive

__all__ = [
    "analysis",
    "attention",
    "emulate",
    "emulate_adaptive",
    "emulation",
    "forecast",
    "make_mesh",
    "mesh",
    "options",
    "place",
    "policies",
    "precision",
    "program",
    "sample",
    "sample_adaptive",
    "stale_facts",
    "stale_options",
    "traffic",
]

# name -> the module that has it, or that it is
_ON_FIRST_USE = {
    "analysis": "flowjax.parallel.analysis",
    "emulate": "flowjax.parallel.emulation.network",
    "emulate_adaptive": "flowjax.parallel.emulation.adaptive",
    "emulation": "flowjax.parallel.emulation",
}


def __getattr__(name: str) -> Any:
    """Import what is used for the first time."""
    # Python calls this only for names that the module does not have.
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_ON_FIRST_USE[name])
    return getattr(module, name, module)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
