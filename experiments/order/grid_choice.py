"""How much does the grid matter beside the solver, and what does a large shift do?

A large shift could make a solver unstable, or it could only let the last jump start too early.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy import stats

from configs.order import Config
from experiments import report
from experiments.lab import solvers, subjects
from experiments.lab.statistics import geometric_mean, row_norms, scale_of
from experiments.lab.truth import Cell, make_cell
from experiments.order import drawing
from experiments.order.ledger import exact_plan
from flowjax import Linear, Plan, distances, grids, plans

# ---- numbers

QUESTION = "grids"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M published", "AB2", "AB3", "UniPC2")
NFE = (10, 20)  # those of them that the configuration has
JUMP_SHIFTS = (1.0, 3.0, 6.0, 12.0)
JUMP_SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M published")


def _between(make: Callable, **options: Any) -> solvers.MakeGrid:
    """steps -> [1, times of `make` from 0.999 to 0.005, 0]."""

    def grid(steps: int) -> np.ndarray:
        inner = make(Linear(), steps - 1, start=0.999, end=0.005, jump=True, **options)
        return np.append(1.0, inner)

    return grid


def _beta(steps: int) -> np.ndarray:
    """Quantiles of a beta distribution of t, as diffusers has them for flows."""
    return stats.beta.ppf(np.linspace(1, 0, steps + 1), 0.6, 0.6)


GRIDS = {  # name: steps -> grid from 1 to 0
    # Without a parameter.
    "uniform": solvers.shifted(1.0),
    **{f"shift {shift:g}": solvers.shifted(shift) for shift in JUMP_SHIFTS[1:]},
    # With a jump at both ends.
    "log-SNR": _between(grids.log_snr),
    "quadratic": grids.quadratic,
    "Karras": _between(grids.karras, rho=7.0),
    "beta": _beta,
    "linear-quadratic": grids.linear_quadratic,
}


def check(config: Config) -> None:
    """Refuse a field that is not known."""
    subjects.check_fields("cause_fields", config.cause_fields)


def cells(config: Config) -> list[dict]:
    """One cell a field and number of evaluations, for the matrix of grids and for the jumps."""
    return [
        {"question": QUESTION, "part": part, "field": field, "nfe": nfe}
        for field in config.cause_fields
        for part, counts in (("matrix", NFE), ("jump", NFE[1:]))
        for nfe in counts
        if nfe in config.nfe
    ]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): errors of every solver on every grid, or the parts of the error."""
    steps = config.reference_steps
    for name in dict.fromkeys(key["field"] for key in todo):
        field = subjects.make_field(name)
        cell = make_cell(field, config.seeds, config.samples, steps=steps)
        for key in [key for key in todo if key["field"] == name]:
            if key["part"] == "matrix":
                values = _matrix(cell, key["nfe"])
            else:
                values = _jumps(cell, key["nfe"], steps // 2)
            yield key, {"values": values}


def _matrix(cell: Cell, nfe: int) -> list[dict]:
    """Errors of every solver on every grid."""
    # All plans of a cell together, so that they share compiled programs.
    made = {
        (grid, solver): solvers.plan_of(solver, cell.field.schedule, GRIDS[grid], nfe)
        for grid in GRIDS
        for solver in SOLVERS
    }
    errors = cell.errors(solvers.run_plans(cell.field, cell.noise, list(made.values())))
    return [
        {
            "grid": grid,
            "solver": solver,
            "rms": float(distances.rms(e)),
            "median": float(np.median(e)),
        }
        for (grid, solver), e in zip(made, errors, strict=True)
    ]


def _jumps(cell: Cell, nfe: int, steps: int) -> list[dict]:
    """The error of a run, and its parts: before the last jump, and of the jump alone.

    Args:
      cell: the field and its starts.
      nfe: evaluations of a run.
      steps: of the exact solution up to where the last jump starts.

    Returns:
      One line a shift and solver, with the names of `PARTS`.
    """
    field = cell.field

    def solve(x: np.ndarray, plan: Plan) -> np.ndarray:
        return np.asarray(solvers.solve(field, x, plan))

    def rms(x: np.ndarray) -> float:
        return float(distances.rms(cell.errors([x])[0]))

    # One case a shift and solver; the times include the last jump.
    cases = [
        (shift, solver, grids.uniform(nfe, shift=shift))
        for shift in JUMP_SHIFTS
        for solver in JUMP_SOLVERS
    ]
    # The same runs without their last step.
    inner = [
        solvers.SOLVERS[solver].build(field.schedule, times[:-1]) for _, solver, times in cases
    ]
    # The exact states where the last jumps start.
    exact = {
        t: solve(cell.noise, exact_plan(field.schedule, 1.0, t, steps))
        for t in {times[-2] for *_, times in cases}
    }
    # The states from which the last jump starts, solver by solver.
    before_jump = solvers.run_plans(field, cell.noise, inner)
    found = []
    for (shift, solver, times), x in zip(cases, before_jump, strict=True):
        true = exact[times[-2]]
        # The last step as a first-order jump, and solved finely instead.
        jump = plans.euler(times[-2:])
        last_exact = exact_plan(field.schedule, times[-2], 0.0, 24)
        found.append(
            {
                "shift": shift,
                "solver": solver,
                "jumps from t": float(times[-2]),
                "whole": rms(solve(x, jump)),
                "jump alone": rms(solve(true, jump)),
                "before the jump": float(distances.rms(row_norms(x - true))) / scale_of(cell.exact),
                "exact last step": rms(solve(x, last_exact)),
            }
        )
    return found


def flat(rows: list[dict], part: str) -> list[dict]:
    """The inner lists of one part as rows of their own."""
    return [
        {"field": row["field"], "nfe": row["nfe"], **inner}
        for row in rows
        if row["part"] == part
        for inner in row["values"]
    ]


def spreads(matrix: list[dict]) -> dict[str, np.ndarray]:
    """(median over best, worst over best), (cells, 2), in a dict with two entries.

    "grid": over grids, for each solver. "solver": over solvers, for each grid.
    """
    found = {"grid": [], "solver": []}
    for cell in dict.fromkeys((m["field"], m["nfe"]) for m in matrix):
        of_cell = [m for m in matrix if (m["field"], m["nfe"]) == cell]
        # The spread over one of the two, with the other held fixed.
        for over, fixed in (("grid", "solver"), ("solver", "grid")):
            for value in dict.fromkeys(m[fixed] for m in of_cell):
                errors = [m["rms"] for m in of_cell if m[fixed] == value]
                found[over].append((np.median(errors) / min(errors), max(errors) / min(errors)))
    return {over: np.array(ratios) for over, ratios in found.items()}


def losses(matrix: list[dict]) -> tuple[dict[str, int], dict[str, list[float]]]:
    """(how often each grid is best, its errors over the best grid's), cell by cell.

    A cell is a field, a number of evaluations and a solver.
    """
    best_in, loss = {}, {}
    for cell in dict.fromkeys((m["field"], m["nfe"], m["solver"]) for m in matrix):
        # The errors of one field, number of evaluations and solver, by grid.
        errors = {
            m["grid"]: m["rms"] for m in matrix if (m["field"], m["nfe"], m["solver"]) == cell
        }
        # The loss is relative to the best grid of the same cell.
        best = min(errors, key=errors.get)
        best_in[best] = best_in.get(best, 0) + 1
        for grid, error in errors.items():
            loss.setdefault(grid, []).append(error / errors[best])
    return best_in, loss


def by_grid(matrix: list[dict]) -> list[dict]:
    """One line a grid: in how many cells it is best, and its loss against the best grid."""
    best_in, every = losses(matrix)

    def loss(grid: str, **where: Any) -> float:
        """Geometric mean loss of a grid over the cells with these settings."""
        chosen = [
            m for m in matrix if m["grid"] == grid and all(m[k] == v for k, v in where.items())
        ]
        best = [
            min(o["rms"] for o in matrix if all(o[k] == m[k] for k in ("field", "nfe", "solver")))
            for m in chosen
        ]
        return geometric_mean(m["rms"] / b for m, b in zip(chosen, best, strict=True))

    # The loss of each grid over all cells, then by evaluations and by solver.
    counts = sorted({m["nfe"] for m in matrix})
    table = []
    for grid, ratios in every.items():
        line = {"grid": grid, "best in": best_in.get(grid, 0), "loss": geometric_mean(ratios)}
        line["at worst"] = max(ratios)
        line |= {f"loss at {n}": loss(grid, nfe=n) for n in counts}
        line |= {f"loss of {solver}": loss(grid, solver=solver) for solver in SOLVERS}
        table.append(line)
    return table


def worst_over_best(matrix: list[dict], over: str) -> float:
    """Geometric mean of the worst error over the best, "grid" or "solver" by `over`."""
    return geometric_mean(spreads(matrix)[over][:, 1])


# ---- figures

PARTS = {  # of the error at the last jump, and how they are drawn
    "whole": (report.INK, "o"),
    "jump alone": (report.RED, "^"),
    "before the jump": (report.SKY, "s"),
    "exact last step": (report.GREEN, "v"),
}


def _heatmap(matrix: list[dict], field: str, nfe: int) -> report.Picture:
    # One field and number of evaluations.
    own = [m for m in matrix if (m["field"], m["nfe"]) == (field, nfe)]
    best = min(own, key=lambda m: m["rms"])
    fig, ax = report.canvas(width=5.4, height=3.9)
    # Short names: the columns are narrow.
    short = [
        m | {"solver": m["solver"].removeprefix("DPM++ ").replace(" published", "\npublished")}
        for m in own
    ]
    report.heatmap(
        ax, short, x="solver", y="grid", value="rms", log=True, label="relative RMS error"
    )
    return report.picture(
        fig,
        f"Error on {field} at {nfe} evaluations; lowest with {best['solver']} on the "
        f"{best['grid']} grid: {report.sig(best['rms'])}.",
        f"Field: {field}, {nfe} evaluations.",
        title=f"On {field} at {nfe} evaluations {best['solver']} on the {best['grid']} grid has "
        f"the lowest error, {report.sig(best['rms'])}",
    )


def _losses_figure(matrix: list[dict]) -> report.Picture:
    """The mean loss of each grid against the best one of each cell, the least first."""
    bars = sorted(by_grid(matrix), key=lambda line: line["loss"])
    fig, ax = report.canvas(width=5.4, height=3.2)
    report.bar_ledger(
        ax,
        bars,
        label="grid",
        value="loss",
        xlabel="error over that of the best grid (geometric mean)",
        text=lambda ratio: report.sig(ratio, 2),
        start=1.0,
    )
    return report.picture(
        fig,
        "Mean loss of each grid against the best grid of each cell.",
        "A cell is a field, a number of evaluations and a solver.",
        title=f"The {bars[0]['grid']} grid loses least: {report.sig(bars[0]['loss'])} times the "
        "error of the best grid of each cell",
    )


def _jump_figure(jumps: list[dict]) -> report.Picture:
    names = list(dict.fromkeys(j["field"] for j in jumps))[:2]
    solver = JUMP_SOLVERS[-1]
    fig, axes = report.canvas(1, len(names), width=4.6 * len(names), height=3.9)
    axes = np.atleast_1d(axes)
    for ax, field in zip(axes, names, strict=True):
        own = [j for j in jumps if j["field"] == field and j["solver"] == solver]
        for part, (colour, marker) in PARTS.items():
            shifts, errors = [j["shift"] for j in own], [j[part] for j in own]
            ax.plot(shifts, errors, color=colour, marker=marker, label=part)
        ax.set(xscale="log", yscale="log", xlabel="shift", ylabel="relative RMS error", title=field)
        # The shifts themselves, not powers of ten.
        ax.set_xticks(JUMP_SHIFTS, [f"{shift:g}" for shift in JUMP_SHIFTS])
        ax.minorticks_off()
    drawing.same_height(axes)
    drawing.legend_below(fig, axes[0], 4)
    return report.picture(
        fig,
        f"Errors of {solver} against shift: the whole, the jump alone, before the jump, and with "
        "an exact last step.",
        f"{solver} at {jumps[0]['nfe']} evaluations, one panel a field.",
        title=_jump_title(jumps),
    )


def _jump_title(jumps: list[dict]) -> str:
    """What the last jump alone grows by from the least shift to the largest, as a claim."""
    low, high = min(j["shift"] for j in jumps), max(j["shift"] for j in jumps)
    alone = {
        shift: geometric_mean(j["jump alone"] for j in jumps if j["shift"] == shift)
        for shift in (low, high)
    }
    return (
        f"From shift {low:g} to {high:g} the error of the last jump alone grows "
        f"{report.sig(alone[high] / alone[low])} times"
    )


# ---- words


def _columns(line: dict, part: str) -> dict:
    """The columns whose name does not begin with `part`."""
    return {name: value for name, value in line.items() if not name.startswith(part)}


def _only(line: dict, part: str) -> dict:
    """The grid and the columns whose name begins with `part`."""
    return {n: value for n, value in line.items() if n == "grid" or n.startswith(part)}


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    matrix, jumps = flat(rows, "matrix"), flat(rows, "jump")
    spread = spreads(matrix)
    best_in, loss = losses(matrix)
    total = sum(best_in.values())
    ranked = sorted(best_in.items(), key=lambda item: -item[1])
    # The grid to take when nothing is known of the field.
    robust = min(loss, key=lambda grid: geometric_mean(loss[grid]))

    # Heatmaps at the most evaluations only, of the first fields.
    most = max(m["nfe"] for m in matrix)
    drawn_fields = list(dict.fromkeys(m["field"] for m in matrix))[:3]
    figures = [_losses_figure(matrix)]
    figures += [_heatmap(matrix, field, most) for field in drawn_fields]
    if jumps:
        figures.append(_jump_figure(jumps))

    # Spread over grids and over solvers: the median and the worst over the best.
    median_grid, worst_grid, median_solver, worst_solver = (
        report.sig(geometric_mean(spread[over][:, column]))
        for over in ("grid", "solver")
        for column in (0, 1)
    )
    return report.Section(
        question="Is one grid best, and does a large shift make a solver unstable?",
        expected="No grid is best for all: steps even in log-SNR for narrow modes and more "
        "evaluations, uniform ones for few. The grid matters "
        "about as much as the solver. A large shift does not blow anything up: its last jump "
        "starts too early, and blurs.",
        answer=f"Of {total} cells (field x NFE x solver) the best grid is "
        + ", ".join(f"{name} in {n}" for name, n in ranked)
        + (": **none wins all**. " if len(ranked) > 1 else ". ")
        + f"The least mean loss against the best of each cell has {robust}: a factor "
        f"{report.sig(geometric_mean(loss[robust]))} "
        f"(at worst {report.sig(max(loss[robust]))}). With the solver fixed the worst grid has "
        f"**{worst_grid}** times the error of the "
        f"best and the median one {median_grid}; with the grid fixed the worst solver has "
        f"{worst_solver} times that of the best and the median one {median_solver} (geometric "
        f"means). {_shift_sentence(jumps)} {_extrapolated(matrix)}",
        figures=tuple(figures),
        table={
            "Loss of each grid": [_columns(line, "loss of") for line in by_grid(matrix)],
            "Loss of each grid by solver": [_only(line, "loss of") for line in by_grid(matrix)],
        },
        caveat="RMS errors at t = 0; log-SNR and Karras grids run from 0.999 to 0.005 and jump at "
        "both ends; Karras (rho 7) is of sigma/alpha, beta (0.6, 0.6) of t. A shift belongs to "
        "how a network was trained: here the field is exact at every time, and only the sampler's "
        "side is seen.",
        command=command,
    )


def _shift_sentence(jumps: list[dict]) -> str:
    """What grows with the shift, as sentences."""
    if not jumps:
        return ""
    low, high = min(j["shift"] for j in jumps), max(j["shift"] for j in jumps)

    def mean(part: str, shift: float) -> float:
        return geometric_mean(j[part] for j in jumps if j["shift"] == shift)

    def carried(shift: float) -> float:
        ratios = [j["whole"] / j["exact last step"] for j in jumps if j["shift"] == shift]
        return geometric_mean(ratios)

    # What each part of the error grows by, from the least shift to the largest.
    grown = {part: mean(part, high) / mean(part, low) for part in PARTS}
    # An instability would show in the state before the jump.
    if grown["before the jump"] > grown["jump alone"]:
        grows = "the error before the jump, as in an instability"
    else:
        grows = "the jump, not an instability"
    return (
        f"From shift {low:g} to {high:g} the error of {', '.join(JUMP_SOLVERS[:-1])} and "
        f"{JUMP_SOLVERS[-1]} grows by {report.sig(grown['whole'])}; of the last jump alone, from "
        "the exact state, by "
        f"**{report.sig(grown['jump alone'])}**; of the state before the jump by "
        f"{report.sig(grown['before the jump'])}. An exact last step would divide the error by "
        f"{report.sig(carried(low))} at shift {low:g} and by {report.sig(carried(high))} at shift "
        f"{high:g}: what grows is "
        f"{grows}."
    )


def _extrapolated(matrix: list[dict]) -> str:
    """What Adams-Bashforth, which has no first-order jump, does on the most shifted grid."""
    grid = f"shift {JUMP_SHIFTS[-1]:g}"
    # Errors on this grid alone.
    error = {(m["field"], m["nfe"], m["solver"]): m["rms"] for m in matrix if m["grid"] == grid}
    ratio = {
        solver: geometric_mean(
            e / error[field, n, "Euler"] for (field, n, name), e in error.items() if name == solver
        )
        for solver in ("AB2", "AB3")
    }
    return (
        f"AB2 and AB3 extrapolate over that long last step instead: with {grid} they have "
        f"{report.sig(ratio['AB2'])} and {report.sig(ratio['AB3'])} times "
        "the error of Euler."
    )
