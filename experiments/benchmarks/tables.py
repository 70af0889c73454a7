"""The table that a benchmark prints and leaves in its work directory."""

import os
import pathlib
from collections.abc import Callable

from flowjax import files, records


def write(
    workdir: str | os.PathLike, markdown: Callable[[list[dict], str], str], program: str = ""
) -> list[pathlib.Path]:
    """Print the table of the rows of `workdir` and write it to table.md.

    Args:
      workdir: with the rows.
      markdown: (rows, command) -> text.
      program: the command without its work directory, for a benchmark that also draws an unfinished
        run; by default the command is that of the finished run.

    Returns:
      The files that were written.
    """
    if program:
        command = f"{program} --workdir={os.fspath(workdir)}"
    else:
        command = (records.read_summary(workdir) or {}).get("command", "an unfinished run")
    text = markdown(records.read(workdir), command)
    print(text)
    path = pathlib.Path(workdir) / "table.md"
    files.write_text(path, text)
    return [path]
