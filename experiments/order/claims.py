"""The claims of the order experiment, each held against its rows by the rule of `lab.claims`.

The table of docs/findings.md is what `findings` returns, from the rows in results/order:

    python -c "from experiments.order import claims; print(claims.findings(), end='')"
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from experiments import report
from experiments.lab import statistics
from experiments.lab.claims import (
    FAILS,
    HOLDS,
    IN_PART,
    UNDECIDED,
    VERDICTS,
    Claim,
    Part,
    markdown,
    table,
    verdict,
)
from experiments.order import (
    clock,
    convergence,
    crossover,
    curvature,
    guided,
    learned,
    ledger,
    nfe,
    smooth,
    tolerance,
)
from flowjax import records

KEPT = pathlib.Path(__file__).parents[2] / "results" / "order"
NONE = "–"  # of training seeds: exact fields are not trained
LOWER = 0.98  # a ratio of errors below this is no tie
HALF = 0.5
COIN = 0.5  # the area under the curve of a score that says nothing
SMOOTH = 4.0  # what halving a step divides the second difference of a smooth function by
LEAST_GAIN = 0.5  # of an order, that counts as having it back


def claims(rows: Sequence[dict], config: dict) -> list[Claim]:
    """The claims whose rows are there, in the order of the page.

    Args:
      rows: of a work directory.
      config: its configuration, which has the numbers of starts.
    """
    makers: dict[str, Callable[[list[dict], dict], list[Claim]]] = {
        nfe.QUESTION: _on_families,
        convergence.QUESTION: _on_orders,
        ledger.QUESTION: _on_causes,
        curvature.QUESTION: _on_scores,
        crossover.QUESTION: _on_law,
        guided.QUESTION: _on_guidance,
        learned.QUESTION: _on_networks,
        clock.QUESTION: _on_roughness,
        smooth.QUESTION: _on_clock,
        tolerance.QUESTION: _on_tolerance,
    }
    # A quick run lacks some questions, and so their claims.
    found = []
    for question, make in makers.items():
        own = [row for row in rows if row["question"] == question]
        if own:
            found += make(own, config)
    return found


def _ratio(name: str, ratios: Sequence[float], groups: Sequence, bound: float = 1.0) -> Part:
    """A mean ratio of errors that should lie below a bound, with its interval over groups."""
    return Part(name, *statistics.mean_ratio(ratios, groups), "below", bound)


def _starts(config: dict, seeds: int = 10**6, samples: int = 10**6) -> str:
    """How many starts a subject has, with at most so many seeds and samples a seed."""
    return f"{min(config['seeds'], seeds) * min(config['samples'], samples)}, paired"


def _names(values: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(values))


# ---- exact fields


def _on_families(rows: list[dict], config: dict) -> list[Claim]:
    """Whether order 3 pays, family by family, at few evaluations and at more."""
    found = []
    for line in nfe.families(rows):
        if line["shift"] != "all":
            continue
        # The comparisons behind the line, each with its field: fields are what is drawn again.
        least, most = nfe.RANGES[line["NFE"]]
        pairs = nfe.compared(rows, line["a"], line["b"], least, most)
        # RMS and median are two parts: a claim that only one of them bears holds in part.
        parts = [
            _ratio(word, [p[f"{name}_ratio"] for p in pairs], [p["field"] for p in pairs], LOWER)
            for name, word in (("rms", "RMS"), ("median", "median"))
        ]
        counts = ", ".join(f"{line[verdict]} {verdict}" for verdict in nfe.VERDICTS)
        found.append(
            Claim(
                f"{line['family']}: with {line['NFE']} evaluations {line['a']} has a lower error "
                f"than {line['b']}, by more than 2 %",
                parts,
                _names(p["field"] for p in pairs),
                _starts(config),
                NONE,
                "fields, drawn with all their cells",
                nfe.QUESTION,
                "more fields; a grid that suits the family",
                f"cells by RMS: {counts}",
            )
        )
    return found


def _on_orders(rows: list[dict], config: dict) -> list[Claim]:
    """Whether the third order in a solver's name is measured."""
    lines = convergence.slopes(rows)
    found = []
    for name in ("DPM++ 3M published, warm start", "DPM++ 3M exact, warm start"):
        orders = [line["measured"] for line in lines if line["solver"] == name]
        if not orders:
            continue
        # Slopes have no sampling error worth an interval; the two paths show how far they agree.
        part = Part("order", float(np.mean(orders)), min(orders), max(orders), "above", 2.5)
        found.append(
            Claim(
                f"{name.replace(', ', ' with a ')} has order 3",
                [part],
                "a mixture in 4 dimensions",
                "32",
                NONE,
                "the linear and the cosine path (least and greatest)",
                convergence.QUESTION,
                "a smooth field on which the last slopes differ",
            )
        )
    return found


