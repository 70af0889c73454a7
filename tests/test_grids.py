"""Laws of the grids: exact ends, the shift as a translation of log-SNR, the shapes of the papers.

Mistakes are refused with the number that is wrong and the way out.
"""

import numpy as np
import pytest
from scipy import integrate

from flowjax import grids
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear

SCHEDULES = {
    "linear": Linear(),
    "cosine": Cosine(),
    "vp": VPLinear(),
    "discrete": VPDiscrete.linear(),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
SPAN = {"start": 0.99, "end": 0.01}

# Grids that need a schedule, and a start and an end where log-SNR is finite
RESPACED = {
    "log_snr": grids.log_snr,
    "exponential": grids.exponential,
    "karras": grids.karras,
    "beta": grids.beta,
}
every_respaced = pytest.mark.parametrize("respaced", RESPACED.values(), ids=RESPACED)

# Grids from exactly 1 to exactly 0, as functions of the number of steps
WHOLE = {
    "uniform": grids.uniform,
    "shifted": lambda steps: grids.uniform(steps, shift=3.0),
    "quadratic": grids.quadratic,
    "linear_quadratic": grids.linear_quadratic,
}


def ratio(schedule, grid):
    """sigma/alpha."""
    return schedule.sigma(grid) / schedule.alpha(grid)


# What every grid is


@pytest.mark.parametrize("grid", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("steps", [2, 3, 20, 101])
def test_grid_falls_from_exactly_one_to_exactly_zero(grid, steps):
    times = grid(steps)
    assert times.shape == (steps + 1,)
    assert times.dtype == np.float64
    assert (times[0], times[-1]) == (1, 0)
    assert np.all(np.diff(times) < 0)


@every_schedule
@every_respaced
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_respaced_grid_falls_between_the_ends_asked_for(schedule, respaced, steps):
    times = respaced(schedule, steps, **SPAN)
    assert times.shape == (steps + 1,)
    assert times.dtype == np.float64
    assert (times[0], times[-1]) == (0.99, 0.01)
    assert np.all(np.diff(times) < 0)


@every_schedule
@every_respaced
def test_jump_spends_the_last_of_the_steps_on_time_zero(schedule, respaced):
    times = respaced(schedule, 9, **SPAN, jump=True)
    assert len(times) == 10
    assert times[-1] == 0
    np.testing.assert_array_equal(times[:-1], respaced(schedule, 8, **SPAN))


def test_uniform_start_and_end_are_before_the_shift():
    plain = grids.uniform(4, start=0.8, end=0.2)
    np.testing.assert_allclose(plain, [0.8, 0.65, 0.5, 0.35, 0.2], rtol=1e-15)
    # t' = 3 t/(1 + 2 t) of the times before the shift
    shifted = grids.uniform(2, start=0.8, end=0.2, shift=3.0)
    times = np.array([0.8, 0.5, 0.2])
    np.testing.assert_allclose(shifted, 3 * times / (1 + 2 * times))


# The shift


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0, 12.0])
def test_shift_translates_log_snr_by_minus_its_logarithm(shift):
    grid = grids.uniform(50)
    before = Linear().log_snr(grid[1:-1])
    after = Linear().log_snr(grids.shifted(grid, shift)[1:-1])
    moved = after - before
    np.testing.assert_allclose(moved, -np.log(shift), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.3, 3.0, 12.0])
def test_shift_leaves_the_ends_and_the_steps_in_log_snr(shift):
    grid = grids.uniform(20)
    moved = grids.shifted(grid, shift)
    assert (moved[0], moved[-1]) == (1, 0)
    before, after = grids.log_snr_steps(grid), grids.log_snr_steps(moved)
    np.testing.assert_allclose(after[1:-1], before[1:-1], rtol=1e-12)
    # The first and the last step touch an infinite log-SNR.
    assert np.all(np.isposinf(after[[0, -1]]))


def test_no_shift_moves_exactly_one():
    # One rounding off, and log-SNR at the start would be -36 instead of -inf: a step of a higher
    # order would follow it.
    for shift in np.exp(np.linspace(-3, 4, 1001)):
        assert grids.uniform(2, shift=shift)[0] == 1, shift


def test_shifts_multiply():
    grid = grids.uniform(30)
    three = grids.shifted(grid, 3.0)
    np.testing.assert_allclose(grids.shifted(three, 2.5), grids.shifted(grid, 7.5), rtol=1e-14)
    np.testing.assert_allclose(grids.shifted(three, 1 / 3), grid, rtol=0, atol=1e-15)


