"""UniPC against the paper's loop."""

import numpy as np
import pytest

from flowjax import plans
from tests.plans import loops
from tests.plans.problems import EXACT, GRID, SCHEDULES, both_paths, both_predictions, path_of


@both_paths
@both_predictions
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("corrector", [True, False])
def test_unipc_is_the_loop_of_the_paper(path, prediction, variant, order, corrector):
    plan = plans.unipc(
        SCHEDULES[path], GRID, order, corrector=corrector, variant=variant, prediction=prediction
    )
    expected = loops.unipc(path, prediction, GRID, order, variant, corrector)
    np.testing.assert_allclose(path_of(plan), expected, **EXACT)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_corrector_costs_no_evaluation(order):
    plan = plans.unipc(SCHEDULES["linear"], GRID, order)
    assert plan.nfe == plan.steps == len(GRID) - 1