def _on_causes(rows: list[dict], config: dict) -> list[Claim]:
    """What the last jump and the grid carry of the error of order 3."""
    third = [row for row in ledger.of_order(rows, 3) if row["field"] != ledger.COUPLED]
    subjects = _names(row["field"] for row in third)
    scope = (subjects, _starts(config, samples=16), NONE, "seeds of starts", ledger.QUESTION)
    # Shift 1 stands apart: its last jump is the shortest.
    parts = []
    for name, own in (("all shifts", third), ("shift 1", [r for r in third if r["shift"] == 1.0])):
        if own:
            parts.append(_fraction(name, own, "last jump"))
    found = [
        Claim(
            "Of what removing all causes gains for 3M, the last jump accounts for more than half",
            parts,
            *scope,
            "other fields; counting the evaluations that an exact last step takes",
        )
    ]
    over = ledger.over_order_2(rows)
    if over:
        common = f"{over['common']:.0%}"
        text = f"{common} of what removing all causes gains for 3M, in log error, 2M has too"
        # Whether a cause is of order 3 in particular: the ratio of both orders' errors decides.
        for cause in ("last jump", "grid"):
            (bar,) = [bar for bar in over["bars"] if bar["cause"] == cause]
            part = Part(
                "error of 3M over 2M, divided by",
                *(float(np.exp(bar[name])) for name in ("gain", "low", "high")),
                "above",
                1.1,
            )
            found.append(
                Claim(
                    f"Removing the loss by the {cause} helps 3M more than 2M, by more than a tenth",
                    [part],
                    *scope,
                    "another list of causes",
                    text,
                )
            )
    return found


def _fraction(name: str, rows: list[dict], cause: str) -> Part:
    """The fraction of the gain of all causes that one carries, with its interval over seeds."""
    (bar,) = [bar for bar in ledger.ledger(rows) if bar["cause"] == cause]
    return Part(name, bar["fraction"], *bar["fraction_interval"], "above", HALF)


def _on_scores(rows: list[dict], config: dict) -> list[Claim]:
    """Whether a score ranks the cells in which order 3 loses."""
    found = []
    texts = {
        "acceleration": "The more a path bends (acceleration), the sooner order 3 loses to 2",
        "rho_3": "rho_3, which is free of cost, ranks the cells in which order 3 loses to order 2",
    }
    for score, text in texts.items():
        # Each kind of grid and each statistic is a part, since scores change their sign.
        parts = [
            Part(f"{kind}, {word}", *area, "above", COIN)
            for kind in curvature.kinds(rows)
            for name, word in (("rms", "RMS"), ("median", "median"))
            for area in [curvature.area_of(rows, kind, score, name)]
        ]
        found.append(
            Claim(
                text,
                parts,
                _names(row["field"] for row in rows),
                _starts(config, seeds=5),
                NONE,
                "the settings (fields, widths, couplings)",
                curvature.QUESTION,
                "fields that had no part in the choice of scores",
                "area under the ROC curve",
            )
        )
    return found


def _on_law(rows: list[dict], config: dict) -> list[Claim]:
    """Whether the crossovers of order 3 grow as the law says."""
    fits = crossover.fits(crossover.observed(rows))
    pair = "DPM++ 3M exact below DPM++ 2M"
    # A slope of 1 is an equality, so the interval has to lie within a quarter of it.
    parts = [
        Part(f"{words}, {f['statistic']}", f["slope"], f["low"], f["high"], "within", (0.75, 1.25))
        for end, words in (("own", "as it runs"), ("solved", "end solved"))
        for f in fits
        if (f["end"], f["pair"]) == (end, pair) and f["slope"] is not None
    ]
    if not parts:
        return []
    return [
        Claim(
            "The evaluations from which order 3 pays grow as shift over mode width (slope 1)",
            parts,
            f"ring, {len({row['std'] for row in rows})} widths",
            _starts(config),
            NONE,
            "widths and shifts (likelihood ratio)",
            crossover.QUESTION,
            "more evaluations, so that fewer crossovers are bounds",
        )
    ]


