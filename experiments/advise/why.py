"""Why does more order gain so little on this model? The causes, each with its number.

time        second differences of the network in the time that it receives, the state held
causes      what an exact last step, a log-SNR grid, an exact start and unrounded times give
paths       how far paths turn, with and without guidance
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.advise import Config
from experiments import report
from experiments.advise import budget
from experiments.lab import statistics
from experiments.order import clock, learned
from experiments.order.ledger import numbers as ledger
from experiments.tune import subject as subjects
from experiments.tune import unseen
from experiments.tune.subject import Subject
from flowjax import grids, plans
from flowjax.distances import rms
from flowjax.geometry import path_geometry
from flowjax.schedules import Straight

QUESTION = "why"
STARTS = 8  # of the ledger and of paths
PATH_STEPS = 80
SMOOTH = 3.0  # second differences fall 4 times at half the step where they are smooth
# {clock: in words}, of the clocks that go to about 1000.
FAST_CLOCKS = {"1000 t": "1000 t", "index": "the number of a step, up to 999,"}
CAUSES = {
    "last jump": "an exact last step",
    "grid": "a grid uniform in log-SNR",
    "start": "a start of full order",
    "labels": "times that are not rounded down to thousandths",
}


def check(config: Config) -> None:
    """All that `budget` checks."""
    budget.check(config)


def cells(config: Config) -> list[dict]:
    """One cell."""
    return [{"question": QUESTION, "model": config.model, "guidance": config.guidance}]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values)."""
    for key in todo:
        made = budget.subject_of(config)
        plain = subjects.subject(budget.tuning_config(config, STARTS), config.model, 1.0)
        found: dict[str, Any] = {"clock": _clock_name(made)}
        # The network alone: guidance changes the velocity, not the embedding of the time.
        starts = plain.starts(config.seed, clock.STARTS)
        found["differences"] = clock.second_differences(plain.bound(clock.STARTS), starts)
        found["causes"] = causes(config, made)
        found["turns"] = {
            f"{scale:g}": turning(subject, config.seed)
            for scale, subject in {1.0: plain, made.guidance: made}.items()
        }
        yield key, found


def _clock_name(made: Subject) -> str | None:
    return made.field.kind[3] if made.is_network else None


def causes(config: Config, made: Subject) -> dict[str, Any]:
    """What each cause of DPM-Solver++ 2M's error is worth at the most evaluations, shift 1.

    Returns:
      {steps, error, of: {cause: error with this cause alone mended}}.
    """
    steps = max(max(config.steps), ledger.LEAST_NFE)
    tuning = budget.tuning_config(config, config.sizes["starts"])
    # The starts that the question `setting` has too, so that their converged endpoints are known.
    test = unseen.unseen(tuning, made)
    noise, exact = test.noise[:STARTS], test.exact[:STARTS]
    field = made.bound(STARTS)
    ends = ledger.endpoints(field, noise, made.grid(steps), steps, 40, highest=2)
    bits = {name: 1 << ledger.FACTORS.index(name) for name in CAUSES}
    always = ledger.NONE
    if isinstance(made.schedule, Straight):
        # The ledger rounds times of the path on which it runs, and these are not the network's own.
        always = bits.pop("labels")

    def error(mended: int) -> float:
        away = statistics.row_norms(np.float64(ends[2, mended | always]) - exact)
        return float(rms(away / statistics.scale_of(exact)))

    alone = {name: error(bit) for name, bit in bits.items()}
    return {"steps": steps, "error": error(ledger.NONE), "of": alone}


def turning(made: Subject, seed: int) -> dict[str, float]:
    """Medians over starts of how paths bend: the angle of the tangent, and the acceleration."""
    noise = made.starts(seed, STARTS)
    field = made.bound(STARTS)
    grid = grids.uniform(PATH_STEPS)
    path, velocity = learned.run(field, noise, plans.adams_bashforth(grid, 2))
    found = path_geometry(grid[:-1], np.asarray(path)[:-1], np.asarray(velocity))
    return {
        "curvature": float(np.median(found.curvature)),
        "acceleration": float(np.median(found.acceleration)),
    }


# ---- words


def _row(rows: list[dict]) -> dict | None:
    return next((row for row in rows if row["question"] == QUESTION), None)


