"""The schedule of rows: kinds of rows, and which rows belong together."""

import jax
import numpy as np
import pytest

from flowjax import Linear, grids, plans
from flowjax.parallel.options import Options
from flowjax.parallel.stale import policies
from flowjax.parallel.stale.rows import row_schedule

EULER = plans.euler(grids.uniform(7))
HEUN = plans.heun(grids.uniform(3))  # the last step is one row, since it ends at t = 0
BLOCKS = plans.dpm_solver_pp(Linear(), grids.uniform(4), 2, method="singlestep")  # rows 1, 2, 2, 1


@pytest.mark.parametrize(
    ("plan", "warmup", "refresh", "kinds"),
    [
        (plans.euler(grids.uniform(5)), 1, 1, "SEEEE"),
        (plans.euler(grids.uniform(5)), 3, 1, "SSSEE"),
        (plans.euler(grids.uniform(5)), 5, 1, "SSSSS"),
        (EULER, 2, 2, "SSHEHEH"),
        (EULER, 1, 3, "SHHEHHE"),
        (plans.euler(grids.uniform(4)), 2, None, "SSHH"),
        (HEUN, 1, 1, "SSEEE"),
        (BLOCKS, 1, 1, "SESEEE"),
    ],
)
def test_kinds_of_rows(plan, warmup, refresh, kinds):
    """S synchronous, E exchanges, H holds. The first row of a substep has no copy, and is S."""
    found = row_schedule(plan, Options(warmup=warmup, refresh=refresh))
    letters = np.where(found.policy < 0, "S", np.where(found.sent, "E", "H"))
    assert "".join(letters) == kinds


def test_rows_that_are_synchronous_for_certain_always_send():
    for refresh in (1, 2, 3, None):
        found = row_schedule(BLOCKS, Options(warmup=2, refresh=refresh))
        assert found.sent[found.policy < 0].all()


def test_rows_of_a_substep_follow_each_other_and_steps_decide_the_next():
    found = row_schedule(BLOCKS, Options())
    assert found.substep.tolist() == [0, 0, 1, 0, 1, 0]
    assert found.first_of_substep.tolist() == [0, 2]
    assert found.next_of_substep.tolist() == [1, 3, 4, 5, 4, 5]  # the last ones are their own next
    assert found.decided_by.tolist() == [-1, 0, 0, 2, 2, 4]  # the last row of the step before


def test_all_rows_of_a_step_have_its_threshold():
    policy = policies.tolerance(BLOCKS.steps, 0.1)
    found = row_schedule(BLOCKS, Options(policy=policy))
    assert found.policy.tolist() == [policies.ALWAYS, 0.1, policies.ALWAYS, 0.1, 0.1, 0.1]
    assert policy.tolist() == [policies.ALWAYS, 0.1, 0.1, 0.1]  # the caller's array is unchanged


def test_rows_of_padding_continue_the_last_substep_0():
    padded = row_schedule(plans.pad(HEUN, 8), Options(warmup=2))
    plain = row_schedule(HEUN, Options(warmup=2))
    assert padded.substep[HEUN.rows :].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(padded.policy[: HEUN.rows], plain.policy)
    np.testing.assert_array_equal(padded.sent[: HEUN.rows], plain.sent)
    assert (padded.policy[HEUN.rows :] == policies.NEVER).all()


def test_plans_of_one_length_have_schedules_of_one_shape():
    """So one compiled program serves their policies, and every refresh from 2 on."""
    options = [
        Options(warmup=3),
        Options(policy=policies.every(7, 2)),
        Options(refresh=2),
        Options(refresh=None),
    ]
    shapes = []
    for each in options:
        leaves = jax.tree.leaves(row_schedule(EULER, each))
        shapes.append([(leaf.shape, leaf.dtype) for leaf in leaves])
    assert all(shape == shapes[0] for shape in shapes)
