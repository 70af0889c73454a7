"""The command line of every experiment: a config, a work directory, rows, a page.

    python -m experiments.order --config=configs/order.py:quick --workdir=runs/order --config.samples=256

An experiment is a module with `run(config, workdir) -> rows`, which keeps its rows in `flowjax.records.Records(workdir,
config)`, and `report(workdir) -> paths`, which draws what lies in the work directory; its last lines are

    if __name__ == "__main__":
        main(run, report)

A wrong command, a wrong value and a work directory of another configuration end with one sentence and exit status 2,
before anything is written. An interrupted run goes on from its rows; a finished one is only drawn again.
"""

import dataclasses
import os
import re
import shlex
import sys
import time
import typing
import warnings

from absl import flags
from ml_collections import config_flags

from flowjax.errors import suggestion
from flowjax.records import Records


def _clock(seconds):
    """1:02:03, or 2:03 within the hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def progress(cells, name=str, *, every=5.0, stream=None, clock=time.monotonic):
    """Yield the cells, and say on stderr how many are done, the time spent, the time left and the cell in work.

    A terminal sees one line that changes; a file or a pipe gets a line at most each `every` seconds. Hand in only the
    cells that are still to be measured: the time left is the mean time of a cell times their number.

    Args:
      cells: a sized iterable.
      name: cell -> its text.
    """
    stream = sys.stderr if stream is None else stream
    live = stream.isatty()
    start, said, total = clock(), -float("inf"), len(cells)

    def say(done, text):
        spent = clock() - start
        left = f", {_clock(spent / done * (total - done))} left" if 0 < done < total else ""
        line = f"{done}/{total} done, {_clock(spent)} spent{left}: {text}"
        stream.write(f"\r\033[K{line[:110]}" if live else line + "\n")
        stream.flush()
        return clock()

    for done, cell in enumerate(cells):
        if live or clock() - said >= every:
            said = say(done, name(cell))
        yield cell
    if total:
        say(total, "finished" + "\n" * live)


def ask(config, workdir, questions):
    """Measure what `workdir` does not hold yet, question by question, and return all rows.

    Args:
      questions: modules with `cells(config)`, the keys of their rows, and `measure(config, todo)`, which yields (key, values).
    """
    # All questions first: they refuse what cannot be measured.
    asked = [(module, module.cells(config)) for module in questions]
    kept = Records(workdir, config)
    for module, cells in asked:
        todo = [key for key in cells if not kept.done(key)]
        if not todo:
            continue
        found = module.measure(config, todo)
        for _ in progress(todo, lambda key: ", ".join(str(value) for value in key.values())):
            key, values = next(found)
            kept.add(key, **values)
    return kept.rows


def _fields(config):
    """{field: its type} of a dataclass, or of a mapping {key: type of its value}; empty for a leaf."""
    if dataclasses.is_dataclass(config):
        return typing.get_type_hints(type(config))
    return {name: type(config[name]) for name in config} if hasattr(config, "keys") else {}


def _check_overrides(config, argv):
    """Refuse `--config.field` where no such field is, and say which one is near."""
    for word in argv:
        match = re.match(r"--?config\.([^=]+)", word) or re.match(r"--?noconfig\.([^=]+)", word)
        here, path = config, match[1].split(".") if match else []
        for depth, field in enumerate(path):
            known = _fields(here)
            if field not in known:
                where = ".".join(["config", *path[:depth]])
                raise ValueError(
                    f"{word}: {where} has no field {field!r}; {suggestion(field, known)}"
                )
            here = getattr(here, field) if dataclasses.is_dataclass(here) else here[field]


def _check_items(config, overrides):
    """Refuse a tuple whose items are not of the annotated type: the flag parser takes them as they come."""
    for path, value in overrides.items():
        *parents, field = path.split(".")
        holder = config
        for parent in parents:
            holder = getattr(holder, parent) if dataclasses.is_dataclass(holder) else holder[parent]
        wanted = typing.get_args(_fields(holder)[field])
        if (
            isinstance(value, tuple)
            and len(wanted) == 2
            and wanted[1] is ...
            and isinstance(wanted[0], type)
        ):
            kinds = (float, int) if wanted[0] is float else (wanted[0],)
            for item in value:
                if type(item) not in kinds:
                    raise ValueError(
                        f"--config.{path}: {item!r} is no {wanted[0].__name__}, as its items must be."
                    )


def _define(argv):
    """Fresh flag definitions: nothing of an earlier command line in this process remains."""
    values = flags.FlagValues()
    config = "File with get_config(), as configs/order.py or configs/order.py:quick; --config.field=value overrides."
    config_flags.DEFINE_config_file("config", None, config, flag_values=values, sys_argv=argv)
    flags.DEFINE_string(
        "workdir", None, "Directory of the rows and the page; it may be new.", flag_values=values
    )
    flags.DEFINE_bool(
        "overwrite", False, "Forget the rows that the work directory holds.", flag_values=values
    )
    flags.DEFINE_bool("traceback", False, "Show where an error came from.", flag_values=values)
    flags.DEFINE_bool("help", False, "Show this text.", short_name="h", flag_values=values)
    return values


def _apply(argv):
    """(flag values, words left over) of a command line."""
    sys.modules.pop(
        "config_config", None
    )  # ml_collections' name for the file: a second one must not see the first
    values = _define(argv)
    with warnings.catch_warnings():  # ml_collections loads the file by a deprecated method
        warnings.filterwarnings("ignore", message=".*load_module", category=DeprecationWarning)
        return values, values(argv)[1:]


def _load(path):
    """The configuration of `path`, before any override; an error of its own comes out as it was raised."""
    file = path.split(":")[0]
    if not os.path.isfile(file):
        raise ValueError(f"--config={path}: there is no file {file!r}.")
    try:
        config = _apply(["", f"--config={path}"])[0].config
    except flags.Error as error:
        while (
            error.__context__
        ):  # the flag parser wraps the config's error in its own, traceback and all
            error = error.__context__
        raise ValueError(f"--config={path}: {error}") from error
    if not dataclasses.is_dataclass(config):
        raise ValueError(
            f"--config={path}: get_config() gave a {type(config).__name__}, and a dataclass is wanted."
        )
    return config


def parse(argv, workdir=None):
    """(config, flag values) of a command line, or ValueError with one sentence.

    `workdir` gives the directory where none is named: a function of the configuration's path.
    """
    if any(word in ("--help", "-help", "-h") for word in argv):
        print(_define(argv).get_help())
        raise SystemExit(0)
    given = [word.split("=", 1)[-1] for word in argv if re.match(r"--?config=", word)]
    given += [
        word for flag, word in zip(argv, argv[1:], strict=False) if flag in ("--config", "-config")
    ]
    if not given:
        raise ValueError(
            "--config is needed: a file with get_config(), as --config=configs/order.py:quick."
        )
    _check_overrides(_load(given[0]), argv)
    try:
        values, rest = _apply(argv)
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from error
    if rest:
        raise ValueError(
            f"{rest[0]!r} is no flag; a value follows its flag, as --workdir=runs/order."
        )
    if not values.workdir and workdir:
        values.workdir = workdir(given[0])
    if not values.workdir:
        raise ValueError(
            "--workdir is needed: the directory of the rows and the page, as --workdir=runs/order."
        )
    _check_items(values.config, values["config"].override_values)
    return values.config, values


def _command(argv):
    """The command as a reader would type it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    module = spec.name.removesuffix(".__main__") if spec and argv is sys.argv else None
    program = f"python -m {module}" if module else f"python {shlex.quote(argv[0])}"
    return f"{program} {shlex.join(word for word in argv[1:] if word not in ('--overwrite', '--traceback'))}"


