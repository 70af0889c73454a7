"""The one atomic writer: a reader finds the old file or all of the new one, never a part.

Beside it stand the one reader of .npz files, and the check that a folder can be made.

A file is written under a temporary name in the folder of its target, and then renamed. Within one
folder a rename is atomic, so a process that is killed in between leaves the old file as it was.
"""

import contextlib
import os
import pathlib
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

READABLE = 0o644  # mkstemp gives 0600, which hides the file from other users of the machine


class WriteError(OSError, ValueError):
    """A file cannot be written: the disk is full, or the folder is missing or read-only.

    It is an OSError by its cause and a ValueError for commands, which print a ValueError as one
    sentence. (`io.UnsupportedOperation` of the standard library has the same two parents.)
    """


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a temporary path; what is written there takes the place of `path` at the end.

        with files.replacing(folder / "samples.npz") as temporary:
            np.savez(temporary, images=images)

    Args:
      path: the file to write; its folder must exist.

    Yields:
      the path of an empty file in the same folder, with the same suffix. When the block ends with
      an error it is removed, and `path` is as it was.

    Raises:
      WriteError: for an OSError of any kind, within the block too.
    """
    path = pathlib.Path(path)
    temporary = None
    try:
        # The suffix stays at the end: np.savez and others append one that is missing.
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix
        )
        os.close(handle)
        temporary = pathlib.Path(name)
        yield temporary
        os.chmod(temporary, READABLE)
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(
            f"{path} cannot be written ({error.strerror or error}); give another folder."
        ) from error
    finally:
        # After a successful rename there is nothing left under the temporary name.
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file in UTF-8, see `replacing`."""
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a binary file, see `replacing`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def check_folder(path: str | os.PathLike, option: str) -> None:
    """Refuse a folder that is not there and cannot be made, without making it.

    Args:
      path: the folder.
      option: the argument or flag that gave it, for the sentence.

    Raises:
      ValueError: a file stands in the way, or its nearest folder cannot be written to.
    """
    # The nearest one that is there: all below it would be made.
    there = pathlib.Path(path).absolute()
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    reason = None
    if not there.is_dir():
        reason = f"{there} is a file, and a directory is needed"
    elif not os.access(there, os.W_OK | os.X_OK):
        reason = f"there is no permission to write in {there}"
    if reason:
        raise ValueError(f"{path} cannot be written to ({reason}); give another {option}.")


def make_folder(path: str | os.PathLike, option: str) -> None:
    """Make a folder with those above it, unless it is there.

    Raises:
      ValueError: it cannot be made; the sentence names the `option` that gave it.
    """
    check_folder(path, option)
    try:
        pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written to ({error.strerror or error}); give another {option}."
        ) from None


def read_npz(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{name: array} of an .npz file. Arrays of Python objects are not read: they could run code.

    Raises:
      ValueError: there is no such file, or it is damaged, empty or something else.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    size = path.stat().st_size
    if not zipfile.is_zipfile(path):
        content = "is empty" if not size else f"({size} bytes) is no .npz file, or a part of one"
        raise ValueError(f"{path} {content}. Was it cut short? Write or fetch it again.")
    try:
        # numpy leaves a file open that it cannot read, so the file is opened here.
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except ValueError:
        # The sentence of numpy would advise to load the objects.
        raise ValueError(
            f"{path} holds an array that is damaged, or one of Python objects; wanted an .npz "
            "file of numbers and text."
        ) from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise ValueError(f"{path} is a damaged .npz file ({error}); write it again.") from None