def test_shift_above_one_moves_towards_noise():
    assert np.all(grids.shifted(grids.uniform(9), 3.0)[1:-1] > grids.uniform(9)[1:-1])
    assert grids.uniform(20, shift=3.0)[-2] == pytest.approx(3 / 22)  # s/(N-1+s)


def test_dynamic_shift_meets_the_published_anchors():
    assert grids.dynamic_shift(256) == pytest.approx(np.exp(0.5), rel=1e-14)
    assert grids.dynamic_shift(4096) == pytest.approx(np.exp(1.15), rel=1e-14)
    # The logarithm is linear in between.
    middle = np.log(grids.dynamic_shift((256 + 4096) / 2))
    assert middle == pytest.approx((0.5 + 1.15) / 2, rel=1e-14)


def test_stretch_moves_only_the_last_time_before_zero_to_its_place():
    grid = grids.uniform(10, shift=2.0)
    moved = grids.stretched(grid, 0.1)
    assert (moved[0], moved[-1]) == (1, 0)
    assert moved[-2] == pytest.approx(0.1, rel=1e-14)
    gaps, before = -np.diff(moved[:-1]), -np.diff(grid[:-1])
    # The stretch is affine, so ratios of steps stay.
    np.testing.assert_allclose(gaps / gaps[0], before / before[0], rtol=1e-12)


def test_stretch_takes_a_time_before_the_last_that_is_zero_too():
    np.testing.assert_allclose(grids.stretched([1, 0.5, 0, 0], 0.2), [1, 0.6, 0.2, 0], rtol=1e-15)


# Shapes


@every_schedule
def test_log_snr_grid_has_equal_steps_in_log_snr(schedule):
    steps = grids.log_snr_steps(grids.log_snr(schedule, 12, **SPAN), schedule)
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-11)


def test_exponential_has_equal_ratios_of_noise_to_signal():
    values = ratio(Cosine(), grids.exponential(Cosine(), 12, **SPAN))
    expected = (values[-1] / values[0]) ** (1 / 12)
    np.testing.assert_allclose(values[1:] / values[:-1], expected, rtol=1e-11)


@every_schedule
@pytest.mark.parametrize("rho", [1.0, 7.0])
def test_karras_ratio_is_uniform_in_its_rho_th_root(schedule, rho):
    values = ratio(schedule, grids.karras(schedule, 10, **SPAN, rho=rho))
    high, low = values[0] ** (1 / rho), values[-1] ** (1 / rho)
    expected = [(high + i / 10 * (low - high)) ** rho for i in range(11)]  # EDM, eq. 5
    np.testing.assert_allclose(values, expected, rtol=1e-11)


def test_karras_approaches_exponential_as_rho_grows():
    exponential = grids.exponential(Linear(), 15, **SPAN)

    def difference(rho):
        return np.abs(grids.karras(Linear(), 15, **SPAN, rho=rho) - exponential).max()

    far, near = difference(1e3), difference(1e4)
    assert near < 1e-3
    assert far / near == pytest.approx(10, rel=0.01)  # the difference is O(1/rho)


def test_beta_one_one_is_uniform_in_noise_to_signal():
    # Beta(1, 1) is the uniform law.
    values = ratio(Linear(), grids.beta(Linear(), 10, **SPAN, alpha=1, beta=1))
    np.testing.assert_allclose(np.diff(values), (values[-1] - values[0]) / 10, rtol=1e-10)


def test_beta_puts_equal_probability_in_every_step():
    values = ratio(Linear(), grids.beta(Linear(), 5, **SPAN, alpha=2.0, beta=3.0))
    places = (values - values[-1]) / (values[0] - values[-1])

    def density(y):  # of Beta(2, 3)
        return 12 * y * (1 - y) ** 2

    ends = zip(places[:-1], places[1:], strict=True)
    masses = [integrate.quad(density, low, high)[0] for high, low in ends]
    np.testing.assert_allclose(masses, 0.2, rtol=1e-9)


def test_beta_below_one_gathers_steps_at_both_ends():
    values = ratio(Linear(), grids.beta(Linear(), 10, start=0.9, end=0.1))
    steps = -np.diff(values)
    assert steps[0] < steps[5]
    assert steps[-1] < steps[5]


def test_quadratic_is_uniform_in_the_square_root():
    root = np.sqrt(grids.quadratic(8, start=0.9, end=0.1))
    np.testing.assert_allclose(np.diff(root), (np.sqrt(0.1) - np.sqrt(0.9)) / 8, rtol=1e-12)


