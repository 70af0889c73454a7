"""How many seconds does a sample of a given error take: by diffusers, by flowjax, by tuned tables?

Three lists of plans stand beside each other: the solvers that diffusers has on the flow path, the
published solvers of flowjax, and the tuned tables of the network. The first part takes their errors
on unseen starts and times nothing. The second part times, for each stated error, the plan of each
list that reaches it with the fewest evaluations.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from configs import tune as tuning
from experiments.benchmarks import export, with_jax, worker
from experiments.benchmarks.case import Case
from experiments.benchmarks.to_error_table import markdown
from experiments.cli.run import main, progress
from experiments.lab import solvers, subjects
from experiments.tune import subject as tuned_subjects
from experiments.tune.unseen import Unseen, rms, unseen
from flowjax import Plan, files, models, plans, records
from flowjax.errors import suggestion
from flowjax.models import DiTConfig
from flowjax.models.weights import SHIPPED
from flowjax.schedules import Linear
from flowjax.tune.facts import check_fits, shipped_path

if TYPE_CHECKING:
    from configs.bench_to_error import Config

COMMAND = "experiments.benchmarks.to_error"
# {contender: the list of plans that it chooses from}
CONTENDERS = {
    "torch compile": "diffusers",
    "torch eager": "diffusers",
    "flowjax, published": "published",
    "flowjax, tuned": "tuned",
}
LISTS = ("diffusers", "published", "tuned")
TUNED = "tuned"  # the solver's name in a row of a tuned plan
# The greatest relative error of one evaluation in PyTorch, and of a result to its plan's endpoint.
AGREE_ONCE, AGREE = 1e-4, 1e-3


class Choice(NamedTuple):
    """A plan of a list.

    Attributes:
      solver: a name of `solvers.SOLVERS`, or TUNED.
      shift: of its uniform grid; None of a tuned plan, which has times of its own.
      evaluations: of the network.
      rms: its error on the unseen starts.
    """

    solver: str
    shift: float | None
    evaluations: int
    rms: float


# ---- the model and its plans


def check(config: "Config") -> None:
    """Refuse a model, solvers and sizes that cannot be measured, before anything is written."""
    _check_model(config.model)
    for option in ("diffusers", "published"):
        solvers.check(option, getattr(config, option))
    if max(config.batches) > config.network_unseen:
        raise ValueError(
            f"--config.batches={config.batches}: a call takes its noise from the "
            f"{config.network_unseen} unseen starts; raise --config.network_unseen."
        )
    _versions(config)


def _check_model(name: str) -> None:
    """Refuse what is no DiT, and a DiT whose solvers and network diffusers does not share."""
    if not tuned_subjects.is_network(name):
        raise ValueError(
            f"--config.model: {name!r} is not known; {suggestion(name, SHIPPED)} "
            "The folder of a network is a model too."
        )
    loaded = subjects.load(name)
    if not isinstance(loaded, models.Model) or not isinstance(loaded.card.config, DiTConfig):
        raise ValueError(f"--config.model: {name!r} is no DiT; {COMMAND} measures DiTs alone.")
    card = loaded.card
    if not isinstance(card.schedule, Linear) or card.prediction != "velocity":
        raise ValueError(
            f"--config.model: {name!r} predicts the {card.prediction} on the path "
            f"{type(card.schedule).__name__}; wanted the velocity on the path Linear, on which "
            "diffusers' flow solvers are."
        )


def _tune_config(config: "Config") -> tuning.Config:
    """The configuration of experiments.tune that has the same unseen starts."""
    sizes = ("unseen_seed", "network_unseen", "network_reference")
    return tuning.Config(**{name: getattr(config, name) for name in sizes})


def tuned_plans(config: "Config") -> dict[int, Plan]:
    """{evaluations: plan} of the accepted tuned plans of the model at guidance 1."""
    card = subjects.load(config.model).card
    name = tuned_subjects.slug(config.model)
    paths = []
    if config.model in SHIPPED:
        paths += shipped_path(config.model, 1, 1.0).parent.glob("w1-*.json")
    # Those of the folder come last and are the ones that count.
    paths += pathlib.Path(config.plans).glob(f"{name}-w1-*.json")
    found = {}
    for path in paths:
        # A longer name is of a table of which parts are free only.
        if not path.stem.rpartition("w1-")[2].isdecimal():
            continue
        plan, facts = plans.load_with_facts(path)
        if facts.get("accepted"):
            check_fits(facts, card, 1.0, str(path))
            found[plan.nfe] = plan
    return dict(sorted(found.items()))


def plan_of(config: "Config", choice: Choice) -> Plan:
    """The plan of a choice."""
    if choice.solver == TUNED:
        return tuned_plans(config)[choice.evaluations]
    grid = solvers.shifted(choice.shift)
    return solvers.plan_of(choice.solver, Linear(), grid, choice.evaluations)


# ---- errors


def _take_errors(config: "Config", kept: records.Records, test: Unseen) -> None:
    """Add the rows {solver, evaluations, shifts, rms} that are not there yet."""
    for count, plan in tuned_plans(config).items():
        key = {"part": "errors", "solver": TUNED, "evaluations": count}
        if not kept.done(key):
            (errors,) = test.errors([plan])
            kept.add(key, shifts=[None], rms=[rms(errors)])
    names = dict.fromkeys([*config.diffusers, *config.published])
    for name in progress(names):
        for key in _until_reached(config, kept, name):
            plans_ = [
                solvers.plan_of(name, Linear(), solvers.shifted(shift), key["evaluations"])
                for shift in config.shifts
            ]
            kept.add(key, shifts=config.shifts, rms=[rms(each) for each in test.errors(plans_)])


def _until_reached(config: "Config", kept: records.Records, name: str) -> Iterator[dict]:
    """The keys to measure of a solver, up to the evaluations that reach the smallest error."""
    for count in sorted(config.nfe):
        # The solver's order is the same for all shifts.
        if solvers.plan_of(name, Linear(), solvers.shifted(1.0), count) is None:
            continue
        key = {"part": "errors", "solver": name, "evaluations": count}
        if not kept.done(key):
            yield key
        if fewest(kept.rows, (name,), min(config.errors)):
            return


def fewest(rows: list[dict], names: tuple[str, ...], error: float) -> Choice | None:
    """The plan with the fewest evaluations whose error is at most `error`, or None.

    Args:
      rows: of all parts.
      names: the solvers of a list.
      error: the stated error.
    """
    reached = [
        Choice(row["solver"], shift, row["evaluations"], found)
        for row in rows
        if row["part"] == "errors" and row["solver"] in names
        for shift, found in zip(row["shifts"], row["rms"], strict=True)
        if found <= error
    ]
    # Of several with equally many evaluations, the most accurate one.
    return min(reached, key=lambda choice: (choice.evaluations, choice.rms), default=None)


def _choose(config: "Config", kept: records.Records) -> dict[float, dict[str, Choice | None]]:
    """{error: {list of plans: its choice}}; each choice is a row, too."""
    names = {"diffusers": config.diffusers, "published": config.published, "tuned": (TUNED,)}
    found = {}
    for error in config.errors:
        found[error] = {listed: fewest(kept.rows, names[listed], error) for listed in LISTS}
        for listed, choice in found[error].items():
            key = {"part": "plans", "error": error, "list": listed}
            if not kept.done(key):
                kept.add(key, **_about(choice))
    return found


def _about(choice: Choice | None) -> dict:
    """The fields of a choice for a row; None in each of them where the error is not reached."""
    return choice._asdict() if choice else dict.fromkeys(Choice._fields)


# ---- seconds


def _versions(config: "Config") -> dict[str, str]:
    """{version of JAX: the Python that has it}: this Python, and another one where it is given."""
    own = jax.__version__
    found = {own: sys.executable}
    for name, python in (worker.elsewhere(config.python) if config.python else {}).items():
        version = name.rpartition(" ")[2]
        if version == own:
            raise ValueError(
                f"--config.python={config.python!r} has JAX {own}, as this Python has; give one "
                "with another JAX."
            )
        found[version] = python
    return found


def _libraries(contender: str, version: str) -> str:
    """The versions that a contender runs on."""
    if contender not in worker.TORCH:
        return f"JAX {version}"
    names = ("torch", "diffusers")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _share(config: "Config", folder: str, plan: Plan, name: str, test: Unseen) -> Case:
    """Write a plan, and the inputs with its endpoint; its case at the largest batch."""
    card = subjects.load(config.model).card
    sizes = card.config
    path = pathlib.Path(folder) / f"{name}.json"
    plans.save(path, plan)
    case = Case(
        folder=folder,
        size=sizes.size[0],
        width=sizes.width,
        depth=sizes.depth,
        heads=sizes.heads,
        batch=max(config.batches),
        steps=plan.rows,
        guidance=1.0,
        dtype="float32",
        model=config.model,
        plan=str(path),
    )
    field = tuned_subjects.subject(_tune_config(config), config.model).bound(case.batch)
    noise = test.noise[: case.batch]
    end = solvers.solve(field, noise, plan)
    shared = with_jax.columns(card, plan)
    np.savez(case.inputs, noise=noise, labels=field.label, x=np.asarray(end), **shared)
    return case


def one_evaluation() -> Plan:
    """A plan whose result is -0.5 times the velocity at t = 0.5: one evaluation of the network."""
    plan = plans.euler(np.array([0.5, 0.0]))
    # Without the state in it, the relative error of the result is that of the velocity.
    return plan._replace(a=np.zeros_like(plan.a))


def _check_network(config: "Config", kept: records.Records, folder: str, test: Unseen) -> None:
    """Hold one evaluation in PyTorch to ours; RuntimeError where the two networks differ."""
    key = {"part": "network"}
    if kept.done(key):
        return
    case = _share(config, folder, one_evaluation(), "one-evaluation", test)
    with worker.Worker("torch eager", folder) as each:
        found = each.build(case)["error"]
    if not found <= AGREE_ONCE:  # also where it is NaN
        raise RuntimeError(
            f"{COMMAND}: one evaluation of {config.model} in PyTorch differs by {found:.1e} from "
            f"that in JAX; wanted {AGREE_ONCE:g} at most."
        )
    kept.add(key, difference=found)


def _measure(
    cases: dict[tuple[str, str], Case], pythons: dict[str, str], folder: str, repeats: int
) -> dict[tuple[str, str], dict]:
    """{(contender, version of JAX): values}; the contenders are built, then they take turns."""
    workers, found = {}, {}
    try:
        for each, case in cases.items():
            workers[each] = worker.Worker(", ".join(each), folder, python=pythons[each[1]])
            found[each] = workers[each].build(case)
        for each, answers in worker.taking_turns(workers, repeats).items():
            values = found[each]
            for clock in ("wall", "cpu"):
                values[clock] = statistics.median(answer[clock] for answer in answers)
            # Time without the right result is no result, so the worst call counts.
            differences = [values.pop("error"), *(answer["error"] for answer in answers)]
            values["difference"] = max(differences)
            values["agrees"] = bool(np.all(np.array(differences) <= AGREE))
            values["load"] = os.getloadavg()[0]
    finally:
        # Also after an error: a worker that nobody asks would wait for ever.
        for each in workers.values():
            each.kill()
            each.close()
    return found


def _take_seconds(
    config: "Config",
    kept: records.Records,
    folder: str,
    test: Unseen,
    error: float,
    chosen: dict[str, Choice | None],
) -> None:
    """Add the rows of one stated error, which has these choices: every batch and contender."""
    keys = {batch: {"part": "seconds", "error": error, "batch": batch} for batch in config.batches}
    todo = [batch for batch, key in keys.items() if not kept.done(key)]
    if not todo:
        return
    absent = worker.missing(tuple(CONTENDERS))
    pythons = _versions(config)
    own = jax.__version__
    shared = {
        listed: _share(config, folder, plan_of(config, choice), f"{listed}-{error:g}", test)
        for listed, choice in chosen.items()
        if choice
    }
    # PyTorch's contenders run in this Python alone.
    taking_part = [
        (contender, version)
        for version in pythons
        for contender in CONTENDERS
        if contender not in absent and (version == own or contender not in worker.TORCH)
    ]
    for batch in todo:
        cases = {
            each: dataclasses.replace(shared[CONTENDERS[each[0]]], batch=batch)
            for each in taking_part
            if CONTENDERS[each[0]] in shared
        }
        found = _measure(cases, pythons, folder, config.repeats)
        for contender, version in taking_part:
            key = keys[batch] | {"contender": contender, "jax": version}
            choice = chosen[CONTENDERS[contender]]
            values = found.get((contender, version), {})
            kept.add(key, **_about(choice), libraries=_libraries(contender, version), **values)


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet and return all rows."""
    check(config)
    kept = records.Records(workdir, config)
    absent = worker.missing(tuple(CONTENDERS))
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}.")

    tune_config = _tune_config(config)
    test = unseen(tune_config, tuned_subjects.subject(tune_config, config.model))
    _take_errors(config, kept, test)
    chosen = _choose(config, kept)
    print("All errors are measured; the timing begins, and wants a machine that does nothing else.")
    with tempfile.TemporaryDirectory() as folder:
        loaded = subjects.load(config.model)
        if len(absent) < len(worker.TORCH):
            export.write(pathlib.Path(folder), loaded.params, loaded.card.config)
            _check_network(config, kept, folder, test)
        for error in progress(config.errors, lambda error: f"error {error:g}"):
            _take_seconds(config, kept, folder, test, error, chosen[error])
    return kept.rows


def table(workdir: str | os.PathLike) -> list[pathlib.Path]:
    """Print the table and write it to table.md."""
    path = pathlib.Path(workdir) / "table.md"
    command = (records.read_summary(workdir) or {}).get("command", "an unfinished run")
    text = markdown(records.read(workdir), command)
    print(text)
    files.write_text(path, text)
    return [path]


if __name__ == "__main__":
    main(run, table, check=check)
