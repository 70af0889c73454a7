"""Errors of solvers on fields, shifts and evaluations, and how the orders of a family compare."""

from collections.abc import Iterable, Iterator

from configs.order import Config
from experiments.lab import own, solvers, statistics, subjects
from experiments.lab.truth import make_cell

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
WARM = "DPM++ 3M exact, warm start"
PUBLISHED = "DPM-Solver++ multistep, as published (order 2)"
# Order 3 against order 2 of one family; the first pair with rows stands for its family.
FAMILIES = {
    "Adams-Bashforth": (("AB3", "AB2"),),
    "DPM-Solver++ multistep, exact weights": (
        (WARM, "DPM++ 2M"),
        ("DPM++ 3M exact", "DPM++ 2M"),
    ),
    # Its weights have order 2, see the question `claims`.
    PUBLISHED: (("DPM++ 3M published", "DPM++ 2M"),),
    "DPM-Solver++ singlestep": (("DPM++ 3S", "DPM++ 2S"),),
}
TIE = 0.02
FEW = 20  # evaluations up to which we call them few
RANGES = {f"at most {FEW}": (0, FEW), f"more than {FEW}": (FEW + 1, 10**9)}
VERDICTS = ("better", "tie", "undecided", "worse")


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


def compared(rows: list[dict], a: str, b: str, least: int = 0, most: int = 10**9) -> list[dict]:
    """The comparisons of solver a with solver b in the cells of `least` to `most` evaluations."""
    return [
        pair
        for pair in flat(rows, "pairs")
        if (pair["a"], pair["b"]) == (a, b) and least <= pair["nfe"] <= most
    ]


def counts(pairs: Iterable[dict], statistic: str = "rms") -> dict[str, int]:
    """{verdict: number of comparisons}, by the interval of the ratio."""
    found = [statistics.verdict(pair, statistic, TIE) for pair in pairs]
    return {verdict: found.count(verdict) for verdict in VERDICTS}


def tally(rows: list[dict], a: str, b: str, least: int = 0, most: int = 10**9) -> dict[str, int]:
    """`counts` of solver a against b by RMS error, over cells of `least` to `most` evaluations."""
    return counts(compared(rows, a, b, least, most))


def verdicts(rows: list[dict]) -> list[dict]:
    """[{pair, nfe, better, tie, undecided, worse}]: cells (field x shift) by RMS error."""
    pairs = flat(rows, "pairs")
    seen = dict.fromkeys((p["a"], p["b"]) for p in pairs)
    # The pairs of the experiment come first, then those of plans of one's own.
    ordered = dict.fromkeys([pair for pair in PAIRS if pair in seen] + list(seen))
    table = []
    for a, b in ordered:
        for nfe in sorted({row["nfe"] for row in rows}):
            of_pair = [p for p in pairs if (p["a"], p["b"], p["nfe"]) == (a, b, nfe)]
            if of_pair:
                table.append({"pair": f"{a} against {b}", "NFE": nfe, **counts(of_pair)})
    return table


def families(rows: list[dict]) -> list[dict]:
    """Order 3 against order 2 of each family, at few evaluations and at more, by shift.

    Returns:
      [{family, a, b, NFE, shift, cells, better, tie, undecided, worse, RMS ratio, median ratio,
      better by median, worse by median}]. The shift "all" comes first; ratios are geometric means.
    """
    table = []
    for family, choices in FAMILIES.items():
        a, b = next((pair for pair in choices if compared(rows, *pair)), (None, None))
        for name, (least, most) in RANGES.items():
            own = compared(rows, a, b, least, most)
            for shift in ("all", *sorted({pair["shift"] for pair in own})):
                of_shift = [pair for pair in own if shift in ("all", pair["shift"])]
                if of_shift:
                    line = {"family": family, "a": a, "b": b, "NFE": name, "shift": shift}
                    table.append(line | _line_of(of_shift))
    return table


def _line_of(pairs: list[dict]) -> dict:
    """The numbers of a line of `families`."""
    by_median = counts(pairs, "median")
    rms, median = (
        statistics.geometric_mean(pair[f"{name}_ratio"] for pair in pairs)
        for name in ("rms", "median")
    )
    return {
        "cells": len(pairs),
        **counts(pairs),
        "RMS ratio": rms,
        "median ratio": median,
        "better by median": by_median["better"],
        "worse by median": by_median["worse"],
    }


def winners(rows: list[dict]) -> list[tuple[str, int]]:
    """[(solver, cells in which it has the lowest RMS error)], most first."""
    # One winner a cell; the rows of added solvers belong to the cells of the others.
    by_cell = {}
    for line in flat(rows, "solvers"):
        by_cell.setdefault((line["field"], line["shift"], line["nfe"]), []).append(line)
    best = [min(lines, key=lambda line: line["rms"])["solver"] for lines in by_cell.values()]
    counts = [(name, best.count(name)) for name in set(best)]
    return sorted(counts, key=lambda item: (-item[1], item[0]))


def count_opposite(pairs: list[dict]) -> int:
    """In how many comparisons the median and the RMS error have opposite verdicts."""
    both = [{statistics.verdict(pair, name, TIE) for name in ("rms", "median")} for pair in pairs]
    return both.count({"better", "worse"})
