"""Which solver, grid and shift at each number of evaluations, and what a tuned table gains."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from configs.advise import Config
from configs.tune import Config as TuneConfig
from experiments import report
from experiments.advise import budget, strings
from experiments.tune import tables, unseen
from experiments.tune.ratio import numbers as published
from experiments.tune.subject import Subject
from flowjax import Plan, plans
from flowjax.distances import paired_ratio, rms
from flowjax.records import plain

QUESTION = "setting"


def check(config: Config) -> None:
    """All that `budget` checks."""
    budget.check(config)


def cells(config: Config) -> list[dict]:
    """One cell a number of evaluations."""
    return [
        {"question": QUESTION, "model": config.model, "guidance": config.guidance, "steps": steps}
        for steps in dict.fromkeys(config.steps)
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors of all published plans, and of the tuned one."""
    sizes = config.sizes
    tuning = budget.tuning_config(config, sizes["starts"])
    made = budget.subject_of(config)
    for key in todo:
        test = unseen.unseen(tuning, made)
        jobs, errors = measured(config, key["steps"])
        found = summary(jobs, errors)
        found |= {"doubling": test.doubling, "starts": len(test.noise), "tuned": None}
        file = _saved(tuning, made, key["steps"], found, jobs[found["place"]][2])
        found["strings"] = strings.of(made, found["solver"], found["shift"], key["steps"], file)
        if key["steps"] in sizes["tuned_steps"]:
            found["tuned"] = _tuned(tuning, made, key["steps"], test, errors[found["place"]])
        yield key, found


def measured(config: Config, steps: int) -> tuple[list, np.ndarray]:
    """((solver, shift, plan) of all published plans, their errors (P, B)).

    They are measured once in a process, since the questions on devices and the gallery begin from
    the best one too.
    """
    names = ("model", "embeddings", "guidance", "seed", "solvers", "shifts")
    settings = tuple((name, _hashable(getattr(config, name))) for name in names)
    return _measured(settings, config.sizes["starts"], steps)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@functools.lru_cache(maxsize=32)
def _measured(settings: tuple, starts: int, steps: int) -> tuple[list, np.ndarray]:
    config = Config(**dict(settings))
    tuning = budget.tuning_config(config, starts)
    made = budget.subject_of(config)
    jobs = published.candidates(tuning, made, steps)
    return jobs, unseen.unseen(tuning, made).errors([plan for *_, plan in jobs])


def best_published(config: Config, steps: int) -> tuple[str, float, Plan]:
    """(solver, shift, plan) of the best published plan of so many evaluations."""
    jobs, errors = measured(config, steps)
    return jobs[summary(jobs, errors)["place"]]


def summary(jobs: list, errors: np.ndarray) -> dict[str, Any]:
    """The best plan, the best of every solver, and the lead of the best solver over the next.

    Args:
      jobs: (solver, shift, plan).
      errors: (P, B) of the plans.
    """
    size = [rms(line) if np.all(np.isfinite(line)) else np.inf for line in errors]
    if not np.isfinite(min(size)):
        raise ValueError(
            "--config.model: no published plan gives finite samples of this model; look at its "
            "output and its clock."
        )
    # The best grid of each solver.
    best: dict[str, int] = {}
    for i, (solver, *_) in enumerate(jobs):
        if solver not in best or size[i] < size[best[solver]]:
            best[solver] = i
    ranked = sorted(best.values(), key=lambda i: size[i])
    place = ranked[0]
    lines = [
        {
            "solver": jobs[i][0],
            "shift": jobs[i][1],
            "rms": float(size[i]),
            "median": float(np.median(errors[i])),
        }
        for i in ranked
    ]
    lead = None
    if len(ranked) > 1 and np.isfinite(size[ranked[1]]):
        ratio = paired_ratio(errors[place], errors[ranked[1]], rms, seed=0)
        lead = {"ratio": ratio.ratio, "low": ratio.low, "high": ratio.high}
    return {
        "place": place,
        "solver": jobs[place][0],
        "shift": jobs[place][1],
        "rms": float(size[place]),
        "lines": lines,
        "lead": lead,
        # By solver and shift, for the figure.
        "all": [[solver, shift, float(s)] for (solver, shift, _), s in zip(jobs, size)],
    }


