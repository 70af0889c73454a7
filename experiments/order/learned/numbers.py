"""Errors on networks, the shape of their paths, and both beside the same cells of exact fields."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import flowjax
from configs.order import Config
from experiments.lab import solvers, statistics, subjects
from experiments.lab.truth import Cell
from experiments.order import guided, nfe
from flowjax import Plan, distances, geometry, grids, plans
from flowjax.schedules import Schedule

QUESTION = "learned"
SOLVERS = guided.SOLVERS
PAIRS = guided.PAIRS
SHIFTS = guided.SHIFTS
# Scales at most: coupled networks are a dial by themselves, and an evaluation of the emoji costs
# four of the digits.
SCALES = {
    "digits-ot": (1.0,),
    "digits-reflow": (1.0,),
    "digits-smooth": (1.0,),
    "digits-linear": (1.0,),
    "emoji": (1.0, 4.0),
}
# No torsion: it needs a third derivative, and that of a network is its roughness.
BENT = ("length", "straightness", "acceleration", "curvature")
WATCHED = "DPM++ 2M"  # the run whose own evaluations give rho
FLOOR_ROWS = 10  # evaluations of the run that is made in float64 too
FLOOR_STARTS = 8


# ---- cells


def check(config: Config) -> None:
    """Refuse a network that is not there, and scales without 1."""
    subjects.check_networks("networks", config.networks)
    if 1.0 not in config.network_scales:
        raise ValueError(
            f"--config.network_scales: {config.network_scales!r}; wanted 1 among them: "
            "the exact fields that networks stand beside have no guidance."
        )


def cells(config: Config) -> list[dict]:
    """One cell a network and scale for its paths, and one each for its shifts and evaluations."""
    # A subject is a network at one guidance scale.
    subject = [
        {"model": model, "scale": scale}
        for model in config.networks
        for scale in config.network_scales
        if scale in SCALES.get(model, config.network_scales)
    ]
    paths = [{"question": QUESTION, "part": "path", **key} for key in subject]
    return paths + [
        {"question": QUESTION, "part": "error", **key, "shift": shift, "nfe": n}
        for key in subject
        for shift in config.shifts
        if shift in SHIFTS
        for n in config.network_nfe
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): shape of each network's paths; errors, comparisons and rho."""
    starts = np.arange(config.network_starts)
    for name, scale in dict.fromkeys((key["model"], key["scale"]) for key in todo):
        drawn = flowjax.draw_noise(jax.random.key(0), starts, subjects.image_shape(name))
        noise = np.asarray(drawn, np.float32)
        # All scales of a network have the same starts.
        field = subjects.make_network(name, scale, len(starts))
        exact, doubling, bent = reference(field, noise, config.network_steps)
        cell = Cell(field, noise, exact, starts, doubling)  # every start is its own seed
        for key in [key for key in todo if (key["model"], key["scale"]) == (name, scale)]:
            if key["part"] == "error":
                yield key, _errors(cell, key)
                continue
            # Float64 is slow: a few starts show the size of rounding.
            some = dataclasses.replace(field, label=field.label[:FLOOR_STARTS])
            floor = _floor(some, noise[:FLOOR_STARTS]) if scale == 1 else None
            yield (
                key,
                {
                    **bent,
                    "size": statistics.scale_of(exact),
                    "doubling": doubling,
                    "float32": floor,
                    "starts": len(starts),
                },
            )


# ---- runs of a network


@jax.jit
def run(field: Any, noise: jax.Array, plan: Plan) -> tuple[jax.Array, jax.Array]:
    """One run, with all its states and velocities; one program for each number of rows.

    Plans go one by one: a network fills the machine with one batch, and side by side guidance could
    not leave out the null label where the scale is 1.

    Returns:
      (accepted states (rows+1, B, *D), those after the last one repeat it; velocities
      (rows, B, *D)).
    """

    def watched(x: jax.Array, t: jax.Array, carry: tuple) -> tuple:
        row, seen = carry
        velocity = field.velocity(x, t)
        return velocity, (row + 1, seen.at[row].set(velocity))

    start = (0, jnp.zeros((plan.rows, *noise.shape), noise.dtype))
    solution = flowjax.sample(watched, noise, plan, carry=start, save_path=True)
    return solution.path, solution.carry[1]


