"""The questions on tolerances and guidance: their statistics on known cases, and that they say what their rows say."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from configs import order
from experiments.benchmarks import adaptive as bench_adaptive
from experiments.order import guided, lab, tolerance
from flowjax import guidance

TINY = dataclasses.replace(
    order.get_config("quick"), seeds=2, samples=4, fields=("ring",), cause_fields=("ring",), shifts=(1.0,), nfe=(5, 10),
    tolerances=(0.2, 0.05), batches=(1, 4), scales=(1.0, 4.0), reference_steps=40,
)  # fmt: skip


def test_the_front_keeps_what_no_cheaper_point_beats():
    points = [
        {"nfe": n, "rms": e} for n, e in ((10, 1.0), (20, 2.0), (40, 0.25), (40, 0.5), (80, 0.25))
    ]
    assert [(p["nfe"], p["rms"]) for p in tolerance.front(points)] == [(10, 1.0), (40, 0.25)]
    assert tolerance.error_at(points, 20) == pytest.approx(0.5)  # half way in log-log
    assert np.isnan(tolerance.error_at(points, 5))


@pytest.mark.parametrize(
    ("atol", "rtol", "line"), [(1, 2, "atol < rtol"), (1, 1, "atol = rtol"), (2, 1, "atol > rtol")]
)
def test_lines_of_the_map(atol, rtol, line):
    assert tolerance.line_of({"atol": atol, "rtol": rtol}) == line


def test_the_tolerances_on_the_front_have_no_excess():
    row = {
        "part": "map", "method": "order 2",
        "cells": [{"atol": a, "rtol": a, "nfe": 10 / a, "rms": a} for a in (1.0, 0.5, 0.25)]
        + [{"atol": 1.0, "rtol": 0.5, "nfe": 20.0, "rms": 1.5}],
    }  # fmt: skip
    found = {t["line"]: t["excess"] for t in tolerance.excess([row])}
    assert found == {"atol = rtol": pytest.approx(1.0), "atol > rtol": pytest.approx(3.0)}


def test_a_batch_with_own_steps_computes_what_its_slowest_sample_needs():
    field = lab.make_field("ring")
    noise = flowjax.draw_noise(tolerance.jax.random.key(0), np.arange(8), (2,))
    at = tolerance.tolerance_of(*tolerance.PUBLIC)
    _, status, own = tolerance.adaptive(field, noise[None], at, "order 2")
    assert not np.any(status)
    assert np.all(own.computed == jnp.max(own.nfe))
    _, _, locked = tolerance.adaptive(field, noise[None], at, "order 2", lockstep=True)
    assert len(np.unique(locked.nfe)) == 1 and locked.nfe.min() >= own.nfe.mean()


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("t", [0.0, 0.4, 1.0])
def test_the_guided_field_is_the_formula_of_guidance(scale, t):
    field = guided.make("ring", scale)
    x = np.random.default_rng(0).standard_normal((5, 2))
    all_, some = field.field.velocity(x, t), field.conditional.velocity(x, t)
    np.testing.assert_allclose(
        field.velocity(x, t), all_ + scale * (some - all_), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        field.data(x, t), x - t * field.velocity(x, t), rtol=1e-12, atol=1e-12
    )


def test_all_scales_share_a_program():
    traces = []

    @guided.jax.jit
    def velocity(field, x):
        traces.append(1)
        return field.velocity(x, 0.5)

    x = np.ones((2, 2))
    found = [np.asarray(velocity(guided.make("ring", scale), x)) for scale in (1.0, 1.5, 7.0)]
    assert len(traces) == 1
    assert not np.allclose(found[0], found[2])


def test_scale_one_is_the_conditional_field():
    field = guided.make("mixture-2", 1.0)
    x = np.random.default_rng(0).standard_normal((5, 2))
    alone = guidance.combine(field.conditional.velocity, field.field.velocity, 1.0)(x, 0.3)
    np.testing.assert_array_equal(field.velocity(x, 0.3), alone)


def test_evaluations_of_an_explicit_solver_are_six_a_step_and_one():
    pytest.importorskip("diffrax")
    solve, field = bench_adaptive._theirs("Tsit5"), lab.make_field("ring")
    noise = flowjax.draw_noise(tolerance.jax.random.key(0), np.arange(2), (2,))
    _, counts = solve(field, noise, jnp.asarray(1e-2))
    assert bench_adaptive.evaluations(solve, field, noise, jnp.asarray(1e-2)) == np.mean(counts)


def test_the_loosest_tolerance_that_is_good_enough_is_taken():
    noise = jnp.ones((3, 2))
    found = bench_adaptive.calibrate(
        lambda field, x, tol: (x * (1 + 1.5 * tol), jnp.ones(3)), None, noise, np.ones((3, 2))
    )
    good = [t for t in bench_adaptive.LADDER if 1.5 * t < bench_adaptive.GOAL]
    assert found[0] == good[0] and found[1] == pytest.approx(1.5 * good[0])


def _found(scale, number, side="", grid="shift 1"):
    return {
        "field": "ring",
        "grid": grid,
        "scale": scale,
        "pair": "a below b",
        "N*": number,
        "side": side,
    }


def test_moves_count_bounds_as_what_they_say():
    found = [
        _found(1.0, 10),
        _found(7.0, 20),
        _found(1.0, 5, "below", "x"),
        _found(7.0, 40, "above", "x"),
    ]
    assert guided.moved(found, 7.0, "a below b") == (2, 0, 0)
    found = [
        _found(1.0, 40, "above"),
        _found(7.0, 40, "above"),
        _found(1.0, 9, "", "x"),
        _found(7.0, 8, "", "x"),
    ]
    assert guided.moved(found, 7.0, "a below b") == (0, 1, 1)


def test_the_middle_of_bounds_and_numbers():
    found = [_found(1.0, 40, "above"), _found(1.0, 5, "below"), _found(1.0, 12)]
    assert guided.middle(found) == (12, "")
    assert guided.middle(found[:1] * 2 + found[1:]) == (
        12,
        "",
    )  # of four, the lower of the middle two


@pytest.mark.parametrize("module", [tolerance, guided], ids=lambda m: m.QUESTION)
def test_a_tiny_run_from_cells_to_section(module):
    todo = module.cells(TINY)
    rows = [{**key, **values} for key, values in module.measure(TINY, todo)]
    assert sorted(map(str, todo)) == sorted(
        str({k: r[k] for k in key}) for key, r in zip(_keys(rows, todo), rows)
    )
    section = module.section(json.loads(json.dumps(rows)), "command")
    assert section.expected and section.answer and section.figures and section.table
    assert "nan" not in section.answer


def _keys(rows, todo):
    """The key of each row, among those asked for."""
    return [next(key for key in todo if key.items() <= row.items()) for row in rows]
