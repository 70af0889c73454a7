"""Which plan of each list reaches a stated error with the fewest evaluations? Nothing is timed.

The lists are the solvers that diffusers has on the flow path, the published solvers of flowjax, and
the tuned tables of the network.
"""

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from experiments.cli.run import progress
from experiments.lab import solvers, subjects
from experiments.tune import subject as tuned_subjects
from experiments.tune.unseen import Unseen, rms
from flowjax import Plan, plans, records
from flowjax.models.weights import SHIPPED
from flowjax.schedules import Linear
from flowjax.tune.facts import check_fits, shipped_path

if TYPE_CHECKING:
    from configs.bench_to_error import Config

LISTS = ("diffusers", "published", "tuned")
TUNED = "tuned"  # the solver's name in a row of a tuned plan


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


# ---- the plans


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


# ---- their errors


def take_errors(config: "Config", kept: records.Records, test: Unseen) -> None:
    """Add the rows {solver, evaluations, shifts, rms} that are not there yet."""
    for count, plan in tuned_plans(config).items():
        key = {"part": "errors", "solver": TUNED, "evaluations": count}
        if not kept.done(key):
            (errors,) = test.errors([plan])
            kept.add(key, shifts=[None], rms=[rms(errors)])
    names = dict.fromkeys([*config.diffusers, *config.published])
    for name in progress(names):
        for key in until_reached(config, kept, name):
            plans_ = [
                solvers.plan_of(name, Linear(), solvers.shifted(shift), key["evaluations"])
                for shift in config.shifts
            ]
            kept.add(key, shifts=config.shifts, rms=[rms(each) for each in test.errors(plans_)])


def until_reached(config: "Config", kept: records.Records, name: str) -> Iterator[dict]:
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


def choose(config: "Config", kept: records.Records) -> dict[float, dict[str, Choice | None]]:
    """{error: {list of plans: its choice}}; each choice is a row, too."""
    names = {"diffusers": config.diffusers, "published": config.published, "tuned": (TUNED,)}
    found = {}
    for error in config.errors:
        found[error] = {listed: fewest(kept.rows, names[listed], error) for listed in LISTS}
        for listed, choice in found[error].items():
            key = {"part": "plans", "error": error, "list": listed}
            if not kept.done(key):
                kept.add(key, **about(choice))
    return found


def about(choice: Choice | None) -> dict:
    """The fields of a choice for a row; None in each of them where the error is not reached."""
    return choice._asdict() if choice else dict.fromkeys(Choice._fields)
