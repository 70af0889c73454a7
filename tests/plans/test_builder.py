"""A plan of one's own: collected row by row, and refused where it could not be a solver."""

import itertools

import numpy as np
import pytest

from flowjax import grids, plans
from flowjax.schedules import Cosine, Linear
from tests.plans.problems import ALL, ENDS, EXACT, GRID, path_of

GRIDS = {
    "sampling": grids.uniform(7),
    "inverting": grids.uniform(7)[::-1],
    "interior": GRID,
    "shifted": grids.uniform(12, shift=5.0),
}


def midpoint(grid, *, half=1 / 2, weight=1.0, **options):
    """The explicit midpoint method; `half` and `weight` are right as they are."""
    rows = plans.Builder("midpoint")
    for t0, t1 in itertools.pairwise(grid):
        first, h, middle = len(rows), t1 - t0, (t0 + t1) / 2
        rows.row(t0, middle, d={first: h * half}, ends_step=False)
        rows.row(middle, t1, b={first + 1: h * weight})
    return rows.build(**options)


def test_a_method_of_ones_own_is_a_plan():
    plan = midpoint(GRID)
    assert (plan.nfe, plan.steps) == (16, 8)
    # Both are x + h v(middle) on a velocity that does not depend on x, so compare the tables.
    np.testing.assert_allclose(np.sum(plan.b[1::2], axis=1), np.diff(GRID), rtol=1e-15)
    np.testing.assert_array_equal(plan.grid, GRID)


def test_rows_are_counted_by_the_steps_that_end_before_them():
    plan = plans.pad(midpoint(GRID), 19)
    # Two rows a step, and the padding after all of them.
    np.testing.assert_array_equal(plan.steps_before, [*np.repeat(np.arange(8), 2), 8, 8, 8])


def test_eulers_method_row_by_row_is_the_plan_of_the_library():
    rows = plans.Builder("my_euler")
    for t0, t1 in itertools.pairwise(GRID):
        rows.row(t0, t1, b={len(rows): t1 - t0})
    for column, expected in zip(rows.build(), plans.euler(GRID), strict=True):
        np.testing.assert_array_equal(column, expected)


def test_ddim_row_by_row_is_the_plan_of_the_library():
    # x1 = sigma1/sigma0 x0 + (alpha1 - alpha0 sigma1/sigma0) data
    schedule = Cosine()
    rows = plans.Builder("my_ddim", schedule)
    for t0, t1 in itertools.pairwise(GRID):
        decay = schedule.sigma(t1) / schedule.sigma(t0)
        weight = schedule.alpha(t1) - schedule.alpha(t0) * decay
        rows.row(t0, t1, kind="data", a=decay, b={len(rows): weight})
    np.testing.assert_allclose(path_of(rows.build()), path_of(plans.ddim(schedule, GRID)), **EXACT)


# What the check accepts: every plan of the library that draws no noise

PUBLISHED = ALL | {
    "2M": lambda s, g: plans.dpm_solver_pp(s, g, 2),
    "2M noise": lambda s, g: plans.dpm_solver_pp(s, g, 2, prediction="noise"),
    "3M published": lambda s, g: plans.dpm_solver_pp(s, g, 3, third_order="published"),
    "2S taylor": lambda s, g: plans.dpm_solver_pp(s, g, 2, method="singlestep", variant="taylor"),
    "3S noise": lambda s, g: plans.dpm_solver_pp(s, g, 3, method="singlestep", prediction="noise"),
    "sana": lambda s, g: plans.dpm_solver_pp(s, g, 3, final="sana"),
    "diffusers": lambda s, g: plans.dpm_solver_pp(s, g, 3, final="diffusers"),
    "UniPC bh1": lambda s, g: plans.unipc(s, g, 2, variant="bh1"),
    "UniP": lambda s, g: plans.unipc(s, g, 3, corrector=False),
}


@pytest.fixture
def always_checked(monkeypatch):
    """Every plan that is built is checked, also those of the library."""
    # The library builds with check=False, since its plans are tested here instead.
    build = plans.Builder.build
    monkeypatch.setattr(plans.Builder, "build", lambda self, check=True: build(self, check=True))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_plans_pass_the_check(name, grid, always_checked):
    for schedule in ENDS.values():
        PUBLISHED[name](schedule, grid)


def test_heun_in_rho_passes_the_check(always_checked):
    for schedule in ENDS.values():
        plans.heun(GRID, schedule=schedule)


def test_a_plan_that_draws_noise_is_not_checked_for_consistency(always_checked):
    plans.dpm_solver_sde(Linear(), GRID, 2)
    plans.ddim(Linear(), GRID, 0.5)


def test_the_other_predictions_can_be_rows():
    """v and score, with one step of order 1 each: x1 is what DDIM makes of the data they imply."""
    t0, t1 = 0.6, 0.3
    for schedule in (Linear(), Cosine()):
        alpha0, alpha1 = schedule.alpha(t0), schedule.alpha(t1)
        sigma0, sigma1 = schedule.sigma(t0), schedule.sigma(t1)
        # noise = -sigma0 score, in x1 = alpha1/alpha0 x0 + (sigma1 - sigma0 alpha1/alpha0) noise
        decay = alpha1 / alpha0
        rows = plans.Builder("by_score", schedule)
        weight = -sigma0 * (sigma1 - sigma0 * decay)
        rows.row(t0, t1, kind="score", a=decay, b={0: weight})
        np.testing.assert_allclose(
            path_of(rows.build()), path_of(plans.ddim(schedule, [t0, t1])), **EXACT
        )
        # x = alpha data + sigma noise and v = alpha noise - sigma data, solved for data and noise
        size = alpha0**2 + sigma0**2
        rows = plans.Builder("by_v", schedule)
        a = (alpha1 * alpha0 + sigma1 * sigma0) / size
        weight = (sigma1 * alpha0 - alpha1 * sigma0) / size
        rows.row(t0, t1, kind="v", a=a, b={0: weight})
        np.testing.assert_allclose(
            path_of(rows.build()), path_of(plans.ddim(schedule, [t0, t1])), **EXACT
        )


