"""(f) How much the grid matters beside the solver, and whether a large shift is unstable or only jumps from too early."""

import functools

import numpy as np
from scipy import stats

from experiments import report
from experiments.order import lab
from experiments.order.ledger import exact_plan
from flowjax import Linear, distances, grids, plans

QUESTION = "grids"
SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M published", "AB2", "AB3", "UniPC2")
NFE = (10, 20)  # those of them the config has
JUMP_SHIFTS = (1.0, 3.0, 6.0, 12.0)
PARTS = {  # of the error at the last jump, and how they are drawn
    "whole": (report.INK, "o"), "jump alone": (report.RED, "^"), "before the jump": (report.SKY, "s"), "exact last step": (report.GREEN, "v"),
}  # fmt: skip
JUMP_SOLVERS = ("Euler", "DPM++ 2M", "DPM++ 3M published")


def _between(make, **options):
    """steps -> [1, times of `make` from 0.999 to 0.005, 0]."""
    return lambda steps: np.append(
        1.0, make(Linear(), steps - 1, start=0.999, end=0.005, jump=True, **options)
    )


GRIDS = {  # name: steps -> grid from 1 to 0
    "uniform": lab.shifted(1.0),
    **{f"shift {s:g}": lab.shifted(s) for s in JUMP_SHIFTS[1:]},
    "log-SNR": _between(grids.log_snr),
    "quadratic": grids.quadratic,
    "Karras": _between(grids.karras, rho=7.0),
    "beta": lambda steps: stats.beta.ppf(
        np.linspace(1, 0, steps + 1), 0.6, 0.6
    ),  # of t, as diffusers has it for flows
    "linear-quadratic": grids.linear_quadratic,
}


def cells(config):
    """One cell a field and number of evaluations, for the matrix of grids and solvers and for the jumps."""
    return [
        {"question": QUESTION, "part": part, "field": field, "nfe": nfe}
        for field in config.cause_fields
        for part, counts in (("matrix", NFE), ("jump", NFE[1:]))
        for nfe in counts
        if nfe in config.nfe
    ]


