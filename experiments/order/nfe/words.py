"""The section of the page on orders and evaluations."""

from experiments import report
from experiments.order.nfe.figures import draw_families, draw_field
from experiments.order.nfe.numbers import (
    FEW,
    PUBLISHED,
    RANGES,
    count_opposite,
    families,
    flat,
    verdicts,
    winners,
)

FEWER, MORE = RANGES
# Solvers whose last step to t = 0 is no first-order jump.
WITHOUT_JUMP = ("AB2", "AB3", "DEIS3")


def pays(line: dict) -> bool:
    """Whether order 3 is better in most of the decided cells of a line of `families`."""
    return line["better"] > line["worse"] and 2 * line["better"] > line["cells"]


def says(line: dict) -> str:
    """One line of `families` as a clause: cells won and lost, and both mean ratios."""
    return (
        f"{line['a']} against {line['b']} **{line['better']}** better and {line['worse']} worse of "
        f"{line['cells']} (mean ratio {report.sig(line['RMS ratio'])}, by the median "
        f"{report.sig(line['median ratio'])})"
    )


def title(table: list[dict]) -> str:
    """The claim of the figure: the families in which order 3 pays at more evaluations."""
    late = [line for line in table if (line["shift"], line["NFE"]) == ("all", MORE)]
    if not late:
        return f"Order 3 against order 2 with at most {FEW} evaluations"
    # What is published as order 3 has order 2, so its gain is none of an order.
    paying = [line["family"] for line in late if pays(line) and line["family"] != PUBLISHED]
    if not paying:
        return f"With more than {FEW} evaluations order 3 pays in no family"
    return f"With more than {FEW} evaluations order 3 pays in {' and in '.join(paying)}"


def lowest(rows: list[dict]) -> str:
    """Who has the lowest error of a cell, and how often it is a solver without the last jump."""
    # Counts of all solvers, the added ones among them.
    found = winners(rows)
    total = sum(count for _, count in found)
    free = sum(count for name, count in found if name in WITHOUT_JUMP)
    top = ", ".join(f"{name} {count}" for name, count in found[:5])
    bashforth = sum(count for name, count in found if name in ("AB2", "AB3"))
    return (
        f"The lowest RMS error of a cell is that of {top}. Adams-Bashforth has it in "
        f"**{bashforth}** of {total} cells, and with DEIS3 in {free}: their formulas extrapolate "
        "to t = 0, where DPM-Solver++, UniPC and Heun take a first-order step from the last time."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = families(rows)
    by_range = {
        name: "; ".join(
            says(line) for line in table if (line["shift"], line["NFE"]) == ("all", name)
        )
        for name in RANGES
    }
    clauses = [
        f"With {name} evaluations: {text}." for name, text in reversed(by_range.items()) if text
    ]
    # The figures show the first fields, at shifts 1 and 3 where they were measured.
    shifts = sorted({row["shift"] for row in rows})
    shown_shifts = [shift for shift in (1.0, 3.0) if shift in shifts] or shifts[:2]
    shown_fields = list(dict.fromkeys(row["field"] for row in rows))[:3]
    pairs = flat(rows, "pairs")
    return report.Section(
        question="Which order is best at how many evaluations?",
        expected="At 20 evaluations or fewer higher order often does not pay and sometimes hurts; "
        "at 40 and more it pays. Exact 3M with a warm start was added after the first results: "
        "the cold one has order 2 over the complete run, as the published one has.",
        answer="\n".join([*clauses, lowest(rows)]),
        figures=(
            draw_families(table, title(table)),
            *(draw_field(rows, field, shown_shifts) for field in shown_fields),
        ),
        table={
            "Order 3 against order 2, by family, range and shift": table,
            "All pairs, by number of evaluations": verdicts(rows),
        },
        caveat="A cell is better or worse when the 95 % interval of the ratio of RMS errors on "
        "shared noise lies beyond 2 % of 1, a tie when it lies within, and undecided else: more "
        "starts could decide it. The table has each shift by itself. Medians say the opposite of "
        f"RMS in {count_opposite(pairs)} of {len(pairs)} comparisons: RMS error is carried by few "
        "samples. Exact fields, no network error.",
        command=command,
    )
