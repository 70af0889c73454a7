"""How many seconds does a sample of a given error take: by diffusers, by flowjax, by tuned tables?

Three lists of plans stand beside each other: the solvers that diffusers has on the flow path, the
published solvers of flowjax, and the tuned tables of the network. `reached` takes their errors on
unseen starts. Then the plan of each list that reaches a stated error with the fewest evaluations is
timed.
"""

import dataclasses
import importlib.metadata
import os
import pathlib
import statistics
import sys
import tempfile
from typing import TYPE_CHECKING

import jax
import numpy as np

from configs import tune as tuning
from experiments.benchmarks import export, reached, tables, with_jax, worker
from experiments.benchmarks.case import Case
from experiments.benchmarks.to_error_table import markdown
from experiments.cli.run import main, progress
from experiments.lab import solvers, subjects
from experiments.tune import subject as tuned_subjects
from experiments.tune.unseen import Unseen, unseen
from flowjax import Plan, models, plans, records
from flowjax.errors import suggestion
from flowjax.models import DiTConfig
from flowjax.models.weights import SHIPPED
from flowjax.schedules import Linear

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
# The greatest relative error of one evaluation in PyTorch, and of a result to its plan's endpoint.
AGREE_ONCE, AGREE = 1e-4, 1e-3
# Rounds whose seconds do not count: on a small network the first calls of PyTorch take several
# times as long as later ones.
WARM_UP = 5


# ---- what is measured


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
        for each, answers in worker.taking_turns(workers, WARM_UP + repeats).items():
            values = found[each]
            for clock in ("wall", "cpu"):
                values[clock] = statistics.median(answer[clock] for answer in answers[WARM_UP:])
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
    chosen: dict[str, reached.Choice | None],
) -> None:
    """Add the rows of one stated error, which has these choices: every batch and contender.

    Where a row is missing all contenders take turns again, and the missing rows are added: a run
    without PyTorch, or one that was killed, leaves such a batch.
    """
    absent = worker.missing(tuple(CONTENDERS))
    pythons = _versions(config)
    own = jax.__version__
    # PyTorch's contenders run in this Python alone.
    taking_part = [
        (contender, version)
        for version in pythons
        for contender in CONTENDERS
        if contender not in absent and (version == own or contender not in worker.TORCH)
    ]

    def key_of(batch: int, contender: str, version: str) -> dict:
        key = {"part": "seconds", "error": error, "batch": batch}
        return key | {"contender": contender, "jax": version}

    todo = [
        batch
        for batch in config.batches
        if not all(kept.done(key_of(batch, *each)) for each in taking_part)
    ]
    if not todo:
        return
    shared = {
        listed: _share(config, folder, reached.plan_of(config, choice), f"{listed}-{error:g}", test)
        for listed, choice in chosen.items()
        if choice
    }
    for batch in todo:
        cases = {
            each: dataclasses.replace(shared[CONTENDERS[each[0]]], batch=batch)
            for each in taking_part
            if CONTENDERS[each[0]] in shared
        }
        found = _measure(cases, pythons, folder, config.repeats)
        for contender, version in taking_part:
            key = key_of(batch, contender, version)
            if kept.done(key):
                continue
            choice = chosen[CONTENDERS[contender]]
            values = found.get((contender, version), {})
            kept.add(
                key, **reached.about(choice), libraries=_libraries(contender, version), **values
            )


def run(config: "Config", workdir: str | os.PathLike) -> list[dict]:
    """Measure what `workdir` does not hold yet and return all rows."""
    check(config)
    kept = records.Records(workdir, config)
    absent = worker.missing(tuple(CONTENDERS))
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}.")

    tune_config = _tune_config(config)
    test = unseen(tune_config, tuned_subjects.subject(tune_config, config.model))
    reached.take_errors(config, kept, test)
    chosen = reached.choose(config, kept)
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
    return tables.write(workdir, markdown)


if __name__ == "__main__":
    main(run, table, check=check)
