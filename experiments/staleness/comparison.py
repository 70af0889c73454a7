"""Cells that are compared with another cell on the same starts: what many questions measure."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.lab.statistics import paired
from experiments.staleness import subjects

if TYPE_CHECKING:
    from configs.staleness import Config

# A cell: {name: value}, the key of its row.
Key = dict[str, Any]


def measured(
    config: "Config",
    todo: Iterable[Key],
    setup: Callable[[Key], dict[str, Any]],
    base: Callable[[Key], Key],
) -> Iterator[tuple[Key, dict]]:
    """Yield (key, values) for each key of `todo`, from all seeds.

    A row holds the errors to the synchronous run of the same solver and steps, and to the converged
    run. It also holds both over those of another cell, with their intervals: `rms_ratio`,
    `median_ratio`, and `total_rms_ratio`, `total_median_ratio`.

    Args:
      config: the configuration.
      todo: keys, each with a subject.
      setup: key -> options of `Subject.exchange`, and solver, steps, shift and devices where they
        are not config.one_solver, config.one_steps, 1 and `DEVICES`.
      base: key -> the key of the cell to compare with.
    """
    # {key as a text: (errors (B,) to the synchronous run, errors (B,) to the converged one)}
    errors = {}

    def run(key: Key) -> dict:
        values, errors[str(key)] = _run(config, key["subject"], setup(key))
        return values

    for key in todo:
        values, other = run(key), base(key)
        # The base is usually a cell of `todo` itself, and then it was run already.
        if str(other) not in errors:
            run(other)
        seed = subjects.subject(subjects.compared(config, key["subject"])).seed
        kinds = zip(("", "total_"), errors[str(key)], errors[str(other)], strict=True)
        for prefix, mine, theirs in kinds:
            found = paired(mine, theirs, seed)
            values |= {prefix + name: value for name, value in found.items()}
        # A row cannot hold a name in its key and in its values.
        yield key, {name: value for name, value in values.items() if name not in key}


def _run(
    config: "Config", name: str, options: dict[str, Any]
) -> tuple[dict, tuple[np.ndarray, np.ndarray]]:
    """(the values of a row, its errors to the synchronous run and to the converged one)."""
    options = {
        "solver": config.one_solver,
        "steps": config.one_steps,
        "shift": 1.0,
        "devices": subjects.DEVICES,
    } | options
    solver, steps, shift, devices = (
        options.pop(name) for name in ("solver", "steps", "shift", "devices")
    )

    # The run, and the synchronous one.
    key = subjects.compared(config, name)
    subject = subjects.subject(key)
    plan = subjects.plan_of(solver, steps, shift)
    found = subject.end(plan, subject.exchange(plan, devices, **options))
    own = subjects.synchronous(key, solver, steps, shift)

    values = {
        **subject.compare(found.x, own),
        "staleness": found.staleness,
        "synced": found.synced,
        "solver": solver,
        "steps": steps,
        "devices": devices,
        "doubling": subject.doubling,
    }
    return values, (subject.errors(found.x, own), subject.errors(found.x, subject.exact))
