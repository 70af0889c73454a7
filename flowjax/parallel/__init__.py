"""Sampling one image on many devices, exactly or with stale attention, and the same on one device to check it."""

from flowjax.parallel.emulation.adaptive import emulate_adaptive
from flowjax.parallel.emulation.network import emulate
from flowjax.parallel.mesh import make_mesh
from flowjax.parallel.sampling import place, program, sample
from flowjax.parallel.stale.adaptive import sample_adaptive

__all__ = [
    "emulate",
    "emulate_adaptive",
    "make_mesh",
    "place",
    "program",
    "sample",
    "sample_adaptive",
]
