"""Tuned tables as files: each is made once, and every question finds it in the plans folder.

A file holds the table and what it was made for and from. A run that is killed loses the table that
it was tuning and no other.
"""

import functools
import hashlib
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from configs.tune import Config
from experiments.lab import subjects
from experiments.tune.subject import Subject, slug
from flowjax import Plan, grids, models, plans, tune
from flowjax.plans.table import DEPTH
from flowjax.records import plain
from flowjax.schedules import Linear, Schedule
from flowjax.tune import numbers as numbering
from flowjax.tune.facts import facts_of
from flowjax.tune.facts import path_of as path_of_schedule
from flowjax.tune.recipe import LEAST_STARTS, published_solvers

FREE = ("times", "state", "outputs")  # what `flowjax.tune.tune` frees by default
ON_GRID = " on the uniform grid of shift "  # between the solver and the shift in `Tuned.name`


class Table(NamedTuple):
    """A tuned table as a file holds it.

    Attributes:
      plan: the tuned table, or the published one where tuning was not accepted.
      published: the published plan that it began from.
      facts: what it was made for, from what, and with which result.
    """

    plan: Plan
    published: Plan
    facts: dict[str, Any]


class Refused(ValueError):
    """Nothing can be tuned here, in words: a result, in contrast to a fault of the files."""


def table_of(
    config: Config,
    subject: Subject,
    steps: int,
    *,
    free: tuple[str, ...] = FREE,
    depth: int = DEPTH,
    solver: str = "",
) -> Table:
    """The table of a subject: read from its file, or tuned and written there.

    Args:
      config: sizes, and the folder of the files.
      subject: the model.
      steps: evaluations.
      free, depth: as in `flowjax.tune.tune`.
      solver: the published solver to begin from, a name of `makers`; by default the best one.

    Raises:
      Refused: `flowjax.tune.tune` refuses, for example an ODE that does not converge.
      ValueError: a file of that name with other settings, or a damaged one.
    """
    path = path_of(config, subject, steps, free=free, depth=depth, solver=solver)
    settings = _settings(config, subject, steps, free, depth, solver)
    if not path.exists():
        _tune(config, subject, path, settings)
    plan, facts = plans.load_with_facts(path)
    # The name of a file holds a part of its settings only.
    differ = [name for name in settings if facts.get(name) != settings[name]]
    if differ:
        there = ", ".join(f"{name}={facts.get(name)!r}" for name in differ)
        now = ", ".join(f"{name}={settings[name]!r}" for name in differ)
        raise ValueError(
            f"{path} was tuned with {there}, and {now} is wanted; give another --workdir, or "
            "remove the file."
        )
    published = published_plan(facts["published"], steps, subject.schedule)
    return Table(subject.plan_of_own(plan), published, facts)


