"""Solvers by name take all evaluations they may; plans of one's own are found, run and refused."""

import sys

import numpy as np
import pytest

from experiments.lab import solvers, subjects
from flowjax import Linear, plans


@pytest.mark.parametrize("name", solvers.SOLVERS)
@pytest.mark.parametrize("nfe", [4, 7, 20])
def test_plan_of_takes_all_the_evaluations_it_may(name, nfe):
    solver = solvers.SOLVERS[name]
    plan = solvers.plan_of(name, Linear(), solvers.shifted(3.0), nfe)
    if plan is None:  # too few for the order in its name
        assert solver.rows(solver.order) > nfe
        return
    assert plan.nfe == solver.rows(plan.steps) <= nfe < solver.rows(plan.steps + 1)


def test_padded_and_grouped_plans_end_where_single_ones_do():
    field = subjects.make_field("ring")
    noise = np.random.default_rng(0).standard_normal((3, 2))
    lengths = (3, 9, 4, 20, 8, 9, 9, 5, 6, 7, 8, 3)
    many = [plans.euler(np.linspace(1, 0, n + 1)) for n in lengths]
    together = solvers.run_plans(field, noise, many)
    alone = np.stack([solvers.run_plans(field, noise, [plan])[0] for plan in many])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-12)


def test_a_misspelt_solver_is_refused_with_the_near_name():
    with pytest.raises(ValueError, match="--config.solvers: 'Eulr' .* 'Euler'"):
        solvers.check("solvers", ("Euler", "Eulr"))


# ---- a plan of one's own

MODULE = """
import numpy as np
from flowjax import plans

def half(grid):
    return plans.adams_bashforth(grid, 2)

def scheduled(schedule, grid, order=2):
    return plans.dpm_solver_pp(schedule, grid, order)

def two_rows(grid):
    return plans.heun(grid)

def no_plan(grid):
    return [1, 2, 3]

def fixed(grid):
    return plans.euler(np.linspace(1, 0, 6))

def long(grid):
    return plans.pad(plans.rk4(np.linspace(1, 0, 101)), 400)

def short(grid):
    return plans.euler(np.linspace(0.9, 0, len(grid)))

def broken(grid):
    return grid.no_such_method()

def three(schedule, grid, order):
    return plans.euler(grid)

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module `own_plans` in the current directory, which is not on the Python path."""
    (tmp_path / "own_plans.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import no_such_package_anywhere\n")
    monkeypatch.chdir(tmp_path)
    yield "own_plans"
    for name in ("own_plans", "needs_more"):
        sys.modules.pop(name, None)
    solvers.own_solver.cache_clear()


def test_a_plan_of_ones_own_is_the_plan_that_its_function_makes(module):
    make_grid = solvers.shifted(3.0)
    own = solvers.plan_of(f"{module}:half", Linear(), make_grid, 7)
    np.testing.assert_array_equal(own.b, solvers.plan_of("AB2", Linear(), make_grid, 7).b)
    own = solvers.plan_of(f"{module}:scheduled", Linear(), make_grid, 7)
    np.testing.assert_array_equal(own.b, solvers.plan_of("DPM++ 2M", Linear(), make_grid, 7).b)


def test_a_plan_of_ones_own_with_two_rows_a_step_gets_half_the_steps(module):
    plan = solvers.plan_of(f"{module}:two_rows", Linear(), solvers.shifted(1.0), 8)
    assert (plan.nfe, plan.steps) == (7, 4)
    assert plan.t_next[-1] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:plan", "there is no module 'no_such_module'"),
        ("own_plans:plan", "'own_plans' has no 'plan', it has .*half, scheduled"),
        ("own_plans:", "wanted module:name"),
        (":half", "wanted module:name"),
        ("own_plans:number", "is a int; wanted a function"),
        ("own_plans:three", "takes 3 arguments"),
        ("own_plans:no_plan", "returned a list for a grid of 8 steps; wanted a flowjax.Plan"),
        ("own_plans:fixed", "a plan of 5 rows for a grid of 8 steps; wanted at least one row"),
        ("own_plans:long", "takes 400 rows for a grid of one step; wanted 8 at most"),
        ("own_plans:short", "from t = 0.9 to 0 for a grid from 1 to 0"),
        ("own_plans:broken", "failed on a grid of 8 steps with AttributeError"),
        ("needs_more:plan", "importing 'needs_more' failed: No module named 'no_such_package"),
    ],
)
def test_what_is_no_plan_of_ones_own_is_refused_in_a_sentence(module, name, message):
    with pytest.raises(ValueError, match=f"^--config.solvers: .*{message}"):
        solvers.check("solvers", (name,), [solvers.shifted(1.0)], (8,))


def test_the_python_path_is_left_as_it_was(module):
    before = list(sys.path)
    solvers.find(f"{module}:half")
    assert sys.path == before
