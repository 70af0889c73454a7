"""The quality experiment on an untrained network: its numbers are those of a hand count, and the data judges itself well."""

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
from flowjax import models, plans, records

TINY = dataclasses.replace(get_config("quick"), samples=20, scales=(1.0, 4.0), nfe=3, batch=20)


@pytest.fixture(scope="module")
def network():
    """A small network of random weights in the place of the shipped digits."""
    config = models.preset("digits", patch=4, width=16, depth=1, heads=2)
    model = models.init(config, jax.random.key(0))
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
        patch.setattr(quality, "load", lambda name: network)
        made = tmp_path_factory.mktemp("quality")
        quality.run(TINY, made)
        return made


def test_the_judge_knows_digits_that_it_has_not_seen():
    found = quality.judge("digits")
    assert np.mean(found.correct(found.images[found.unseen], found.labels[found.unseen])) > 0.97
    assert found.features(found.images[:5]).shape == (5, 64)


def test_features_are_the_hidden_layer_of_the_network():
    found = quality.judge("digits")
    hidden = found.network[-1]
    scores = found.features(found.images) @ hidden.coefs_[1] + hidden.intercepts_[1]
    predicted = found.network.predict(found.images.reshape(len(found.images), -1))
    np.testing.assert_array_equal(np.argmax(scores, axis=1), predicted)


def test_faint_noise_moves_features_little():
    found = quality.judge(
        "digits"
    )  # three pixels of the digits are always black, and a network's samples are not so exact
    noise = 0.05 * np.random.default_rng(0).standard_normal(found.images.shape)
    plain, noisy = (found.features(x) for x in (found.images, found.images + noise))
    assert np.sqrt(np.mean((noisy - plain) ** 2)) < 0.3 * np.std(plain)


def test_neighbours_by_hand():
    images = np.array([0.0, 1.0, 4.0]).reshape(3, 1, 1, 1)
    first, second, index = quality.neighbours(np.array([0.1, 3.0]).reshape(2, 1, 1, 1), images)
    np.testing.assert_allclose([first, second], [[0.1, 1.0], [0.9, 2.0]])
    assert index.tolist() == [0, 2]
    assert quality.copies(first, second).tolist() == [True, False]
    first, _, index = quality.neighbours(images, images, np.arange(3))
    np.testing.assert_allclose(first, [1, 1, 3])
    assert index.tolist() == [1, 0, 1]


def test_a_sample_does_not_depend_on_its_batch(network):
    labels, plan = np.arange(7, dtype=np.int32), plans.euler(np.linspace(1, 0, 4))
    whole = quality.draw(network, labels, 4.0, 0, plan, 20)
    parts = quality.draw(network, labels, 4.0, 0, plan, 3)
    np.testing.assert_allclose(whole, parts, atol=1e-10)


def test_the_grid_of_the_page_is_the_drawn_samples(workdir, network):
    row = next(r for r in records.read(workdir) if r["part"] == "samples")
    with Image.open(io.BytesIO(base64.b64decode(row["grid"]))) as image:
        shown = np.asarray(image)
    labels, plan = (
        np.arange(20, dtype=np.int32) % 10,
        quality.lab.plan_of("AB2", network.card.schedule, quality.lab.shifted(1.0), 3),
    )
    first = quality.draw(network, labels, 1.0, 0, plan, 20)[0]
    wanted = np.rint(255 * np.clip(first[0, 0, 0] / 2 + 0.5, 0, 1))
    assert shown[0, 0, 0] == wanted


def test_rows_page_and_metrics_say_the_same(workdir):
    page, card = quality.make_report(workdir)
    rows = records.read(workdir)
    assert [r["part"] for r in rows] == ["data", "samples", "samples"]
    with open(card, encoding="utf-8") as file:
        found = json.load(file)
    assert found["samples"]["4"]["accuracy"] == rows[2]["accuracy"]
    assert (
        found["data"]["frechet"] == rows[0]["frechet"] < rows[1]["frechet"]
    )  # an untrained network is far off
    with open(page, encoding="utf-8") as file:
        text = file.read()
    assert "Frechet distance" in text and "FID" not in text
    assert text.count("data:image/png;base64,") == 3


def test_bad_input_is_refused_by_name(tmp_path):
    for change, text in (
        ({"solver": "Eulr"}, "solver='Eulr'"),
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
