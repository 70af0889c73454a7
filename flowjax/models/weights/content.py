"""What a file of tensors holds, by its first bytes, and names of tensors as wrappers leave them."""

import pathlib
import re

POINTER = b"version https://git-lfs"  # the beginning of a pointer of git-lfs
PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head")
AGAIN = "Fetch it again."

# What torch.nn.parallel and torch.compile put before the names of the parts that they wrap.
WRAPPERS = ("module.", "_orig_mod.")
COMPILED = "_orig_mod"


def check_content(path: pathlib.Path) -> None:
    """Refuse a file that is empty, a pointer of git-lfs, or a page of the web.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: with what the file is, and the way out.
    """
    if not path.is_file():
        raise FileNotFoundError(f"models.load: there is no {path}.")
    with open(path, "rb") as file:
        start = file.read(256).lstrip()
    # What a failed download leaves in the place of the file.
    if not start:
        kind = path.suffix.removeprefix(".")
        fault = f"is empty, so it is no complete {kind} file. Was the download cut short?"
    elif start.startswith(POINTER):
        fault = (
            "is a pointer of git-lfs and not the file of tensors that it stands for. Run "
            "`git lfs pull` in its repository, or download the file itself."
        )
    elif start.lower().startswith(PAGE):
        fault = (
            "is a page of the web and no file of tensors. Was there a login before the download?"
        )
    else:
        return
    raise ValueError(f"models.load: {path} {fault} {AGAIN}")


def torch_fault(path: pathlib.Path, error: Exception) -> str:
    """Why torch cannot read a file, without its advice to load the file in an unsafe way."""
    # torch names the first object that it does not allow.
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if found:
        return (
            f"models.load: {path} holds objects of {found[1]} beside tensors. Only tensors are "
            "read, since other objects of a pickle could run any code; save the state dict alone."
        )
    return (
        f"models.load: {path} ({path.stat().st_size} bytes) is damaged, or torch.save did not "
        f"write it. Was the download cut short? {AGAIN}"
    )


def unwrapped(path: pathlib.Path, names: list[str]) -> dict[str, str]:
    """{name without wrappers: name in the file}.

    A network that was saved within `DistributedDataParallel` or `torch.compile` has "module." or
    "_orig_mod." before the names of its tensors; a part that was compiled alone has the latter
    within them.

    Raises:
      ValueError: two tensors would have one name.
    """
    found = {}
    for name in names:
        short = name
        while short.startswith(WRAPPERS):
            short = short.partition(".")[2]
        short = ".".join(part for part in short.split(".") if part != COMPILED)
        if short in found:
            raise ValueError(
                f"models.load: {path} has the tensor {short} twice, as {found[short]} and as "
                f"{name}; save one network in a file."
            )
        found[short] = name
    return found
