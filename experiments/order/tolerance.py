"""(i) What error control buys: maps over (atol, rtol) against fixed plans of equal cost, and what a batch in lockstep pays."""

import functools
import itertools

import jax
import numpy as np

import flowjax
from experiments import report
from experiments.order import lab
from experiments.order.curvature import plain_ticks
from flowjax import distances, plans

QUESTION = "tolerance"
METHODS = {
    "order 2": ("dpm_solver_pp", 2),
    "order 3": ("dpm_solver_pp", 3),
    "Runge-Kutta 5": ("runge_kutta", 5),
}
PUBLIC = (0.0078, 0.05)  # atol, rtol: the defaults of the public codes
FIXED = {
    f"{solver}, {grid}": (solver, make)
    for solver in ("AB3", "DPM++ 2M", "DPM++ 3M exact")
    for grid, make in (("uniform", lab.shifted(1.0)), ("log-SNR", lab.log_snr_with_ends()))
} | {f"{solver}, log-SNR": (solver, lab.log_snr_with_ends()) for solver in ("DPM++ 2S", "DPM++ 3S")}
UNCONTROLLED = {
    "order 2": "DPM++ 2S, log-SNR",
    "order 3": "DPM++ 3S, log-SNR",
}  # the same formulas on a fixed grid
FIXED_NFE = (6, 10, 14, 20, 28, 40, 56, 80, 112, 160)
STARTS = 16  # a seed, for the maps
MOST = 4000  # evaluations
LINES = ("atol < rtol", "atol = rtol", "atol > rtol")


def cells(config):
    """One cell a field and method, one a field for the fixed plans, one a batch size."""
    names = config.cause_fields[
        : (len(config.cause_fields) + 1) // 2
    ]  # an adaptive program is dear to compile
    return [
        *(
            {"question": QUESTION, "part": "map", "field": f, "method": m}
            for f in names
            for m in METHODS
        ),
        *({"question": QUESTION, "part": "fixed", "field": f} for f in names),
        *(
            {"question": QUESTION, "part": "batch", "field": names[0], "batch": b}
            for b in config.batches
        ),
    ]


@functools.partial(jax.jit, static_argnames=("method", "lockstep"))
def adaptive(field, noise, tolerance, method, lockstep=False):
    """(endpoints, status, `AdaptiveStats`) of groups of samples (G, B, *D); a group is a batch of its own."""

    def run(noise):
        name, order = METHODS[method]
        options = {
            "order": order,
            "span": (1.0, 0.0),
            "max_evaluations": MOST,
            "lockstep": lockstep,
            "method": name,
        }
        solution = flowjax.sample_adaptive(
            field.velocity, noise, field.schedule, tolerance, **options
        )
        return solution.x, solution.status, solution.stats

    return jax.vmap(run)(noise)


def tolerance_of(atol, rtol):
    """Arguments of the program, so that all tolerances share it."""
    return flowjax.Tolerance(np.float64(atol), np.float64(rtol))


def measure(config, todo):
    """Yield (key, values): maps with the fixed plans of equal mean NFE, curves of the fixed plans, batches."""
    for name in dict.fromkeys(key["field"] for key in todo):
        keys = [key for key in todo if key["field"] == name]
        cell = lab.make_cell(
            lab.make_field(name),
            config.seeds,
            min(config.samples, STARTS),
            steps=config.reference_steps,
        )
        maps, at_public = {}, {}
        for key in (key for key in keys if key["part"] == "map"):
            maps[key["method"]], at_public[key["method"]] = _map(config, cell, key["method"])
        jobs = [(None, n) for n in FIXED_NFE if any(key["part"] == "fixed" for key in keys)]
        jobs += [(method, max(round(found["nfe"]), 3)) for method, found in at_public.items()]
        jobs = [(method, n, plan) for method, n in jobs for plan in FIXED]
        errors = _fixed(cell, jobs) if jobs else []
        batches = [key["batch"] for key in keys if key["part"] == "batch"]
        found = _batches_of(config, cell.field, batches) if batches else {}
        for key in keys:
            if key["part"] == "batch":
                yield key, found[key["batch"]]
                continue
            method = key.get("method")
            mine = [
                (n, plan, e)
                for (owner, n, plan), e in zip(jobs, errors, strict=True)
                if owner == method
            ]
            values = {
                "doubling": cell.doubling,
                "fixed": [
                    {
                        "plan": plan,
                        "nfe": n,
                        "rms": float(distances.rms(e)),
                        "median": float(np.median(e)),
                    }
                    for n, plan, e in mine
                ],
            }
            if method:
                values["cells"] = maps[method]
                best = min(mine, key=lambda job: distances.rms(job[2]))
                compared = lab.paired(at_public[method]["errors"], best[2], cell.seed)
                values |= {"best": best[1], **{f"against_{k}": v for k, v in compared.items()}}
            yield key, values


