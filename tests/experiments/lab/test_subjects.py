"""Fields by name, fields of one's own, and names that are refused."""

import sys

import jax
import numpy as np
import pytest

from configs.tune import Config
from experiments.lab import subjects
from experiments.tune import subject as tuned
from flowjax import Cosine, fields, models

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


@pytest.mark.parametrize("clock_scale", [1.0, 0.1])
def test_a_network_as_a_field_keeps_the_factor_of_its_clock(tmp_path, clock_scale):
    sizes = models.DiTConfig((4, 4), channels=1, patch=2, width=8, depth=1, heads=2, classes=3)
    model = models.init(sizes, jax.random.key(0), clock_scale=clock_scale)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: leaf + np.float32(0.3 * random.normal(size=leaf.shape)), model.params
    )
    model = model._replace(params=params)
    models.save(tmp_path / "net", model, dtype="float32")
    x = random.normal(size=(3, 4, 4, 1)).astype(np.float32)
    wanted = model.apply(params, x, 0.4, np.arange(3))
    fields_of_it = (
        subjects.make_network(str(tmp_path / "net"), 1.0, 3),
        tuned.subject(Config(), str(tmp_path / "net")).bound(3),
    )
    for found in fields_of_it:
        np.testing.assert_allclose(found.velocity(x, 0.4), wanted, rtol=1e-4, atol=1e-5)
    # The factor acts.
    other = model.card.velocity(params, x, 0.4, np.arange(3))
    plain = models.Card("plain", sizes).velocity(params, x, 0.4, np.arange(3))
    assert (np.max(np.abs(other - plain)) > 1e-2) == (clock_scale != 1)
