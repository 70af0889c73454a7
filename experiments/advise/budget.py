"""What can be measured in the time given?

One evaluation of the guided network is timed. All further costs are numbers of evaluations, so the
numbers of starts follow from the budget.
"""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.advise import Config
from configs.tune import Config as TuneConfig
from experiments.lab import solvers
from experiments.lab.timing import clock
from experiments.tune import subject as subjects
from experiments.tune.subject import Subject
from flowjax import grids, models, plans
from flowjax.tune import numbers as numbering
from flowjax.tune.jacobian import pushes
from flowjax.tune.recipe import RACE_PART

QUESTION = "budget"
UNITS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
TIMED = 16  # starts whose evaluation is timed
REPEATS = 3
COMPILING = 0.25  # of the budget, for compiling and drawing
# Of the evaluations: for the published solvers and their reference, and for the devices. Tables are
# tuned with what is left, and for no longer than a part of the budget.
FOR_SETTING = 0.45
FOR_DEVICES = 0.2
FOR_TUNING = 0.35
LEAST_STARTS = 8
REFERENCE_STEPS = 80  # of RK4, and half as many for its own error
WHY = 8000  # evaluations of the question `why`, about
WARMUPS = 4  # numbers of synchronous steps that are tried on devices
KINDS = 2  # of forecasts there
EMULATION = 1.5  # the cost of an emulated evaluation
TUNING_STARTS = 40
TUNING_ITERATIONS = 4
TABLES = 2  # that are refined side by side


def seconds_of(text: str) -> float:
    """Seconds of a budget such as "90s", "8min" or "1h".

    Raises:
      ValueError: another form.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|sec|min|m|h)\s*", text)
    if not match or float(match[1]) <= 0:
        raise ValueError(f"--config.budget: {text!r}; wanted a time such as 90s, 8min or 1h.")
    return float(match[1]) * UNITS[match[2]]


def check(config: Config) -> None:
    """Refuse a budget, a model, steps and guidance that cannot be measured."""
    seconds_of(config.budget)
    tuning = tuning_config(config, LEAST_STARTS)
    subjects.check(tuning, "model", (config.model,))
    made = subject_of(config)
    if made.is_network:
        _check_network(made)
    subjects.check_steps("steps", config.steps, least=3)
    make_grids = [solvers.shifted(shift) for shift in config.shifts]
    solvers.check("solvers", config.solvers, make_grids, config.steps)


def _check_network(made: Subject) -> None:
    """Refuse guidance without a null label, and noise that does not determine the data at t = 1."""
    card = models.Card(made.name, *made.field.kind)
    if made.guidance != 1 and made.texts is None:
        _ = card.null_label  # it refuses
    if card.prediction in ("noise", "score") and card.schedule.alpha(1.0) == 0:
        raise ValueError(
            f"--config.model: {made.name!r} predicts {card.prediction} on the path "
            f"{type(card.schedule).__name__}, which has alpha = 0 at t = 1, so its data are not "
            "determined there; wanted a path with some signal at t = 1, or a prediction of v or "
            "the velocity."
        )


def tuning_config(config: Config, starts: int) -> TuneConfig:
    """The sizes of this run as a configuration of `experiments.tune`."""
    return TuneConfig(
        model=config.model,
        embeddings=config.embeddings,
        steps=config.steps,
        guidance=(config.guidance,),
        seed=config.seed,
        network_starts=TUNING_STARTS,
        field_starts=512,
        iterations=TUNING_ITERATIONS,
        unseen_seed=config.seed + 1,
        # Fields cost little, and a few starts near a border decide their errors.
        field_unseen=2048,
        network_unseen=starts,
        network_reference=REFERENCE_STEPS,
        solvers=config.solvers,
        shifts=config.shifts,
        plans=config.plans,
        seconds=_tuning_seconds(config),
    )


def subject_of(config: Config) -> Subject:
    """The model with its guidance."""
    return subjects.subject(tuning_config(config, LEAST_STARTS), config.model, config.guidance)


def cells(config: Config) -> list[dict]:
    """One cell."""
    return [{"question": QUESTION, "model": config.model}]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the sizes that the budget affords."""
    for key in todo:
        made = subject_of(config)
        each = seconds_each(made)
        yield key, {"seconds_each": each, **sizes(config, made, each)}


def seconds_each(made: Subject) -> float:
    """Seconds of one evaluation of one sample.

    Raises:
      ValueError: the model returns numbers that are not finite.
    """
    field, noise = made.bound(TIMED), made.starts(0, TIMED)
    plan = plans.adams_bashforth(grids.uniform(8), 2)
    # The first call compiles.
    end = np.asarray(solvers.solve(field, noise, plan))
    if not np.all(np.isfinite(end)):
        raise ValueError(
            f"--config.model: {made.name!r} gives numbers that are not finite within 8 steps of "
            f"Adams-Bashforth at guidance {made.guidance:g}; look at its output, its clock and the "
            "dtype of its weights before asking for settings."
        )
    # The least of some times: what else the machine does for a moment is not the network's cost.
    seconds = min(clock(lambda: solvers.solve(field, noise, plan)) for _ in range(REPEATS))
    return seconds / (TIMED * plan.rows)


