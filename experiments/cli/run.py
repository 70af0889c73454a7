r"""The command line of every experiment: a configuration, a work directory, rows, a page.

    python -m experiments.order --config=configs/order.py:quick --workdir=runs/order \
        --config.samples=256

An experiment is a module with `run(config, workdir) -> rows`, which adds its rows to
`flowjax.records.Records(workdir, config)`, and `report(workdir) -> paths`, which draws the rows of
the work directory. Its last lines are

    if __name__ == "__main__":
        main(run, report)

An experiment may be made of questions, see `ask` and `main`. Then
`--config.questions=clock,learned` measures these alone.

A wrong command, a wrong value, a number outside its range (`experiments.cli.ranges`) and a work
directory of another configuration end with one sentence and exit status 2 before anything is
written. An interrupted run continues from its rows. A finished
one is drawn again, and measures only the questions that are new.
"""

import datetime
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from types import ModuleType
from typing import Any, TextIO

from tqdm import tqdm

from experiments.cli import flags, ranges
from flowjax import files
from flowjax.errors import suggestion
from flowjax.records import Records

BAR = "{n_fmt}/{total_fmt} done, {elapsed} spent, {remaining} left{postfix}"


# ---- progress


class _Lines:
    """A stream for files and pipes: it gets each state of a bar as a line of its own."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> None:
        text = text.replace("\r", "").strip()
        if text:
            self.stream.write(text + "\n")

    def flush(self) -> None:
        self.stream.flush()


def progress(
    cells: Iterable,
    name: Callable[[Any], str] = str,
    *,
    every: float = 5.0,
    stream: TextIO | None = None,
) -> Iterator:
    """Yield the cells, and show how many are done, the time spent and left, and the present one.

    A terminal shows one line that changes; a file or a pipe gets a new line at most each `every`
    seconds. Pass only the cells that are still to be measured: the time left is the mean time of a
    cell times their number.

    Args:
      cells: what is to be done.
      name: the text of a cell.
      every: seconds between two lines of a file or a pipe.
      stream: where to write; stderr by default.
    """
    cells = list(cells)
    if not cells:
        return
    stream = sys.stderr if stream is None else stream
    live = stream.isatty()
    with tqdm(
        total=len(cells),
        postfix=name(cells[0]),
        file=stream if live else _Lines(stream),
        bar_format=BAR,
        dynamic_ncols=live,
        mininterval=0.0 if live else every,
        miniters=0,  # no adaptive count of cells between two displays: only the time decides
        smoothing=0,  # the mean over all cells, not over the last ones
    ) as bar:
        for done, cell in enumerate(cells):
            bar.set_postfix_str(name(cell), refresh=False)
            bar.update(done - bar.n)
            yield cell
        # The last state is shown when the bar is closed.
        bar.set_postfix_str("finished", refresh=False)
        bar.n = len(cells)


# ---- questions


def check_names(option: str, values: str | Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name in a configuration that is not known.

    Args:
      option: the field of the configuration.
      values: the names in it, or a single name.
      known: the names that there are.

    Raises:
      ValueError: with the first name that is not known, the nearest known one, and all of them.
    """
    known = list(dict.fromkeys(known))
    for value in [values] if isinstance(values, str) else values:
        if value not in known:
            raise ValueError(
                f"--config.{option}: {value!r} is not known; {suggestion(value, known)}"
            )


def cells_of(config: Any, questions: Sequence[ModuleType]) -> list[tuple[ModuleType, list[dict]]]:
    """The questions that a configuration asks, each with its cells, in the order of `questions`.

    A configuration asks those that its field `questions` names (the values of their QUESTION), and
    all where it has no such field or an empty one.

    Raises:
      ValueError: an unknown question; a question whose `check(config)` refuses the configuration.
    """
    wanted = getattr(config, "questions", ())
    check_names("questions", wanted, [module.QUESTION for module in questions])
    asked = [module for module in questions if not wanted or module.QUESTION in wanted]
    for module in asked:
        if hasattr(module, "check"):
            module.check(config)
    return [(module, list(module.cells(config))) for module in asked]


def ask(config: Any, workdir: str | os.PathLike, questions: Sequence[ModuleType]) -> list[dict]:
    """Measure the cells that `workdir` has no rows of, question by question.

    Args:
      config: the configuration, see `cells_of`.
      workdir: the directory of the rows.
      questions: modules with a name QUESTION; `cells(config)`, the keys of their rows; and
        `measure(config, todo)`, which yields (key, values) for each key of `todo`. A module may
        have `check(config)`, which raises a ValueError for a configuration that it cannot measure.

    Returns:
      All rows of the directory, also those of questions that were not asked now.
    """
    # All questions first: a mistake in the last one must not show after hours of measuring.
    asked = cells_of(config, questions)
    kept = Records(workdir, config)
    for module, cells in asked:
        todo = [key for key in cells if not kept.done(key)]
        if not todo:
            continue
        # The bar comes first in the pair: it names a cell before the cell is measured.
        measured = zip(progress(todo, _cell_text), module.measure(config, todo), strict=True)
        for _, (key, values) in measured:
            kept.add(key, **values)
    return kept.rows


