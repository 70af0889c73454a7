"""The reference is the closed form where there is one."""

import numpy as np

from experiments.lab import subjects, truth
from experiments.lab.statistics import row_norms, scale_of


def test_the_reference_is_the_closed_form_of_one_gaussian():
    field = subjects.make_field("power law")
    noise = np.random.default_rng(0).standard_normal((4, 64))
    found = truth.reference(field, noise, 200)
    exact = np.asarray(field.flow(noise, 1.0, 0.0))
    error = row_norms(found.x - exact).max() / scale_of(exact)
    # The doubling is the error estimate of the reference, here right to an order of magnitude.
    assert error < 20 * max(found.doubling, 1e-12)
    assert found.doubling < 1e-4
