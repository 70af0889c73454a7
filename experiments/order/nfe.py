"""Which order is best at how many evaluations? Solvers x fields x shifts, all on the same noise."""

from collections.abc import Iterator

import numpy as np

from configs.order import Config
from experiments import report
from experiments.lab import own, solvers, statistics, subjects
from experiments.lab.truth import make_cell

# ---- numbers

QUESTION = "nfe"
# (solver, the solver that it is compared with)
PAIRS = (
    ("DPM++ 2M", "Euler"),
    ("DPM++ 3M published", "Euler"),
    ("DPM++ 3M published", "DPM++ 2M"),
    ("DPM++ 3M exact", "DPM++ 2M"),
    ("AB2", "DPM++ 2M"),
    ("AB3", "AB2"),
    ("DPM++ 3S", "DPM++ 2S"),
)
RIVAL = "DPM++ 2M"  # the solver that a plan of your own is compared with
TIE = 0.02
FEW = 20  # evaluations up to which we call them few
VERDICTS = ("better", "tie", "worse")


def check(config: Config) -> None:
    """Refuse a solver or a field that is not known."""
    make_grids = [solvers.shifted(shift) for shift in config.shifts]
    for option in ("solvers", "added_solvers"):
        solvers.check(option, getattr(config, option), make_grids, config.nfe)
    subjects.check_fields("fields", config.fields)


def cells(config: Config) -> list[dict]:
    """One cell a field, shift and number of evaluations, with all solvers of `config.solvers`.

    Each of `config.added_solvers` has cells of its own, with its name in the key: so a finished
    work directory measures the solvers that it lacks, and no other.
    """
    keys = [
        {"question": QUESTION, "field": field, "shift": shift, "nfe": nfe}
        for field in config.fields
        for shift in config.shifts
        for nfe in config.nfe
    ]
    added = [name for name in config.added_solvers if name not in config.solvers]
    # The keys of the matrix come first: a row of an added solver has their items too.
    return keys + [{**key, "added": name} for name in added for key in keys]


