"""Mistakes in the options of error-controlled sampling are refused in words, with a way out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from flowjax.adaptive import Tolerance, sample_adaptive, sample_adaptive_many

LOOSE = Tolerance(1e-3, 1e-2)


def options(**changes):
    """A call of `sample_adaptive` that works, with changes."""
    working = {
        "model": lambda x, t: x,
        "noise": jnp.zeros((4, 4)),
        "schedule": flowjax.Linear(),
        "tolerance": LOOSE,
        "order": 3,
        "span": (1.0, 0.0),
        "max_evaluations": 100,
    }
    return working | changes


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"tolerance": Tolerance(0.0, 0.0)}, "atol=0 and rtol=0"),
        ({"tolerance": Tolerance(-1e-3, 1e-2)}, "atol=-0.001"),
        ({"model": "a"}, r"model must be a function \(x, t\) -> velocity; a str"),
        ({"order": 5}, r"order=5 of method='dpm_solver_pp'"),
        ({"order": 1}, "wanted one of"),
        ({"method": "dpm_solver_p"}, "did you mean 'dpm_solver_pp'"),
        ({"controller": "peer"}, "did you mean 'peers'"),
        ({"controller": "peers"}, "cannot reach an infinite log-SNR"),
        ({"span": (1.5, 0.0)}, "two different times in"),
        ({"span": (0.5, 0.5)}, "two different times in"),
        ({"max_evaluations": 3}, "order 3 take 5"),
        ({"noise": jnp.zeros(4)}, r"shape \(4,\)"),
        ({"axis_name": "data"}, "without lockstep=True"),
        ({"model": lambda x, t: x[:, :2]}, r"returned shape \(4, 2\)"),
        (
            {"model": lambda x, t, carry: (x, carry), "carry": jnp.zeros(3)},
            "leading axis B",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_a_way_out(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample_adaptive(**options(**change))


@pytest.mark.parametrize("tolerance", [1e-3, jnp.float32(1e-3), None, (1e-3,), (1, 2, 3), "ab"])
def test_a_tolerance_that_is_no_pair_of_numbers_is_refused(tolerance):
    with pytest.raises(ValueError, match=r"tolerance=.*wanted Tolerance\(atol, rtol\)"):
        sample_adaptive(**options(tolerance=tolerance))


def test_a_traced_number_as_tolerance_is_refused():
    with pytest.raises(ValueError, match=r"wanted Tolerance\(atol, rtol\)"):
        jax.jit(lambda tolerance: sample_adaptive(**options(tolerance=tolerance)))(1e-3)


def test_an_array_of_tolerances_is_refused():
    tolerance = Tolerance(np.full(1, 1e-3), 1e-2)
    with pytest.raises(ValueError, match=r"shapes \(1,\) and \(\)"):
        sample_adaptive(**options(tolerance=tolerance))


@pytest.mark.parametrize(
    ("tolerance", "span"),
    [((1.0, 0.0), LOOSE), ((1.0, 0.0), (1e-3, 1e-2)), (LOOSE, LOOSE)],
)
def test_span_and_tolerance_that_are_swapped_are_refused(tolerance, span):
    with pytest.raises(ValueError, match=r"look swapped; wanted.*span=\(1.0, 0.0\)"):
        sample_adaptive(**options(tolerance=tolerance, span=span))


@pytest.mark.parametrize("tolerance", [(1e-3, 1e-2), [1e-3, 0.0], np.array([1e-3, 1e-2])])
def test_a_plain_pair_is_a_tolerance(tolerance):
    found = jax.eval_shape(lambda: sample_adaptive(**options(tolerance=tolerance)))
    assert found.x.shape == (4, 4)


@pytest.mark.parametrize("order", ["2", 2.0, True, None])
def test_an_order_that_is_no_whole_number_is_refused(order):
    with pytest.raises(ValueError, match=rf"order={order!r} has type.*whole numbers \(2, 3\)"):
        sample_adaptive(**options(order=order))


@pytest.mark.parametrize("schedule", [LOOSE, flowjax.Linear, "linear", None])
def test_what_is_no_schedule_is_refused(schedule):
    with pytest.raises(ValueError, match=r"wanted the schedule of the path.*flowjax.Linear\(\)"):
        sample_adaptive(**options(schedule=schedule))


@pytest.mark.parametrize("count", ["100", None, np.inf, np.nan, 100.5, True])
def test_evaluations_that_are_no_whole_number_are_refused(count):
    with pytest.raises(ValueError, match="max_evaluations=.*whole number of at least 5"):
        sample_adaptive(**options(max_evaluations=count))


def test_a_misspelt_method_is_refused_with_all_methods():
    with pytest.raises(ValueError, match="'dpm_solver_pp', 'dpm_solver', 'runge_kutta'"):
        sample_adaptive(**options(method="dpmsolver++"))


@pytest.mark.parametrize("lanes", [5, 0, 2.0, "2", True])
def test_numbers_of_lanes_that_samples_cannot_fill_are_refused(lanes):
    with pytest.raises(ValueError, match=f"lanes={lanes!r} for 4 samples"):
        sample_adaptive_many(**options(model=lambda x, t, ids: x, lanes=lanes))
