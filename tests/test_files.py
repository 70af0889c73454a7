"""The atomic writer: a reader finds the old file or the new one, and a failure leaves no trace."""

import os

import numpy as np
import pytest

from flowjax import files


def test_text_and_bytes_read_back(tmp_path):
    files.write_text(tmp_path / "a.txt", "ø\n")
    files.write_bytes(tmp_path / "b.bin", b"\0\1")
    assert (tmp_path / "a.txt").read_bytes() == "ø\n".encode()
    assert (tmp_path / "b.bin").read_bytes() == b"\0\1"


def test_the_old_file_is_there_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with files.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_text_that_is_no_unicode_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "\ud800")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_a_mistake_of_the_caller_and_of_the_system(tmp_path):
    for kind in (ValueError, OSError):
        with pytest.raises(kind, match="a.txt cannot be written .No such file or directory"):
            files.write_text(tmp_path / "none" / "a.txt", "new")


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ValueError, match="cannot be written .No space left on device"):
        files.write_text(tmp_path / "a.txt", "new")
    assert not list(tmp_path.iterdir())


def test_writers_that_append_a_suffix_find_it_there(tmp_path):
    with files.replacing(tmp_path / "a.npz") as temporary:
        np.savez(temporary, x=np.arange(3))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_other_users_can_read_the_file(tmp_path):
    files.write_text(tmp_path / "a.txt", "new")
    assert os.stat(tmp_path / "a.txt").st_mode & 0o777 == 0o644
