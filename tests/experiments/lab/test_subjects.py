"""Fields by name, fields of one's own, and names that are refused."""

import sys

import numpy as np
import pytest

from experiments.lab import subjects
from flowjax import Cosine, fields

MODULE = """
from flowjax import fields

def wide(schedule):
    return fields.ring(schedule, std=0.9)

def bare(schedule):
    return object()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_fields.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield "own_fields"
    sys.modules.pop("own_fields", None)


def test_a_field_of_ones_own_is_the_field_that_its_function_makes(module):
    found = subjects.make_field(f"{module}:wide", Cosine())
    x = np.ones((2, 2))
    wanted = fields.ring(Cosine(), std=0.9).velocity(x, 0.4)
    np.testing.assert_array_equal(found.velocity(x, 0.4), wanted)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rung", "'rung' is not known; did you mean 'ring'"),
        ("mixture-x", "'mixture-x' is not known"),
        ("mixture-0", "'mixture-0' is not known"),
        ("own_fields:bare", "returned a object without velocity, schedule, nearest, means"),
        ("own_fields:none", "'own_fields' has no 'none'"),
    ],
)
def test_what_is_no_field_is_refused_in_a_sentence(module, name, message):
    with pytest.raises(ValueError, match=f"^--config.fields: .*{message}"):
        subjects.check_fields("fields", (name,))


def test_a_network_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="networks: 'nonesuch'"):
        subjects.check_networks("networks", ("digits", "nonesuch"))