# What it refuses


def one_row(*, build=None, name="mine", schedule=None, before=0, **row):
    """A plan of `before` Euler steps of length 0.1 from t = 1, and then one row."""
    rows = plans.Builder(name, schedule)
    for i in range(before):
        rows.row(1 - i / 10, 1 - (i + 1) / 10, b={i: -0.1})
    start = 1 - before / 10
    rows.row(**{"t": start, "t_next": start - 0.1, **row})
    return rows.build(**(build or {}))


MISTAKES = {
    # Indices of rows, and names
    "no rows": (lambda: plans.Builder("mine").build(), r"mine: the plan has no rows; call row\(\)"),
    "row to come": (
        lambda: one_row(b={1: -0.1}),
        r"mine: row 0 weights row 1 in b, which does not exist yet; wanted an index from 0 to 0",
    ),
    "row to come in d": (
        lambda: one_row(before=2, d={3: -0.1}),
        r"mine: row 2 weights row 3 in d, which does not exist yet; .* from 0 to 2, where 2 is",
    ),
    "too old": (
        lambda: one_row(before=6, b={2: -0.1}),
        r"mine: row 6 weights row 2 in b, which is too old: the history holds the last 4 .* 3 to 6",
    ),
    "negative": (
        lambda: one_row(before=2, b={-1: -0.1}),
        r"mine: row 2 weights row -1 in b, and rows are counted from 0; .* from 0 to 2",
    ),
    "no index": (
        lambda: one_row(b={0.0: -0.1}),
        r"mine: row 0 has the key 0\.0 in b; wanted the index of a row, a whole number",
    ),
    "kind": (lambda: one_row(kind="nose"), r"mine: kind='nose' is not known; did you mean 'noise'"),
    "schedule": (lambda: one_row(schedule=GRID), r"mine: the schedule is an array of shape \(9,\)"),
    # Weights that are not exact for constant predictions
    "sum too small": (
        lambda: one_row(before=1, b={1: -0.05}),
        r"mine: with a velocity of 1 and the state t, row 1 \(the step from t = 0\.9 to 0\.8\) "
        r"gives the state 0\.85 instead of 0\.8\. .* must sum to its length, -0\.1\. .*check=False",
    ),
    "length without its sign": (
        lambda: one_row(b={0: 0.1}),
        r"row 0 \(the step from t = 1 to 0\.9\) gives the state 1\.1 instead of 0\.9",
    ),
    "base lost": (
        lambda: one_row(a=0.9, b={0: -0.1}),
        r"with a velocity of 0 and the state 1, row 0 .* gives the state 0\.9 instead of 1\.",
    ),
    "a substep elsewhere": (
        lambda: midpoint([1.0, 0.8], half=1.0),
        r"midpoint: .* row 0 \(the substep from t = 1 to 0\.9\) gives the state 0\.8 instead",
    ),
    "the step of a block": (
        lambda: midpoint([1.0, 0.8, 0.6], weight=0.5),
        r"midpoint: .* row 1 \(the step from t = 1 to 0\.8\) gives the state 0\.9 instead of 0\.8",
    ),
    "data weight": (
        lambda: one_row(schedule=Cosine(), kind="data", t=0.9, t_next=0.8, a=0.9, b={0: 0.1}),
        r"mine: with data of 1 and noise of 0, row 0 .* on x = alpha data \+ sigma noise",
    ),
    "two kinds off the linear path": (
        lambda: one_row(schedule=Cosine(), before=1, kind="data", b={1: -0.1}),
        r"mine: row 0 has the kind 'velocity' and others have not; .* build\(check=False\)",
    ),
    # Rows that do not follow each other in time
    "gap": (
        lambda: one_row(before=2, t=0.7, t_next=0.6, b={2: -0.1}),
        r"mine: row 2 evaluates at t = 0\.7, but row 1 leaves the state at t_next = 0\.8",
    ),
    "label as time": (
        lambda: one_row(t=999.0, t_next=0.9, b={0: -0.1}),
        r"mine: row 0 has t = 999; wanted a time in \[0, 1\]",
    ),
    "end below data": (
        lambda: one_row(t=0.0, t_next=-0.1, b={0: -0.1}),
        r"mine: row 0 has t_next = -0\.1; wanted a time in \[0, 1\]",
    ),
    "no accepted end": (
        lambda: one_row(before=1, d={1: -0.1}, ends_step=False),
        r"mine: the last row, 1, has ends_step=False",
    ),
    # What every plan is checked for
    "not finite": (
        lambda: one_row(b={0: np.nan}),
        r"mine: coefficient b of row 1, in step 1 of 1, .* is not finite",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_refused_with_the_row_and_the_number(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_check_can_be_left_out():
    # Half of each step, and then a gap in time
    assert midpoint(GRID, weight=0.5, check=False).nfe == 16
    assert one_row(before=2, t=0.7, t_next=0.6, b={2: -0.05}, build={"check": False}).nfe == 3


def test_an_index_is_refused_also_without_the_check():
    with pytest.raises(ValueError, match="which does not exist yet"):
        one_row(b={1: -0.1}, build={"check": False})