def _run_float64(field: Any, noise: np.ndarray, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """`run` with its results as float64 on the host."""
    path, velocity = run(field, noise, plan)
    return np.asarray(path, np.float64), np.asarray(velocity, np.float64)


def reference(field: Any, noise: np.ndarray, steps: int) -> tuple[np.ndarray, float, dict]:
    """The converged solution by AB2 on a grid uniform in t.

    Networks are rough in their time (see the question `clock`). What resolves that is the number of
    distinct times, not the order; RK4 evaluates each time twice.

    Returns:
      (endpoints (B, *D), how far doubling the steps moved them, the shape of the paths).
    """
    # Two runs, the second with twice the steps.
    coarse, fine = (plans.adams_bashforth(grids.uniform(n), 2) for n in (steps // 2, steps))
    half = np.asarray(run(field, noise, coarse)[0][-1], np.float64)
    path, velocity = _run_float64(field, noise, fine)
    moved = distances.rms(statistics.row_norms(half - path[-1])) / statistics.scale_of(path[-1])
    shape = geometry.path_geometry(fine.t, path[:-1], velocity)._asdict()
    values = {name: float(np.median(shape[name])) for name in BENT}
    return path[-1], float(moved), {**values, "smoothness": smoothness(velocity)}


def smoothness(velocity: np.ndarray, step: float = 1 / 40) -> float:
    """The power with which second differences of the velocity along the paths shrink.

    It is read between the spacings 2 `step` and `step`. It is 2 where a step resolves the field, so
    that orders 2 and 3 can be had, and 0 where the field jumps from evaluation to evaluation.

    Args:
      velocity: (M, B, *D) at times 1, 1 - 1/M, ..., 1/M.
      step: in units of t.
    """
    # So many evaluations apart.
    spacing = max(round(step * len(velocity)), 1)

    def size(k: int) -> float:
        return distances.rms(velocity[2 * k :] - 2 * velocity[k:-k] + velocity[: -2 * k])

    return float(np.log2(size(2 * spacing) / size(spacing)))


def _as_float64(leaf: Any) -> np.ndarray:
    return np.asarray(leaf, np.float64 if leaf.dtype == np.float32 else leaf.dtype)


def _floor(field: subjects.NetworkField, noise: np.ndarray) -> float:
    """What float32 does to endpoints: the relative RMS difference of one run to float64."""
    # The same run in both precisions.
    plan = solvers.plan_of(WATCHED, field.schedule, solvers.shifted(1.0), FLOOR_ROWS)
    exact_field = jax.tree.map(_as_float64, field)
    single = np.asarray(run(field, noise, plan)[0][-1], np.float64)
    double = np.asarray(run(exact_field, noise.astype(np.float64), plan)[0][-1], np.float64)
    moved = distances.rms(statistics.row_norms(single - double))
    return float(moved / statistics.scale_of(double))


def _rho(
    schedule: Schedule, grid: np.ndarray, path: np.ndarray, velocity: np.ndarray
) -> dict[str, float]:
    """Median rho_2 and rho_3 of a run of one row a step."""
    p, q = (
        np.asarray(weight)[:, None, None, None, None]  # (rows, 1, 1, 1, 1): B, H, W, C follow
        for weight in schedule.prediction_weights("data", np.asarray(grid[:-1]))
    )
    added = geometry.order_increments(schedule, grid, p * path[:-1] + q * velocity)
    return {f"rho_{k}": float(np.median(geometry.rho(added, k))) for k in (2, 3)}


def _errors(cell: Cell, key: dict) -> dict:
    """The values of an error cell."""
    schedule = cell.field.schedule
    make_grid = solvers.shifted(key["shift"])
    found, rho = {}, {}
    for solver in SOLVERS:
        plan = solvers.plan_of(solver, schedule, make_grid, key["nfe"])
        if plan is None:
            continue
        path, velocity = _run_float64(cell.field, cell.noise, plan)
        found[solver] = cell.errors(path[-1:])[0]
        if solver == WATCHED:
            rho = _rho(schedule, plan.grid, path, velocity)
    summaries = [{"solver": s, **statistics.summary(e, cell.seed)} for s, e in found.items()]
    pairs = [
        {"a": a, "b": b, **statistics.paired(found[a], found[b], cell.seed)}
        for a, b in PAIRS
        if a in found and b in found
    ]
    return {"solvers": summaries, "pairs": pairs, **rho, "doubling": cell.doubling}


# ---- networks beside exact fields


def _matched(rows: list[dict]) -> dict[tuple[str, float], list[dict]]:
    """{(where, scale): cells} of exact fields and of networks, on the cells that networks have.

    Exact fields without guidance are those of the question `nfe`, with guidance those of `guided`.
    """
    own = [r for r in rows if r["question"] == QUESTION and r["part"] == "error"]
    # Only what the networks have is compared.
    seen = {(r["shift"], r["nfe"]) for r in own}
    scales = sorted({r["scale"] for r in own})
    groups = {("networks", s): [r for r in own if r["scale"] == s] for s in scales}

    plain = [r for r in rows if r["question"] == nfe.QUESTION and (r["shift"], r["nfe"]) in seen]
    # The rows of `guided` name grids, not shifts.
    shift_of = {f"shift {shift:g}": shift for shift in SHIFTS}
    with_guidance = [
        r
        for r in rows
        if r["question"] == guided.QUESTION
        and r["part"] == "error"
        and (shift_of.get(r["grid"]), r["nfe"]) in seen
    ]
    for scale in scales:
        of_scale = [r for r in with_guidance if r["scale"] == scale]
        groups["exact fields", scale] = plain if scale == 1 else of_scale
    return groups


def tally(rows: list[dict], pair: tuple[str, str]) -> dict[str, float]:
    """{better, tie, undecided, worse, ratio} of pair (a, b) over cells, by RMS error.

    All but the last are counts, the last is the geometric mean of the ratios, NaN without cells.
    """
    own = [p for row in rows for p in row["pairs"] if (p["a"], p["b"]) == tuple(pair)]
    # Verdicts by RMS error.
    counts = nfe.counts(own)
    ratio = statistics.geometric_mean(p["rms_ratio"] for p in own) if own else np.nan
    return {**counts, "ratio": ratio}


def beside(rows: list[dict]) -> list[dict]:
    """[{pair, scale, evaluations, exact fields, ratio, networks, ratio}]: both answers."""
    groups = _matched(rows)
    # The two ranges of evaluations, and whether they are the few.
    few = {f"<= {nfe.FEW}": True, f"> {nfe.FEW}": False}
    table = []
    for pair in PAIRS:
        for scale in sorted({s for _, s in groups}):
            for span, is_few in few.items():
                line = {"pair": f"{pair[0]} against {pair[1]}", "scale": scale, "NFE": span}
                for where in ("exact fields", "networks"):
                    cells = [r for r in groups[where, scale] if (r["nfe"] <= nfe.FEW) == is_few]
                    found = tally(cells, pair)
                    line[where] = (
                        f"{found['better']} better, {found['worse']} worse, "
                        f"{found['tie'] + found['undecided']} neither"
                    )
                    line[f"ratio, {where}"] = found["ratio"]
                if np.isfinite(line["ratio, networks"]):
                    table.append(line)
    return table


def agreement(table: list[dict], margin: float = 1.02) -> tuple[int, int, int]:
    """(same, opposite, open): lines of `beside` by the direction of their two mean ratios.

    A line is open where a ratio is within `margin` of 1 or missing.
    """

    def sign(ratio: float) -> int:
        if ratio > margin:
            return 1
        return -1 if ratio < 1 / margin else 0  # also of NaN

    # 1 where both ratios point the same way, -1 where they differ.
    products = [sign(line["ratio, exact fields"]) * sign(line["ratio, networks"]) for line in table]
    return products.count(1), products.count(-1), products.count(0)


def slopes(rows: list[dict]) -> list[dict]:
    """[{shift, solver, NFE, order on exact fields, on networks}]: how steep errors fall late.

    Late is between the two largest numbers of evaluations; with one number there are no lines. The
    shifts stand apart, since an order can hold at one and not at the other.
    """
    groups = _matched(rows)
    # error ~ NFE^-order between the two largest numbers of evaluations.
    last = sorted({row["nfe"] for row in groups["networks", 1.0]})[-2:]
    if len(last) < 2:
        return []

    def slope(cells: list[dict], shift: float, solver: str) -> float:
        logs = [
            [
                np.log(line["rms"])
                for row in cells
                if (row["shift"], row["nfe"]) == (shift, n)
                for line in row["solvers"]
                if line["solver"] == solver
            ]
            for n in last
        ]
        if not all(logs):
            return np.nan
        return float((np.mean(logs[0]) - np.mean(logs[1])) / np.log(last[1] / last[0]))

    return [
        {
            "shift": shift,
            "solver": solver,
            "NFE": f"{last[0]} to {last[1]}",
            "order on exact fields": slope(groups["exact fields", 1.0], shift, solver),
            "order on networks": slope(groups["networks", 1.0], shift, solver),
        }
        for shift in sorted({row["shift"] for row in groups["networks", 1.0]})
        for solver in SOLVERS
    ]


def dial(rows: list[dict]) -> list[dict]:
    """One line a network and scale: how bent its paths are, and what the orders are worth there."""
    table = []
    for row in [row for row in rows if row["part"] == "path"]:
        # The error cells of the same network and scale.
        subject = (row["model"], row["scale"])
        cells = [r for r in rows if r["part"] == "error" and (r["model"], r["scale"]) == subject]
        line = {name: row[name] for name in ("model", "scale", *BENT, "smoothness")}
        for a, b in PAIRS:
            found = tally(cells, (a, b))
            line[f"{a} over {b}"] = found["ratio"]
            line[f"worse: {a}"] = found["worse"]
        line["cells"] = len(cells)
        line |= {name: row[name] for name in ("size", "doubling", "float32")}
        table.append(line)
    return table


def winners(cells: list[dict]) -> list[tuple[str, int]]:
    """[(solver, cells in which it has the lowest RMS error)], most first, ties as in `SOLVERS`."""
    best = [min(row["solvers"], key=lambda line: line["rms"])["solver"] for row in cells]
    counts = [(name, best.count(name)) for name in SOLVERS if name in best]
    return sorted(counts, key=lambda item: -item[1])


def rho_tells(rows: list[dict], score: str = "rho_3", pair: tuple[str, str] = PAIRS[0]) -> tuple:
    """(auc, low, high, lost, won) of a free score for "a loses to b" over the decided cells."""
    decided = []
    for row in rows:
        if row["part"] != "error" or not np.isfinite(row[score]):
            continue
        verdicts = [p["rms_verdict"] for p in row["pairs"] if (p["a"], p["b"]) == tuple(pair)]
        if verdicts and verdicts[0] != "tie":
            # The bootstrap draws networks, whose cells share their noise.
            subject = f"{row['model']} {row['scale']}"
            decided.append((row[score], verdicts[0] == "worse", subject))
    lost = sum(is_lost for _, is_lost, _ in decided)
    won = len(decided) - lost
    if not lost or not won:
        return np.nan, np.nan, np.nan, lost, won
    return *statistics.auc(*zip(*decided, strict=True)), lost, won
