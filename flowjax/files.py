"""The one atomic writer: a reader finds the old file or all of the new one, never a part.

A file is written under a temporary name in the folder of its target, and then renamed. Within one
folder a rename is atomic, so a process that is killed in between leaves the old file as it was.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

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