def sizes(config: Config, made: Subject, each: float) -> dict[str, Any]:
    """Numbers of starts and of tables for a cost of `each` seconds an evaluation.

    Raises:
      ValueError: the budget is too small for the fewest starts.
    """
    budget = seconds_of(config.budget)
    total = (1 - COMPILING) * budget / each
    # Of one start: the reference at two numbers of steps, and all published plans.
    plans_each = len(config.solvers) * len(config.shifts)
    of_start = 6 * REFERENCE_STEPS + plans_each * sum(config.steps)
    starts = min(int((FOR_SETTING * total - WHY) / of_start), config.most_starts)
    if starts < LEAST_STARTS:
        wanted = (LEAST_STARTS * of_start + WHY) / FOR_SETTING * each / (1 - COMPILING)
        raise ValueError(
            f"--config.budget: {config.budget} affords {max(starts, 0)} starts, and fewer than "
            f"{LEAST_STARTS} tell no solvers apart. One evaluation takes {each:.2g} s, so give "
            f"{wanted / 60:.0f}min or more, or fewer steps, solvers or shifts."
        )
    many = [n for n in config.devices if n > 1] if made.is_network else []
    of_device_start = KINDS * WARMUPS * max(config.steps) * EMULATION
    device_starts = 0
    if many:
        device_starts = int(FOR_DEVICES * total / (len(many) * of_device_start))
        device_starts = max(2, min(device_starts, 16, starts))
    return {
        "starts": starts,
        "device_starts": device_starts,
        "tuned_steps": _affordable(config, made, each),
    }


def _affordable(config: Config, made: Subject, each: float) -> list[int]:
    """The numbers of evaluations for which a table can be tuned, the fewest first."""
    if not config.tune:
        return []
    chosen = []
    for steps in sorted(config.steps):
        cost = tuning_cost(steps, TUNING_STARTS if made.is_network else 512) * each
        # A refinement gains most at first, and ends when its time is up.
        if cost / 2 > tuning_seconds(config, len(chosen) + 1):
            break
        chosen.append(steps)
    return chosen


def _tuning_seconds(config: Config) -> float:
    """The limit of this run's tables; that of one table before the sizes are known."""
    tables = len(config.sizes["tuned_steps"]) if config.sizes else 1
    return tuning_seconds(config, max(tables, 1))


def tuning_seconds(config: Config, tables: int) -> float:
    """The seconds after which the refinement of each of some tables goes no further."""
    return FOR_TUNING * seconds_of(config.budget) / tables


def tuning_cost(steps: int, starts: int) -> float:
    """Evaluations that tuning a table takes, about."""
    grid = grids.uniform(steps)

    def make(grid: np.ndarray) -> plans.Plan:
        return plans.adams_bashforth(grid, min(3, steps))

    numbers = numbering.numbers_of("budget", make, grid, ("times", "state", "outputs"))
    derivatives = pushes(numbers.tangents(grid, np.zeros(numbers.count)))
    # Half of the iterations are a race of the tables on a part of the training starts, and half
    # are those of the best one on all of them, which are half of the starts.
    jacobians = TUNING_ITERATIONS / 2 * (TABLES / RACE_PART + 1)
    # The reference of all starts takes some hundred evaluations each.
    return jacobians * 1.2 * derivatives * starts / 2 + 300 * starts


def sizes_of(rows: list[dict]) -> dict[str, Any]:
    """The sizes that a run has decided on."""
    row = next(row for row in rows if row["question"] == QUESTION)
    return {name: row[name] for name in ("seconds_each", "starts", "device_starts", "tuned_steps")}


def model_of(rows: list[dict]) -> str:
    """The name of the model that was asked about."""
    return next((row["model"] for row in rows if row["question"] == QUESTION), "a model")


def sentence(config: Config, sizes: dict[str, Any]) -> str:
    """What the budget affords, in words."""
    tuned = " and ".join(map(str, sizes["tuned_steps"]))
    devices = f", {sizes['device_starts']} starts on devices" if sizes["device_starts"] else ""
    return (
        f"An evaluation of {config.model} takes {sizes['seconds_each']:.2g} s. {config.budget} "
        f"affords {sizes['starts']} starts for the published solvers{devices}, and "
        + (f"a tuned table of {tuned} evaluations." if tuned else "no tuned table.")
    )


def advice(rows: list[dict]) -> list[tuple[str, str]]:
    """No advice of its own."""
    return []
