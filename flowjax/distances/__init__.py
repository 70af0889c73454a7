"""How far samples are from the exact solution, and how far their distribution is from the data's.

There are two kinds of numbers, and they answer different questions.

Errors to the exact solution compare the same noise, sample by sample (`endpoint_errors`,
`paired_ratio`). They rank solvers with few samples. They also punish a sample that went to another
mode, although the distribution may be right.

Distances between distributions do not use the pairing. Each of them sees some defects and is blind
to others, as its docstring says. Each has a value above zero for two draws of the data itself,
which `floor` measures.

Everything is computed in numpy, in float64, on the host. The axes of a sample are flattened to F
numbers.
"""

from flowjax.distances.distributions import (
    Floor,
    energy,
    floor,
    frechet,
    gaussian_w2,
    kid,
    mmd,
    sliced_wasserstein,
    within_mode_spread,
)
from flowjax.distances.paired import (
    EndpointErrors,
    Ratio,
    Statistic,
    bootstrap,
    endpoint_errors,
    paired_ratio,
    rms,
)

__all__ = [
    "EndpointErrors",
    "Floor",
    "Ratio",
    "Statistic",
    "bootstrap",
    "endpoint_errors",
    "energy",
    "floor",
    "frechet",
    "gaussian_w2",
    "kid",
    "mmd",
    "paired_ratio",
    "rms",
    "sliced_wasserstein",
    "within_mode_spread",
]
