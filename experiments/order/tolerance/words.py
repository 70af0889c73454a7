"""The section of the page on tolerances."""

from experiments import report
from experiments.order.tolerance.figures import draw_map, draw_work
from experiments.order.tolerance.numbers import (
    FIXED,
    METHODS,
    MOST,
    UNCONTROLLED,
    at_public,
    below_fixed,
    excess,
    over_own_formulas,
)

VERDICTS = ("better", "tie", "undecided", "worse")


def _span(table: list[dict], name: str) -> str:
    """The least and the greatest value of a column, as words."""
    # One number where both ends agree to two digits.
    values = [line[name] for line in table]
    least, greatest = report.sig(min(values)), report.sig(max(values))
    return least if least == greatest else f"{least} to {greatest}"


def _batches(rows: list[dict]) -> str:
    """What lockstep costs, as sentences."""
    own = sorted((row for row in rows if row["part"] == "batch"), key=lambda row: row["batch"])
    if not own:
        return ""
    # The smallest and the largest batch.
    first, last = own[0], own[-1]
    grows = "; ".join(
        f"batch {row['batch']}: {report.sig(row['own']['computed'])} and "
        f"{report.sig(row['lockstep']['computed'])}"
        for row in own
    )
    # What lockstep costs in evaluations, and what it gains in error.
    dearer = last["lockstep"]["computed"] / last["own"]["computed"]
    change = last["lockstep"]["rms"] / last["own"]["rms"]
    return (
        f"On the {first['field']} a sample needs **{report.sig(first['own']['needed'])}** "
        "evaluations (order 2, public defaults). What its batch computes, "
        f"with steps of their own and in lockstep, {grows}: at {last['batch']} lockstep computes "
        f"{report.sig(dearer)} times what steps of their own do, and its error is "
        f"{report.sig(change)} times theirs."
    )


def _public_clauses(public: list[dict]) -> tuple[str, str]:
    """(evaluations and errors at the public defaults, and against no control), by method."""
    errors, alone = [], []
    for method in METHODS:
        own = [line for line in public if line["method"] == method]
        if not own:
            continue
        errors.append(
            f"{method}: {_span(own, 'NFE')} evaluations (p95 {_span(own, 'p95 NFE')}) for an "
            f"error of {_span(own, 'error')}, against {_span(own, 'its error')}"
        )
        # Runge-Kutta 5 has no plan with its formulas.
        if method in UNCONTROLLED:
            alone.append(
                f"{method} {_span(own, 'without control')} times that of {UNCONTROLLED[method]}"
            )
    return "; ".join(errors), "; ".join(alone)


def _batch_table(rows: list[dict]) -> list[dict]:
    table = []
    for row in rows:
        if row["part"] == "batch":
            line = {"field": row["field"], "batch": row["batch"], "groups": row["groups"]}
            for how in ("own", "lockstep"):
                line |= {f"{how}: {name}": value for name, value in row[how].items()}
            table.append(line)
    return table


def _own_formulas(public: list[dict], alone: str) -> str:
    """Error control against the same formulas on a fixed grid, as a sentence."""
    ratios = over_own_formulas(public)
    if not ratios:
        return ""
    return (
        "Against the same formulas on a fixed log-SNR grid of equal NFE, which is what control "
        f"itself is worth, it has the lower error in **{sum(r < 1 for r in ratios)}** of "
        f"{len(ratios)}: {alone} (no interval: these runs are not paired in the rows)."
    )


def claim(public: list[dict]) -> str:
    """The claim of the figure: wins against the best plan in hindsight, and against its own."""
    own = over_own_formulas(public)
    won = sum(line["adaptive is"] == "better" for line in public)
    text = f"Error control beats the best fixed plan in {won} of {len(public)} cases"
    return (
        f"{text} and its own formulas in {sum(r < 1 for r in own)} of {len(own)}" if own else text
    )


