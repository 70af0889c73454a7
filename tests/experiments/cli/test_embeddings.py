"""Files of text embeddings that cannot be read."""

import numpy as np
import pytest

from experiments.cli import embeddings


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