def _map(config, cell, method):
    """[{atol, rtol, nfe, tail_nfe, rms, ...}] over the grid of tolerances, and the one of the public defaults with its errors."""
    found = []
    for atol, rtol in dict.fromkeys([*itertools.product(config.tolerances, repeat=2), PUBLIC]):
        run = adaptive(cell.field, cell.noise[None], tolerance_of(atol, rtol), method)
        x, status, stats = jax.tree.map(lambda a: np.asarray(a)[0], run)
        nfe = stats.nfe
        errors = cell.errors([x])[0]
        line = {
            "atol": atol, "rtol": rtol, "nfe": float(nfe.mean()), "tail_nfe": float(np.quantile(nfe, 0.95)),
            "rms": float(distances.rms(errors)), "median": float(np.median(errors)), "accepted": float(stats.accepted.mean()),
            "rejected": float(stats.rejected.mean()), "unfinished": int(np.sum(status > 0)),
        }  # fmt: skip
        if (atol, rtol) == PUBLIC:
            at_public = line | {"errors": errors}
        found.append(line)
    return found, at_public


def _fixed(cell, jobs):
    """Errors (P, B) of fixed plans [(owner, nfe, plan's name)], padded to two lengths: compiling costs more than the rows."""
    made = []
    for _, nfe, name in jobs:
        solver, make = FIXED[name]
        plan = lab.plan_of(solver, cell.field.schedule, make, nfe)
        made.append(plans.pad(plan, 64 if plan.rows <= 64 else max(max(FIXED_NFE), plan.rows)))
    return cell.errors(lab.run_plans(cell.field, cell.noise, made))


