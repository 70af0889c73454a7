"""(b) Endpoint error against evaluations: solvers x fields x shifts, all on the same noise."""

import numpy as np

from experiments import report
from experiments.order import lab

QUESTION = "nfe"
PAIRS = (
    ("DPM++ 2M", "Euler"), ("DPM++ 3M published", "Euler"), ("DPM++ 3M published", "DPM++ 2M"),
    ("DPM++ 3M exact", "DPM++ 2M"), ("AB2", "DPM++ 2M"), ("AB3", "AB2"), ("DPM++ 3S", "DPM++ 2S"),
)  # fmt: skip
TIE = 0.02
FEW = 20  # evaluations up to which we speak of few


def cells(config):
    """One cell a field, shift and number of evaluations: its solvers and their comparisons are measured together."""
    return [
        {"question": QUESTION, "field": field, "shift": shift, "nfe": nfe}
        for field in config.fields
        for shift in config.shifts
        for nfe in config.nfe
    ]


def measure(config, todo):
    """Yield (key, values) of cells; each holds a list of solvers' errors and a list of paired comparisons."""
    for name in dict.fromkeys(key["field"] for key in todo):
        cell = lab.make_cell(
            lab.make_field(name), config.seeds, config.samples, steps=config.reference_steps
        )
        keys = [key for key in todo if key["field"] == name]
        jobs = []
        for key in keys:
            for solver in config.solvers:
                plan = lab.plan_of(
                    solver, cell.field.schedule, lab.shifted(key["shift"]), key["nfe"]
                )
                if plan is not None:
                    jobs.append((key, solver, plan))
        endpoints = lab.run_plans(cell.field, cell.noise, [plan for *_, plan in jobs])
        errors, misrouted = cell.errors(endpoints), cell.misrouted(endpoints)
        for key in keys:
            mine = [i for i, job in enumerate(jobs) if job[0] is key]
            by_solver = {jobs[i][1]: errors[i] for i in mine}
            solvers = [
                {"solver": jobs[i][1], "rows": jobs[i][2].nfe, "misrouted": float(misrouted[i]),
                 **lab.summary(errors[i], cell.seed)}
                for i in mine
            ]  # fmt: skip
            pairs = [
                {"a": a, "b": b, **lab.paired(by_solver[a], by_solver[b], cell.seed, TIE)}
                for a, b in PAIRS
                if a in by_solver and b in by_solver
            ]
            yield key, {"solvers": solvers, "pairs": pairs, "doubling": cell.doubling}


def flat(rows, what):
    """The inner lists as rows of their own."""
    outer = ("field", "shift", "nfe")
    return [{**{k: r[k] for k in outer}, **inner} for r in rows for inner in r[what]]


def verdicts(rows):
    """[{pair, nfe, better, tie, worse}]: cells (field x shift) by the interval of the RMS ratio."""
    table = []
    for a, b in PAIRS:
        for nfe in sorted({r["nfe"] for r in rows}):
            own = [
                p["rms_verdict"]
                for p in flat(rows, "pairs")
                if (p["a"], p["b"], p["nfe"]) == (a, b, nfe)
            ]
            if own:
                table.append({"pair": f"{a} against {b}", "nfe": nfe, "better": own.count("better"),
                              "tie": own.count("tie"), "worse": own.count("worse")})  # fmt: skip
    return table


def tally(rows, a, b, least=0, most=10**9):
    """{verdict: number of cells} of solver a against b, by RMS error, at `least` to `most` evaluations."""
    own = [
        p["rms_verdict"]
        for p in flat(rows, "pairs")
        if (p["a"], p["b"]) == (a, b) and least <= p["nfe"] <= most
    ]
    return {verdict: own.count(verdict) for verdict in ("better", "tie", "worse")}


def winners(rows):
    """[(solver, cells in which it has the lowest RMS error)], most first."""
    best = [min(row["solvers"], key=lambda s: s["rms"])["solver"] for row in rows]
    return sorted(
        ((name, best.count(name)) for name in set(best)), key=lambda item: (-item[1], item[0])
    )


def section(rows, command):
    """The section of the page."""
    solvers, pairs = flat(rows, "solvers"), flat(rows, "pairs")
    figures = []
    shifts = sorted({r["shift"] for r in rows})
    shown_shifts = [s for s in (1.0, 3.0) if s in shifts] or shifts[:2]
    main = ("Euler", "DPM++ 2M", "DPM++ 3M published", "AB2", "AB3", "Heun", "DPM++ 3S")
    for field in list(dict.fromkeys(r["field"] for r in rows))[:3]:
        fig, axes = report.canvas(
            1, len(shown_shifts), width=3.2 * len(shown_shifts) + 1, height=3.8
        )
        for ax, shift in zip(np.atleast_1d(axes), shown_shifts, strict=True):
            own = [
                r
                for r in solvers
                if r["field"] == field and r["shift"] == shift and r["solver"] in main
            ]
            report.log_log(ax, own, x="nfe", y="rms", ylabel="relative RMS error")
            ax.set_title(f"{field}, shift {shift:g}")
        figures.append(
            report.picture(
                fig,
                f"Relative RMS error against NFE on {field}, one panel a shift.",
                f"Field: {field}.",
            )
        )

    few3, few2 = (
        tally(rows, "DPM++ 3M published", "DPM++ 2M", most=FEW),
        tally(rows, "DPM++ 2M", "Euler", most=FEW),
    )
    late3 = tally(rows, "DPM++ 3M published", "DPM++ 2M", least=FEW + 1)
    top = ", ".join(f"{name} {n}" for name, n in winners(rows)[:5])
    return report.Section(
        question="Which order is best at how many evaluations?",
        expected="At 20 evaluations or fewer higher order often does not pay and sometimes hurts; at 40 and more it pays.",
        answer=f"With at most {FEW} evaluations DPM++ 3M (published) is better than 2M in {few3['better']}, **worse in {few3['worse']}** and tied in "
        f"{few3['tie']} of {sum(few3.values())} cells (field x shift x NFE); 2M is better than Euler in {few2['better']} and **worse in {few2['worse']}** of "
        f"{sum(few2.values())}. Above {FEW}, 3M is better than 2M in **{late3['better']}** and worse in {late3['worse']} of {sum(late3.values())}. "
        f"The lowest RMS error of a cell is reached by: {top}.",
        figures=tuple(figures),
        table=verdicts(rows),
        caveat="A cell is better or worse when the 95 % interval of the ratio of RMS errors on shared noise lies beyond 2 % of 1; "
        f"else it is a tie. {count_disagreeing(pairs)} RMS error is carried by few samples: the rows also hold medians and "
        "misrouted shares. Exact fields, no network error.",
        command=command,
    )


def count_disagreeing(pairs):
    """How often median and RMS point in opposite directions, as a sentence."""
    opposite = sum({p["rms_verdict"], p["median_verdict"]} == {"better", "worse"} for p in pairs)
    return f"Medians say the opposite of RMS in {opposite} of {len(pairs)} comparisons."
