"""Guidance: functions that make a model from models, so that every sampler takes the result.

With w the scale, and two velocities of one state, `conditional` and `unconditional` (or those of a
strong and a weak model),

    guided = conditional + (w - 1) (conditional - unconditional)

so that w = 1 is conditional and w = 0 unconditional. This is classifier-free guidance
(arXiv:2207.12598), whose own w is ours less 1. Every prediction is p x + q velocity, with one p and
one q for both models, so guiding the velocity, the noise or the data is the same. `Projection` and
`rescale` are not linear: `Projection` acts on the data prediction, and `rescale` without it on the
velocity.

A model is (x, t) -> velocity (B, *D), or (x, t, carry) -> (velocity, carry); `t` is a scalar or
(B,). A model that is made here takes both forms: it returns a carry when it is given one. Norms,
standard deviations and quantiles are those of one sample, over all its axes. The NFE stays the
number of rows, although a guided row costs two evaluations.
"""

from flowjax.guidance.classifier_gradient import classifier
from flowjax.guidance.data_prediction import correct_data, dynamic_threshold
from flowjax.guidance.projection import GuidanceCarry, Projection
from flowjax.guidance.shared import Model
from flowjax.guidance.two_models import classifier_free, combine

__all__ = [
    "GuidanceCarry",
    "Model",
    "Projection",
    "classifier",
    "classifier_free",
    "combine",
    "correct_data",
    "dynamic_threshold",
]
