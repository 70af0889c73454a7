"""The cells of this question, and what is measured in each."""

from collections.abc import Iterator

from configs.tune import Config
from experiments.tune import parts, unseen
from experiments.tune import subject as subjects
from experiments.tune.optimizer.methods import (
    REVERSE,
    Curve,
    Problem,
    adam,
    least_squares,
    levenberg_marquardt,
    problem,
)

QUESTION = "optimizer"
LEVENBERG_MARQUARDT = "Levenberg-Marquardt"
AFTER_FIT = "Levenberg-Marquardt from least squares"
LEAST_SQUARES = "least squares"
ADAM = "Adam"


def check(config: Config) -> None:
    """Refuse models, steps and learning rates that cannot be measured."""
    parts.check(config)
    if not config.rates or min(config.rates) <= 0 or config.adam_budget <= 0:
        raise ValueError(
            f"--config.rates, --config.adam_budget: {tuple(config.rates)} and "
            f"{config.adam_budget}; wanted learning rates and a budget above 0."
        )


def cells(config: Config) -> list[dict]:
    """One cell a model and number of evaluations; all optimizers are measured together."""
    return [
        {"question": QUESTION, "model": name, "steps": steps}
        for name in dict.fromkeys(config.parts_models)
        for steps in dict.fromkeys(config.parts_steps)
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the curve of each optimizer, and its error on unseen starts."""
    for key in todo:
        made = subjects.subject(config, key["model"])
        task = problem(config, made, key["steps"])
        begun = task.make(task.grid)
        curves = _curves(config, task)
        # The optimizers saw training and validation starts; these judge.
        test = unseen.unseen(config, made)
        errors = test.errors([begun, *(curve.plan for curve in curves.values())])
        values = {
            name: {
                "spent": curve.spent,
                "train": curve.train,
                "validation": curve.validation,
                **unseen.summary(errors[1 + i]),
            }
            for i, (name, curve) in enumerate(curves.items())
        }
        yield key, {"published_rms": unseen.rms(errors[0]), "optimizers": values}


def _curves(config: Config, task: Problem) -> dict[str, Curve]:
    """{optimizer: its curve}."""
    first = levenberg_marquardt(task, task.make)
    fitted, by_fit = least_squares(task)
    found = {
        LEVENBERG_MARQUARDT: first,
        LEAST_SQUARES: by_fit,
        AFTER_FIT: levenberg_marquardt(task, fitted, spent=by_fit.spent[-1]),
    }
    # Each rate gets the whole budget.
    steps = len(task.grid) - 1
    iterations = max(1, int(config.adam_budget * first.spent[-1] / (REVERSE * steps)))
    for rate in config.rates:
        found[f"{ADAM}, rate {rate:g}"] = adam(task, rate, iterations)
    return found


def best_adam(row: dict) -> tuple[str, dict]:
    """(name, values) of the learning rate with the least error on unseen starts."""
    runs = {name: run for name, run in row["optimizers"].items() if name.startswith(ADAM)}
    return min(runs.items(), key=lambda item: item[1]["rms"])


def spent_ratio(row: dict) -> float:
    """Evaluations of Adam at its best rate, over those of Levenberg-Marquardt."""
    levenberg = row["optimizers"][LEVENBERG_MARQUARDT]
    return best_adam(row)[1]["spent"][-1] / levenberg["spent"][-1]


def ratio_of(row: dict) -> float:
    """The error of Adam at its best rate, over that of Levenberg-Marquardt."""
    return best_adam(row)[1]["rms"] / row["optimizers"][LEVENBERG_MARQUARDT]["rms"]
