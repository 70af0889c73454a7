"""How much smaller is the error of a tuned table? Models x guidance x numbers of evaluations.

Each published solver stands on its best grid, chosen on the very starts on which the errors are
taken: this favours the published solvers.
"""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.tune import Config
from experiments.lab import solvers
from experiments.tune import subject as subjects
from experiments.tune import tables, unseen
from experiments.tune.subject import Subject
from flowjax import Plan
from flowjax.plans.table import DEPTH
from flowjax.tune import numbers as numbering

QUESTION = "ratio"
TUNED = "tuned"
# The solvers of `flowjax.tune` by their names in `experiments.lab.solvers`.
BEGUN = {
    "Adams-Bashforth 2": "AB2",
    "Adams-Bashforth 3": "AB3",
    "DPM-Solver++ 2M": "DPM++ 2M",
    "DPM-Solver++ 3M": "DPM++ 3M exact",
    "UniPC 3": "UniPC3",
    "DEIS 3": "DEIS3",
}


def check(config: Config) -> None:
    """Refuse models, guidance, steps and solvers that cannot be measured."""
    names = subjects.models_of(config)
    subjects.check(config, "model" if config.model else "models", names)
    subjects.check_steps("steps", config.steps)
    make_grids = [solvers.shifted(shift) for shift in config.shifts]
    solvers.check("solvers", config.solvers, make_grids, config.steps)


def cells(config: Config) -> list[dict]:
    """One cell a model, guidance scale and number of evaluations; other texts are other cells."""
    return [
        {"question": QUESTION, "model": name, "guidance": scale, "steps": steps}
        | _texts_of(config, name, scale)
        for name in dict.fromkeys(subjects.models_of(config))
        for scale in subjects.scales_of(config, name)
        for steps in dict.fromkeys(config.steps)
    ]