def _on_guidance(rows: list[dict], config: dict) -> list[Claim]:
    """Whether guidance takes away what a higher order is worth."""
    errors = [row for row in rows if row["part"] == "error"]
    scales = sorted({row["scale"] for row in errors})
    least, most = scales[0], scales[-1]
    if least == most:
        return []
    found = []
    for a, b in (("DPM++ 2M", "Euler"), ("DPM++ 3M exact", "DPM++ 2M"), ("AB3", "AB2")):
        parts = []
        for name, word in (("rms", "RMS"), ("median", "median")):
            ratio = {
                (row["field"], row["grid"], row["nfe"], row["scale"]): pair[f"{name}_ratio"]
                for row in errors
                for pair in row["pairs"]
                if (pair["a"], pair["b"]) == (a, b)
            }
            # Only cells that were measured at both scales are compared.
            cells = [key[:3] for key in ratio if key[3] == least and (*key[:3], most) in ratio]
            grown = [ratio[*cell, most] / ratio[*cell, least] for cell in cells]
            mean = statistics.mean_ratio(grown, [cell[:2] for cell in cells])
            parts.append(Part(word, *mean, "above", 1.0))
        found.append(
            Claim(
                f"Guidance {most:g} leaves less to gain from {a} over {b} than guidance {least:g}",
                parts,
                _names(row["field"] for row in errors),
                _starts(config, samples=guided.STARTS),
                NONE,
                "fields and grids",
                guided.QUESTION,
                "guided networks with several training seeds",
                "ratio of the ratios of errors",
            )
        )
    return found


# ---- networks


def _on_networks(rows: list[dict], config: dict) -> list[Claim]:
    """Whether straight paths leave less to gain: two things change at once."""
    lines = {line["model"]: line for line in learned.dial(rows) if line["scale"] == 1.0}
    if not {"digits", "digits-reflow"} <= lines.keys():
        return []
    errors = [row for row in rows if row["part"] == "error" and row["scale"] == 1.0]

    def ratios(model: str) -> dict:
        return {
            (row["shift"], row["nfe"]): pair["rms_ratio"]
            for row in errors
            if row["model"] == model
            for pair in row["pairs"]
            if (pair["a"], pair["b"]) == ("DPM++ 2M", "Euler")
        }

    # The same cells on both networks.
    bent, straight = ratios("digits"), ratios("digits-reflow")
    cells = [cell for cell in bent if cell in straight]
    grown = statistics.mean_ratio([straight[c] / bent[c] for c in cells], [c[0] for c in cells])
    smoothness = {
        name: report.sig(lines[name]["smoothness"]) for name in ("digits", "digits-reflow")
    }
    return [
        Claim(
            "Straighter paths (reflow) leave less to gain from 2M over Euler",
            [Part("reflow over plain", *grown, "above", 1.0)],
            "digits, digits-reflow",
            f"{config['network_starts']}, paired",
            "1 each",
            "shifts",
            learned.QUESTION,
            "networks with a slow clock on both couplings, several training seeds",
            "",
            "the straighter network is also rougher in time (smoothness "
            f"{smoothness['digits-reflow']} against {smoothness['digits']})",
        )
    ]


def _on_roughness(rows: list[dict], config: dict) -> list[Claim]:
    """Whether the velocity of networks is rough in time, at a coarse and at a fine step."""
    networks = [row["field"] for row in rows if row["kind"] == "network"]
    if not networks:
        return []
    # Where the slopes are read, and where roughness is at its clearest.
    steps = (clock.STEP, 1 / clock.FINEST)
    scope = (_names(networks), str(clock.STARTS), "1 each", "networks (least and greatest)")
    found = []
    for moved, side, text in (
        (
            "time alone",
            "below",
            "The velocity of networks is rough in time: halving the step "
            "divides its second difference by less than 2",
        ),
        (
            "state alone",
            "above",
            "The velocity of networks is smooth in the state: halving the "
            "step divides its second difference by more than 2",
        ),
    ):
        parts = []
        for step in steps:
            values = clock.falls(rows, step)[moved]
            name = f"at 1/{round(1 / step)}"
            parts.append(
                Part(name, float(np.mean(values)), min(values), max(values), side, SMOOTH / 2)
            )
        found.append(
            Claim(text, parts, *scope, clock.QUESTION, "longer training; several training seeds")
        )
    return found


