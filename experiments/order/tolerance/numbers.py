"""Adaptive runs over a grid of tolerances, fixed plans beside them, and batches."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

import flowjax
from configs.order import Config
from experiments.lab import solvers, statistics, subjects
from experiments.lab.statistics import geometric_mean
from experiments.lab.truth import Cell, make_cell
from flowjax import distances, plans

QUESTION = "tolerance"
METHODS = {  # name: (method of `sample_adaptive`, order)
    "order 2": ("dpm_solver_pp", 2),
    "order 3": ("dpm_solver_pp", 3),
    "Runge-Kutta 5": ("runge_kutta", 5),
}
PUBLIC = (0.0078, 0.05)  # atol, rtol: the defaults of the public codes
# Multistep solvers on two grids, and the singlestep formulas that adaptive runs use.
FIXED = {  # name: (solver, steps -> grid)
    f"{solver}, {grid}": (solver, make_grid)
    for solver in ("AB3", "DPM++ 2M", "DPM++ 3M exact")
    for grid, make_grid in (
        ("uniform", solvers.shifted(1.0)),
        ("log-SNR", solvers.log_snr_with_ends()),
    )
} | {
    f"{solver}, log-SNR": (solver, solvers.log_snr_with_ends())
    for solver in ("DPM++ 2S", "DPM++ 3S")
}
# The formulas of an adaptive method on a fixed grid.
UNCONTROLLED = {"order 2": "DPM++ 2S, log-SNR", "order 3": "DPM++ 3S, log-SNR"}
FIXED_NFE = (6, 10, 14, 20, 28, 40, 56, 80, 112, 160)
SHORT = 64  # rows; fixed plans are padded to this or to the most
STARTS = 16  # a seed, for the maps
MOST = 4000  # evaluations
LINES = ("atol < rtol", "atol = rtol", "atol > rtol")


# ---- cells


def check(config: Config) -> None:
    """Refuse a field that is not known."""
    subjects.check_fields("cause_fields", config.cause_fields)


def cells(config: Config) -> list[dict]:
    """One cell a field and method, one a field for the fixed plans, one a batch size."""
    # Half of the fields: an adaptive program is dear to compile.
    names = config.cause_fields[: (len(config.cause_fields) + 1) // 2]
    keys = [
        {"part": "map", "field": name, "method": method} for name in names for method in METHODS
    ]
    keys += [{"part": "fixed", "field": name} for name in names]
    keys += [
        {"part": "batch", "field": name, "batch": size}
        for name in names[:1]
        for size in config.batches
    ]
    return [{"question": QUESTION, **key} for key in keys]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): maps with the fixed plans of equal mean NFE, fixed plans, batches."""
    for name in dict.fromkeys(key["field"] for key in todo):
        keys = [key for key in todo if key["field"] == name]
        field = subjects.make_field(name)
        starts = min(config.samples, STARTS)
        cell = make_cell(field, config.seeds, starts, steps=config.reference_steps)

        # Adaptive runs come first: their evaluations say which fixed plans they are compared with.
        maps, public = {}, {}
        for method in [key["method"] for key in keys if key["part"] == "map"]:
            maps[method], public[method] = _map(config, cell, method)

        # A fixed plan belongs to the method that it is compared with, or to the curves (None).
        counts = [(None, n) for n in FIXED_NFE if any(key["part"] == "fixed" for key in keys)]
        counts += [(method, max(round(found["nfe"]), 3)) for method, found in public.items()]
        jobs = [(owner, n, plan) for owner, n in counts for plan in FIXED]
        errors = _fixed(cell, jobs) if jobs else []

        sizes = [key["batch"] for key in keys if key["part"] == "batch"]
        batches = _batches_of(config, field, sizes) if sizes else {}
        for key in keys:
            if key["part"] == "batch":
                yield key, batches[key["batch"]]
                continue
            method = key.get("method")
            own = [
                (n, plan, e)
                for (owner, n, plan), e in zip(jobs, errors, strict=True)
                if owner == method
            ]
            values = {"doubling": cell.doubling, "fixed": [_fixed_line(*job) for job in own]}
            if method:
                _, best, best_errors = min(own, key=lambda job: distances.rms(job[2]))
                found = statistics.paired(public[method]["errors"], best_errors, cell.seed)
                values |= {"cells": maps[method], "best": best}
                values |= {f"against_{name}": value for name, value in found.items()}
            yield key, values


# ---- adaptive runs


