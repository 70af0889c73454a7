"""Objects of your own that a configuration names as `module:name`: plans and fields."""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any


def is_own(name: str) -> bool:
    """Whether a name of the configuration has the form `module:name`."""
    return ":" in name


@contextlib.contextmanager
def _current_directory_first() -> Iterator[None]:
    """Let `import` find modules of the current directory, as `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def load(name: str, wanted: str) -> Any:
    """The object that `module:name` means, imported from the current directory or the Python path.

    Args:
      name: `module:name`; the module may be dotted.
      wanted: what the object should be, for the error's sentence.

    Raises:
      ValueError: there is no such module, its import fails, or it has no such name.
    """
    module, _, attribute = name.partition(":")
    form = f"{name!r}: wanted module:name, where the module has {wanted}"
    if not module or not attribute.isidentifier():
        raise ValueError(f"{form}.")
    try:
        with _current_directory_first():
            # A file that was written a moment ago would be missed by the cached directory listing.
            importlib.invalidate_caches()
            found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Is the module itself missing, or one of the modules that it imports?
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise ValueError(
                f"{form}; there is no module {module!r} in {os.getcwd()} or on the Python path."
            ) from None
        raise ValueError(f"{name!r}: importing {module!r} failed: {error}.") from error
    except Exception as error:
        kind = type(error).__name__
        raise ValueError(f"{name!r}: importing {module!r} failed with {kind}: {error}.") from error
    if not hasattr(found, attribute):
        names = ", ".join(entry for entry in vars(found) if not entry.startswith("_")) or "nothing"
        raise ValueError(f"{form}; {module!r} has no {attribute!r}, it has {names}.")
    return getattr(found, attribute)
