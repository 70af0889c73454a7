"""Sampling one image on many devices, exactly or with stale attention, and the same on one device to check it."""

from flowjax.parallel.adaptive import sample_adaptive
from flowjax.parallel.emulate import emulate
from flowjax.parallel.emulate_adaptive import emulate_adaptive
from flowjax.parallel.mesh import make_mesh
from flowjax.parallel.sample import place, program, sample

__all__ = ["emulate", "emulate_adaptive", "make_mesh", "place", "program", "sample", "sample_adaptive"]
