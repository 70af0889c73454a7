"""Samples side by side: the usual setting, the advised ones, and stale attention."""

import base64
import functools
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from configs.advise import Config
from configs.tune import Config as TuneConfig
from experiments import report
from experiments.advise import budget, devices, setting
from experiments.cli import images
from experiments.lab import solvers, subjects
from experiments.tune import tables
from experiments.tune.sheet import COLUMNS, sheet
from experiments.tune.subject import Subject
from flowjax import Plan
from flowjax.schedules import Straight

QUESTION = "gallery"
# The solver, shift and evaluations that users of SANA and SD3 begin with, and those of DiT.
USUAL = ("DPM++ 2M", 3.0, 20)
USUAL_VP = ("DPM++ 2M", 1.0, 20)


def check(config: Config) -> None:
    """All that `budget` checks."""
    budget.check(config)


def cells(config: Config) -> list[dict]:
    """One cell for a network whose states are images; none otherwise."""
    made = budget.subject_of(config)
    if not made.is_network or made.shape[-1] not in (1, 3):
        return []
    return [{"question": QUESTION, "model": config.model, "guidance": config.guidance}]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): a PNG, a row of samples for each setting."""
    made = budget.subject_of(config)
    tuning = budget.tuning_config(config, config.sizes["starts"])
    for key in todo:
        named = chosen(config, made, tuning)
        samples = sheet(made, [plan for _, plan in named], seed=config.seed + 2)
        names = [name for name, _ in named]
        n = most_devices(config)
        if n:
            samples = np.concatenate([samples, stale(config, made, n)])
            names.append(f"the advised one of {max(config.steps)}, stale over {n} devices")
        yield key, {"names": names, "png": _encoded(images.grid(samples, COLUMNS))}


def most_devices(config: Config) -> int:
    """The largest number of devices that can share an image of the network; 0 without any."""
    sizes = subjects.load(config.model).card.config
    return max((n for n in config.devices if n > 1 and not devices.refusal(sizes, n)), default=0)


def stale(config: Config, made: Subject, n: int) -> np.ndarray:
    """Samples (COLUMNS, H, W, C) with held copies after one synchronous step, over n devices."""
    _, _, plan = setting.best_published(config, max(config.steps))
    noise = made.own_starts(config.seed + 2, COLUMNS)
    model = subjects.load(config.model)
    own = made.own_plan(plan)
    run = devices.runner(model, made.guidance, own, noise, made.labels(COLUMNS))
    return run(n, warmup=1)


def _encoded(sheet: np.ndarray) -> str:
    """A PNG as text, which a row can hold."""
    written = io.BytesIO()
    Image.fromarray(sheet).save(written, "png", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def chosen(config: Config, made: Subject, tuning: TuneConfig) -> list[tuple[str, Plan]]:
    """(words, plan) of the rows of the picture."""
    solver, shift, nfe = USUAL_VP if isinstance(made.schedule, Straight) else USUAL
    grid = functools.partial(made.grid, shift=shift)
    usual = solvers.plan_of(solver, made.schedule, grid, nfe)
    found = [(f"{solver}, shift {shift:g}, {nfe} evaluations", usual)]
    for steps in sorted(set(config.steps), reverse=True):
        name, best_shift, plan = setting.best_published(config, steps)
        words = f"{name}, shift {best_shift:g}, {steps} evaluations"
        if steps in config.sizes["tuned_steps"]:
            try:
                plan = tables.table_of(tuning, made, steps).plan
                words = f"tuned, {steps} evaluations"
            except ValueError:
                pass  # no table could be tuned: the published plan is the advice
        found.append((words, plan))
    return found


def advice(rows: list[dict]) -> list[tuple[str, str]]:
    """No advice of its own."""
    return []


def section(rows: list[dict], command: str) -> report.Section | None:
    """The section of the page."""
    row = next((row for row in rows if row["question"] == QUESTION), None)
    if row is None:
        return None
    listed = "; ".join(f"row {i + 1}: {name}" for i, name in enumerate(row["names"]))
    return report.Section(
        question="What do these settings look like?",
        answer=f"Each column has one noise and one class. From the top: {listed}.",
        figures=(report.image(base64.b64decode(row["png"]), f"Samples. {listed}.", listed),),
        command=command,
    )