def _texts_of(config: Config, name: str, scale: float) -> dict[str, str]:
    """What a key says of the texts of a network that draws for texts."""
    if not config.embeddings:
        return {}
    return {"texts": tables.digest(subjects.subject(config, name, scale).texts)}


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors of all solvers and of the tuned table, and the table itself."""
    for key in todo:
        made = subjects.subject(config, key["model"], key["guidance"])
        try:
            table = tables.table_of(config, made, key["steps"])
        except tables.Refused as error:
            # An ODE that does not converge has no endpoint to tune to: that is a result.
            yield key, {"refused": str(error)}
            continue
        yield key, {"refused": None, **_measured(config, made, key["steps"], table)}


def _measured(config: Config, made: Subject, steps: int, table: tables.Table) -> dict[str, Any]:
    """The values of one cell that has a table."""
    # The table first: it takes longest, and its file outlives a kill.
    test = unseen.unseen(config, made)
    # All plans of the cell together, so that they share compiled programs.
    jobs = [(TUNED, None, table.plan), *candidates(config, made, steps)]
    # The plan that tuning began from is a rival too, also where its grid is not among these.
    begun, shift = tables.solver_and_shift(table.facts["published"])
    jobs.append((BEGUN.get(begun, begun), shift, table.published))
    errors = test.errors([plan for *_, plan in jobs])
    best = _best_grids(jobs[1:], errors[1:])  # {solver: place in jobs[1:]}
    lines = [
        {"solver": name, "shift": jobs[1 + i][1], **unseen.summary(errors[1 + i])}
        for name, i in best.items()
    ]
    # The best of the published ones is what the tuned table is compared with.
    winner = min(lines, key=lambda line: line["rms"])["solver"]
    place = 1 + best[winner]
    return {
        "solvers": lines,
        "tuned": unseen.summary(errors[0]),
        "best": winner,
        **unseen.compared(errors[0], errors[place]),
        "accepted": table.facts["accepted"],
        "sentence": table.facts["sentence"],
        "evaluations": table.facts["evaluations"],
        "seconds": table.facts["seconds"],
        "published": table.facts["published"],
        "table": weights_of(table.plan),
        "beside": weights_of(table.published),
        "bfloat16": _in_bfloat16(config, made, test, table.plan, jobs[place][2]),
        "doubling": test.doubling,
    }


def candidates(config: Config, made: Subject, steps: int) -> list[tuple[str, float, Plan]]:
    """(solver, shift, plan) of all published solvers on all grids."""
    found = []
    for name in config.solvers:
        for shift in config.shifts:
            grid = functools.partial(made.grid, shift=shift)
            plan = solvers.plan_of(name, made.schedule, grid, steps)
            if plan is not None:
                found.append((name, shift, plan))
    return found


def _best_grids(jobs: list[tuple[str, float, Plan]], errors: np.ndarray) -> dict[str, int]:
    """{solver: the place in `jobs` of its plan with the least RMS error}."""
    best = {}
    for i, (name, *_) in enumerate(jobs):
        if name not in best or unseen.rms(errors[i]) < unseen.rms(errors[best[name]]):
            best[name] = i
    return best


def weights_of(plan: Plan) -> dict[str, list]:
    """A table as numbers that solvers have in common.

    Returns:
      times (N+1,), label_time (N,), and outputs (N, 4): the weights of the last four velocities in
      units of the row's step, so that Euler's method has (1, 0, 0, 0); largest: their L1 size.
    """
    # Plans of data predictions keep m = p x + q v: the velocity in it has the weight q.
    lagged = np.zeros((plan.rows, DEPTH))
    for j in range(DEPTH):
        lagged[j:, j] = np.asarray(plan.q)[: plan.rows - j]
    # Steps are negative, as are Euler's weights.
    step = -numbering.step_of_row(plan)[:, None]
    outputs = (np.asarray(plan.b) + np.asarray(plan.d)) * lagged / step
    return {
        "times": [float(t) for t in plan.grid],
        "label_time": [float(t) for t in plan.label_time],
        "outputs": outputs.tolist(),
        "largest": float(np.max(numbering.l1_sizes(plan))),
    }


def _in_bfloat16(
    config: Config, made: Subject, test: unseen.Unseen, tuned: Plan, published: Plan
) -> dict[str, float] | None:
    """RMS errors of two plans, and their change, with the network in bfloat16; None for fields.

    Errors are taken to the converged endpoints of the network in float32.
    """
    if not made.is_network:
        return None
    # The same endpoints as in float32, so that rounding counts as error.
    half = made.in_bfloat16().bound(len(test.noise))
    found = test._replace(field=half).errors([tuned, published])
    return {"tuned": unseen.rms(found[0]), "published": unseen.rms(found[1])}


# ---- summaries of rows


def measured(rows: list[dict]) -> list[dict]:
    """The rows of this question that have a table."""
    return [row for row in rows if row["question"] == QUESTION and not row["refused"]]


def geometric(ratios: list[float], resamples: int = 2000) -> tuple[float, float, float]:
    """(geometric mean, low, high) of positive ratios; the interval resamples the cells."""
    # A fixed seed: the same rows give the same page.
    logs = np.log(np.asarray(ratios, float))
    picks = np.random.default_rng(0).integers(len(logs), size=(resamples, len(logs)))
    low, high = np.quantile(logs[picks].mean(1), [0.025, 0.975])
    return float(np.exp(logs.mean())), float(np.exp(low)), float(np.exp(high))


def by_steps(rows: list[dict]) -> list[dict]:
    """[{evaluations, models, ratio, low, high, median}]: geometric means over models."""
    lines = []
    for steps in sorted({row["steps"] for row in rows}):
        here = [row for row in rows if row["steps"] == steps]
        ratio, low, high = geometric([row["rms_ratio"] for row in here])
        medians, *_ = geometric([max(row["median_ratio"], 1e-12) for row in here])
        lines.append(
            {
                "evaluations": steps,
                "models": len(here),
                "ratio": ratio,
                "low": low,
                "high": high,
                "median": medians,
            }
        )
    return lines
