"""Errors of all orders and every score, dial by dial; and how well each score ranks the cells."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from configs.order import Config
from experiments.lab import solvers, statistics, subjects
from experiments.lab.truth import Cell, fine_grid, make_cell
from flowjax import Cosine, Linear, Plan, fields, geometry, plans
from flowjax.schedules import Schedule

QUESTION = "curvature"
SEEDS = 5  # at most: the anchors are dear
SCHEDULES = {"linear": Linear(), "cosine": Cosine()}

# One family, so that the orders alone differ. Order 1 is DDIM, and Euler on the linear path.
SOLVERS = {
    "DPM++ 1": solvers.dpm(1),
    "DPM++ 2M": solvers.dpm(2),
    "DPM++ 3M exact": solvers.dpm(3),
    "DPM++ 3M published": solvers.dpm(3, third_order="published"),
}
WATCHED = "DPM++ 2M"  # the run whose own evaluations give the free scores
PAIRS = (
    ("DPM++ 2M", "DPM++ 1"),
    ("DPM++ 3M exact", "DPM++ 2M"),
    ("DPM++ 3M published", "DPM++ 2M"),
)
MAIN = PAIRS[1]

SCORES = {  # name: where it comes from. A larger score is meant to say that the higher order loses.
    "straightness": "path",
    "length": "path",
    "acceleration": "path",
    "curvature": "path",
    "torsion": "path",
    "acceleration x step": "path and grid",
    "curvature x step": "path and grid",
    "stiffness x step": "path and grid",
    "step": "grid",
    "typical span": "grid",
    "largest span": "grid",
    "rho_1": "run",
    "rho_2": "run",
    "rho_3": "run",
    "rho_2 x rho_3": "run",
    "added by order 3": "run",
    "span where it bends": "run",
    "jump share": "run",
}


# ---- cells


def check(config: Config) -> None:
    """Refuse a field that is not known."""
    subjects.check_fields("fields", config.fields)


def cells(config: Config) -> list[dict]:
    """One cell a dial setting, grid and number of evaluations."""
    dials = [("ring", std, "linear", rho) for std in config.stds for rho in config.couplings]
    # Couplings are defined on the linear path only.
    dials += [("ring", std, "cosine", 0.0) for std in config.stds]
    for name in config.fields:
        # The other fields have no width to turn, and only mixtures can be coupled.
        if name != "ring":
            couplings = config.couplings if name.startswith(subjects.MIXTURE) else (0.0,)
            dials += [(name, None, "linear", rho) for rho in couplings]
    # Two kinds of grid: uniform in t and shifted, and uniform in log-SNR.
    grids_of = [f"shift {shift:g}" for shift in config.shifts] + ["log-SNR"]
    return [
        {
            "question": QUESTION,
            "field": field,
            "std": std,
            "path": path,
            "coupling": rho,
            "grid": grid,
            "nfe": nfe,
        }
        for field, std, path, rho in dials
        for grid in grids_of
        for nfe in config.dial_nfe
    ]


def dial_of(row: dict) -> tuple:
    """The setting of the dial of a cell or row: (field, std, path, coupling)."""
    return row["field"], row["std"], row["path"], row["coupling"]


def _field_of(dial: tuple) -> Any:
    name, std, path, coupling = dial
    options = {} if std is None else {"std": std}
    field = subjects.make_field(name, SCHEDULES[path], **options)
    if path == "linear" and isinstance(field, fields.GaussianMixture):
        # One type whatever the coupling, so that all couplings share a program.
        field = fields.couple(field, coupling)
    return field


def _grid(key: dict, schedule: Schedule) -> np.ndarray:
    kind, _, shift = key["grid"].partition(" ")
    if kind == "log-SNR":
        return solvers.log_snr_with_ends(schedule)(key["nfe"])
    return solvers.shifted(float(shift))(key["nfe"])


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors of all orders, their comparisons, and every score."""
    most = max(config.dial_nfe)
    for dial in dict.fromkeys(dial_of(key) for key in todo):
        field = _field_of(dial)
        seeds = min(config.seeds, SEEDS)
        cell = make_cell(field, seeds, config.samples, steps=config.reference_steps)
        # Scores of the path depend on the dial alone.
        of_path = path_scores(field, cell.noise)

        # All plans of the dial together, so that they share two compiled programs.
        keys = [key for key in todo if dial_of(key) == dial]
        jobs = [(key, solver) for key in keys for solver in SOLVERS]
        made = [SOLVERS[solver](field.schedule, _grid(key, field.schedule)) for key, solver in jobs]
        watched = [solver == WATCHED for _, solver in jobs]
        ends, data = run_watched(field, cell.noise, made, watched, most)
        errors = cell.errors(ends)

        for key in keys:
            at = {solver: i for i, (other, solver) in enumerate(jobs) if other is key}
            # Errors and comparisons of all orders, then the scores of the watched run.
            summaries = [
                {"solver": solver, **statistics.summary(errors[i], cell.seed)}
                for solver, i in at.items()
            ]
            pairs = [
                {"a": a, "b": b, **statistics.paired(errors[at[a]], errors[at[b]], cell.seed)}
                for a, b in PAIRS
            ]
            run = at[WATCHED]
            scores = cell_scores(field.schedule, made[run].grid, of_path, data[run], cell)
            yield (
                key,
                {
                    "solvers": summaries,
                    "pairs": pairs,
                    "scores": scores,
                    "doubling": cell.doubling,
                },
            )


