"""Can a table absorb staleness? It is tuned through runs of stale attention on n devices.

The endpoint is that of the exact network, so the error counts solver and staleness together. The
emulation of `flowjax.parallel` runs the devices on one, and the table decides the times of the
exchange: forecasts of keys and values are extrapolations over these times.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from configs.tune import Config
from experiments import report
from experiments.lab import statistics, subjects
from experiments.tune import drawing, tables, training, unseen
from experiments.tune import subject as subject_module
from experiments.tune.subject import Subject
from flowjax import Linear, Plan, grids, plans, tune
from flowjax.parallel.emulation.network import Exchange, emulate_with, exchange, tokens_of
from flowjax.tune.stale import refine_run

# ---- numbers

QUESTION = "stale"
FORECASTS = {"held": 0, "tuned forecast": "tuned"}
STARTS = 32  # for tuning: two thirds train
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
        }
        for name in dict.fromkeys(config.stale_models)
        for steps in dict.fromkeys(config.stale_steps)
        for devices in dict.fromkeys(config.devices)
        for forecast in FORECASTS
        # The first step is synchronous in any case.
        for synchronous in dict.fromkeys(
            max(1, int(share * steps)) for share in config.stale_synchronous
        )
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): stale errors of published, tuned and stale-tuned tables."""
    for key in todo:
        made = subject_module.subject(config, key["model"])
        yield key, _measured(config, made, key)


def _measured(config: Config, made: Subject, key: dict) -> dict:
    """The values of one cell."""
    run = stale_run(made, key["devices"], FORECASTS[key["forecast"]], key["synchronous"])
    test = unseen.unseen(config, made)
    labels = made.labels(len(test.noise))

    def errors(plan: Plan) -> np.ndarray:
        return test.errors_of([run(plan, test.noise, labels)])[0]

    # The best published plan under this staleness, over solvers and grids.
    begun = {
        (name, shift): errors(make(grids.uniform(key["steps"], shift=shift)))
        for name, make in PUBLISHED.items()
        for shift in config.shifts[:3]
    }
    solver, shift = min(begun, key=lambda pair: unseen.rms(begun[pair]))
    # And the best of them without staleness.
    alone = [
        make(grids.uniform(key["steps"], shift=shift))
        for make in PUBLISHED.values()
        for shift in config.shifts[:3]
    ]
    published_alone = min(unseen.rms(found) for found in test.errors(alone))
    # The table that was tuned without staleness, and the one that is tuned through it.
    exact = tables.table_of(config, made, key["steps"])
    absorbed = _tuned(config, made, run, key["steps"], solver, shift)
    found = errors(absorbed.plan)
    return {
        "best": solver,
        "shift": shift,
        "published_rms": unseen.rms(begun[solver, shift]),
        "exact_table_rms": unseen.rms(errors(exact.plan)),
        "synchronous_rms": unseen.rms(test.errors([exact.plan])[0]),
        "published_synchronous_rms": published_alone,
        **unseen.summary(found),
        **unseen.compared(found, begun[solver, shift]),
        "history": [iteration._asdict() for iteration in absorbed.history],
    }


def stale_run(made: Subject, devices: int, forecast: int | str, synchronous: int) -> Callable:
    """(plan, noise, label) -> endpoints (B, *D) with stale keys and values on n devices.

    The first `synchronous` steps are synchronous.
    """
    model = subjects.load(made.name)
    compiled = _program(made.name)

    def run(plan: Plan, noise: np.ndarray, label: np.ndarray) -> np.ndarray:
        # On the host, since forecasts follow the times of this plan.
        exchanged = exchange(
            plan,
            tokens_of(model, noise),
            devices,
            attention="stale",
            warmup=synchronous,
            forecast=forecast,
        )
        return np.asarray(compiled(model.params, noise, label, plan, exchanged))

    return run