def measure(config, todo):
    """Yield (key, values): errors of every solver on every grid, or how they part into before and after the last jump."""
    for name in dict.fromkeys(key["field"] for key in todo):
        cell = lab.make_cell(
            lab.make_field(name), config.seeds, config.samples, steps=config.reference_steps
        )
        for key in [key for key in todo if key["field"] == name]:
            made = (
                _matrix
                if key["part"] == "matrix"
                else functools.partial(_jumps, steps=config.reference_steps // 2)
            )
            yield key, {"values": made(cell, key["nfe"])}


def _matrix(cell, nfe):
    made = {
        (grid, solver): lab.plan_of(solver, cell.field.schedule, GRIDS[grid], nfe)
        for grid in GRIDS
        for solver in SOLVERS
    }
    errors = cell.errors(lab.run_plans(cell.field, cell.noise, list(made.values())))
    return [
        {
            "grid": grid,
            "solver": solver,
            "rms": float(distances.rms(e)),
            "median": float(np.median(e)),
        }
        for (grid, solver), e in zip(made, errors, strict=True)
    ]


def _jumps(cell, nfe, steps):
    """Errors where the last jump starts, of the jump from the exact state, with an exact last step, and of the whole."""
    field, found = cell.field, []

    def solve(x, plan):
        return np.asarray(lab.solve(field, x, plan))

    def rms(x):
        return float(distances.rms(cell.errors([x])[0]))

    cases = [
        (shift, solver, grids.uniform(nfe, shift=shift))
        for shift in JUMP_SHIFTS
        for solver in JUMP_SOLVERS
    ]
    inner = [lab.SOLVERS[solver].build(field.schedule, times[:-1]) for _, solver, times in cases]
    exact = {
        t: solve(cell.noise, exact_plan(field.schedule, 1.0, t, steps))
        for t in {times[-2] for *_, times in cases}
    }
    for (shift, solver, times), x in zip(
        cases, lab.run_plans(field, cell.noise, inner), strict=True
    ):
        true, jump = exact[times[-2]], plans.euler(times[-2:])
        off = float(distances.rms(lab.row_norms(x - true))) / lab.scale_of(cell.exact)
        found.append(
            {"shift": shift, "solver": solver, "jumps from t": float(times[-2]), "whole": rms(solve(x, jump)),
             "jump alone": rms(solve(true, jump)), "before the jump": off,
             "exact last step": rms(solve(x, exact_plan(field.schedule, times[-2], 0.0, 24)))}
        )  # fmt: skip
    return found


# ---- what the rows say


def flat(rows, part):
    """The inner lists of one part as rows of their own."""
    return [
        {"field": r["field"], "nfe": r["nfe"], **inner}
        for r in rows
        if r["part"] == part
        for inner in r["values"]
    ]


def spreads(matrix):
    """(median over best, worst over best), (cells, 2): over grids for each solver, over solvers for each grid."""
    found = {"grid": [], "solver": []}
    for cell in dict.fromkeys((m["field"], m["nfe"]) for m in matrix):
        own = [m for m in matrix if (m["field"], m["nfe"]) == cell]
        for over, fixed in (("grid", "solver"), ("solver", "grid")):
            for value in dict.fromkeys(m[fixed] for m in own):
                errors = [m["rms"] for m in own if m[fixed] == value]
                found[over].append((np.median(errors) / min(errors), max(errors) / min(errors)))
    return {over: np.array(ratios) for over, ratios in found.items()}


def _mean(values):
    return float(np.exp(np.mean(np.log(values))))


def section(rows, command):
    """The section of the page."""
    matrix, jumps = flat(rows, "matrix"), flat(rows, "jump")
    spread = spreads(matrix)
    firsts, regret = {}, {}
    for cell in dict.fromkeys((m["field"], m["nfe"], m["solver"]) for m in matrix):
        own = {m["grid"]: m["rms"] for m in matrix if (m["field"], m["nfe"], m["solver"]) == cell}
        best = min(own, key=own.get)
        firsts[best] = firsts.get(best, 0) + 1
        for grid, error in own.items():
            regret.setdefault(grid, []).append(error / own[best])
    total = sum(firsts.values())
    ranked = sorted(firsts.items(), key=lambda item: -item[1])
    robust = min(regret, key=lambda g: _mean(regret[g]))
    figures = [_heatmap(matrix, field, nfe) for nfe in sorted({m["nfe"] for m in matrix})[-1:]
               for field in list(dict.fromkeys(m["field"] for m in matrix))[:3]]  # fmt: skip
    table = _by_grid(matrix, regret, firsts)
    return report.Section(
        question="Is one grid best, and does a large shift make a solver unstable?",
        expected="No grid is best for all: steps even in log-SNR for narrow modes and more evaluations, uniform ones for few. The grid matters "
        "about as much as the solver. A large shift does not blow anything up: its last jump starts too early, and blurs.",
        answer=f"Of {total} cells (field x NFE x solver) the best grid is " + ", ".join(f"{name} in {n}" for name, n in ranked)
        + (": **none wins all**. " if len(ranked) > 1 else ". ")
        + f"The least mean loss against the best of each cell has {robust}: a factor {report.sig(_mean(regret[robust]))} "
        f"(at worst {report.sig(max(regret[robust]))}). With the solver fixed the worst grid has **{report.sig(_mean(spread['grid'][:, 1]))}** times the error of the "
        f"best and the median one {report.sig(_mean(spread['grid'][:, 0]))}; with the grid fixed the worst solver has "
        f"{report.sig(_mean(spread['solver'][:, 1]))} times that of the best and the median one {report.sig(_mean(spread['solver'][:, 0]))} (geometric means). {_shift_sentence(jumps)} {_extrapolated(matrix)}",
        figures=(*figures, *((_jump_figure(jumps),) if jumps else ())),
        table=table,
        caveat="RMS errors at t = 0; log-SNR and Karras grids run from 0.999 to 0.005 and jump at both ends; Karras (rho 7) is of sigma/alpha, beta (0.6, 0.6) of t. A shift belongs to "
        "how a network was trained: here the field is exact at every time, and only the sampler's side is seen.",
        command=command,
    )  # fmt: skip


def _by_grid(matrix, regret, firsts):
    """One line a grid: how often it is best, and its loss against the best grid of the same field, NFE and solver."""

    def loss(grid, **where):
        own = [m for m in matrix if m["grid"] == grid and all(m[k] == v for k, v in where.items())]
        best = [
            min(o["rms"] for o in matrix if all(o[k] == m[k] for k in ("field", "nfe", "solver")))
            for m in own
        ]
        return _mean([m["rms"] / b for m, b in zip(own, best, strict=True)])

    counts = sorted({m["nfe"] for m in matrix})
    return [
        {"grid": grid, "best in": firsts.get(grid, 0), "loss": _mean(r), "at worst": max(r),
         **{f"loss at {n}": loss(grid, nfe=n) for n in counts}, **{f"loss of {s}": loss(grid, solver=s) for s in SOLVERS}}
        for grid, r in regret.items()
    ]  # fmt: skip


def _heatmap(matrix, field, nfe):
    own = [m for m in matrix if (m["field"], m["nfe"]) == (field, nfe)]
    best = min(own, key=lambda m: m["rms"])
    fig, ax = report.canvas(width=5.2, height=3.6)
    short = [
        m | {"solver": m["solver"].removeprefix("DPM++ ").replace("published", "pub.")} for m in own
    ]
    report.heatmap(
        ax, short, x="solver", y="grid", value="rms", log=True, label="relative RMS error"
    )
    return report.picture(
        fig, f"Error on {field} at {nfe} evaluations; lowest with {best['solver']} on the {best['grid']} grid: {report.sig(best['rms'])}.",
        f"Field: {field}, {nfe} evaluations.",
    )  # fmt: skip


def _shift_sentence(jumps):
    if not jumps:
        return ""
    low, high = min(j["shift"] for j in jumps), max(j["shift"] for j in jumps)

    def mean(name, shift):
        return _mean([j[name] for j in jumps if j["shift"] == shift])

    grown = {name: mean(name, high) / mean(name, low) for name in PARTS}
    carried = {
        s: _mean([j["whole"] / j["exact last step"] for j in jumps if j["shift"] == s])
        for s in (low, high)
    }
    unstable = grown["before the jump"] > grown["jump alone"]
    return (
        f"From shift {low:g} to {high:g} the error of {', '.join(JUMP_SOLVERS[:-1])} and {JUMP_SOLVERS[-1]} grows by {report.sig(grown['whole'])}; of the last jump alone, from the exact state, by "
        f"**{report.sig(grown['jump alone'])}**; of the state before the jump by {report.sig(grown['before the jump'])}. An exact last step would divide the error by "
        f"{report.sig(carried[low])} at shift {low:g} and by {report.sig(carried[high])} at shift {high:g}: what grows is "
        f"{'the error before the jump, as in an instability' if unstable else 'the jump, not an instability'}."
    )


def _extrapolated(matrix):
    """What Adams-Bashforth, which has no first-order jump, does on the most shifted grid."""
    grid = f"shift {JUMP_SHIFTS[-1]:g}"
    error = {(m["field"], m["nfe"], m["solver"]): m["rms"] for m in matrix if m["grid"] == grid}
    ratio = {
        s: _mean([e / error[f, n, "Euler"] for (f, n, name), e in error.items() if name == s])
        for s in ("AB2", "AB3")
    }
    return (
        f"AB2 and AB3 extrapolate over that long last step instead: with {grid} they have {report.sig(ratio['AB2'])} and {report.sig(ratio['AB3'])} times "
        "the error of Euler."
    )


def _jump_figure(jumps):
    names = list(dict.fromkeys(j["field"] for j in jumps))[:2]
    fig, axes = report.canvas(1, len(names), width=3.2 * len(names) + 1, height=3.6)
    for ax, field in zip(np.atleast_1d(axes), names, strict=True):
        own = [j for j in jumps if j["field"] == field and j["solver"] == JUMP_SOLVERS[-1]]
        for what, (colour, marker) in PARTS.items():
            ax.plot(
                [j["shift"] for j in own],
                [j[what] for j in own],
                color=colour,
                marker=marker,
                label=what,
            )
        ax.set(xscale="log", yscale="log", xlabel="shift", ylabel="relative RMS error", title=field)
        ax.set_xticks(JUMP_SHIFTS, [f"{s:g}" for s in JUMP_SHIFTS])
        ax.minorticks_off()
    fig.legend(
        *np.atleast_1d(axes)[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
    return report.picture(
        fig, f"Errors of {JUMP_SOLVERS[-1]} against shift: the whole, the jump alone, before the jump, and with an exact last step.",
        f"{JUMP_SOLVERS[-1]} at {jumps[0]['nfe']} evaluations, one panel a field.",
    )  # fmt: skip