# ---- runs whose evaluations are watched


@jax.jit
def _run(field: Any, noise: jax.Array, stack: Plan) -> tuple[jax.Array, jax.Array]:
    """Endpoints (P, B, *D) and the data predictions (P, rows, B, *D) of every evaluation."""

    def run(plan: Plan) -> tuple[jax.Array, jax.Array]:
        def watched(x: jax.Array, t: jax.Array, carry: tuple) -> tuple:
            row, seen = carry
            velocity = field.velocity(x, t)
            p, q = field.schedule.prediction_weights("data", t)
            return velocity, (row + 1, seen.at[row].set(p * x + q * velocity))

        start = (0, jnp.zeros((plan.rows, *noise.shape), noise.dtype))
        solution = flowjax.sample(watched, noise, plan, carry=start)
        return solution.x, solution.carry[1]

    return jax.vmap(run)(stack)


def run_watched(
    field: Any, noise: np.ndarray, made: Sequence[Plan], watch: Sequence[bool], most: int
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    """Endpoints of many plans, and the data predictions of those to watch.

    Args:
      field: has `velocity(x, t)` and `schedule`; a pytree.
      noise: (B, *D).
      made: P plans of one row a step.
      watch: P booleans.
      most: rows of the longest plan. Plans of up to a third of it share one program, the others
        another.

    Returns:
      (endpoints (P, B, *D), P data predictions (rows, B, *D), None where a plan is not watched).
    """
    ends, seen = [None] * len(made), [None] * len(made)
    # Two lengths, so two programs.
    third = max(most // 3, 1)
    for above, length in ((0, third), (third, most)):
        members = [i for i, plan in enumerate(made) if above < plan.rows <= length]
        for first in range(0, len(members), solvers.TOGETHER):
            group = members[first : first + solvers.TOGETHER]
            chosen = [made[i] for i in group]
            chosen += [chosen[-1]] * (solvers.TOGETHER - len(group))
            found = _run(field, noise, solvers.stacked(chosen, length))
            x, data = (np.asarray(array) for array in found)
            for place, i in enumerate(group):
                ends[i] = x[place]
                if watch[i]:
                    seen[i] = data[place, : made[i].rows]
    return np.stack(ends), seen


# ---- scores


class PathScores(NamedTuple):
    """Scores of the exact paths of a field.

    Attributes:
      medians: {name of `geometry.PathGeometry`: its median over starts}.
      log_snr: (M,) where the stiffness was measured.
      stiffness: (M,) median over starts.
    """

    medians: dict[str, float]
    log_snr: np.ndarray
    stiffness: np.ndarray


@jax.jit
def _exact_path(field: Any, noise: jax.Array, plan: Plan, stiff_at: jax.Array) -> tuple:
    """Times, states and velocities of an RK4 run, and the stiffness at the steps `stiff_at`."""
    solution = flowjax.sample(field.velocity, noise, plan, save_path=True)
    # A step of RK4 is four rows.
    times = jnp.concatenate([plan.t[:1], plan.t_next[3::4]])
    path = solution.path[: len(times)]
    velocity = jax.lax.map(lambda at: field.velocity(*at), (path, times))

    # Power iteration starts from a random vector; 16 starts are enough for a median.
    key = jax.random.key(0)
    places = path[stiff_at][:, :16], times[stiff_at]
    stiffness = jax.lax.map(
        lambda at: geometry.stiffness(field.velocity, *at, key=key, iterations=12), places
    )
    return times, path, velocity, stiffness


def path_scores(field: Any, noise: np.ndarray, *, steps: int = 120, starts: int = 32) -> PathScores:
    """`PathScores` of the first `starts` exact paths, on `steps` steps uniform in log-SNR."""
    plan = plans.rk4(fine_grid(field.schedule, steps))
    stiff_at = np.linspace(1, steps - 1, 24).astype(int)
    found = _exact_path(field, noise[:starts], plan, stiff_at)
    times, path, velocity, stiffness = (np.asarray(array) for array in found)
    # Length, straightness, acceleration, curvature, torsion: (starts,) each.
    shape = geometry.path_geometry(times, path, velocity)
    medians = {name: float(np.median(values)) for name, values in shape._asdict().items()}
    log_snr = field.schedule.log_snr(times[stiff_at])
    return PathScores(medians, log_snr, np.median(stiffness, axis=1))


def cell_scores(
    schedule: Schedule, grid: np.ndarray, of_path: PathScores, data: np.ndarray, cell: Cell
) -> dict[str, float]:
    """{name: number} for the names of `SCORES`; the median over starts where each start has one.

    Args:
      schedule: of the path.
      grid: (N+1,) times.
      of_path: scores of the exact paths.
      data: (N, B, *D) data predictions that the watched run made on the grid.
      cell: for the scale of its endpoints.
    """
    step = 1 / (len(grid) - 1)

    # Scores of the path. A curve in the plane has no torsion: it gets no score, not a low one.
    scores = dict(of_path.medians)
    if data[0, 0].size < 3:
        scores["torsion"] = np.nan
    for name in ("acceleration", "curvature"):
        scores[f"{name} x step"] = of_path.medians[name] * step
    inner_log_snr = schedule.log_snr(grid)[1:-1]
    stiffness = np.interp(inner_log_snr, of_path.log_snr, of_path.stiffness)
    scores["stiffness x step"] = float(np.max(stiffness * -np.diff(grid)[1:]))

    # Scores of the grid: spans of three steps in log-SNR, in units of pi/2.
    inner_span = geometry.log_snr_span(schedule, grid[1:-1], 3)[2:]
    scores["step"] = step
    scores["typical span"] = float(np.median(inner_span) / (np.pi / 2))
    scores["largest span"] = float(np.max(inner_span) / (np.pi / 2))

    # Scores of the run: what each order adds to the update of the order below it.
    added = geometry.order_increments(schedule, grid, data)
    rho = {k: float(np.median(geometry.rho(added, k))) for k in (1, 2, 3)}
    scores |= {f"rho_{k}": value for k, value in rho.items()}
    scores["rho_2 x rho_3"] = rho[2] * rho[3]
    total = np.nansum(added, axis=0)  # (4, B)
    scores["added by order 3"] = float(np.median(total[2]) / statistics.scale_of(cell.exact))
    span = geometry.log_snr_span(schedule, grid, 3)
    weight = np.where(np.isfinite(span), np.nan_to_num(np.mean(added[:, 1], axis=1)), 0.0)
    weighted = np.sum(weight * np.where(weight > 0, span, 0.0)) / np.sum(weight)
    scores["span where it bends"] = float(weighted / (np.pi / 2))
    last = statistics.row_norms(data[-1] - data[-2])
    scores["jump share"] = float(np.median(last / total[1]))
    return scores


# ---- how well the scores rank the cells


def kind_of(row: dict) -> str:
    """The kind of grid, "log-SNR" or "uniform t" (shifted): the two behave differently."""
    return "log-SNR" if row["grid"] == "log-SNR" else "uniform t"


def compared(rows: list[dict], pair: tuple[str, str], statistic: str) -> list[dict]:
    """The rows with `verdict` and `ratio` of a pair of solvers, by "rms" or "median"."""
    found = []
    for row in rows:
        # Every row has every pair.
        own = next(p for p in row["pairs"] if (p["a"], p["b"]) == tuple(pair))
        values = {"verdict": own[f"{statistic}_verdict"], "ratio": own[f"{statistic}_ratio"]}
        found.append(row | values)
    return found


def decided(rows: list[dict], score: str) -> list[dict]:
    """The rows of `compared` that are no tie and have the score."""
    return [r for r in rows if r["verdict"] != "tie" and np.isfinite(r["scores"][score])]


def _outcomes(rows: list[dict], score: str) -> tuple[list, list, list]:
    """(scores, whether the higher order lost, dials) of the decided rows: arguments of `auc`."""
    # A tie is no outcome.
    rows = decided(rows, score)
    return (
        [row["scores"][score] for row in rows],
        [row["verdict"] == "worse" for row in rows],
        [str(dial_of(row)) for row in rows],
    )


def ranking(rows: list[dict]) -> list[dict]:
    """One line a kind of grid, pair and score: its AUC for "the higher order loses".

    Returns:
      [{grid, pair, score, from, auc, low, high, within NFE, by median, cells, lost, ties,
      undefined}].
    """
    table = []
    for kind in dict.fromkeys(kind_of(row) for row in rows):
        of_kind = [row for row in rows if kind_of(row) == kind]
        for pair in PAIRS:
            by_rms, by_median = (compared(of_kind, pair, name) for name in ("rms", "median"))
            for score, source in SCORES.items():
                # By RMS error over all cells, within equal NFE, and by the median error.
                outcomes = _outcomes(by_rms, score)
                value, low, high = statistics.auc(*outcomes)
                nfe = [row["nfe"] for row in decided(by_rms, score)]
                table.append(
                    {
                        "grid": kind,
                        "pair": f"{pair[0]} loses to {pair[1]}",
                        "score": score,
                        "from": source,
                        "auc": value,
                        "low": low,
                        "high": high,
                        "within NFE": statistics.auc(*outcomes, nfe)[0],
                        "by median": statistics.auc(*_outcomes(by_median, score))[0],
                        "cells": len(outcomes[0]),
                        "lost": int(np.sum(outcomes[1])),
                        "ties": sum(row["verdict"] == "tie" for row in by_rms),
                        "undefined": sum(not np.isfinite(r["scores"][score]) for r in by_rms),
                    }
                )
    return table


def kinds(rows: list[dict]) -> list[str]:
    """The kinds of grid that the rows have."""
    return list(dict.fromkeys(kind_of(row) for row in rows))


def area_of(
    rows: list[dict], kind: str, score: str, statistic: str, pair: tuple[str, str] = MAIN
) -> tuple[float, float, float]:
    """(AUC, low, high) of one score on one kind of grid, by "rms" or "median"."""
    own = [row for row in compared(rows, pair, statistic) if kind_of(row) == kind]
    return statistics.auc(*_outcomes(own, score))


def validated(rows: list[dict], pair: tuple[str, str], statistic: str) -> list[dict]:
    """How well a score does on a field that had no part in its choice.

    For each field and kind of grid, the score and its sign are chosen that rank the cells of all
    other fields best; its AUC is that on the field left out. The widths and couplings of one field
    are left out together.

    Args:
      rows: of the question.
      pair: (the higher order, the lower one).
      statistic: "rms" or "median".

    Returns:
      [{grid, field, score, sign, chosen with, auc, cells}]; a field whose cells were all decided
      one way has no AUC and no line.
    """
    table = []
    for kind in dict.fromkeys(kind_of(row) for row in rows):
        own = [row for row in compared(rows, pair, statistic) if kind_of(row) == kind]
        for field in dict.fromkeys(row["field"] for row in own):
            others = [row for row in own if row["field"] != field]
            areas = {score: statistics.area(*_outcomes(others, score)[:2]) for score in SCORES}
            areas = {score: area for score, area in areas.items() if np.isfinite(area)}
            if not areas:
                continue
            # 0.5 is a coin, on either side.
            score = max(areas, key=lambda name: abs(areas[name] - 0.5))
            sign = 1 if areas[score] >= 0.5 else -1
            left = [row for row in own if row["field"] == field]
            values, lost, _ = _outcomes(left, score)
            area = statistics.area(sign * np.asarray(values), lost)
            if np.isfinite(area):
                line = {"grid": kind, "field": field, "score": score, "sign": sign}
                line |= {"chosen with": max(areas[score], 1 - areas[score])}
                table.append(line | {"auc": area, "cells": len(values)})
    return table


def lines_of(table: list[dict], kind: str, pair: tuple[str, str]) -> list[dict]:
    """The lines of `ranking` of one kind of grid and one pair."""
    name = f"{pair[0]} loses to {pair[1]}"
    return [line for line in table if line["grid"] == kind and line["pair"] == name]
