"""Networks of our own: what is saved is loaded, and broken folders are refused."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowjax import models
from flowjax.models.weights import own
from flowjax.schedules import Cosine, Linear, VPDiscrete, VPLinear

SMALL = models.DiTConfig(
    (4, 6), channels=1, patch=2, width=8, depth=2, heads=2, classes=3, dtype="bfloat16"
)


def small(**card):
    """A model of random parameters, with these fields of its card."""
    shapes = models.network(SMALL).shapes()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), "float32"), shapes)
    return models.model(models.Card("small", SMALL, **card), params)


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


CARDS = [
    {},  # the defaults
    {"schedule": Cosine(), "prediction": "v"},
    {"schedule": VPLinear(0.2, 10.0), "prediction": "data", "clock": "1 - t"},
    {
        "schedule": VPDiscrete.scaled_linear(50, log_snr_min=None),
        "prediction": "noise",
        "clock": "index",
        "details": {"steps": 7, "loss": [1.5, 0.25]},
        "scheduler": {"_class_name": "DDIMScheduler"},
    },
]


def without_schedule(card):
    """Schedules with arrays cannot be compared by ==."""
    return dataclasses.replace(card, schedule=Linear())


@pytest.mark.parametrize("card", CARDS)
def test_what_is_saved_is_loaded(tmp_path, card):
    model = small(**card)
    models.save(tmp_path / "net", model, dtype="float32")
    models.save(tmp_path / "net", model, dtype="float32")  # over the first
    loaded = models.load(tmp_path / "net")
    assert_same(loaded.params, model.params)
    assert without_schedule(loaded.card) == without_schedule(model.card)
    t = np.linspace(0, 1, 9)
    np.testing.assert_array_equal(loaded.card.schedule.log_snr(t), model.card.schedule.log_snr(t))


def test_float16_is_the_default(tmp_path):
    model = small()
    models.save(tmp_path, model)
    loaded = models.load(tmp_path, dtype="float32")
    # The stored parameters have 11 bits, and are loaded as float32.
    rounded = jax.tree.map(
        lambda a: np.asarray(a).astype("float16").astype("float32"), model.params
    )
    assert_same(loaded.params, rounded)
    assert loaded.card.config.dtype == "float32"


def test_numbers_beyond_float16_are_refused_and_leave_the_old_network(tmp_path):
    model = small()
    models.save(tmp_path, model)
    before = models.load(tmp_path).params
    # The largest float16 is 65504.
    large = model._replace(params=jax.tree.map(lambda a: 1e6 * a, model.params))
    message = "blocks.key.bias is not finite in float16"
    with pytest.raises(ValueError, match=message), np.errstate(over="ignore"):
        models.save(tmp_path, large)
    assert_same(models.load(tmp_path).params, before)


@pytest.mark.parametrize("text, message", [("{", "card.json is no JSON"), ("[]", "holds a list")])
def test_a_card_that_is_no_dictionary_is_refused(tmp_path, text, message):
    models.save(tmp_path, small())
    (tmp_path / own.CARD).write_text(text)
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        # Fields that are missing, unknown or of a wrong value, and sizes that contradict tensors.
        (lambda card: card.pop("schedule"), "card.json lacks 'schedule'"),
        (lambda card: card["schedule"].update(name="Quadratic"), "'Quadratic' is not known"),
        (lambda card: card.update(prediction="x"), "prediction='x'"),
        (lambda card: card.update(colour="red"), "colour"),
        (lambda card: card["config"].update(heads=3), "multiple of heads=3"),
        (lambda card: card["config"].update(depth=3), r"14 tensor\(s\) of .* do not fit"),
    ],
)
def test_broken_card_is_refused(tmp_path, change, message):
    models.save(tmp_path, small())
    path = tmp_path / own.CARD
    card = json.loads(path.read_text())
    change(card)
    path.write_text(json.dumps(card))
    with pytest.raises(ValueError, match=message):
        models.load(tmp_path)


def test_shipped_network_that_is_not_there_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(models.weights, "ASSETS", tmp_path)
    message = "the network 'digits' is not in this copy of flowjax"
    with pytest.raises(FileNotFoundError, match=message):
        models.load("digits")
    models.save(tmp_path / "digits", small())
    assert models.load("digits").card.name == "small"