@functools.cache
def _program(name: str) -> Callable:
    """The compiled emulation of a network: one program for all plans and exchanges of one shape."""
    model = subjects.load(name)

    # Parameters are an argument, so that they are no constants of the program.
    @jax.jit
    def run(params: dict, noise: jax.Array, label: jax.Array, plan: Plan, exchanged: Exchange):
        bound = model._replace(params=params)
        return emulate_with(bound, noise, label, plan, exchanged).x

    return run


def _tuned(
    config: Config, made: Subject, run: Callable, steps: int, solver: str, shift: float
) -> tune.Refined:
    """The table tuned through stale runs, from the best published one."""
    train, validation = training.starts(made, config.seed, STARTS)
    return refine_run(
        run,
        PUBLISHED[solver],
        grids.uniform(steps, shift=shift),
        train,
        validation=validation,
        iterations=ITERATIONS,
    )


# ---- figures


def _figure(own: list[dict], forecast: str, synchronous: int) -> report.Picture:
    """Errors against the number of devices, at the most evaluations that were measured."""
    same = [r for r in own if (r["forecast"], r["synchronous"]) == (forecast, synchronous)]
    steps = max(row["steps"] for row in same)
    here = [row for row in same if row["steps"] == steps]
    fig, ax = report.canvas(width=5.4, height=3.4)
    names = {
        "published": "published_rms",
        "tuned without staleness": "exact_table_rms",
        "tuned through staleness": "rms",
        "tuned, synchronous": "synchronous_rms",
        "published, synchronous": "published_synchronous_rms",
    }
    colours = (report.INK, report.AMBER, report.PINK, report.GREY, report.BLUE)
    for (name, value), colour in zip(names.items(), colours, strict=True):
        points = sorted((row["devices"], row[value]) for row in here)
        at, errors = zip(*points, strict=True)
        ax.plot(at, errors, marker="o", color=colour, label=name)
    ax.set(xscale="log", yscale="log", xlabel="devices", ylabel="relative RMS error")
    # Powers of two.
    devices = sorted({row["devices"] for row in here})
    ax.set_xticks(devices, [str(n) for n in devices])
    drawing.legend_below(ax, columns=2)
    ratio = statistics.geometric_mean(row["rms"] / row["published_rms"] for row in here)
    claim = (
        f"{forecast}, {synchronous} of {steps} steps synchronous: tuned through staleness, the "
        f"error is {report.sig(ratio)} of published."
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
    verdict = (
        "absorbs a part of staleness" if ratio < min(naive, 1) else "does not absorb staleness"
    )
    alone = statistics.geometric_mean(row["rms"] / row["published_synchronous_rms"] for row in own)
    return (
        f"A table tuned through stale runs **{verdict}**: its error is {report.sig(ratio)} times "
        f"that of the best published plan under the same staleness, and a table tuned without "
        f"staleness has {report.sig(naive)} times. Against the best published plan without "
        f"staleness it has {report.sig(alone)} times."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    own = [row for row in rows if row["question"] == QUESTION]
    names = ("model", "steps", "devices", "forecast", "synchronous", "best", "published_rms")
    names += ("exact_table_rms", "rms", "rms_ratio", "rms_low", "rms_high", "synchronous_rms")
    names += ("published_synchronous_rms",)
    # One figure a forecast: held copies and forecast ones differ by more than tables do.
    kinds = dict.fromkeys((row["forecast"], row["synchronous"]) for row in own)
    return report.Section(
        question="Can a table absorb staleness?",
        expected="In part: weights can undo the first-order error of held keys and values, which "
        "is a smooth function of the step; what differs between tokens they cannot.",
        answer=summary(rows),
        figures=[_figure(own, *kind) for kind in kinds],
        table=[{name.replace("_", " "): row[name] for name in names} for row in own],
        caveat=f"The synchronous steps come first; {STARTS} starts and {ITERATIONS} iterations. "
        "The endpoint is that of the exact network.",
        command=command,
    )
