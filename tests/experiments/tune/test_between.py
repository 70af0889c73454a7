"""Tables between tables."""

import functools

import numpy as np
import pytest

from experiments.tune.between import between
from flowjax import grids, plans
from flowjax.schedules import Linear

third = functools.partial(plans.adams_bashforth, order=3)
COLUMNS = ("t", "label_time", "a", "b", "t_next")


def assert_same(found, wanted):
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), atol=1e-14)


@pytest.mark.parametrize("part", [0.0, 1.0])
def test_the_ends_are_the_two_tables(part):
    tables = third(grids.uniform(6, shift=0.7)), third(grids.uniform(6, shift=2.0))
    assert_same(between(*tables, 6, part), tables[int(part)])


def test_between_uniform_tables_lies_the_uniform_table():
    tables = third(grids.uniform(6)), third(grids.uniform(10))
    assert_same(between(*tables, 8, 0.5), third(grids.uniform(8)))


def test_other_forms_of_plans_are_refused():
    own = third(grids.uniform(6))
    other = plans.dpm_solver_pp(Linear(), grids.uniform(6), 2)
    with pytest.raises(ValueError, match="each a step of velocities"):
        between(own, other, 6, 0.5)
    with pytest.raises(ValueError, match="a plan of 3 rows"):
        between(own, third(grids.uniform(3)), 6, 0.5)
