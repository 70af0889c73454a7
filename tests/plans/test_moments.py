"""The moments are the integrals that they stand for, on both sides of the switch to the series."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from flowjax.plans.moments import exponential_moments, interpolation_weights

STEPS = [1e-12, 1e-6, 0.1, 0.5, 0.999, 1.001, 3.0, 20.0, -1e-6, -0.5, -0.999, -1.001, -4.0]


def integral(h, k):
    """h int_0^1 exp(-h (1 - u)) u^k du."""

    def integrand(u):
        return np.exp(-h * (1 - u)) * u**k

    return h * integrate.quad(integrand, 0, 1, epsabs=0, epsrel=1e-13)[0]


@pytest.mark.parametrize("h", STEPS)
def test_moments_are_the_integrals(h):
    on_host, on_device = exponential_moments(h, 4), exponential_moments(jnp.asarray(h), 4)
    # The recursion loses digits that the series keeps.
    rtol = 3e-15 if abs(h) < 1 else 1e-13
    for k in range(4):
        np.testing.assert_allclose(on_host[k], integral(h, k), rtol=rtol, err_msg=f"moment {k}")
        np.testing.assert_allclose(on_device[k], on_host[k], rtol=1e-13)


def test_moments_of_an_infinite_step_are_one():
    assert np.array_equal(exponential_moments(np.inf, 4), np.ones(4))


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
def test_interpolation_weights_reproduce_the_moments(module):
    taus = np.array([0.0, -0.7, -1.6, 1.0])
    moments = [module.asarray(value) for value in (1.0, 0.5, 0.3, -0.2)]
    weights = np.asarray(interpolation_weights(taus, moments))
    reproduced = [np.sum(weights * taus**k) for k in range(4)]
    np.testing.assert_allclose(reproduced, moments, rtol=0, atol=1e-13)
