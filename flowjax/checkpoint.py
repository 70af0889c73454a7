"""Checkpoints: arrays by Orbax with a card in JSON, complete on disk or not there at all.

    folder/00001200/arrays/      Orbax, one flat dictionary {"params.blocks.query.kernel": array}
    folder/00001200/card.json    {"step", "details", "arrays": {name: [shape, dtype]},
                                  "files": {path: [bytes, sha256]}}

A checkpoint is written under a name that begins with a dot, flushed to disk, and renamed: a process
killed at any moment leaves the older checkpoints and perhaps a folder with a dot, which the next
save removes. The sizes and sums of all files stand in the card, so a truncated one is found before
Orbax opens it. One process writes at a time.
"""

import contextlib
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flowjax.records import plain
from flowjax.types import PyTree

UNFINISHED = ".saving-"


def steps(folder: str | os.PathLike) -> list[int]:
    """The steps of which `folder` holds a checkpoint, in increasing order."""
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit() and p.is_dir())


def save(
    folder: str | os.PathLike, step: int, tree: PyTree, details: dict, *, keep: int = 3
) -> None:
    """Write a checkpoint, then remove all but the newest `keep`.

    Args:
      folder: of the checkpoints; made when it does not exist.
      step: a number from 0; a step that is there already is left as it is.
      tree: any tree of arrays, on this machine whole.
      details: a dictionary for JSON: configuration, data, versions, metrics.
      keep: how many to keep, at least 1.

    Raises:
      ValueError: it cannot be written (a full disk, most often); the older checkpoints are as they
        were.
    """
    folder = pathlib.Path(folder).absolute()  # Orbax refuses relative paths
    final = folder / f"{step:08d}"
    temporary = folder / f"{UNFINISHED}{final.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Remove what a killed run has left.
        for left in folder.glob(f"{UNFINISHED}*"):
            shutil.rmtree(left)
        if not final.exists():
            _write(temporary, step, flatten(tree), details)
            # The rename makes the checkpoint visible, whole or not at all.
            os.rename(temporary, final)
            _flush(folder)
    # Orbax and tensorstore raise many kinds of errors; KeyboardInterrupt is not an Exception.
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        older = steps(folder)
        state = "there is no older checkpoint"
        if older:
            state = f"the checkpoint of step {older[-1]} is kept"
        raise ValueError(
            f"checkpoint.save: step {step} cannot be written to {folder} ({_reason(error)}); "
            f"{state}. "
            "Make room there, and give the same command again."
        ) from error
    for old in steps(folder)[: -max(keep, 1)]:
        shutil.rmtree(folder / f"{old:08d}")


def restore(folder: str | os.PathLike, step: int, like: PyTree) -> tuple[PyTree, dict]:
    """(tree, details) of a checkpoint.

    Args:
      folder, step: as given to `save`.
      like: a tree of arrays, or of anything with shape and dtype, that the checkpoint must match.

    Returns:
      The tree in the structure of `like`, with numpy arrays; the dictionary given to `save`.

    Raises:
      ValueError: it is damaged, no checkpoint of this program, or of another model or optimizer.
    """
    path = pathlib.Path(folder).absolute() / f"{step:08d}"
    card = read_card(folder, step)
    leaves = flatten(like, lambda leaf: leaf)
    wanted = {name: [list(leaf.shape), str(leaf.dtype)] for name, leaf in leaves.items()}
    _check_arrays(path, card["arrays"], wanted)
    # Sizes and sums are compared before Orbax opens a file.
    files = card["files"].items()
    damaged = [name for name, known in files if _sum(path / "arrays" / name) != known]
    if damaged:
        raise ValueError(
            f"checkpoint.restore: {path} is damaged: the contents of {damaged[0]} are not those "
            "that "
            "were written. Remove that folder to go on from the checkpoint before it."
        )
    try:
        arrays = _read_arrays(path / "arrays", wanted)
    except Exception as error:
        raise ValueError(
            f"checkpoint.restore: Orbax cannot read {path} ({_reason(error)})."
        ) from error
    tree = jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in wanted])
    return tree, card["details"]


def read_card(folder: str | os.PathLike, step: int) -> dict:
    """The card of a checkpoint; a folder that is no checkpoint is refused."""
    path = pathlib.Path(folder) / f"{step:08d}" / "card.json"
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card["details"], card["arrays"], card["files"], card["step"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"checkpoint: {path.parent} is no checkpoint of flowjax, or it is damaged: its "
            "card.json "
            f"cannot be read ({_reason(error)}). Remove that folder, or give another one."
        ) from None
    return card


def flatten(tree: PyTree, convert: Callable = np.asarray) -> dict[str, Any]:
    """{"params.blocks.query.kernel": array, ...} of a tree, in its own order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): convert(leaf)
        for path, leaf in leaves
    }


def _write(path: pathlib.Path, step: int, arrays: dict, details: dict) -> None:
    """Write all of a checkpoint to `path`, and flush it to disk."""
    import orbax.checkpoint as ocp

    path.mkdir()
    _ask_for_room(path, sum(a.nbytes for a in arrays.values()) + 2**20)
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path / "arrays", args=ocp.args.PyTreeSave(arrays))
    # The card comes last: it lists what the files must be.
    files = sorted(p for p in (path / "arrays").rglob("*") if p.is_file())
    card = {
        "step": step,
        "details": plain(details),
        "arrays": {name: [list(a.shape), str(a.dtype)] for name, a in arrays.items()},
        "files": {str(p.relative_to(path / "arrays")): _sum(p) for p in files},
    }
    (path / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    for each in [*path.rglob("*"), path]:
        _flush(each)


def _ask_for_room(folder: str | os.PathLike, size: int) -> None:
    """Raise OSError unless the disk has `size` bytes left.

    On a full disk each of Orbax's threads would print a traceback.
    """
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)


@contextlib.contextmanager
def _quiet():
    """Keep Orbax from logging the tracebacks of its threads before it raises."""
    logger = logging.getLogger("absl")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _read_arrays(path: pathlib.Path, wanted: dict) -> dict:
    import orbax.checkpoint as ocp

    as_numpy = {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in wanted}
    with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def _check_arrays(path: pathlib.Path, found: dict, wanted: dict) -> None:
    names = [n for n in [*wanted, *found] if found.get(n) != wanted.get(n)]
    if names:
        name = names[0]
        raise ValueError(
            f"checkpoint.restore: {path} is of another model or optimizer: {len(names)} arrays "
            "differ. "
            f"The first is {name}: {found.get(name, 'none')} in the checkpoint, "
            f"{wanted.get(name, 'none')} wanted. Give another folder."
        )


def _sum(path: pathlib.Path) -> list:
    """[bytes, SHA-256] of a file; [0, ""] when it is missing."""
    if not path.is_file():
        return [0, ""]
    content = path.read_bytes()
    return [len(content), hashlib.sha256(content).hexdigest()]


def _flush(path: pathlib.Path) -> None:
    """Have the system write a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: BaseException) -> str:
    """The first line of an error, short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