def _saved(tuning: TuneConfig, made: Subject, steps: int, found: dict, plan: Plan) -> str:
    """The file of the best published plan, which is written beside the tuned ones."""
    path = tables.path_of(tuning, made, steps)
    path = path.with_name(f"{path.stem}-published.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = tables.named(made) | {"guidance": made.guidance}
    facts |= {name: found[name] for name in ("solver", "shift", "rms", "starts")}
    plans.save(path, made.own_plan(plan), **tables.describe(made), **plain(facts))
    return str(path)


def _tuned(
    tuning: Any, made: Any, steps: int, test: unseen.Unseen, published_errors: np.ndarray
) -> dict[str, Any]:
    """What the tuned table gains on the same starts, or why there is none."""
    try:
        table = tables.table_of(tuning, made, steps)
    except ValueError as error:
        # An ODE that does not converge has no endpoint to tune to.
        return {"refused": str(error)}
    errors = test.errors([table.plan])[0]
    ratio = paired_ratio(errors, published_errors, rms, seed=0)
    return {
        "refused": None,
        "accepted": table.facts["accepted"],
        "file": str(tables.path_of(tuning, made, steps)),
        "rms": float(rms(errors)),
        "ratio": ratio.ratio,
        "low": ratio.low,
        "high": ratio.high,
    }


# ---- words


def own(rows: list[dict]) -> list[dict]:
    """The rows of this question, the fewest evaluations first."""
    return sorted((r for r in rows if r["question"] == QUESTION), key=lambda row: row["steps"])


def _lead(row: dict) -> str:
    """How sure the first place is, in words."""
    lead = row["lead"]
    if lead is None:
        return "the only solver that was tried"
    second = row["lines"][1]["solver"]
    span = f"{report.sig(lead['low'])} to {report.sig(lead['high'])}"
    if lead["high"] < 1:
        return f"{report.sig(lead['ratio'])} times the error of {second} ({span})"
    return f"no better than {second} for certain: {report.sig(lead['ratio'])} times ({span})"


def _gain(tuned: dict | None) -> str:
    if tuned is None:
        return ""
    if tuned["refused"]:
        return " No table could be tuned: the model's ODE did not converge."
    span = f"{report.sig(tuned['low'])} to {report.sig(tuned['high'])}"
    if tuned["high"] >= 1:
        return f" A tuned table is not better for certain ({span} times)."
    return (
        f" The tuned table {tuned['file']} has {report.sig(tuned['ratio'])} times this error "
        f"({span})."
    )


def more_order(rows: list[dict]) -> str | None:
    """From how many evaluations order 3 is better than order 2, in words."""
    paying = []
    for row in own(rows):
        by_name = {line["solver"]: line["rms"] for line in row["lines"]}
        thirds = [by_name[n] for n in ("AB3", "DPM++ 3M exact") if n in by_name]
        seconds = [by_name[n] for n in ("AB2", "DPM++ 2M", "UniPC2") if n in by_name]
        if thirds and seconds:
            paying.append((row["steps"], min(thirds) < min(seconds)))
    if not paying:
        return None
    pays = [n for n, does in paying if does]
    if not pays:
        return f"order 3 does not pay up to {max(n for n, _ in paying)} evaluations"
    return f"order 3 pays at {', '.join(map(str, pays))} evaluations"


def advice(rows: list[dict]) -> list[tuple[str, str]]:
    """(what, setting) for each number of evaluations."""
    lines = [
        (
            f"{row['steps']} evaluations",
            f"{row['solver']}, uniform grid with shift {row['shift']:g}, error "
            f"{report.sig(row['rms'])}; {_lead(row)}.{_gain(row['tuned'])}",
        )
        for row in own(rows)
    ]
    pays = more_order(rows)
    return lines + ([("order", f"{pays}.")] if pays else [])


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    mine = own(rows)
    answer = "\n".join(f"**{name}**: {text}" for name, text in advice(rows))
    settings = [line for row in mine for line in row["strings"]]
    answer += "\n" + "\n".join(dict.fromkeys(settings))
    return report.Section(
        question="What to set?",
        answer=answer,
        figures=(_draw(mine),),
        table=[
            {"evaluations": row["steps"], **line, "starts": row["starts"]}
            for row in mine
            for line in row["lines"]
        ],
        caveat="Errors are distances to the model's own converged endpoints, relative to their "
        f"size; the converged solution itself is known to {report.sig(mine[0]['doubling'])}. A "
        "nearer endpoint is not always a better image.",
        command=command,
    )


def _draw(mine: list[dict]) -> report.Picture:
    """Error against the shift, a panel a number of evaluations."""
    fig, axes = report.canvas(1, len(mine), width=4.2 * len(mine) + 0.6, height=3.2)
    axes = np.atleast_1d(axes).ravel()
    for ax, row in zip(axes, mine, strict=True):
        for line in row["lines"]:
            points = sorted((s, e) for name, s, e in row["all"] if name == line["solver"])
            points = [(s, e) for s, e in points if np.isfinite(e)]
            look = report.style(line["solver"])
            ax.plot(*zip(*points, strict=True), **look, markersize=3, label=line["solver"])
        shifts = sorted({s for _, s, _ in row["all"]})
        ax.set(xscale="log", yscale="log", xlabel="shift of the grid")
        ax.set_xticks(shifts, [f"{s:g}" for s in shifts])
        ax.minorticks_off()
        ax.set_title(f"{row['steps']} evaluations")
    axes[0].set_ylabel("error of the endpoint")
    axes[0].legend()
    best = mine[-1]
    return report.picture(
        fig,
        "Errors of the published solvers against the shift of their grid.",
        f"Root mean square over {best['starts']} starts.",
        title=f"{best['solver']} with shift {best['shift']:g} is best at {best['steps']} "
        "evaluations",
    )
