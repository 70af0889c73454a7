"""Can a table absorb staleness? It is tuned through runs of stale attention on n devices.

The endpoint is that of the exact network, so the error counts solver and staleness together. The
emulation of `flowjax.parallel` runs the devices on one, and the table decides the times of the
exchange: forecasts of keys and values are extrapolations over these times.
"""

import functools
import math
import os
import pathlib
from collections.abc import Iterator

import numpy as np

from configs.tune import Config
from experiments import report
from experiments.lab import statistics
from experiments.tune import drawing, messages, tables, training, unseen
from experiments.tune import subject as subject_module
from experiments.tune.subject import Subject
from flowjax import Linear, Plan, grids, parallel, plans
from flowjax.records import plain
from flowjax.tune.stale import refine_run

# ---- numbers

QUESTION = "stale"
FORECASTS = {"held": 0, "tuned forecast": "tuned", "free forecast": messages.FREE}
BEGINS = {messages.FREE: "tuned"}  # as which a forecast begins that is tuned itself
PLACES = ("start", "worth")  # of the synchronous steps
KEY = ("steps", "devices", "synchronous", "placed")  # of a cell, in the facts of its table
STARTS = 48  # for tuning: two thirds train
# States of so many numbers have fewer starts, since each gives one equation for each number.
LARGE = 1000
STARTS_OF_LARGE = 24
ITERATIONS = 4
PUBLISHED = {
    "Euler": plans.euler,
    "AB2": lambda grid: plans.adams_bashforth(grid, 2),
    "AB3": lambda grid: plans.adams_bashforth(grid, 3),
}


def check(config: Config) -> None:
    """Refuse models that are no networks, and numbers of devices below 2."""
    subject_module.check(config, "stale_models", config.stale_models, guided=False)
    subject_module.check_steps("stale_steps", config.stale_steps, least=3)
    for name in config.stale_models:
        if not subject_module.is_network(name):
            raise ValueError(
                f"--config.stale_models: {name!r} is an exact field; wanted networks, whose keys "
                "and values can be stale."
            )
        path = subject_module.subject(config, name).own_schedule
        if not isinstance(path, Linear):
            raise ValueError(
                f"--config.stale_models: {name!r} is a network of the path {type(path).__name__}; "
                "this question runs stale attention with plans of the linear path, so wanted "
                "networks of the linear path."
            )
    if not all(isinstance(n, int) and n >= 2 for n in config.devices):
        raise ValueError(f"--config.devices: {config.devices!r}; wanted numbers of at least 2.")