def starts_for(config: Config, subject: Subject, steps: int) -> int:
    """How many starts a table is tuned with: those of the configuration, or as many as it needs.

    A table of many evaluations has more numbers than few starts of few dimensions determine;
    `flowjax.tune.tune` wants three equations for each number, from the half that trains.
    """
    each = int(np.prod(subject.shape))
    enough = max(LEAST_STARTS, 2 * -(-3 * _most_numbers(steps) // each))
    return max(subject.starts_of(config)[0], enough)


@functools.cache
def _most_numbers(steps: int) -> int:
    """The free numbers of the table that has most: of a solver with a corrector."""
    grid = grids.uniform(steps)
    makes = makers(steps, Linear()).values()
    found = [numbering.numbers_of("experiments.tune", make, grid, FREE).count for make in makes]
    return max(found)


def path_of(
    config: Config,
    subject: Subject,
    steps: int,
    *,
    free: tuple[str, ...] = FREE,
    depth: int = DEPTH,
    solver: str = "",
) -> pathlib.Path:
    """Where a table lies: plans/ring-w1-10.json, and a longer name for parts of a table."""
    # The name that the usual table has is short, and parts of a table say what is free.
    parts = [slug(subject.name), f"w{subject.guidance:g}", str(steps)]
    if free != FREE:
        parts.append("+".join(free))
    if depth != DEPTH:
        parts.append(f"depth{depth}")
    if solver:
        parts.append(f"from-{slug(solver)}")
    return pathlib.Path(config.plans) / f"{'-'.join(parts)}.json"


def makers(steps: int, schedule: Schedule) -> dict[str, Callable[[np.ndarray], Plan]]:
    """{solver: grid -> plan}: the solvers that a table may begin from."""
    return {"Euler": plans.euler} | published_solvers(steps, schedule)


def published_plan(name: str, steps: int, schedule: Schedule) -> Plan:
    """The published plan that `Tuned.name` describes."""
    make, grid = start_of(name, steps, schedule)
    return make(grid)


def start_of(
    name: str, steps: int, schedule: Schedule
) -> tuple[Callable[[np.ndarray], Plan], np.ndarray]:
    """(grid -> plan, grid) of the published plan that `Tuned.name` describes."""
    solver, shift = solver_and_shift(name)
    return makers(steps, schedule)[solver], grids.uniform(steps, shift=shift)


def solver_and_shift(name: str) -> tuple[str, float]:
    """The solver and the shift in a name such as "UniPC 3 on the uniform grid of shift 0.7"."""
    solver, _, shift = name.partition(ON_GRID)
    return solver, float(shift)


def _settings(
    config: Config,
    subject: Subject,
    steps: int,
    free: tuple[str, ...],
    depth: int,
    solver: str,
) -> dict[str, Any]:
    """The facts that are known before anything is tuned: two tables that share them are one."""
    found = named(subject)
    found |= {
        "guidance": float(subject.guidance),
        "steps": int(steps),
        "starts": starts_for(config, subject, steps),
        "seed": config.seed,
        "iterations": config.iterations,
        "free": list(free),
        "depth": depth,
        "begun_from": solver or "the best published solver",
        "dtype": np.dtype(subject.dtype).name,
    }
    # A table whose tuning was cut short is another one.
    if config.seconds != Config.seconds:
        found["seconds_at_most"] = config.seconds
    if subject.texts is not None:
        found["texts"] = digest(subject.texts)
    return found


def named(subject: Subject) -> dict[str, str]:
    """The facts that name a model: the name of a network's card and its folder, or the field."""
    if not subject.is_network:
        return {"field": subject.name}
    name = subjects.load(subject.name).card.name
    return {"network": name} | ({"folder": subject.name} if name != subject.name else {})


def digest(texts: models.Condition) -> str:
    """A name of the texts' embeddings: other texts are another problem."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(texts):
        found.update(np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def describe(subject: Subject) -> dict[str, Any]:
    """What a plan of this subject fits: its path, and of a network its clock and channels."""
    if not subject.is_network:
        return {"path": path_of_schedule(subject.schedule)}
    facts = facts_of(models.Card(subject.name, *subject.field.kind), subject.guidance)
    return {name: facts[name] for name in ("path", "clock", "channels")}


def command_of(config: Config, subject: Subject, steps: int) -> str:
    """The command that tunes this table alone."""
    # Not the command that was typed: it may have made many tables.
    kind = "network" if subject.is_network else "field"
    words = [
        "python -m experiments.tune --config=configs/tune.py --workdir=runs/tune",
        f"--config.model={subject.name}",
        f"--config.guidance={subject.guidance:g}",
        f"--config.steps={steps}",
        f"--config.{kind}_starts={subject.starts_of(config)[0]}",
        f"--config.seed={config.seed}",
        f"--config.iterations={config.iterations}",
    ]
    words += [f"--config.embeddings={config.embeddings}"] * bool(config.embeddings)
    return " ".join(words + ["--config.float64"] * bool(config.float64))


def _tune(config: Config, subject: Subject, path: pathlib.Path, settings: dict) -> None:
    """Tune a table and write it with its facts."""
    steps = settings["steps"]
    count = settings["starts"]
    solver = settings["begun_from"]
    start = makers(steps, subject.schedule).get(solver)
    begun = time.monotonic()
    try:
        # The split of the starts is that of `tune`, by its own key.
        found = tune.tune(
            subject.velocity,
            subject.starts(config.seed, count),
            steps,
            condition=subject.labels(count),
            schedule=subject.schedule,
            start=_named(start, solver) if start else None,
            iterations=config.iterations,
            free=tuple(settings["free"]),
            depth=settings["depth"],
            seconds=config.seconds,
            progress=_shown(path.stem),
        )
    except ValueError as error:
        raise Refused(str(error)) from error
    # Everything that a reader of the file may ask, and what `tune` says in words.
    facts = settings | describe(subject)
    facts |= {
        "published": found.name,
        "accepted": found.accepted,
        "before": found.before._asdict(),
        "after": found.after._asdict(),
        "ratio": [found.ratio.ratio, found.ratio.low, found.ratio.high],
        "sentence": found.sentence,
        "history": [iteration._asdict() for iteration in found.history],
        "evaluations": found.evaluations,
        "seconds": time.monotonic() - begun,
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
    }
    # No command tunes a part of a table alone.
    if path == path_of(config, subject, steps):
        facts["command"] = command_of(config, subject, steps)
    # `plans.save` replaces a file in one move, so a killed run leaves no part of one.
    os.makedirs(path.parent, exist_ok=True)
    # A file holds the plan of the network's own path, with which it is sampled.
    plans.save(path, subject.own_plan(found.plan), **plain(facts))


def _named(make: Callable, name: str) -> Callable:
    """`make` with the name that `tune` puts into its result."""

    def start(grid: np.ndarray) -> Plan:
        return make(grid)

    start.__name__ = name
    return start


def _shown(name: str) -> Callable[[tune.Iteration], None]:
    """A progress function that prints each iteration above the bar of the cells."""
    begun = time.monotonic()

    def show(iteration: tune.Iteration) -> None:
        spent = time.monotonic() - begun
        tqdm.write(
            f"{name}: training error {iteration.train:.3g}, validation {iteration.validation:.3g}, "
            f"{spent:.0f} s",
            file=sys.stderr,
        )

    return show