@pytest.mark.parametrize("steps", [2, 3, 8, 9])
def test_linear_quadratic_is_fine_steps_and_then_a_parabola(steps):
    grid, head = grids.linear_quadratic(steps), (steps + 1) // 2
    np.testing.assert_allclose(grid[:head], 1 - np.arange(head) / 999, rtol=1e-14)
    left = steps + 1 - head
    parabola = [(1 - head / 999) * (1 - (k / left) ** 2) for k in range(1, left + 1)]
    np.testing.assert_allclose(grid[head:], parabola, rtol=1e-13, atol=1e-16)


def test_linear_quadratic_scales_with_its_start():
    expected = 0.9 * grids.linear_quadratic(6)
    np.testing.assert_allclose(grids.linear_quadratic(6, start=0.9), expected, rtol=1e-15)


# The check


def test_check_accepts_lists_and_both_directions():
    for grid in ([1, 0.5, 0], [0, 0.5, 1]):
        checked = grids.check(grid, "here")
        assert checked.dtype == np.float64 and checked.tolist() == grid


BAD_GRIDS = {
    # Shapes
    "scalar": (0.5, r"shape \(\).*grids\.uniform"),
    "one time": ([1.0], r"shape \(1,\)"),
    "matrix": ([[1.0, 0.0]], r"shape \(1, 2\)"),
    # Times outside [0, 1]
    "labels": ([1000, 500, 0], r"time 0 of the grid is 1000, outside \[0, 1\].*divide"),
    "negative": ([1.0, -0.1], r"time 1 of the grid is -0\.1, outside"),
    "nan": ([1.0, np.nan, 0.0], r"time 1 of the grid is nan"),
    # Steps of no length, or of the other direction
    "repeat": ([1.0, 0.5, 0.5, 0.0], r"not strictly monotone: times 1 and 2 are 0\.5 and 0\.5"),
    "repeat at the start": ([0.5, 0.5, 0.0], r"times 0 and 1"),
    "turn": ([1.0, 0.5, 0.7, 0.0], r"times 1 and 2 are 0\.5 and 0\.7"),
    "turn of an increasing grid": ([0.0, 0.5, 0.7, 0.6], r"times 2 and 3 are 0\.7 and 0\.6"),
    # No times at all
    "schedule": (Linear(), r"the schedule Linear\(\) stands in the place of the grid"),
    "string": ("uniform", r"the grid is 'uniform'; wanted a vector of two or more times"),
    "ragged": ([[1.0, 0.5], [0.0]], r"the grid is a list; wanted a vector of two or more times"),
    "nothing": (None, r"shape \(\)"),
}


@pytest.mark.parametrize(("grid", "message"), BAD_GRIDS.values(), ids=BAD_GRIDS)
def test_bad_grid_is_refused(grid, message):
    with pytest.raises(ValueError, match="^here: .*" + message):
        grids.check(grid, "here")


def test_increasing_grid_is_refused_where_only_sampling_is_meant():
    with pytest.raises(ValueError, match=r"^here: the grid increases from 0 to 1; .*grid\[::-1\]"):
        grids.check([0, 1], "here", decreasing=True)


