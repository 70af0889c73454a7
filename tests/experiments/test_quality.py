"""The quality experiment on an untrained network: its numbers are those of a hand count."""

import base64
import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from configs.quality import Config, get_config
from experiments import quality
from experiments.quality import judges, measure
from flowjax import models, plans, records

TINY = dataclasses.replace(get_config("quick"), samples=20, scales=(1.0, 4.0), nfe=3, batch=20)


@pytest.fixture(scope="module")
def network():
    """A small network of random weights in the place of the shipped digits."""
    config = models.preset("digits", patch=4, width=16, depth=1, heads=2)
    model = models.init(config, jax.random.key(0))
    # At its own start a network returns zeros, so every parameter is moved.
    leaves, tree = jax.tree.flatten(model.params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    drawn = [
        leaf + 0.2 * jax.random.normal(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return model._replace(params=jax.tree.unflatten(tree, drawn))


@pytest.fixture(scope="module")
def workdir(network, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judges, "load", lambda name: network)
        made = tmp_path_factory.mktemp("quality")
        quality.run(TINY, made)
        return made


def test_the_judge_knows_digits_that_it_has_not_seen():
    found = judges.judge("digits")
    assert np.mean(found.correct(found.images[found.unseen], found.labels[found.unseen])) > 0.97
    assert found.features(found.images[:5]).shape == (5, 64)


def test_features_are_the_hidden_layer_of_the_network():
    found = judges.judge("digits")
    hidden = found.network[-1]
    # From the features on, the network's own output layer must predict the same classes.
    scores = found.features(found.images) @ hidden.coefs_[1] + hidden.intercepts_[1]
    predicted = found.network.predict(found.images.reshape(len(found.images), -1))
    np.testing.assert_array_equal(np.argmax(scores, axis=1), predicted)


def test_faint_noise_moves_features_little():
    # Three pixels of the digits are always black, and a network's samples are not so exact.
    found = judges.judge("digits")
    noise = 0.05 * np.random.default_rng(0).standard_normal(found.images.shape)
    plain = found.features(found.images)
    noisy = found.features(found.images + noise)
    assert np.sqrt(np.mean((noisy - plain) ** 2)) < 0.3 * np.std(plain)


def test_neighbours_by_hand():
    images = np.array([0.0, 1.0, 4.0]).reshape(3, 1, 1, 1)
    samples = np.array([0.1, 3.0]).reshape(2, 1, 1, 1)
    first, second, index = judges.neighbours(samples, images)
    np.testing.assert_allclose([first, second], [[0.1, 1.0], [0.9, 2.0]])
    assert index.tolist() == [0, 2]
    assert judges.copies(first, second).tolist() == [True, False]
    # The images among themselves, each without itself.
    first, _, index = judges.neighbours(images, images, np.arange(3))
    np.testing.assert_allclose(first, [1, 1, 3])
    assert index.tolist() == [1, 0, 1]


def test_a_sample_does_not_depend_on_its_batch(network):
    labels, plan = np.arange(7, dtype=np.int32), plans.euler(np.linspace(1, 0, 4))
    together = measure.draw(network, labels, 4.0, 0, plan, 20)
    in_parts = measure.draw(network, labels, 4.0, 0, plan, 3)
    np.testing.assert_allclose(together, in_parts, atol=1e-10)


def test_a_network_without_a_null_label_is_drawn_at_scale_1_alone(network, monkeypatch):
    sizes = dataclasses.replace(network.card.config, has_null=False)
    table = {"embedding": network.params["labels"]["embedding"][:-1]}
    card = dataclasses.replace(network.card, config=sizes)
    without = models.model(card, network.params | {"labels": table})
    labels, plan = np.arange(7, dtype=np.int32), plans.euler(np.linspace(1, 0, 4))
    found = measure.draw(without, labels, 1.0, 0, plan, 20)
    wanted = measure.draw(network, labels, 1.0, 0, plan, 20)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)

    # Another scale is refused before anything is drawn.
    with pytest.raises(ValueError, match="trained without a null label"):
        measure.draw(without, labels, 4.0, 0, plan, 20)
    monkeypatch.setattr(judges, "load", lambda name: without)
    measure.check(dataclasses.replace(TINY, networks=("digits",), scales=(1.0,)))
    with pytest.raises(ValueError, match="trained without a null label"):
        measure.check(dataclasses.replace(TINY, networks=("digits",)))


def test_the_grid_of_the_page_is_the_drawn_samples(workdir, network):
    row = next(r for r in records.read(workdir) if r["part"] == "samples")
    with Image.open(io.BytesIO(base64.b64decode(row["grid"]))) as image:
        shown = np.asarray(image)
    labels = np.arange(20, dtype=np.int32) % 10
    make_grid = measure.solvers.shifted(1.0)
    plan = measure.solvers.plan_of("AB2", network.card.schedule, make_grid, 3)
    first = measure.draw(network, labels, 1.0, 0, plan, 20)[0]
    wanted = np.rint(255 * np.clip(first[0, 0, 0] / 2 + 0.5, 0, 1))
    assert shown[0, 0, 0] == wanted


def test_rows_page_and_metrics_say_the_same(workdir):
    page, card = quality.make_report(workdir)
    rows = records.read(workdir)
    assert [r["part"] for r in rows] == ["data", "samples", "samples"]
    with open(card, encoding="utf-8") as file:
        found = json.load(file)
    assert found["samples"]["4"]["accuracy"] == rows[2]["accuracy"]
    # An untrained network is far from the data.
    assert found["data"]["frechet"] == rows[0]["frechet"] < rows[1]["frechet"]
    with open(page, encoding="utf-8") as file:
        text = file.read()
    assert "Frechet distance" in text and "FID" not in text
    assert text.count("data:image/png;base64,") == 3


def test_bad_input_is_refused_by_name(tmp_path):
    for change, text in (
        ({"solver": "Eulr"}, "solver: 'Eulr' is not known; did you mean 'Euler'"),
        ({"samples": 1}, "samples=1"),
        ({"samples": 9}, "10 classes of digits"),
        ({"reference": 1790}, "1797 images of digits"),
        ({"networks": ("digit",)}, "digit"),
    ):
        with pytest.raises(ValueError, match=text):
            quality.run(dataclasses.replace(TINY, **change), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_floor_fits_the_data_in_full():
    quality.check(Config())