def _batches_of(config, field, sizes):
    """{size: evaluations that a sample needs and that its batch computes, at the public defaults}, alone and in lockstep."""
    each = max(
        min(config.samples, STARTS), -(-max(sizes) // config.seeds)
    )  # starts a seed, enough for the largest batch
    cell = lab.make_cell(field, config.seeds, each, steps=config.reference_steps)
    run = adaptive(field, cell.noise[None], tolerance_of(*PUBLIC), "order 2")
    x, _, stats = jax.tree.map(lambda a: np.asarray(a)[0], run)
    found = {}
    for size in sizes:
        count = len(x) // size
        some = stats.nfe[: count * size].reshape(count, size)
        own = _counts(cell, x, some, some.max(1))  # the loop goes on until its last sample is done
        if size > 1:
            noise = cell.noise[: count * size].reshape(count, size, *cell.noise.shape[1:])
            ends, _, locked = adaptive(
                field, noise, tolerance_of(*PUBLIC), "order 2", lockstep=True
            )
            ends = np.asarray(ends).reshape(-1, *x.shape[1:])
            found[size] = {
                "own": own,
                "lockstep": _counts(cell, ends, *map(np.asarray, (locked.nfe, locked.computed))),
            }
        else:
            found[size] = {"own": own, "lockstep": own}
        found[size]["groups"] = count
    return found


def _counts(cell, x, needed, computed):
    """Means of the counts, and the error of the samples that they are of."""
    size = needed.size
    errors = lab.row_norms(x[:size] - cell.exact[:size]) / lab.scale_of(cell.exact)
    return {
        "needed": float(needed.mean()),
        "computed": float(computed.mean()),
        "rms": float(distances.rms(errors)),
    }


# ---- what the rows say


def front(points):
    """Those of [{nfe, rms}] that no cheaper point is as good as, by rising NFE."""
    kept = []
    for point in sorted(points, key=lambda p: (p["nfe"], p["rms"])):
        if not kept or point["rms"] < kept[-1]["rms"]:
            kept.append(point)
    return kept


def error_at(points, nfe):
    """Error of the front of `points` at `nfe`, between its points in log-log; NaN beyond them."""
    best = front(points)
    at, errors = ([np.log(p[name]) for p in best] for name in ("nfe", "rms"))
    return float(np.exp(np.interp(np.log(nfe), at, errors, left=np.nan, right=np.nan)))


def line_of(point):
    """Which of LINES a point of the map is on."""
    return LINES[int(np.sign(point["atol"] - point["rtol"])) + 1]


def excess(rows):
    """[{method, line, excess, points}]: error over that of the method's best tolerances at equal NFE, geometric mean."""
    table = []
    for method in METHODS:
        found = {line: [] for line in LINES}
        for row in (r for r in rows if r["part"] == "map" and r["method"] == method):
            for p in row["cells"]:
                found[line_of(p)].append(np.log(p["rms"] / error_at(row["cells"], p["nfe"])))
        for line, logs in found.items():
            logs = [value for value in logs if np.isfinite(value)]
            if logs:
                table.append(
                    {
                        "method": method,
                        "line": line,
                        "excess": float(np.exp(np.mean(logs))),
                        "points": len(logs),
                    }
                )
    return table


def at_public(rows):
    """[{field, method, nfe, p95 nfe, error, best fixed, its error, ratio, low, high, verdict, same error from}]."""
    table = []
    curves = {r["field"]: r["fixed"] for r in rows if r["part"] == "fixed"}
    for r in rows:
        if r["part"] != "map":
            continue
        own = next(c for c in r["cells"] if (c["atol"], c["rtol"]) == PUBLIC)
        rival = next(f for f in r["fixed"] if f["plan"] == r["best"])
        enough = [
            p["nfe"] for p in (*curves.get(r["field"], ()), *r["fixed"]) if p["rms"] <= own["rms"]
        ]
        table.append({
            "field": r["field"], "method": r["method"], "NFE": own["nfe"], "p95 NFE": own["tail_nfe"], "error": own["rms"],
            "best fixed plan": r["best"], "its NFE": rival["nfe"], "its error": rival["rms"], "ratio": r["against_rms_ratio"],
            "low": r["against_rms_low"], "high": r["against_rms_high"], "adaptive is": r["against_rms_verdict"],
            "median error": own["median"], "its median": rival["median"], "ratio of medians": r["against_median_ratio"],
            "by median": r["against_median_verdict"], "accepted": own["accepted"], "rejected": own["rejected"],
            "without control": next((own["rms"] / f["rms"] for f in r["fixed"] if f["plan"] == UNCONTROLLED.get(r["method"])), None),
            "a fixed plan is as good from": min(enough, default=None),
        })  # fmt: skip
    return table


def below_fixed(rows):
    """{method: (points of the maps below the best fixed plan at equal NFE, points comparable, geometric mean ratio)}."""
    found = {}
    curves = {r["field"]: r["fixed"] for r in rows if r["part"] == "fixed"}
    for method in METHODS:
        ratios = [
            p["rms"] / error_at(curves[r["field"]], p["nfe"])
            for r in rows
            if r["part"] == "map" and r["method"] == method and r["field"] in curves
            for p in r["cells"]
        ]
        ratios = [ratio for ratio in ratios if np.isfinite(ratio)]
        if ratios:
            found[method] = (
                sum(r < 1 for r in ratios),
                len(ratios),
                float(np.exp(np.mean(np.log(ratios)))),
            )
    return found


LOOKS = {
    "order 2": (report.BLUE, "o"),
    "order 3": (report.RED, "o"),
    "Runge-Kutta 5": (report.AMBER, "D"),
}


def _draw_work(rows):
    names = list(dict.fromkeys(r["field"] for r in rows if r["part"] == "map"))
    fig, axes = report.canvas(len(names), 1, width=4.6, height=3.1 * len(names) + 1.2)
    for ax, name in zip(np.atleast_1d(axes), names, strict=True):
        shown = [p for r in rows if r["field"] == name and r["part"] == "fixed" for p in r["fixed"]]
        for plan in dict.fromkeys(p["plan"] for p in shown):
            own = [p for p in shown if p["plan"] == plan]
            look = report.style(plan) | {
                "linestyle": "-" if plan.endswith("uniform") else ":",
                "markersize": 3,
            }
            ax.plot(
                [p["nfe"] for p in own],
                [p["rms"] for p in own],
                label=plan,
                linewidth=1,
                **(look | {"alpha": 0.7}),
            )
        for r in (r for r in rows if r["field"] == name and r["part"] == "map"):
            colour, marker = LOOKS[r["method"]]
            best = front(r["cells"])
            shown += r["cells"]
            ax.plot([p["nfe"] for p in r["cells"]], [p["rms"] for p in r["cells"]], marker, color=colour, markersize=3.5,
                    markerfacecolor="none", linewidth=0)  # fmt: skip
            ax.plot([p["nfe"] for p in best], [p["rms"] for p in best], "-", color=colour, linewidth=2.6, alpha=0.75,
                    label=f"adaptive, {r['method']}")  # fmt: skip
            public = next(p for p in r["cells"] if (p["atol"], p["rtol"]) == PUBLIC)
            ax.plot(
                public["nfe"],
                public["rms"],
                "*",
                color=colour,
                markersize=12,
                markeredgecolor=report.INK,
            )
        ax.set(xscale="log", yscale="log", xlabel="NFE (mean)", ylabel="relative RMS error")
        plain_ticks(ax.xaxis, [p["nfe"] for p in shown])
        ax.set_title(name)
    fig.legend(
        *np.atleast_1d(axes)[0].get_legend_handles_labels(), loc="outside lower center", ncols=2
    )
    return report.picture(
        fig,
        f"Error against mean NFE on {', '.join(names)}: hollow points are tolerances, thick lines their best, thin lines fixed plans.",
        f"Hollow: one pair of tolerances; thick: the best of them; thin: fixed plans. Stars: the public defaults, atol {PUBLIC[0]:g} and rtol {PUBLIC[1]:g}.",
    )


def _draw_map(rows):
    own = [r for r in rows if r["part"] == "map"]
    name = own[0]["field"]
    own = [r for r in own if r["field"] == name]
    fig, axes = report.canvas(len(own), 1, width=4.6, height=2.6 * len(own))
    for ax, r in zip(np.atleast_1d(axes), own, strict=True):
        report.heatmap(
            ax, r["cells"], x="rtol", y="atol", value="nfe", log=True, label="NFE (mean)"
        )
        ax.set_title(f"{r['method']}, {name}")
        ax.tick_params(axis="x", labelrotation=35)
    return report.picture(
        fig,
        f"Mean NFE for each atol and rtol on {name}, one panel a method.",
        "The larger of atol and rtol |x| is what a step may err, so a column stops changing once atol rules. The public "
        f"defaults are the row {PUBLIC[0]:g}, the column {PUBLIC[1]:g}.",
    )


def _efficient(table):
    """Which line of the map is efficient for each method, as a sentence."""
    parts = []
    for method in dict.fromkeys(t["method"] for t in table):
        own = sorted((t for t in table if t["method"] == method), key=lambda t: t["excess"])
        parts.append(
            f"{method} " + ", ".join(f"{t['line']} {report.sig(t['excess'], 3)}" for t in own)
        )
    return (
        "Error over that of the best tolerances at equal NFE, by line of the map: "
        + "; ".join(parts)
        + "."
    )


def _span(table, name):
    """The least and the greatest of a column, as words."""
    ends = [report.sig(end(t[name] for t in table)) for end in (min, max)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def _batches(rows):
    """What lockstep costs, as sentences."""
    own = sorted((r for r in rows if r["part"] == "batch"), key=lambda r: r["batch"])
    if not own:
        return ""
    first, last = own[0], own[-1]
    grows = "; ".join(
        f"batch {r['batch']}: {report.sig(r['own']['computed'])} and {report.sig(r['lockstep']['computed'])}"
        for r in own
    )
    dearer = last["lockstep"]["computed"] / last["own"]["computed"]
    verdict = f"lockstep computes {report.sig(dearer)} times what steps of their own do"
    change = last["lockstep"]["rms"] / last["own"]["rms"]
    return (
        f"On the {first['field']} a sample needs **{report.sig(first['own']['needed'])}** evaluations (order 2, public defaults). What its batch computes, "
        f"with steps of their own and in lockstep, {grows}: at {last['batch']} {verdict}, and its error is "
        f"{report.sig(change)} times theirs."
    )


def section(rows, command):
    """The section of the page."""
    public, lines, below = at_public(rows), excess(rows), below_fixed(rows)
    counts = {v: sum(t["adaptive is"] == v for t in public) for v in ("better", "tie", "worse")}
    tails = [{"tail": t["error"] / t["median error"]} for t in public]
    medians = {v: sum(t["by median"] == v for t in public) for v in ("better", "tie", "worse")}
    bests = ", ".join(
        f"{name} {sum(t['best fixed plan'] == name for t in public)}"
        for name in dict.fromkeys(t["best fixed plan"] for t in public)
    )
    said = "; ".join(
        f"{method}: {_span(own, 'NFE')} evaluations (p95 {_span(own, 'p95 NFE')}) for an error of {_span(own, 'error')}, against {_span(own, 'its error')}"
        for method, own in ((m, [t for t in public if t["method"] == m]) for m in METHODS)
        if own
    )
    alone = "; ".join(
        f"{method} {_span(own, 'without control')} times that of {UNCONTROLLED[method]}"
        for method, own in ((m, [t for t in public if t["method"] == m]) for m in UNCONTROLLED)
        if own
    )
    some = "; ".join(
        f"{m} in {n} of {total}, error ratio {report.sig(ratio)}"
        for m, (n, total, ratio) in below.items()
    )
    clear = (
        "No" if not counts["better"] else "Yes" if counts["better"] == len(public) else "Sometimes"
    )
    unfinished = sum(c["unfinished"] for r in rows if r["part"] == "map" for c in r["cells"])
    doubling = max(r["doubling"] for r in rows if "doubling" in r)
    batch_table = [
        {"field": r["field"], "batch": r["batch"], "groups": r["groups"],
         **{f"{how}: {k}": v for how in ("own", "lockstep") for k, v in r[how].items()}}
        for r in rows if r["part"] == "batch"
    ]  # fmt: skip
    return report.Section(
        question="What do atol and rtol buy, and is error control worth its evaluations?",
        expected="At the public defaults (0.0078, 0.05) an adaptive run is no few-step method: it takes 25 to 80 evaluations and a good fixed plan of "
        "as many is more accurate; order 3 is cheaper than order 2 at small errors, Runge-Kutta from 1e-3 on. In lockstep a batch pays for its hardest "
        "sample at every step, so its count grows with its size, and so does its accuracy.",
        answer=f"{clear}: at the public defaults, against the best of {len(FIXED)} fixed plans of equal NFE, it is better in **{counts['better']}**, ties in "
        f"{counts['tie']} and is worse in **{counts['worse']}** of {len(public)} (field and method; by the median error {medians['better']}, {medians['tie']} and {medians['worse']}). "
        f"{said}; the best fixed plan is {bests}. Control against the same formulas on a fixed log-SNR grid of equal NFE, error: {alone}. Over all tolerances "
        f"adaptive lies below the best fixed plan at equal mean NFE with {some}. {_batches(rows)}",
        figures=(_draw_work(rows), _draw_map(rows)),
        table=public + lines + batch_table,
        caveat=f"{_efficient(lines)} A run has {_span(public, 'accepted')} accepted and {_span(public, 'rejected')} rejected steps, each of as many evaluations as "
        f"its order, or 6, where a multistep plan takes one a step. Its RMS error is {_span(tails, 'tail')} times its median: few samples carry it. The fixed plan is chosen with the exact endpoints in hand, an adaptive run is not told; fixed log-SNR grids end with a jump "
        f"from 0.005, so their error has a floor. Mean NFE over samples: a batch with steps of its own computes until its last sample is done. "
        f"Samples that did not finish within {MOST} evaluations: {unfinished}. Doubling the reference's steps moved it by {report.sig(doubling)}.",
        command=command,
    )