MISTAKES = {
    # The number of steps
    "no steps": (lambda: grids.uniform(0), r"grids\.uniform: steps=0; wanted .* at least 1"),
    "fraction of a step": (
        lambda: grids.uniform(2.5),
        r"grids\.uniform: steps=2\.5; wanted a whole number",
    ),
    "steps as a float": (
        lambda: grids.uniform(20.0),
        r"grids\.uniform: steps=20\.0; .* at least 1, for example 20 instead of 20\.0",
    ),
    "steps as a string": (
        lambda: grids.uniform("20"),
        r"grids\.uniform: steps='20'; wanted a whole number of at least 1, not a string",
    ),
    "steps as a float, log-SNR": (
        lambda: grids.log_snr(Linear(), 5.0, **SPAN),
        r"grids\.log_snr: steps=5\.0; wanted a whole number",
    ),
    "steps as a string, quadratic": (
        lambda: grids.quadratic("5"),
        r"grids\.quadratic: steps='5'; wanted a whole number",
    ),
    "one linear-quadratic step": (
        lambda: grids.linear_quadratic(1),
        r"grids\.linear_quadratic: steps=1; wanted a whole number of at least 2",
    ),
    # The schedule
    "steps before the schedule": (
        lambda: grids.karras(5, Linear(), **SPAN),
        r"grids\.karras: the schedule is 5; wanted a schedule such as flowjax\.Linear\(\)",
    ),
    "class of a schedule": (
        lambda: grids.beta(Linear, 5, **SPAN),
        r"grids\.beta: the schedule is the class Linear; wanted an object of it",
    ),
    # The ends
    "from data to noise": (
        lambda: grids.uniform(5, start=0.0, end=1.0),
        r"grids\.uniform: start=0\.0, end=1\.0; .* reverse the grid: grid\[::-1\]",
    ),
    "ends swapped": (
        lambda: grids.uniform(5, start=0.1, end=0.9),
        r"grids\.uniform: start=0\.1, end=0\.9; wanted",
    ),
    # The shift, and other numbers that must be positive
    "shift below zero": (
        lambda: grids.uniform(5, shift=-3.0),
        r"grids\.uniform: shift=-3\.0; wanted a positive number",
    ),
    "shift of the uniform grid nan": (
        lambda: grids.uniform(5, shift=np.nan),
        r"grids\.uniform: shift=nan; wanted a positive number",
    ),
    "shift as a string": (
        lambda: grids.shifted([1, 0], "3"),
        r"grids\.shifted: shift='3'; wanted a positive number",
    ),
    "karras rho nan": (
        lambda: grids.karras(Linear(), 5, **SPAN, rho=np.nan),
        r"grids\.karras: rho=nan; wanted a positive number",
    ),
    "start beyond noise": (
        lambda: grids.uniform(5, start=1.5),
        r"grids\.uniform: start=1\.5.*wanted",
    ),
    "shift zero": (
        lambda: grids.uniform(5, shift=0),
        r"grids\.uniform: shift=0; wanted a positive number",
    ),
    "shift nan": (lambda: grids.shifted([1, 0], np.nan), r"grids\.shifted: shift=nan; wanted"),
    "shift inf": (lambda: grids.shifted([1, 0], np.inf), r"grids\.shifted: shift=inf; wanted"),
    "quadratic ends": (
        lambda: grids.quadratic(5, end=-0.1),
        r"grids\.quadratic: .*end=-0\.1; wanted",
    ),
    # Ends with infinite log-SNR
    "infinite end": (
        lambda: grids.log_snr(Linear(), 5, start=0.9, end=0.0),
        r"grids\.log_snr: log-SNR is infinite at t = 0; .*jump=True",
    ),
    "infinite start": (
        lambda: grids.karras(Cosine(), 5, start=1.0, end=0.1),
        r"grids\.karras: log-SNR is infinite at t = 1; .*start=0\.999",
    ),
    "jump alone": (
        lambda: grids.beta(Linear(), 1, **SPAN, jump=True),
        r"grids\.beta: steps=1; wanted .* at least 2",
    ),
    "karras rho": (
        lambda: grids.karras(Linear(), 5, **SPAN, rho=0),
        r"grids\.karras: rho=0; wanted",
    ),
    "beta shape": (
        lambda: grids.beta(Linear(), 5, **SPAN, alpha=0),
        r"grids\.beta: alpha=0, beta=0\.6; wanted",
    ),
    # Grids of their own
    "stretch place": (
        lambda: grids.stretched(grids.uniform(5), 1.0),
        r"grids\.stretched: last=1\.0.*wanted",
    ),
    "stretch end": (
        lambda: grids.stretched([1, 0.5, 0.1], 0.2),
        r"grids\.stretched: .*ends at 0\.1; wanted",
    ),
    "stretch of a grid that rises": (
        lambda: grids.stretched([0.5, 1, 0], 0.1),
        r"grids\.stretched: the grid increases from 0\.5 to 1",
    ),
    "stretch of a number": (
        lambda: grids.stretched(0.5, 0.1),
        r"grids\.stretched: the grid has shape \(\); wanted",
    ),
    "stretch of one step": (
        lambda: grids.stretched([1, 0], 0.1),
        r"grids\.stretched: .* 2 times .*two or more steps",
    ),
    "dynamic shift of one anchor": (
        lambda: grids.dynamic_shift(1024, base=256, most=256),
        r"grids\.dynamic_shift: base=256, most=256; wanted two different",
    ),
    "fine": (
        lambda: grids.linear_quadratic(10, fine=10),
        r"grids\.linear_quadratic: fine=10 .* 11 times",
    ),
    "fine as a float": (
        lambda: grids.linear_quadratic(4, fine=10.5),
        r"grids\.linear_quadratic: fine=10\.5 with steps=4; wanted a whole number of at least",
    ),
    "start": (
        lambda: grids.linear_quadratic(10, start=2.0),
        r"grids\.linear_quadratic: start=2\.0.*wanted",
    ),
}


@pytest.mark.parametrize(("call", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_refused_by_name_with_a_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()
