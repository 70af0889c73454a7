"""The section of the page on guidance."""

from experiments import report
from experiments.order.guided.figures import draw_errors, draw_ratios
from experiments.order.guided.numbers import (
    PAIRS,
    by_scale,
    crossovers,
    direction,
    long_steps,
    moved,
    rms_verdicts,
    wide,
)

# 2M and Euler, 3M exact and 2M, AB3 and AB2.
SHOWN = (PAIRS[2], PAIRS[0], PAIRS[3])


def _by_grid(rows: list[dict], pair: tuple[str, str]) -> list[dict]:
    """In how many cells the crossover of a pair moves later and earlier, grid by grid."""
    found, name = crossovers(rows), f"{pair[0]} below {pair[1]}"
    most = max(f["scale"] for f in found)
    lines = []
    for grid in dict.fromkeys(f["grid"] for f in found):
        # Grids may disagree, so each is counted by itself.
        counts = moved([f for f in found if f["grid"] == grid], most, name)
        line = {"pair": name, "grid": grid, "moves": direction(counts)}
        lines.append(line | dict(zip(("later", "earlier", "same"), counts, strict=True)))
    return lines


def _worse(rows: list[dict], pair: tuple[str, str], scales: tuple[float, float]) -> str:
    """In how many cells the higher order is worse at the two ends of the scales, as a clause."""
    # The same cells at both scales, so that the counts can be compared.
    least, most = (
        rms_verdicts((r for r in rows if r["part"] == "error" and r["scale"] == scale), pair)
        for scale in scales
    )
    return (
        f"{pair[0]} worse than {pair[1]} in {least.count('worse')} of {len(least)} cells and "
        + (f"in {most.count('worse')}")
    )


def _long_steps(few: list[dict], scales: tuple[float, float]) -> str:
    """The errors of 2M and 3M on the log-SNR grid at few evaluations, field by field."""
    parts = []
    for field in dict.fromkeys(f["field"] for f in few):
        errors = ", ".join(
            f"{report.sig(f['DPM++ 2M'])} and {report.sig(f['DPM++ 3M exact'])} at {f['scale']:g}"
            for f in few
            if f["field"] == field and f["scale"] in scales
        )
        parts.append(f"{field}: {errors}")
    return "; ".join(parts)


def _some(line: dict, part: str) -> dict:
    """The scale and the columns whose name holds `part`."""
    return {name: value for name, value in line.items() if name == "scale" or part in name}


def _other(line: dict, part: str) -> dict:
    """The columns whose name does not hold `part`."""
    return {name: value for name, value in line.items() if part not in name}


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table, few, found = by_scale(rows), long_steps(rows), crossovers(rows)
    # The two ends of the scales.
    least, most = table[0], table[-1]
    scales = ", ".join(f"{line['scale']:g}" for line in table)
    # In which direction the crossovers move, pair by pair.
    moves = ", ".join(
        f"{a} against {b} **{direction(moved(found, most['scale'], f'{a} below {b}'))}**"
        for a, b in SHOWN
    )
    ends = (least["scale"], most["scale"])
    worse = "; ".join(_worse(rows, pair, ends) for pair in SHOWN)
    steps = _long_steps(few, (least["scale"], most["scale"]))
    # Where long steps in log-SNR hurt order 3 the most.
    worst = max(few, key=lambda f: f["DPM++ 3M exact"] / f["DPM++ 2M"])
    bends = "; ".join(
        f"{name} {', '.join(report.sig(line[name]) for line in table)}"
        for name in ("acceleration", "curvature", "rho_2")
    )
    # Errors are relative to the size of the endpoints, which depends on the scale.
    sizes = ", ".join(report.sig(line["size"] / least["size"]) for line in table)
    paths = [row for row in rows if row["part"] == "path"]
    in_class = min(row["in class"] for row in paths)
    doubling = max(row["doubling"] for row in paths)
    return report.Section(
        question="Does guidance move the evaluations from which a higher order pays?",
        expected="Guidance bends paths, so orders 2 and 3 pay later at larger scales. With long "
        "steps in log-SNR order 3 blows up: "
        "a pilot had 4.3 at scale 4.5 and 41 at 7.5 with 10 evaluations, where order 2 had 0.8 "
        "and 1.8. On a shifted grid at 20 evaluations it is not order specific.",
        answer=f"From scale {least['scale']:g} to {most['scale']:g} the NFE from which the higher "
        f"order pays moves: {moves}. At the two scales "
        f"{worse}. The guided paths at scales {scales}: {bends}.\nOn the log-SNR grid with "
        f"{few[0]['nfe']} evaluations the errors of 2M and 3M exact are {steps}; 3M does worst "
        f"against 2M on {worst['field']} at scale "
        f"{worst['scale']:g}: **{report.sig(worst['DPM++ 3M exact'] / worst['DPM++ 2M'])} times**.",
        figures=(draw_errors(rows), draw_ratios(rows)),
        table={
            "Verdicts by scale": [_some(line, " against ") for line in table],
            "Crossovers and paths by scale": [_other(line, " against ") for line in table],
            "Where crossovers move": [line for pair in SHOWN for line in _by_grid(rows, pair)],
            "Crossovers by field, grid and scale": wide(found),
            "Long steps in log-SNR": few,
        },
        caveat="An evaluation is one of the guided field, two of a network. "
        "The condition is two of a mixture's "
        f"eight modes; an exact field is guided, no learnt one. Guided endpoints are {sizes} "
        "times as large as the first, and errors "
        f"are relative to them; at least {in_class:.0%} of them end in the class. Each scale has "
        "its own reference, which doubling its "
        f"steps moved by at most {report.sig(doubling)}. A crossover is the last time the ratio "
        "of RMS errors comes through 1.02, within the "
        "evaluations tried.",
        command=command,
    )
