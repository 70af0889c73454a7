"""Noise schedules: alpha(t), sigma(t), log-SNR and its inverse, and the predictions on a path.

A schedule fixes the path `x_t = alpha(t) data + sigma(t) noise` with t = 1 noise and t = 0 data.
`log_snr` is log(alpha/sigma), the lambda of the DPM-Solver papers (half of the usual log
signal-to-noise ratio).

Every method takes a Python number, a numpy array or a jax.numpy array (also a traced one) and
returns the same kind. All values are finite, or correctly infinite, at exactly t = 0 and t = 1, in
float32 too: no caller needs an epsilon.

base.py           the methods that all schedules share, and the check of a schedule
paths.py          Linear, Cosine, VPLinear: paths with a formula
discrete.py       VPDiscrete: the path of a network that was trained on N discrete steps
predictions.py    from a velocity to any prediction, and back
straight_path.py  any path as a straight one, and the times and scales between the two
"""

from flowjax.schedules.base import PREDICTIONS, Schedule, array_module, check
from flowjax.schedules.discrete import VPDiscrete, of_betas
from flowjax.schedules.paths import Cosine, Linear, VariancePreserving, VPLinear
from flowjax.schedules.predictions import as_velocity, predict, to_velocity
from flowjax.schedules.straight_path import Straight, straight

__all__ = [
    "PREDICTIONS",
    "Cosine",
    "Linear",
    "Schedule",
    "Straight",
    "VPDiscrete",
    "VPLinear",
    "VariancePreserving",
    "array_module",
    "as_velocity",
    "check",
    "of_betas",
    "predict",
    "straight",
    "to_velocity",
]