def measure(config: Config, todo: list[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the errors of the cell's solvers, and their paired comparisons."""
    # {what is added, "" for the matrix: its keys}
    by_added = {}
    for key in todo:
        by_added.setdefault(key.get("added", ""), []).append(key)
    for added, keys in by_added.items():
        # An added solver is compared with its rival, and only its own errors are kept.
        names = (added, RIVAL) if added else solvers_of(config)
        pairs = ((added, RIVAL),) if added else pairs_of(names)
        for field in dict.fromkeys(key["field"] for key in keys):
            own = [key for key in keys if key["field"] == field]
            yield from _measure_field(config, field, own, names, pairs, added)


def _measure_field(
    config: Config,
    field_name: str,
    keys: list[dict],
    names: tuple[str, ...],
    pairs: tuple[tuple[str, str], ...],
    only: str,
) -> Iterator[tuple[dict, dict]]:
    """`measure` for the cells of one field.

    Args:
      config: the configuration.
      field_name: the field.
      keys: its cells.
      names: the solvers that run.
      pairs: those that are compared.
      only: the solver whose errors are kept; all of them where it is "".
    """
    field = subjects.make_field(field_name)
    cell = make_cell(field, config.seeds, config.samples, steps=config.reference_steps)

    # All plans of the field together, so that they share compiled programs.
    jobs = []
    for key in keys:
        make_grid = solvers.shifted(key["shift"])
        for solver in names:
            plan = solvers.plan_of(solver, field.schedule, make_grid, key["nfe"])
            if plan is not None:
                jobs.append((key, solver, plan))
    endpoints = solvers.run_plans(field, cell.noise, [plan for *_, plan in jobs])
    errors = cell.errors(endpoints)
    misrouted = cell.misrouted(endpoints)

    for key in keys:
        # The jobs of this cell.
        of_key = [i for i, (other, *_) in enumerate(jobs) if other is key]
        by_solver = {jobs[i][1]: errors[i] for i in of_key}
        # What the rows hold: every solver by itself, and pairs on the same noise.
        found = [
            {
                "solver": jobs[i][1],
                "rows": jobs[i][2].nfe,
                "misrouted": float(misrouted[i]),
                **statistics.summary(errors[i], cell.seed),
            }
            for i in of_key
            if not only or jobs[i][1] == only
        ]
        compared = [
            {"a": a, "b": b, **statistics.paired(by_solver[a], by_solver[b], cell.seed, TIE)}
            for a, b in pairs
            if a in by_solver and b in by_solver
        ]
        yield key, {"solvers": found, "pairs": compared, "doubling": cell.doubling}


def solvers_of(config: Config) -> tuple[str, ...]:
    """The solvers that are measured: a plan of your own brings `RIVAL` with it."""
    names = config.solvers
    alone = any(map(own.is_own, names)) and RIVAL not in names
    return (*names, RIVAL) if alone else names


def pairs_of(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """The pairs that are compared: `PAIRS`, and each plan of your own with `RIVAL`."""
    return PAIRS + tuple((name, RIVAL) for name in names if own.is_own(name))


def flat(rows: list[dict], what: str) -> list[dict]:
    """The inner lists ("solvers" or "pairs") as rows of their own."""
    # The key of the cell stands in each inner row.
    outer = ("field", "shift", "nfe")
    return [{**{k: row[k] for k in outer}, **inner} for row in rows for inner in row[what]]


def verdicts(rows: list[dict]) -> list[dict]:
    """[{pair, nfe, better, tie, worse}]: cells (field x shift) by the interval of the RMS ratio."""
    compared = flat(rows, "pairs")
    seen = dict.fromkeys((p["a"], p["b"]) for p in compared)
    # The pairs of the experiment come first, then those of plans of one's own.
    pairs = dict.fromkeys([pair for pair in PAIRS if pair in seen] + list(seen))
    table = []
    for a, b in pairs:
        for nfe in sorted({row["nfe"] for row in rows}):
            of_pair = [p for p in compared if (p["a"], p["b"], p["nfe"]) == (a, b, nfe)]
            if of_pair:
                counts = _counts(p["rms_verdict"] for p in of_pair)
                table.append({"pair": f"{a} against {b}", "nfe": nfe, **counts})
    return table


def _counts(found: Iterator[str]) -> dict[str, int]:
    found = list(found)
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def tally(rows: list[dict], a: str, b: str, least: int = 0, most: int = 10**9) -> dict[str, int]:
    """{verdict: number of cells} of solver a against b by RMS error.

    Only cells of `least` to `most` evaluations count.
    """
    return _counts(
        p["rms_verdict"]
        for p in flat(rows, "pairs")
        if (p["a"], p["b"]) == (a, b) and least <= p["nfe"] <= most
    )


def winners(rows: list[dict]) -> list[tuple[str, int]]:
    """[(solver, cells in which it has the lowest RMS error)], most first."""
    # One winner a cell; the rows of added solvers belong to the cells of the others.
    by_cell = {}
    for line in flat(rows, "solvers"):
        by_cell.setdefault((line["field"], line["shift"], line["nfe"]), []).append(line)
    best = [min(lines, key=lambda line: line["rms"])["solver"] for lines in by_cell.values()]
    counts = [(name, best.count(name)) for name in set(best)]
    return sorted(counts, key=lambda item: (-item[1], item[0]))


def count_opposite(compared: list[dict]) -> int:
    """In how many comparisons the median and the RMS error have opposite verdicts."""
    opposite = {"better", "worse"}
    return sum({p["rms_verdict"], p["median_verdict"]} == opposite for p in compared)


# ---- figures

# Seven curves at most; plans of one's own are added.
DRAWN = ("Euler", "DPM++ 2M", "DPM++ 3M published", "AB2", "AB3", "Heun", "DPM++ 3S")


def _draw(lines: list[dict], field: str, shifts: list[float]) -> report.Picture:
    """Error against evaluations on one field, one panel a shift."""
    fig, axes = report.canvas(1, len(shifts), width=3.2 * len(shifts) + 1, height=3.8)
    for ax, shift in zip(np.atleast_1d(axes), shifts, strict=True):
        drawn = [
            line
            for line in lines
            if (line["field"], line["shift"]) == (field, shift)
            and (line["solver"] in DRAWN or own.is_own(line["solver"]))
        ]
        report.log_log(ax, drawn, x="nfe", y="rms", ylabel="relative RMS error")
        ax.set_title(f"{field}, shift {shift:g}")
    return report.picture(
        fig,
        f"Relative RMS error against NFE on {field}, one panel a shift.",
        f"Field: {field}.",
    )


# ---- words


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    # The figure shows the first fields, at shifts 1 and 3 where they were measured.
    lines = flat(rows, "solvers")
    shifts = sorted({row["shift"] for row in rows})
    shown_shifts = [shift for shift in (1.0, 3.0) if shift in shifts] or shifts[:2]
    shown_fields = list(dict.fromkeys(row["field"] for row in rows))[:3]

    # Wins and losses at few evaluations, and at more.
    few3 = tally(rows, "DPM++ 3M published", "DPM++ 2M", most=FEW)
    few2 = tally(rows, "DPM++ 2M", "Euler", most=FEW)
    late3 = tally(rows, "DPM++ 3M published", "DPM++ 2M", least=FEW + 1)
    # Who most often has the lowest error of a cell.
    top = ", ".join(f"{name} {n}" for name, n in winners(rows)[:5])
    pairs = flat(rows, "pairs")
    disagreeing = (
        f"Medians say the opposite of RMS in {count_opposite(pairs)} of {len(pairs)} comparisons."
    )
    return report.Section(
        question="Which order is best at how many evaluations?",
        expected="At 20 evaluations or fewer higher order often does not pay and sometimes hurts; "
        "at 40 and more it pays.",
        answer=f"With at most {FEW} evaluations DPM++ 3M (published) is better than 2M in "
        f"{few3['better']}, **worse in {few3['worse']}** and tied in "
        f"{few3['tie']} of {sum(few3.values())} cells (field x shift x NFE); 2M is better than "
        f"Euler in {few2['better']} and **worse in {few2['worse']}** of "
        f"{sum(few2.values())}. Above {FEW}, 3M is better than 2M in **{late3['better']}** and "
        f"worse in {late3['worse']} of {sum(late3.values())}. "
        f"The lowest RMS error of a cell is reached by: {top}.",
        figures=tuple(_draw(lines, field, shown_shifts) for field in shown_fields),
        table=verdicts(rows),
        caveat="A cell is better or worse when the 95 % interval of the ratio of RMS errors on "
        "shared noise lies beyond 2 % of 1; "
        f"else it is a tie. {disagreeing} RMS error is carried by few samples: the rows also hold "
        "medians and "
        "misrouted shares. Exact fields, no network error.",
        command=command,
    )
