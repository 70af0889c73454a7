"""Checkpoints by their name on the Hugging Face hub, "owner/name"."""

import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

PARTS = ("transformer", "vae")  # folders of a pipeline whose weights are read
# Endings of files in the order in which they are looked for, and what is left out of them.
VARIANTS = ["*.fp16*", "*.bf16*"]
ENDINGS = ((".safetensors", VARIANTS), (".bin", VARIANTS), (".safetensors", None), (".bin", None))


def is_name(path: Any) -> bool:
    """Whether a path may be a name on the hub: two words with a slash between them."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is not None


def fetch(name: str, check: Callable[[pathlib.Path], Any]) -> pathlib.Path:
    """The folder of a repository on the hub, from the hub's own cache where it is there.

    Args:
      name: "owner/name".
      check: function of the folder with the configurations, called before any weights are fetched.
        It may raise to refuse them.

    Raises:
      FileNotFoundError: the hub is not reachable, or does not give the repository.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        reason = "huggingface_hub is not installed (pip install 'flowjax-dit[hub]')"
        raise _absent(name, reason) from error
    download = functools.partial(huggingface_hub.snapshot_download, name)
    try:
        # The configurations first: they are small, and may be those of a network not read here.
        folder = pathlib.Path(download(allow_patterns="*.json", ignore_patterns=None))
        check(folder)
        _fetch_weights(download, folder)
    except OSError as error:
        # All errors of the hub are: no connection, no such repository, no access.
        reason = str(error).strip().splitlines()[0]
        raise _absent(name, f"the hub did not give it: {reason}") from error
    return folder


def _fetch_weights(download: Callable[..., str], folder: pathlib.Path) -> None:
    """Fetch the weights of each part, .safetensors where there are any, else .bin.

    Variants ("name.fp16.safetensors") are fetched only where there is nothing else.
    """
    is_pipeline = (folder / "model_index.json").is_file()
    prefixes = [f"{part}/" for part in PARTS] if is_pipeline else [""]
    for prefix in prefixes:
        for ending, left_out in ENDINGS:
            download(allow_patterns=[f"{prefix}*{ending}"], ignore_patterns=left_out)
            if any((folder / prefix).glob(f"*{ending}")):
                break


def _absent(name: str, reason: str) -> FileNotFoundError:
    folder = name.split("/")[1]
    return FileNotFoundError(
        f"models.load: there is no folder {name}, and {reason}. Where there is internet, run\n"
        f"    hf download {name} --local-dir {folder}\n"
        f"and load the folder: models.load({folder!r})."
    )
