"""The question on tolerances: its statistics on known cases, batches, and a small run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flowjax
from configs.order import get_config
from experiments.benchmarks import adaptive as bench_adaptive
from experiments.lab import subjects
from experiments.order import guided, tolerance
from experiments.order.tolerance import numbers

TINY = dataclasses.replace(
    get_config("quick"),
    seeds=2,
    samples=4,
    fields=("ring",),
    cause_fields=("ring",),
    shifts=(1.0,),
    nfe=(5, 10),
    tolerances=(0.2, 0.05),
    batches=(1, 4),
    scales=(1.0, 4.0),
    reference_steps=40,
)


# ---- what the maps show


def test_the_front_keeps_what_no_cheaper_point_beats():
    points = [
        {"nfe": n, "rms": e} for n, e in ((10, 1.0), (20, 2.0), (40, 0.25), (40, 0.5), (80, 0.25))
    ]
    front = [(p["nfe"], p["rms"]) for p in numbers.front(points)]
    assert front == [(10, 1.0), (40, 0.25)]
    assert numbers.error_at(points, 20) == pytest.approx(0.5)  # half way in log-log
    assert np.isnan(numbers.error_at(points, 5))


@pytest.mark.parametrize(
    ("atol", "rtol", "line"), [(1, 2, "atol < rtol"), (1, 1, "atol = rtol"), (2, 1, "atol > rtol")]
)
def test_lines_of_the_map(atol, rtol, line):
    assert numbers.line_of({"atol": atol, "rtol": rtol}) == line


def test_the_tolerances_on_the_front_have_no_excess():
    on_front = [{"atol": a, "rtol": a, "nfe": 10 / a, "rms": a} for a in (1.0, 0.5, 0.25)]
    above = {"atol": 1.0, "rtol": 0.5, "nfe": 20.0, "rms": 1.5}
    row = {"part": "map", "method": "order 2", "cells": [*on_front, above]}
    found = {line["line"]: line["excess"] for line in numbers.excess([row])}
    assert found == {"atol = rtol": pytest.approx(1.0), "atol > rtol": pytest.approx(3.0)}


# ---- batches


def test_a_batch_with_own_steps_computes_what_its_slowest_sample_needs():
    field = subjects.make_field("ring")
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(8), (2,))
    at = numbers.tolerance_of(*numbers.PUBLIC)
    _, status, own = numbers.adaptive(field, noise[None], at, "order 2")
    assert not np.any(status)
    assert np.all(own.computed == jnp.max(own.nfe))
    _, _, locked = numbers.adaptive(field, noise[None], at, "order 2", lockstep=True)
    assert len(np.unique(locked.nfe)) == 1
    assert locked.nfe.min() >= own.nfe.mean()


# ---- the benchmark of adaptive solvers


def test_evaluations_of_an_explicit_solver_are_six_a_step_and_one():
    pytest.importorskip("diffrax")
    solve, field = bench_adaptive._theirs("Tsit5"), subjects.make_field("ring")
    noise = flowjax.draw_noise(jax.random.key(0), np.arange(2), (2,))
    at = jnp.asarray(1e-2)
    _, counts = solve(field, noise, at)
    assert bench_adaptive.evaluations(solve, field, noise, at) == np.mean(counts)


def test_the_loosest_tolerance_that_is_good_enough_is_taken():
    def solve(field, x, tolerance):
        """An error of 1.5 tolerances."""
        return x * (1 + 1.5 * tolerance), jnp.ones(3)

    found = bench_adaptive.calibrate(solve, None, jnp.ones((3, 2)), np.ones((3, 2)))
    good = [t for t in bench_adaptive.LADDER if 1.5 * t < bench_adaptive.GOAL]
    assert found[0] == good[0] and found[1] == pytest.approx(1.5 * good[0])


# ---- small runs


@pytest.mark.parametrize("module", [tolerance, guided], ids=lambda module: module.QUESTION)
def test_a_tiny_run_from_cells_to_section(module):
    todo = module.cells(TINY)
    rows = [{**key, **values} for key, values in module.measure(TINY, todo)]
    # Each row has the key of one cell, and each cell has a row.
    keys = [next(key for key in todo if key.items() <= row.items()) for row in rows]
    assert sorted(map(str, todo)) == sorted(map(str, keys))
    # Rows are read from a file, so the section must do with what JSON keeps.
    section = module.section(json.loads(json.dumps(rows)), "command")
    assert section.expected and section.answer and section.figures and section.table
    assert "nan" not in section.answer
