"""The work directory of drawn images: samples.png to look at, samples.npz with the numbers.

samples.npz is written last, so its presence means that both files are complete.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np

from experiments.cli import images
from flowjax import Plan, environment, files, records
from flowjax.models.weights import SHIPPED
from flowjax.models.weights.files import ENDINGS

# Fields of the configuration that name a file, or a folder of one.
FILES = ("image", "plan", "embeddings", "model")
# A file of more bytes, which can only be one of weights, is read in pieces at even distances.
LARGE = 2**28
PIECES, PIECE = 256, 2**14  # their number, and the bytes of each


class Drawn(NamedTuple):
    """Samples of a model.

    Attributes:
      states: (B, H, W, C) float32 at t = 0: images, or latents.
      finite: (B,) whether a state is finite.
      seconds: {"compile", "first", "steady"}: of compiling, of the first batch, and of each later
        one (None where there is one batch).
    """

    states: np.ndarray
    finite: np.ndarray
    seconds: dict[str, float | None]


def settings_of(
    config: Any,
    command: str,
    plan: Plan,
    labels: list[tuple[int, str]],
    seconds: dict[str, float | None],
    digests: dict[str, str | None],
) -> dict:
    """Everything that made the images, a dictionary for JSON.

    Args:
      config, command, plan, labels, seconds: of the run.
      digests: from `digests_of`, before the run.
    """
    try:
        version = importlib.metadata.version("flowjax-dit")
    except importlib.metadata.PackageNotFoundError:
        version = None  # run from a clone; the environment has its commit
    return {
        "config": records.plain(config),
        "command": command,
        "labels": labels,
        "nfe": plan.nfe,
        **digests,
        "seconds": seconds,
        "environment": {"flowjax": version, **environment.environment()},
    }


def digests_of(config: Any) -> dict[str, str | None]:
    """{"plan_sha256": digest, ...} of each of `FILES`; None where there is no file of that name.

    The digest is the SHA-256 of a file's content. That of a folder is made of the names and digests
    of its files of weights and JSON, also in the folders right below it. The networks that come
    with flowjax have none.

    Raises:
      ValueError: a file cannot be read.
    """
    found = {}
    for field in FILES:
        name = getattr(config, field)
        is_no_file = not name or (field == "model" and name in SHIPPED)
        try:
            found[f"{field}_sha256"] = None if is_no_file else _digest(pathlib.Path(name))
        except OSError as error:
            raise ValueError(f"{field}={name!r} cannot be read ({error.strerror}).") from None
    return found


def _digest(path: pathlib.Path) -> str | None:
    """The digest of a file or of a folder, or None where there is neither."""
    if path.is_file():
        return _digest_of_file(path)
    if not path.is_dir():
        return None
    inside = sorted([*path.glob("*"), *path.glob("*/*")])
    lines = [
        f"{file.relative_to(path).as_posix()} {_digest_of_file(file)}"
        for file in inside
        if file.name.endswith((*ENDINGS, ".json")) and file.is_file()
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _digest_of_file(path: pathlib.Path) -> str:
    """The SHA-256 of a file; of a large one, of its size and its pieces."""
    with open(path, "rb") as file:
        size = path.stat().st_size
        if size <= LARGE:
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = hashlib.sha256(str(size).encode())
        for place in np.linspace(0, size - PIECE, PIECES).astype(int):
            file.seek(place)
            found.update(file.read(PIECE))
    return found.hexdigest()


def read_settings(workdir: pathlib.Path) -> dict | None:
    """The settings of the images that a work directory holds, or None where it holds none.

    Raises:
      ValueError: its files were not written here, or a run was killed between the two of them.
    """
    archive, picture = workdir / "samples.npz", workdir / "samples.png"
    if not archive.exists():
        if picture.exists():
            raise ValueError(
                f"{picture} has no samples.npz beside it; give another --workdir, or --overwrite."
            )
        return None
    try:
        settings = json.loads(str(files.read_npz(archive)["settings"]))
        settings["config"].keys()
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ValueError(
            f"{archive} was not written by this program, or only a part of it is there; "
            "give another --workdir, or --overwrite."
        ) from None
    return settings


def is_drawn(workdir: pathlib.Path, config: Any, digests: dict[str, str | None]) -> bool:
    """Whether a work directory holds the images of this configuration.

    Args:
      workdir: the directory.
      config: the configuration.
      digests: from `digests_of`, now.

    Raises:
      ValueError: it holds those of another configuration, or of another content of its files.
    """
    found = read_settings(workdir)
    if found is None:
        return False
    # Images that are older than a field were drawn with what is now its default.
    defaults = {
        field.name: records.plain(field.default)
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING
    }
    old, new = defaults | found["config"], records.plain(config)
    differ = [
        f"{name}: {old.get(name)!r} there, {value!r} now"
        for name, value in new.items()
        if old.get(name) != value
    ]
    # Images that are older than a digest say nothing of that file.
    if not differ:
        for name, digest in digests.items():
            field = name.removesuffix("_sha256")
            if found.get(name, digest) != digest:
                end = "has changed" if digest else "is gone"
                differ.append(f"{field} {getattr(config, field)} {end}")
    if differ:
        raise ValueError(
            f"{workdir} holds images of another configuration ({'; '.join(differ)}). "
            "Give another --workdir, or --overwrite."
        )
    return True


def make_writable(workdir: pathlib.Path) -> None:
    """Make the directory, and refuse one that cannot be written to before an hour is spent."""
    files.make_folder(workdir, "--workdir")
    try:
        tempfile.TemporaryFile(dir=workdir).close()
    except OSError as error:
        raise ValueError(
            f"{workdir} cannot be written to ({error.strerror}); give another --workdir."
        ) from None


def save(
    workdir: pathlib.Path,
    columns: int,
    wanted: np.ndarray,
    drawn: Drawn,
    shown: np.ndarray | None,
    settings: dict,
) -> list[pathlib.Path]:
    """Write samples.png, then samples.npz.

    Args:
      workdir: the directory.
      columns: images a row.
      wanted: (B, 2) integers, the label and the index of each image.
      drawn: the samples.
      shown: (B, H, W, 1 or 3) the images of the samples; None for latents without an autoencoder.
      settings: everything that made them.

    Returns:
      The paths written.
    """
    archive, picture = workdir / "samples.npz", workdir / "samples.png"
    for old in (archive, picture):
        old.unlink(missing_ok=True)

    arrays = {"labels": wanted[:, 0], "index": wanted[:, 1], "finite": drawn.finite}
    paths = [archive]
    is_latent = shown is None or shown.shape[1:] != drawn.states.shape[1:]
    if is_latent:
        arrays["latents"] = drawn.states
    if shown is not None:
        arrays["images"] = shown
        images.save_png(picture, images.grid(shown, columns), settings)
        paths.insert(0, picture)

    text = json.dumps(records.plain(settings), sort_keys=True)
    with files.replacing(archive) as temporary:
        np.savez(temporary, settings=text, **arrays)
    return paths
