"""The section of the page on guidance."""

from experiments import report
from experiments.lab.statistics import geometric_mean
from experiments.order.guided.figures import draw_errors, draw_ratios
from experiments.order.guided.numbers import (
    PAIRS,
    by_scale,
    crossovers,
    direction,
    long_steps,
    marked,
    middle,
    moved,
    rms_verdicts,
    wide,
)

# 2M and Euler, 3M exact and 2M, AB3 and AB2.
SHOWN = (PAIRS[2], PAIRS[0], PAIRS[3])


def _factor(found: list[dict], name: str, least: float, most: float) -> str:
    """By how much the crossovers move that lie in range at both scales, as a clause or nothing."""
    # A factor between two bounds means nothing.
    in_range = {
        (f["field"], f["grid"], f["scale"]): f["N*"]
        for f in found
        if f["pair"] == name and not f["side"]
    }
    factors = [
        number / in_range[field, grid, least]
        for (field, grid, scale), number in in_range.items()
        if scale == most and (field, grid, least) in in_range
    ]
    if not factors:
        return ""
    return f", {report.sig(geometric_mean(factors))} times in the {len(factors)} with both in range"


def _says(rows: list[dict], pair: tuple[str, str]) -> str:
    """How a pair fares from the least to the greatest scale, as a clause."""
    found, name = crossovers(rows), f"{pair[0]} below {pair[1]}"
    scales = sorted({f["scale"] for f in found})
    least, most = scales[0], scales[-1]
    # The median crossover at each scale.
    numbers = [
        marked(middle([f for f in found if (f["scale"], f["pair"]) == (scale, name)]))
        for scale in scales
    ]
    later, earlier, same = moved(found, most, name)
    verdicts_least, verdicts_most = (
        rms_verdicts((r for r in rows if r["part"] == "error" and r["scale"] == scale), pair)
        for scale in (least, most)
    )
    return (
        f"{name} for good from {', '.join(numbers)} (later in {later} of {later + earlier + same} "
        f"cells, earlier in {earlier}{_factor(found, name, least, most)}; worse at a fixed NFE in "
        f"{verdicts_least.count('worse')} of {len(verdicts_least)} cells at scale {least:g}, in "
        f"{verdicts_most.count('worse')} at {most:g})"
    )


def _by_grid(rows: list[dict], pair: tuple[str, str]) -> str:
    """In which direction the crossover of a pair moves on each grid, as a clause."""
    found, name = crossovers(rows), f"{pair[0]} below {pair[1]}"
    most = max(f["scale"] for f in found)
    parts = []
    for grid in dict.fromkeys(f["grid"] for f in found):
        # Grids may disagree, so each is counted by itself.
        counts = moved([f for f in found if f["grid"] == grid], most, name)
        parts.append(f"{grid} {direction(counts)} ({counts[0]} later, {counts[1]} earlier)")
    return f"{name}: {', '.join(parts)}"


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
    pairs = "; ".join(_says(rows, pair) for pair in SHOWN)
    by_grid = "; ".join(_by_grid(rows, pair) for pair in SHOWN)
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
        f"order pays moves: {moves}. At scales {scales}, median over fields "
        f"and grids: {pairs}. The guided paths, same scales: {bends}. On the log-SNR grid with "
        f"{few[0]['nfe']} evaluations the errors of 2M and 3M exact are {steps}; 3M does worst "
        f"against 2M on {worst['field']} at scale "
        f"{worst['scale']:g}: **{report.sig(worst['DPM++ 3M exact'] / worst['DPM++ 2M'])} times**.",
        figures=(draw_errors(rows), draw_ratios(rows)),
        table={
            "Verdicts by scale": [_some(line, " against ") for line in table],
            "Crossovers and paths by scale": [_other(line, " against ") for line in table],
            "Crossovers by field, grid and scale": wide(found),
            "Long steps in log-SNR": few,
        },
        caveat=f"By grid, {by_grid}. An evaluation is one of the guided field, two of a network. "
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
