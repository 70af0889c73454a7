"""The final rules set the orders of the last steps."""

import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.schedules import Linear

FINALS = {  # rule, steps, end of the grid, orders of the steps
    "auto, interior": ("auto", 12, 0.1, [1, 2] + [3] * 10),
    "auto": ("auto", 12, 0.0, [1, 2] + [3] * 9 + [1]),
    "none": ("none", 12, 0.1, [1, 2] + [3] * 10),
    "sana": ("sana", 30, 0.0, [1, 2] + [3] * 26 + [2, 1]),
    "upstream below 10": ("upstream", 9, 0.1, [1, 2] + [3] * 5 + [2, 1]),
    "upstream from 10": ("upstream", 10, 0.1, [1, 2] + [3] * 8),
    "diffusers below 15": ("diffusers", 14, 0.1, [1, 2] + [3] * 10 + [2, 1]),
    "diffusers from 15": ("diffusers", 15, 0.1, [1, 2] + [3] * 13),
    "diffusers from 15 to zero": ("diffusers", 15, 0.0, [1, 2] + [3] * 12 + [1]),
    "tuple": ((3, 1, 2), 8, 0.1, [1, 2, 3, 3, 3, 3, 1, 2]),
}


def orders(plan):
    """Evaluations that each row of a multistep plan uses."""
    return np.count_nonzero(plan.b, axis=1).tolist()


@pytest.mark.parametrize(("final", "steps", "end", "expected"), FINALS.values(), ids=FINALS)
def test_final_rule_sets_the_orders_of_the_last_steps(final, steps, end, expected):
    grid = grids.uniform(steps, start=0.9, end=end)
    assert orders(plans.dpm_solver_pp(Linear(), grid, 3, final=final)) == expected
    assert orders(plans.unipc(Linear(), grid, 3, final=final, corrector=False)) == expected
