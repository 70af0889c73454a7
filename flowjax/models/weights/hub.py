"""Checkpoints by their name on the Hugging Face hub, "owner/name"."""

import functools
import pathlib
import re

PARTS = ("transformer", "vae")  # of a pipeline, those with weights that are read


def is_name(path):
    """Whether a path may be a name on the hub: two words with a slash between them."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(path)) is not None


def fetch(name, check):
    """The folder of a repository on the hub, from the hub's own cache where it is there.

    The configurations come first, and `check(folder)` may refuse them before any weights are fetched. Of those
    .safetensors are preferred, and variants ("name.fp16.safetensors") left out.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise _absent(
            name, "huggingface_hub is not installed (pip install 'flowjax-dit[hub]')"
        ) from error
    download = functools.partial(
        huggingface_hub.snapshot_download, name, ignore_patterns="*.fp16.*"
    )
    try:
        folder = pathlib.Path(download(allow_patterns="*.json"))
        check(folder)
        parts = [f"{part}/" for part in PARTS] if (folder / "model_index.json").is_file() else [""]
        for part in parts:
            for kind in (".safetensors", ".bin"):
                download(allow_patterns=[f"{part}*{kind}"])
                if any((folder / part).glob(f"*{kind}")):
                    break
    except (
        OSError
    ) as error:  # no connection, no such repository, no access: all of the hub's errors are
        raise _absent(
            name, f"the hub did not give it: {str(error).strip().splitlines()[0]}"
        ) from error
    return folder


def _absent(name, why):
    folder = name.split("/")[1]
    return FileNotFoundError(
        f"models.load: there is no folder {name}, and {why}. Where there is internet, run\n"
        f"    hf download {name} --local-dir {folder}\n"
        f"and load the folder: models.load({folder!r})."
    )