def _run(run, report, config, workdir, overwrite, command):
    start = time.monotonic()
    records = Records(workdir, config, overwrite=overwrite)
    if records.finished:
        print(
            f"{workdir} holds all {len(records.rows)} rows of this configuration; they are only drawn again."
        )
    else:
        if records.rows:
            print(
                f"{workdir} holds {len(records.rows)} rows of this configuration; the run goes on from there."
            )
        resumed = bool(records.rows)
        run(config, workdir)
        records = Records(workdir, config)
        if not records.rows:
            raise ValueError(
                f"the run left no rows in {workdir}; run(config, workdir) adds them to Records."
            )
        seconds = (
            {} if resumed else {"seconds": time.monotonic() - start}
        )  # of a part they would mislead
        records.finish(seconds | {"command": command})
    made = report(workdir) if report else []
    made = [made] if isinstance(made, (str, os.PathLike)) else list(made or [])
    print(f"{len(records.rows)} rows in {os.path.join(workdir, 'rows.jsonl')}")
    for path in made:
        print(f"drawn: {path}")
    print(f"{_clock(time.monotonic() - start)} from start to end")


def act_on(act, argv=None, *, workdir=None, interrupted="nothing is kept."):
    """Parse the command line and act on it; a caller's mistake ends with one sentence.

    Args:
      act: act(config, workdir, overwrite, command), the last as a reader would type it.
      argv: the command line with the program's name first; sys.argv by default.
      workdir: as in `parse`.
      interrupted: what to say after "interrupted;".

    Raises:
      SystemExit: with status 2 after one sentence on stderr, when a ValueError says what the caller got wrong (with
        --traceback: the error itself); with status 130 when the run was interrupted.
    """
    argv = sys.argv if argv is None else argv
    traceback = "--traceback" in argv
    try:
        config, values = parse(argv, workdir)
        act(config, values.workdir, values.overwrite, _command(argv))
    except ValueError as error:
        if traceback:
            raise
        print(f"{os.path.basename(argv[0])}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"\ninterrupted; {interrupted}", file=sys.stderr)
        raise SystemExit(130) from None


def main(run, report=None, argv=None):
    """Parse the command line, measure what is missing, draw the page, say what was made and how long it took.

    Args:
      run: run(config, workdir) -> rows, kept in Records(workdir, config).
      report: report(workdir) -> a path or several, or None.
      argv: as in `act_on`, and so are the errors.
    """
    kept = "the rows so far are kept, and the same command goes on from them."
    act_on(lambda *command: _run(run, report, *command), argv, interrupted=kept)
