"""The parts of a layer: each has its operations, and the table shows rates over the peak."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import bench_parts
from experiments.benchmarks import parts

SIZES = parts.Sizes(2, 8, 32, 2)


@pytest.mark.parametrize("dtype", parts.DTYPES)
def test_every_part_has_its_operations_and_answers(dtype):
    calls = parts.in_jax(SIZES, dtype)
    assert list(calls) == list(parts.operations(SIZES))
    for call in calls.values():
        assert all(
            np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(call())
        )


def test_operations_are_two_for_each_number_of_a_product_and_of_its_sum():
    counts = parts.operations(SIZES)
    rows = SIZES.sequences * SIZES.tokens
    assert counts["query, key, value"] == 3 * 2 * rows * SIZES.width * SIZES.width
    products = 2 * SIZES.sequences * SIZES.tokens * SIZES.tokens * SIZES.width
    assert counts["attention"] == 2 * products


def test_the_table_has_the_rate_over_the_peak_of_the_same_library():
    case = {"dtype": "float32", "sequences": 2, "library": "JAX", "device": "CPU", "load": 0.5}
    rows = [
        {**case, "part": parts.PEAK, "seconds": 1e-3, "operations": 10**8},
        {**case, "part": "attention", "seconds": 2e-3, "operations": 10**8},
        {**case, "part": "softmax", "seconds": 5e-3, "operations": 0},
    ]
    text = parts.markdown(rows, "the command")
    assert "| float32, 2 | matmul peak | 1 (100 GFLOP/s) |" in text
    assert "| float32, 2 | attention | 2 (0.50) |" in text
    assert "| float32, 2 | softmax | 5 |" in text


def test_an_unknown_dtype_is_refused(tmp_path):
    config = dataclasses.replace(bench_parts.get_config("quick"), dtypes=("float8",))
    with pytest.raises(ValueError, match="dtypes='float8'"):
        parts.run(config, tmp_path)
    assert list(tmp_path.iterdir()) == []