@functools.partial(jax.jit, static_argnames=("method", "lockstep"))
def adaptive(
    field: Any,
    noise: jax.Array,
    tolerance: flowjax.Tolerance,
    method: str,
    lockstep: bool = False,
) -> tuple:
    """(endpoints, status, `AdaptiveStats`) of groups of samples (G, B, *D).

    A group is a batch of its own.
    """
    # The method is static; tolerances are arguments.
    name, order = METHODS[method]

    def run(noise: jax.Array) -> tuple:
        solution = flowjax.sample_adaptive(
            field.velocity,
            noise,
            field.schedule,
            tolerance,
            order=order,
            span=(1.0, 0.0),
            max_evaluations=MOST,
            lockstep=lockstep,
            method=name,
        )
        return solution.x, solution.status, solution.stats

    return jax.vmap(run)(noise)


def tolerance_of(atol: float, rtol: float) -> flowjax.Tolerance:
    """The tolerance as arguments of the program, so that all tolerances share it."""
    return flowjax.Tolerance(np.float64(atol), np.float64(rtol))


def _one_batch(cell: Cell, at: tuple[float, float], method: str) -> tuple:
    """`adaptive` of all samples of the cell as one batch, on the host."""
    run = adaptive(cell.field, cell.noise[None], tolerance_of(*at), method)
    return jax.tree.map(lambda array: np.asarray(array)[0], run)


def _map(config: Config, cell: Cell, method: str) -> tuple[list[dict], dict]:
    """The grid of tolerances, and its line at the public defaults with the errors of its samples.

    Returns:
      ([{atol, rtol, nfe, tail_nfe, rms, ...}], one of them with `errors` (B,)).
    """
    found = []
    for atol, rtol in dict.fromkeys([*itertools.product(config.tolerances, repeat=2), PUBLIC]):
        x, status, stats = _one_batch(cell, (atol, rtol), method)
        errors = cell.errors([x])[0]
        line = {
            "atol": atol,
            "rtol": rtol,
            "nfe": float(stats.nfe.mean()),
            "tail_nfe": float(np.quantile(stats.nfe, 0.95)),
            "rms": float(distances.rms(errors)),
            "median": float(np.median(errors)),
            "accepted": float(stats.accepted.mean()),
            "rejected": float(stats.rejected.mean()),
            "unfinished": int(np.sum(status > 0)),
        }
        if (atol, rtol) == PUBLIC:
            public = line | {"errors": errors}
        found.append(line)
    return found, public


# ---- fixed plans


def _fixed(cell: Cell, jobs: list[tuple]) -> np.ndarray:
    """Errors (P, B) of fixed plans [(owner, nfe, name in FIXED)].

    They are padded to two lengths: compiling costs more than the rows.
    """
    made = []
    for _, nfe, name in jobs:
        solver, make_grid = FIXED[name]
        plan = solvers.plan_of(solver, cell.field.schedule, make_grid, nfe)
        length = SHORT if plan.rows <= SHORT else max(max(FIXED_NFE), plan.rows)
        made.append(plans.pad(plan, length))
    return cell.errors(solvers.run_plans(cell.field, cell.noise, made))


def _fixed_line(nfe: int, plan: str, errors: np.ndarray) -> dict:
    return {
        "plan": plan,
        "nfe": nfe,
        "rms": float(distances.rms(errors)),
        "median": float(np.median(errors)),
    }


# ---- batches


