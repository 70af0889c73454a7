"""The sheet of images."""

import numpy as np

from experiments.cli import images


def test_a_value_that_is_not_finite_is_black():
    values = np.array([np.nan, np.inf, -np.inf, 1.0])[:, None, None, None]
    shown = images.grid(values * np.ones((4, 64, 64, 1)), 4, gap=0)
    assert shown[0, ::64, 0].tolist() == [0, 0, 0, 255]