def _on_clock(rows: list[dict], config: dict) -> list[Claim]:
    """Whether a slow clock gives each solver its order back."""
    lines = smooth.orders(rows)
    first, second = list(smooth.differences(rows))[:2]
    parts = []
    for solver in ("DPM++ 2M", "DPM++ 3M exact", "AB2", "AB3"):
        # One gain a shift; two shifts make no sample, so their range is the interval.
        gains = [
            line[second] - line[first]
            for line in lines
            if (line["solver"], line["statistic"]) == (solver, "rms")
        ]
        part = Part(solver, float(np.mean(gains)), min(gains), max(gains), "above", LEAST_GAIN)
        parts.append(part)
    return [
        Claim(
            "A network with the slow clock 1 - t has at least half an order more than its twin "
            "with 1000 t",
            parts,
            f"{first}, {second}",
            f"{config['network_starts']}, paired",
            "1 each",
            "shifts (least and greatest)",
            smooth.QUESTION,
            "more pairs of networks and training seeds",
            f"from {lines[0]['NFE']} evaluations, RMS error",
        )
    ]


# ---- error control


def _on_tolerance(rows: list[dict], config: dict) -> list[Claim]:
    """Whether error control is worth its evaluations, against two rivals."""
    lines = tolerance.at_public(rows)
    fields = [line["field"] for line in lines]
    # Runge-Kutta 5 has no fixed plan with its formulas.
    own = [line for line in lines if line["without control"] is not None]
    worse = sum(line["adaptive is"] == "worse" for line in lines)
    won = sum(line["without control"] < 1 for line in own)
    scope = (_names(fields), _starts(config, samples=16), NONE, "fields", tolerance.QUESTION)
    return [
        Claim(
            "At the public tolerances error control beats the best fixed plan of equal NFE, "
            "chosen in hindsight",
            [
                _ratio("RMS", [line["ratio"] for line in lines], fields),
                _ratio("median", [line["ratio of medians"] for line in lines], fields),
            ],
            *scope,
            "a rule that chooses the fixed plan without the exact endpoints",
            f"worse in {worse} of {len(lines)}",
        ),
        Claim(
            "At the public tolerances error control beats its own formulas on a fixed log-SNR "
            "grid of equal NFE",
            [
                _ratio(
                    "RMS",
                    [line["without control"] for line in own],
                    [line["field"] for line in own],
                )
            ],
            *scope,
            "more fields: one of them decides the mean",
            f"lower error in {won} of {len(own)}",
        ),
    ]


# ---- the section of the page


def section(rows: Sequence[dict], config: dict, command: str) -> report.Section | None:
    """The section of the page, or None without claims."""
    found = claims(rows, config)
    if not found:
        return None
    verdicts = [verdict(claim) for claim in found]
    words = {HOLDS: "hold", IN_PART: "hold in part", UNDECIDED: "are undecided", FAILS: "fail"}
    counts = ", ".join(f"**{verdicts.count(name)}** {words[name]}" for name in VERDICTS)
    return report.Section(
        question="What do these rows say of each claim?",
        expected="The rule was written before the table: a part of a claim holds or fails when its "
        "whole 95 % interval lies on one side of the bound, and is undecided else; a claim holds "
        "when all parts hold, fails when all fail, and holds in part when some do.",
        answer=f"Of {len(found)} claims: {counts}.",
        table={
            "Claims and verdicts": [
                {name: line[name] for name in ("claim", "verdict")} for line in table(found)
            ],
            "Evidence: numbers, bounds, subjects, starts, training seeds, intervals": [
                {name: value for name, value in line.items() if name not in ("verdict", "command")}
                for line in table(found)
            ],
        },
        caveat="An interval over fields draws these fields again, and speaks for fields like them. "
        "Networks have one training seed each, so nothing here speaks for another training.",
        command=command,
    )


def findings() -> str:
    """The table of docs/findings.md, from the kept rows."""
    return markdown(claims(records.read(KEPT), records.read_config(KEPT)))
