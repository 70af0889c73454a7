"""Files of text embeddings that cannot be read."""

import json

import numpy as np
import pytest
import safetensors.numpy

from experiments.cli import embeddings


class Card:
    """A network that takes embeddings of 24 numbers."""

    class config:
        caption = 24


GOOD = {
    "embeddings": np.zeros((3, 4, 24), np.float32),
    "mask": np.ones((3, 4), np.int32),
    "negative": np.zeros((1, 2, 24), np.float32),
    "negative_mask": np.ones(2, bool),
}
WORDS = ["a fox", "a house", "a tree"]


def saved(path, prompts=None, **changes):
    """A file with changed arrays; the prompts are an array, or the text in the metadata."""
    arrays = GOOD | changes
    if path.suffix == ".npz":
        np.savez(path, **arrays, **({} if prompts is None else {"prompts": prompts}))
    else:
        metadata = None if prompts is None else {"prompts": prompts}
        safetensors.numpy.save_file(arrays, path, metadata=metadata)
    return str(path)


def with_value(name, value):
    """The good array with one wrong number in it."""
    array = GOOD[name].astype(np.float64)
    array.flat[1] = value
    return {name: array}


def cut_short(path):
    with open(path, "wb") as handle:
        np.savez(handle, embeddings=np.zeros((3, 4, 24)))
    path.write_bytes(path.read_bytes()[:200])


def one_array(path):
    with open(path, "wb") as handle:
        np.save(handle, np.zeros((3, 4, 24)))


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut_short, one_array, empty])
@pytest.mark.parametrize("ending", embeddings.ENDINGS)
def test_a_damaged_file_is_named_in_a_sentence(tmp_path, damage, ending):
    path = tmp_path / f"texts{ending}"
    damage(path)
    with pytest.raises(ValueError, match=f"embeddings=.*texts{ending} cannot be read: "):
        embeddings.read(str(path), None)


@pytest.mark.parametrize("ending", embeddings.ENDINGS)
def test_the_good_file_is_read(tmp_path, ending):
    prompts = np.array(WORDS) if ending == ".npz" else json.dumps(WORDS)
    found = embeddings.read(saved(tmp_path / f"texts{ending}", prompts), Card)
    assert found.prompts == WORDS and found.condition.negative.shape == (3, 2, 24)
    assert all(array.dtype == np.float32 for array in found.condition if array is not None)


@pytest.mark.parametrize("ending", embeddings.ENDINGS)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embeddings": np.array(0.0)}, r"of shape \(\); wanted numbers of shape \(P, T, C\)"),
        ({"embeddings": np.zeros((0, 4, 24))}, r"shape \(0, 4, 24\).*no axis of length 0"),
        ({"mask": np.array(1)}, r"mask is int64 of shape \(\)"),
        ({"negative": np.array(0.0)}, r"shape \(T', C\) or \(1, T', C\)"),
        (
            with_value("embeddings", np.nan),
            "1 of the 288 numbers of embeddings.* nan; wanted finite",
        ),
        (with_value("negative", np.inf), "numbers of negative are wrong.* inf; wanted finite"),
        (with_value("embeddings", 1e300), "embeddings are wrong.* inf; wanted finite"),
        (with_value("mask", 7), "numbers of mask are wrong.* 7; wanted 1 where"),
        (with_value("negative_mask", np.nan), "negative_mask are wrong.* nan; wanted 1 where"),
    ],
)
def test_wrong_numbers_in_a_file_are_named_with_what_was_wanted(tmp_path, ending, changes, words):
    path = saved(tmp_path / f"texts{ending}", **changes)
    with pytest.raises(ValueError, match=f"embeddings={path}: .*{words}"):
        embeddings.read(path, Card)


@pytest.mark.parametrize("prompts", ["5", '"ab"', "null", "[1, 2, 3]", '["a fox",', "{}", ""])
def test_prompts_that_are_no_list_of_texts_are_refused(tmp_path, prompts):
    path = saved(tmp_path / "texts.safetensors", prompts)
    with pytest.raises(ValueError, match=f"embeddings={path}: the prompts are .*list of texts"):
        embeddings.read(path, Card)


@pytest.mark.parametrize("prompts", [5, "ab", [1, 2, 3], [b"a", b"b", b"c"]])
def test_prompts_in_an_array_that_are_no_texts_are_refused(tmp_path, prompts):
    path = saved(tmp_path / "texts.npz", np.array(prompts))
    with pytest.raises(ValueError, match=f"embeddings={path}: the prompts are .*list of texts"):
        embeddings.read(path, Card)


def test_texts_are_no_embeddings(tmp_path):
    path = saved(tmp_path / "texts.npz", embeddings=np.full((3, 4, 24), "a"))
    with pytest.raises(ValueError, match=f"embeddings={path}: embeddings is <U1.*wanted numbers"):
        embeddings.read(path, Card)
