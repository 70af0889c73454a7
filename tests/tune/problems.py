"""What the tests of tuning share: the ring, a Gaussian in plain arithmetic, and their starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from flowjax import fields, plans, tune
from flowjax.schedules import Linear

RING = fields.ring(Linear())
# (1, 3): the tests forbid JAX to promote ranks
EIGENVALUES = np.array([[0.04, 0.5, 3.0]])
MEAN = np.array([[0.5, -1.0, 0.25]])


def ring_starts(seed, count):
    """Starts on the ring with their converged endpoints."""
    noise = jax.random.normal(jax.random.key(seed), (count, 2))
    found = tune.reference(RING.velocity, noise, [1.0, 0.0], tolerance=1e-4)
    return tune.Starts(noise, found.states[-1])


def gaussian(x, t, *, mean=MEAN, variances=EIGENVALUES):
    """E[noise - data | x] on the linear path; plain arithmetic, for numpy as for JAX."""
    variance = (1 - t) ** 2 * variances + t**2
    return (t - (1 - t) * variances) / variance * (x - (1 - t) * mean) - mean


def gaussian_end(noise, *, mean=MEAN, variances=EIGENVALUES):
    """Where the ODE of `gaussian` leads from t = 1 to 0, in closed form."""
    return mean + np.sqrt(variances) * noise


def numpy_noise(seed, count, dim=3):
    return np.random.default_rng(seed).normal(size=(count, dim))


HALF = (jnp.bfloat16, jnp.float16)


def noise_in(dtype, seed, count):
    """Starts in a type, and the same in float32, which has room for all of their digits."""
    noise = jnp.asarray(numpy_noise(seed, count), dtype)
    return noise, noise.astype(jnp.float32)


second_order = functools.partial(plans.adams_bashforth, order=2)