def cells(config: Config) -> list[dict]:
    """One cell a network, number of evaluations, number of devices and forecast."""
    return [
        {
            "question": QUESTION,
            "model": name,
            "steps": steps,
            "devices": devices,
            "forecast": forecast,
            "synchronous": synchronous,
            "placed": placed,
        }
        for name in dict.fromkeys(config.stale_models)
        for steps in dict.fromkeys(config.stale_steps)
        for devices in dict.fromkeys(config.devices)
        for forecast in FORECASTS
        # The first step is synchronous in any case.
        for synchronous in dict.fromkeys(
            max(1, int(share * steps)) for share in config.stale_synchronous
        )
        # One synchronous step is the first.
        for placed in (PLACES if synchronous > 1 and forecast != "held" else PLACES[:1])
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): stale errors of published, tuned and stale-tuned tables."""
    for key in todo:
        made = subject_module.subject(config, key["model"])
        yield key, _measured(config, made, key)


def _measured(config: Config, made: Subject, key: dict) -> dict:
    """The values of one cell."""
    steps, kind = key["steps"], FORECASTS[key["forecast"]]
    test = unseen.unseen(config, made)
    labels = made.labels(len(test.noise))

    def errors(plan: Plan, options: dict) -> np.ndarray:
        ends = messages.run_with(made.name, key["devices"], options, plan, test.noise, labels)
        return test.errors_of([ends])[0]

    # The best published plan under this staleness, over solvers and grids, with the first steps
    # synchronous; and the best one without staleness.
    usual = functools.partial(messages.options_of, kind=BEGINS.get(kind, kind))
    first = messages.at_start(steps, key["synchronous"])
    published = {
        (name, shift): make(grids.uniform(steps, shift=shift))
        for name, make in PUBLISHED.items()
        for shift in config.shifts
    }
    begun = {
        which: errors(plan, usual(plan, is_synchronous=first)) for which, plan in published.items()
    }
    best = min(begun, key=lambda which: unseen.rms(begun[which]))
    alone = min(test.errors(list(published.values())), key=unseen.rms)

    # The table that was tuned without staleness, and the one that is tuned through it.
    exact = tables.table_of(config, made, steps)
    absorbed, facts = _absorbed(config, made, key, best)
    options = parallel.stale_options(facts, absorbed, "the plan")
    found = errors(absorbed, options)
    placed = options["policy"] < 0
    against = unseen.compared(found, alone)
    return {
        "best": best[0],
        "shift": best[1],
        "published_rms": unseen.rms(begun[best]),
        "placed_rms": unseen.rms(
            errors(published[best], usual(published[best], is_synchronous=placed))
        ),
        "exact_table_rms": unseen.rms(errors(exact.plan, usual(exact.plan, is_synchronous=placed))),
        "synchronous_rms": unseen.rms(test.errors([exact.plan])[0]),
        "published_synchronous_rms": unseen.rms(alone),
        **{f"over_synchronous_{name}": against[f"rms_{name}"] for name in ("ratio", "low", "high")},
        "synchronous_steps": np.flatnonzero(placed).tolist(),
        **unseen.summary(found),
        **unseen.compared(found, begun[best]),
        "history": facts["history"],
    }


def _absorbed(
    config: Config, made: Subject, key: dict, best: tuple[str, float]
) -> tuple[Plan, dict]:
    """(plan, facts) of the table that is tuned through stale runs: from its file, or made now.

    It begins from the published solver and shift `best`.
    """
    names = [subject_module.slug(key["model"]), f"w{made.guidance:g}", key["steps"]]
    names += [
        f"{key['devices']}devices",
        key["forecast"].replace(" ", "-"),
        key["synchronous"],
        key["placed"],
    ]
    path = pathlib.Path(config.plans) / f"{'-'.join(map(str, names))}.json"
    settings = tables.named(made) | tables.describe(made) | {name: key[name] for name in KEY}
    settings |= {"starts": _starts(made), "seed": config.seed, "iterations": ITERATIONS}
    settings |= {"guidance": float(made.guidance), "dtype": np.dtype(made.dtype).name}
    if not path.exists():
        plan, facts = _tuned(config, made, key, best)
        os.makedirs(path.parent, exist_ok=True)
        plans.save(path, made.own_plan(plan), **plain(settings | facts))
    plan, facts = plans.load_with_facts(path)
    differ = [name for name in settings if facts.get(name) != plain(settings)[name]]
    if differ:
        raise ValueError(
            f"{path} was tuned with other settings ({', '.join(differ)}); give another --workdir, "
            "or remove the file."
        )
    return made.plan_of_own(plan), facts


def _tuned(config: Config, made: Subject, key: dict, best: tuple[str, float]) -> tuple[Plan, dict]:
    """(plan, facts): the table, with the options of its run and the history of the tuning."""
    kind, (solver, shift) = FORECASTS[key["forecast"]], best
    train, validation = training.starts(made, config.seed, _starts(made))
    grid = grids.uniform(key["steps"], shift=shift)
    chosen = messages.at_start(key["steps"], key["synchronous"])
    if key["placed"] == "worth":
        begins = functools.partial(
            messages.stale_run, made.name, key["devices"], BEGINS.get(kind, kind)
        )
        chosen = messages.by_worth(begins, PUBLISHED[solver](grid), train, key["synchronous"])
    found = refine_run(
        messages.stale_run(made.name, key["devices"], kind, chosen),
        PUBLISHED[solver],
        grid,
        train,
        validation=validation,
        iterations=ITERATIONS,
        others=messages.start_of(chosen) if kind == messages.FREE else None,
    )
    options = messages.options_of(found.plan, kind, chosen, found.others)
    history = [iteration._asdict() for iteration in found.history]
    begun = {"begun_from": f"{solver} on the uniform grid of shift {shift:g}"}
    return found.plan, parallel.stale_facts(options) | begun | {"history": history}


def _starts(made: Subject) -> int:
    """How many starts tune and validate a table."""
    return STARTS if math.prod(made.shape) < LARGE else STARTS_OF_LARGE


# ---- figures


def _figure(own: list[dict], model: str, steps: int) -> report.Picture:
    """Errors of all settings of a network and number of steps, beside those without staleness."""
    here = [row for row in own if (row["model"], row["steps"]) == (model, steps)]
    here.sort(key=_over_synchronous, reverse=True)  # the nearest at the top
    fig, ax = report.canvas(width=7.4, height=1.4 + 0.45 * len(here))
    kinds = {
        "published": ("published_rms", report.INK),
        "tuned without staleness": ("exact_table_rms", report.AMBER),
        "tuned through staleness": ("rms", report.PINK),
    }
    for name, (value, colour) in kinds.items():
        errors = [row[value] for row in here]
        ax.plot(errors, range(len(here)), "o", color=colour, label=name)
    for name, value, colour in (
        ("published, synchronous", "published_synchronous_rms", report.BLUE),
        ("tuned, synchronous", "synchronous_rms", report.GREY),
    ):
        ax.axvline(here[0][value], color=colour, linestyle="--", label=name)
    ax.set(xscale="log", xlabel="relative RMS error")
    ax.set_yticks(range(len(here)), [_setting(row) for row in here])
    ax.set_ylim(-0.6, len(here) - 0.4)
    drawing.legend_below(ax, columns=2)
    ratio = report.sig(_over_synchronous(here[-1]))
    claim = (
        f"{model}, {steps} steps: the nearest stale run has {ratio} times the error of the best "
        "published plan without staleness"
    )
    drawing.claim(fig, claim)
    return report.picture(fig, claim)


# ---- words


def summary(rows: list[dict]) -> str:
    """The answer in one sentence."""
    own = [row for row in rows if row["question"] == QUESTION]
    if not own:
        return ""
    # Two rivals: the published plan, and the table that knows nothing of staleness.
    ratio = statistics.geometric_mean(row["rms"] / row["published_rms"] for row in own)
    naive = statistics.geometric_mean(row["exact_table_rms"] / row["published_rms"] for row in own)
    # With the published plan's synchronous steps where those of the tuned one are.
    there = statistics.geometric_mean(row["rms"] / row["placed_rms"] for row in own)
    verdict = (
        "absorbs a part of staleness" if ratio < min(naive, 1) else "does not absorb staleness"
    )
    # The aim: as near as the best published plan without staleness.
    nearest = [
        min((row for row in own if (row["model"], row["steps"]) == group), key=_over_synchronous)
        for group in dict.fromkeys((row["model"], row["steps"]) for row in own)
    ]
    listed = "; ".join(
        f"{report.sig(row['over_synchronous_ratio'])} "
        f"[{report.sig(row['over_synchronous_low'])}, {report.sig(row['over_synchronous_high'])}] "
        f"times at {row['steps']} steps of {row['model']} with {_setting(row)}"
        for row in sorted(nearest, key=_over_synchronous)
    )
    return (
        f"A table tuned through stale runs **{verdict}**: its error is {report.sig(ratio)} times "
        "that of the best published plan under the same staleness with its synchronous steps at "
        f"the start ({report.sig(there)} times with them in the same places), and a table tuned "
        f"without staleness has {report.sig(naive)} times ({len(own)} cases). Over the error of "
        f"the best published plan without staleness, the nearest run has {listed}."
    )


def _over_synchronous(row: dict) -> float:
    """The error over that of the best published plan without staleness."""
    return row["over_synchronous_ratio"]


def _setting(row: dict) -> str:
    """Devices, forecast and synchronous steps in words."""
    copies = {"held": "held copies"}.get(row["forecast"], f"{row['forecast']}s")
    count = row["synchronous"]
    steps = "one synchronous step" if count == 1 else f"{count} synchronous steps"
    where = " placed by worth" if row["placed"] == "worth" else ""
    return f"{copies}, {steps}{where}, {row['devices']} devices"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    own = [row for row in rows if row["question"] == QUESTION]
    names = ("model", "steps", "devices", "forecast", "synchronous", "placed", "best")
    names += (
        "published_rms",
        "placed_rms",
        "exact_table_rms",
        "rms",
        "rms_ratio",
        "rms_low",
        "rms_high",
        "synchronous_rms",
    )
    names += ("published_synchronous_rms",)
    groups = dict.fromkeys((row["model"], row["steps"]) for row in own)
    return report.Section(
        question="Can a table absorb staleness?",
        expected="In part: weights can undo the first-order error of held keys and values, which "
        "is a smooth function of the step; what differs between tokens they cannot.",
        answer=summary(rows),
        figures=[_figure(own, *group) for group in groups],
        table=[{name.replace("_", " "): row[name] for name in names} for row in own],
        caveat="The synchronous steps come first, or where each helps most (placed by worth). "
        "With a free forecast, the weights of three rows and the correction of every stale step "
        f"are tuned with the table. {STARTS} starts ({STARTS_OF_LARGE} of states of {LARGE} "
        f"numbers and more) and {ITERATIONS} iterations. The endpoint is that of the exact "
        "network.",
        command=command,
    )