def roughness(row: dict, steps: int) -> tuple[float, float]:
    """(how much half the step divides second differences in time, their size over the velocity).

    At the measured step that is nearest to 1/steps and has its half measured too.
    """
    by_step = {line["h"]: line["time alone"] for line in row["differences"]}
    halved = [h for h in by_step if h / 2 in by_step]
    h = min(halved, key=lambda h: abs(np.log(h * steps)))
    return by_step[h] / max(by_step[h / 2], 1e-300), by_step[h]


def _time(row: dict, steps: int) -> str:
    fall, size = roughness(row, steps)
    measured = (
        f"half the step divides its second differences in time by {report.sig(fall)} (4 is smooth) "
        f"at about {steps} evaluations; they are {size:.1%} of the velocity"
    )
    received = FAST_CLOCKS.get(row["clock"])
    if fall >= SMOOTH or size < 0.01:
        return f"The model is smooth in the time that it receives: {measured}."
    if received:
        return (
            f"The network receives {received} and is rough in it: {measured}. A network that is "
            "trained with the clock 1 - t does not have this error; of this one, expect no more "
            "than order 1 to 2."
        )
    return f"The model is rough in the time that it receives: {measured}."


def _causes(row: dict) -> list[str]:
    found = row["causes"]
    lines = []
    for name, error in sorted(found["of"].items(), key=lambda item: item[1]):
        gain = found["error"] / max(error, 1e-300)
        if gain > 1.1:
            lines.append(
                f"{CAUSES[name]} would divide the error of DPM-Solver++ 2M at {found['steps']} "
                f"evaluations by {report.sig(gain)}"
            )
    remedies = {
        "last jump": "Adams-Bashforth does not take that step with order 1",
        "grid": "try the shifts of the table above",
        "labels": "do not round label times",
    }
    first = min(found["of"], key=found["of"].get)
    if not lines:
        return ["No single cause of DPM-Solver++ 2M's error stands out."]
    remedy = f"; {remedies[first]}" if first in remedies else ""
    text = "; ".join(lines)
    return [text[0].upper() + text[1:] + remedy + "."]


def _paths(row: dict) -> str:
    turns = row["turns"]
    plain = turns["1"]
    text = f"Its paths turn by {report.sig(plain['curvature'])} radians (median)"
    for scale, found in turns.items():
        if scale != "1":
            ratio = found["curvature"] / max(plain["curvature"], 1e-300)
            verb = "bends them further" if ratio > 1.1 else "hardly bends them"
            text += f"; guidance {scale} {verb}, to {report.sig(found['curvature'])}"
    return f"{text}."


def sentences(row: dict) -> list[str]:
    """One sentence a cause, with its number and what to do about it."""
    return [_time(row, row["causes"]["steps"]), *_causes(row), _paths(row)]


def advice(rows: list[dict]) -> list[tuple[str, str]]:
    """(what, sentence)."""
    row = _row(rows)
    return [("why", text) for text in sentences(row)] if row else []


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    row = _row(rows)
    found = row["causes"]
    table = [{"mended": "nothing", "error": found["error"]}]
    table += [{"mended": CAUSES[name], "error": error} for name, error in found["of"].items()]
    return report.Section(
        question="Why is a higher order worth so much or so little here?",
        answer="\n".join(sentences(row)),
        figures=(_draw(row),),
        table={
            "Error of DPM-Solver++ 2M with one cause mended": table,
            "Second differences over the velocity": row["differences"],
        },
        caveat=f"{STARTS} starts for the causes and the paths, {clock.STARTS} for the second "
        "differences, which are of the network without guidance.",
        command=command,
    )


def _draw(row: dict) -> report.Picture:
    """Second differences against the step."""
    fig, ax = report.canvas(1, 1, width=5.6, height=3.2)
    for name, colour in clock.COLOURS.items():
        points = [(line["h"], line[name]) for line in row["differences"]]
        ax.plot(*zip(*points, strict=True), "o-", color=colour, markersize=3.5, label=name)
    ax.set(xscale="log", yscale="log", xlabel="step h in t", ylabel="second difference / velocity")
    ax.set_xticks([1 / n for n in clock.STEPS], [f"1/{n}" for n in clock.STEPS])
    ax.minorticks_off()
    ax.legend()
    fall, _ = roughness(row, row["causes"]["steps"])
    return report.picture(
        fig,
        "Second differences of the velocity against the step: along the path, with the time moved "
        "alone, with the state moved alone.",
        "A smooth velocity falls by 4 as the step is halved.",
        title=f"Half the step divides the second difference in time by {report.sig(fall)}",
    )