def _cell_text(key: dict) -> str:
    return ", ".join(str(value) for value in key.values())


# ---- the command


def _is_complete(records: Records, cells: Iterable[dict]) -> bool:
    """Whether nothing is left to measure: the run was finished, and no asked question is new."""
    return records.finished and all(records.done(key) for key in cells)


def _measure(
    run: Callable[[Any, str], Any],
    config: Any,
    workdir: str,
    records: Records,
    command: str,
) -> Sized:
    """Call `run`, mark the work directory as finished, and return its rows."""
    resumed = bool(records.rows)
    if resumed:
        print(
            f"{workdir} holds {len(records.rows)} rows of this configuration; "
            "the run goes on from there."
        )
    start = time.monotonic()
    run(config, workdir)
    records = Records(workdir, config)
    if not records.rows:
        raise ValueError(
            f"the run left no rows in {workdir}; run(config, workdir) adds them to Records."
        )
    summary = {"command": command}
    # The page gives these seconds for the command that makes all rows; those of a part of the rows
    # would mislead.
    is_part = resumed or bool(getattr(config, "questions", ()))
    if not is_part:
        summary["seconds"] = time.monotonic() - start
    records.finish(summary)
    return records.rows


def _draw(report: Callable[[str], Any] | None, workdir: str) -> list:
    """The paths that `report` draws."""
    made = report(workdir) if report else []
    return [made] if isinstance(made, (str, os.PathLike)) else list(made or [])


def act_on(
    act: Callable[[Any, str, bool, str], Any],
    argv: Sequence[str] | None = None,
    *,
    workdir: Callable[[str], str] | None = None,
    special: Mapping[str, ranges.Range] | None = None,
    interrupted: str = "nothing is kept.",
) -> None:
    """Parse the command line and act on it; a caller's mistake ends with one sentence.

    Every number of the configuration is checked here, before `act` is called, and so is that the
    work directory can be made.

    Args:
      act: the function (config, workdir, overwrite, command), the last as a reader would type it.
      argv: the command line with the program's name first; sys.argv by default.
      workdir: as in `flags.parse`.
      special: the ranges of numbers that this command has of its own, as in `ranges.check`.
      interrupted: what to print after "interrupted;".

    Raises:
      SystemExit: with status 2 after one sentence on stderr, when a ValueError names the caller's
        mistake, or a file cannot be read or written (with --traceback: the error itself); with
        status 130 when the run was interrupted.
    """
    argv = sys.argv if argv is None else argv
    try:
        config, values = flags.parse(argv, workdir)
        ranges.check(config, special)
        files.check_folder(values.workdir, "--workdir")
        act(config, values.workdir, values.overwrite, flags.command(argv, config))
    except (ValueError, OSError) as error:
        if "--traceback" in argv:
            raise
        # The sentence of a library may have several lines.
        sentence = " ".join(str(error).split())
        print(f"{os.path.basename(argv[0])}: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"\ninterrupted; {interrupted}", file=sys.stderr)
        raise SystemExit(130) from None


def main(
    run: Callable[[Any, str], Any],
    report: Callable[[str], Any] | None = None,
    argv: Sequence[str] | None = None,
    *,
    questions: Sequence[ModuleType] = (),
    check: Callable[[Any], None] | None = None,
    special: Mapping[str, ranges.Range] | None = None,
) -> None:
    """Parse the command line, measure what is missing, draw the page, and print what was made.

    Args:
      run: the function (config, workdir) -> rows, which adds them to Records(workdir, config).
      report: the function (workdir) -> a path or several, or None.
      argv: as in `act_on`, with the same errors.
      questions: of an experiment that is made of them, see `ask`. A finished work directory then
        measures the cells that it has no rows of; without questions it is only drawn again.
      check: the function (config) that raises a ValueError for a configuration that cannot be
        measured. It is called before anything is written.
      special: as in `act_on`.
    """

    def act(config: Any, workdir: str, overwrite: bool, command: str) -> None:
        start = time.monotonic()
        # Refuse before the rows that --overwrite forgets are lost.
        if check:
            check(config)
        cells = [key for _, keys in cells_of(config, questions) for key in keys]

        records = Records(workdir, config, overwrite=overwrite)
        if _is_complete(records, cells):
            rows = records.rows
            print(
                f"{workdir} holds all {len(rows)} rows of this configuration; "
                "they are only drawn again."
            )
        else:
            rows = _measure(run, config, workdir, records, command)

        made = _draw(report, workdir)
        print(f"{len(rows)} rows in {os.path.join(workdir, 'rows.jsonl')}")
        for path in made:
            print(f"drawn: {path}")
        spent = datetime.timedelta(seconds=round(time.monotonic() - start))
        print(f"{spent} from start to end")

    kept = "the rows so far are kept, and the same command goes on from them."
    act_on(act, argv, special=special, interrupted=kept)
