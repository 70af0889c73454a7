"""Types that public signatures name: shapes and meanings stand in the docstrings."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray  # where numpy and jax.numpy are taken alike
Scalar: TypeAlias = float | Array  # a number, or an array of shape ()
Times: TypeAlias = float | Array  # one time or an array of times; also their log-SNR
PyTree: TypeAlias = Any  # nested containers of arrays: parameters, a carry
Velocity: TypeAlias = Callable[[jax.Array, jax.Array], jax.Array]  # (x, t) -> dx/dt