# The columns of the two tables at the public defaults.
KEYS = ("field", "method")
PLANS = (
    *KEYS,
    "NFE",
    "error",
    "best fixed plan",
    "its NFE",
    "its error",
    "ratio",
    "low",
    "high",
    "adaptive is",
    "without control",
)
STEPS = (
    *KEYS,
    "p95 NFE",
    "accepted",
    "rejected",
    "median error",
    "its median",
    "ratio of medians",
    "by median",
    "a fixed plan is as good from",
)


def _columns(line: dict, names: tuple[str, ...]) -> dict:
    return {name: line[name] for name in names}


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    public, lines, below = at_public(rows), excess(rows), below_fixed(rows)
    # Verdicts on the adaptive run by RMS error, and by median error.
    counts, medians = (
        {verdict: sum(line[name] == verdict for line in public) for verdict in VERDICTS}
        for name in ("adaptive is", "by median")
    )
    # Which fixed plan is the rival, chosen with the errors in hand.
    best = [line["best fixed plan"] for line in public]
    bests = ", ".join(f"{name} {best.count(name)}" for name in dict.fromkeys(best))
    errors, alone = _public_clauses(public)
    some = "; ".join(
        f"{method} in {n} of {total}, error ratio {report.sig(ratio)}"
        for method, (n, total, ratio) in below.items()
    )
    # How far few samples carry the RMS error.
    tails = [{"tail": line["error"] / line["median error"]} for line in public]
    maps = [row for row in rows if row["part"] == "map"]
    # Samples that ran out of evaluations count with the state they had.
    unfinished = sum(cell["unfinished"] for row in maps for cell in row["cells"])
    doubling = max(row["doubling"] for row in rows if "doubling" in row)
    return report.Section(
        question="What do atol and rtol buy, and is error control worth its evaluations?",
        expected="At the public defaults (0.0078, 0.05) an adaptive run is no few-step method: it "
        "takes 25 to 80 evaluations and a good fixed plan of "
        "as many is more accurate; order 3 is cheaper than order 2 at small errors, Runge-Kutta "
        "from 1e-3 on. In lockstep a batch pays for its hardest "
        "sample at every step, so its count grows with its size, and so does its accuracy.",
        answer=f"At the public defaults, against the best of {len(FIXED)} fixed plans of equal "
        f"NFE, which is chosen in hindsight, error control is better in **{counts['better']}** and "
        f"worse in **{counts['worse']}** of {len(public)} cases of field and method (undecided "
        f"{counts['undecided']}; by the median error better in {medians['better']}, worse in "
        f"{medians['worse']}). {errors}; the best fixed plan is {bests}.\n"
        f"{_own_formulas(public, alone)}\n"
        f"Over all tolerances adaptive lies below the best fixed plan at equal mean NFE with "
        f"{some}. {_batches(rows)}",
        figures=(draw_work(rows, claim(public)), draw_map(rows)),
        table={
            "Public defaults against fixed plans": [_columns(line, PLANS) for line in public],
            "Public defaults: steps and medians": [_columns(line, STEPS) for line in public],
            "Error over that of the best tolerances": lines,
            "Batches": _batch_table(rows),
        },
        caveat=f"A run has {_span(public, 'accepted')} accepted and "
        f"{_span(public, 'rejected')} rejected steps, each of as many evaluations as "
        "its order, or 6, where a multistep plan takes one a step. Its RMS error is "
        f"{_span(tails, 'tail')} times its median: few samples carry it. The fixed plan is chosen "
        "with the exact endpoints in hand, which an adaptive run does not have; fixed log-SNR "
        "grids end with a jump from 0.005, so their error has a floor. Mean NFE over samples: a "
        "batch with steps of its own computes until its last sample is done. "
        f"Samples that did not finish within {MOST} evaluations: {unfinished}. Doubling the "
        f"reference's steps moved it by {report.sig(doubling)}.",
        command=command,
    )