def _batches_of(config: Config, field: Any, sizes: list[int]) -> dict[int, dict]:
    """What a sample needs and what its batch computes, at the public defaults.

    Returns:
      {size: {own, lockstep, groups}}: with steps of their own and in lockstep.
    """
    # Starts a seed, enough for the largest batch.
    each = max(min(config.samples, STARTS), -(-max(sizes) // config.seeds))
    cell = make_cell(field, config.seeds, each, steps=config.reference_steps)
    x, _, stats = _one_batch(cell, PUBLIC, "order 2")
    found = {}
    for size in sizes:
        groups = len(x) // size
        needed = stats.nfe[: groups * size].reshape(groups, size)
        # The loop of a batch goes on until its last sample is done.
        own = _counts(cell, x, needed, needed.max(1))
        lockstep = _lockstep(cell, groups, size) if size > 1 else own
        found[size] = {"own": own, "lockstep": lockstep, "groups": groups}
    return found


def _lockstep(cell: Cell, groups: int, size: int) -> dict[str, float]:
    """The counts of batches whose samples advance in lockstep."""
    shape = cell.noise.shape[1:]
    noise = cell.noise[: groups * size].reshape(groups, size, *shape)
    ends, _, stats = adaptive(cell.field, noise, tolerance_of(*PUBLIC), "order 2", lockstep=True)
    x = np.asarray(ends).reshape(-1, *shape)
    return _counts(cell, x, np.asarray(stats.nfe), np.asarray(stats.computed))


def _counts(cell: Cell, x: np.ndarray, needed: np.ndarray, computed: np.ndarray) -> dict:
    """Means of the counts, and the error of the samples that they belong to."""
    count = needed.size
    off = statistics.row_norms(x[:count] - cell.exact[:count])
    errors = off / statistics.scale_of(cell.exact)
    return {
        "needed": float(needed.mean()),
        "computed": float(computed.mean()),
        "rms": float(distances.rms(errors)),
    }


# ---- what the maps show


def front(points: list[dict]) -> list[dict]:
    """Those of [{nfe, rms}] that no cheaper point is as good as, by rising NFE."""
    # By rising cost, keep what lowers the error.
    best = []
    for point in sorted(points, key=lambda p: (p["nfe"], p["rms"])):
        if not best or point["rms"] < best[-1]["rms"]:
            best.append(point)
    return best


def error_at(points: list[dict], nfe: float) -> float:
    """Error of the front of `points` at `nfe`, between its points in log-log; NaN beyond them."""
    best = front(points)
    at, errors = ([np.log(p[name]) for p in best] for name in ("nfe", "rms"))
    return float(np.exp(np.interp(np.log(nfe), at, errors, left=np.nan, right=np.nan)))


def line_of(point: dict) -> str:
    """Which of LINES a point of the map is on."""
    return LINES[int(np.sign(point["atol"] - point["rtol"])) + 1]


def excess(rows: list[dict]) -> list[dict]:
    """[{method, line, excess, points}]: error over that of the method's best tolerances.

    The comparison is at equal NFE; the mean over points is geometric.
    """
    table = []
    for method in METHODS:
        ratios = {line: [] for line in LINES}
        for row in rows:
            if row["part"] == "map" and row["method"] == method:
                for point in row["cells"]:
                    ratio = point["rms"] / error_at(row["cells"], point["nfe"])
                    if np.isfinite(ratio):
                        ratios[line_of(point)].append(ratio)
        # Points beyond the front of a map have no comparison.
        for line, found in ratios.items():
            if found:
                mean = geometric_mean(found)
                values = {"method": method, "line": line, "excess": mean, "points": len(found)}
                table.append(values)
    return table


def at_public(rows: list[dict]) -> list[dict]:
    """One line a field and method: the public defaults against the best fixed plan of equal NFE."""
    curves = {row["field"]: row["fixed"] for row in rows if row["part"] == "fixed"}
    table = []
    for row in rows:
        if row["part"] != "map":
            continue
        own = next(cell for cell in row["cells"] if (cell["atol"], cell["rtol"]) == PUBLIC)
        rival = next(plan for plan in row["fixed"] if plan["plan"] == row["best"])
        uncontrolled = UNCONTROLLED.get(row["method"])
        # The same formulas on a fixed grid of equal NFE: what control itself is worth.
        without = [own["rms"] / f["rms"] for f in row["fixed"] if f["plan"] == uncontrolled]
        fixed = [*curves.get(row["field"], ()), *row["fixed"]]
        # From how many evaluations a fixed plan is as accurate.
        enough = [plan["nfe"] for plan in fixed if plan["rms"] <= own["rms"]]
        table.append(
            {
                "field": row["field"],
                "method": row["method"],
                "NFE": own["nfe"],
                "p95 NFE": own["tail_nfe"],
                "error": own["rms"],
                "best fixed plan": row["best"],
                "its NFE": rival["nfe"],
                "its error": rival["rms"],
                "ratio": row["against_rms_ratio"],
                "low": row["against_rms_low"],
                "high": row["against_rms_high"],
                "adaptive is": statistics.verdict(_against(row), "rms"),
                "median error": own["median"],
                "its median": rival["median"],
                "ratio of medians": row["against_median_ratio"],
                "by median": statistics.verdict(_against(row), "median"),
                "accepted": own["accepted"],
                "rejected": own["rejected"],
                "without control": next(iter(without), None),
                "a fixed plan is as good from": min(enough, default=None),
            }
        )
    return table


def _against(row: dict) -> dict:
    """The comparison of a map's public defaults with the best fixed plan, as `paired` has it."""
    prefix = "against_"
    return {name.removeprefix(prefix): v for name, v in row.items() if name.startswith(prefix)}


def over_own_formulas(public: list[dict]) -> list[float]:
    """Errors of `at_public` over those of the same formulas on a fixed grid of equal NFE."""
    return [line["without control"] for line in public if line["without control"] is not None]


def below_fixed(rows: list[dict]) -> dict[str, tuple[int, int, float]]:
    """{method: (points below the best fixed plan at equal NFE, points comparable, mean ratio)}."""
    curves = {row["field"]: row["fixed"] for row in rows if row["part"] == "fixed"}
    found = {}
    for method in METHODS:
        ratios = [
            point["rms"] / error_at(curves[row["field"]], point["nfe"])
            for row in rows
            if row["part"] == "map" and row["method"] == method and row["field"] in curves
            for point in row["cells"]
        ]
        ratios = [ratio for ratio in ratios if np.isfinite(ratio)]
        if ratios:
            below = sum(ratio < 1 for ratio in ratios)
            found[method] = below, len(ratios), geometric_mean(ratios)
    return found
