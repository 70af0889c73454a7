"""The section of the page on curvature."""

import numpy as np

from experiments import report
from experiments.lab.statistics import geometric_mean
from experiments.order.curvature.figures import KIND_IN_WORDS, draw_roc, draw_scatter
from experiments.order.curvature.numbers import (
    MAIN,
    PAIRS,
    SCORES,
    dial_of,
    lines_of,
    ranking,
    validated,
)


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = ranking(rows)
    kinds = list(dict.fromkeys(line["grid"] for line in table))
    held_out = {name: validated(rows, MAIN, name) for name in ("rms", "median")}

    # The two kinds of grid behave differently, so each gets its own sentence.
    def by_kind(pair: tuple[str, str]) -> str:
        return " ".join(
            f"Where grids are {KIND_IN_WORDS[kind]}, {_counts(table, kind, pair)}."
            for kind in kinds
        )

    lines = [
        f"The acceleration of the exact path {_clause(table, kinds, 'acceleration')}.",
        f"rho_3, free of cost, {_clause(table, kinds, 'rho_3')}. {_by_median(table, kinds)}",
        _flips(table, kinds),
        _held_out(held_out),
        by_kind(MAIN),
    ]
    return report.Section(
        question="Is it the curvature of the path that makes a higher order lose?",
        expected="Straightness holds first derivatives only and cannot rank orders 2 and 3; "
        "acceleration and torsion are closer, "
        "but know nothing of the steps; the ratios of successive orders (rho), free in any run, "
        "predict best. The log-SNR grid was added after the first results on the others were seen.",
        answer="\n".join(line for line in lines if line),
        figures=(draw_roc(rows, claim(table, kinds)), draw_scatter(rows)),
        table={
            "AUC of every score": [_short(line) for line in _sorted(table)],
            "Scores chosen on the other fields": [
                {"by": name, **line} for name, lines in held_out.items() for line in lines
            ],
        },
        caveat=f"Order 2 against 1: {by_kind(PAIRS[0])} An AUC is the chance that a cell where the "
        "higher order loses scores above one where it wins; 0.5 is a coin, and ties and undecided "
        "cells are left out. The ring lies in a plane, so torsion is judged on the other fields "
        f"alone. Intervals draw whole fields ({len({dial_of(row) for row in rows})} of them, "
        "counting widths and couplings). Steps of a grid uniform in t that ends at 0 are, in "
        "log-SNR, log 2, log 3/2, ... before the jump, however many there are: there the end can "
        "decide, and no score of the path sees it.",
        command=command,
    )


def claim(table: list[dict], kinds: list[str]) -> str:
    """The claim of the figure: what the acceleration of the path is worth."""
    areas = " and ".join(
        f"{report.sig(_line(table, kind, 'acceleration')['auc'])} where grids are "
        f"{KIND_IN_WORDS[kind]}"
        for kind in kinds
    )
    return f"The acceleration of the path has an AUC of {areas}"


def _sorted(table: list[dict]) -> list[dict]:
    return sorted(table, key=lambda r: (r["pair"], r["grid"], -np.nan_to_num(r["auc"])))


def _short(line: dict) -> dict:
    """A line of the table without the columns that few readers want."""
    return {name: value for name, value in line.items() if name not in ("from", "undefined")}


def _line(table: list[dict], kind: str, score: str) -> dict:
    return next(line for line in lines_of(table, kind, MAIN) if line["score"] == score)


def _interval(line: dict) -> str:
    return f"[{report.sig(line['low'])}, {report.sig(line['high'])}]"


def _counts(table: list[dict], kind: str, pair: tuple[str, str]) -> str:
    """How often the higher order loses, as a clause; the counts are the same in all lines."""
    first = lines_of(table, kind, pair)[0]
    return (
        f"{pair[0]} loses to {pair[1]} in {first['lost']} of {first['cells'] + first['ties']} "
        f"cells, wins in {first['cells'] - first['lost']}, and neither in {first['ties']}"
    )


def _clause(table: list[dict], kinds: list[str], score: str) -> str:
    """What a score that was fixed beforehand says of the loss of order 3, on each kind of grid."""
    return "; it ".join(_verdict(_line(table, kind, score), kind) for kind in kinds)


def _verdict(line: dict, kind: str) -> str:
    """Whether a score ranks the cells where order 3 loses above the others, as a clause."""
    where = f"where grids are {KIND_IN_WORDS[kind]}"
    if not np.isfinite(line["auc"]):
        return f"**cannot be judged** {where}, where all cells were decided one way"
    # 0.5 is a coin.
    if line["low"] > 0.5:
        says = "ranks these cells first"
    elif line["high"] < 0.5:
        says = "ranks these cells last"
    else:
        says = "ranks no better than a coin"
    return f"**{says}** {where} (AUC {report.sig(line['auc'])} {_interval(line)} by RMS error)"


def _by_median(table: list[dict], kinds: list[str]) -> str:
    """How rho_3 stands among the scores when the median error decides, as a sentence."""
    # How many scores are above it shows what a choice by RMS error alone would hide.
    parts = []
    for kind in kinds:
        own = {line["score"]: line["by median"] for line in lines_of(table, kind, MAIN)}
        own = {score: area for score, area in own.items() if np.isfinite(area)}
        if "rho_3" not in own:
            continue
        above = [score for score, area in own.items() if area > own["rho_3"]]
        best = max(own, key=own.get)
        text = f"{report.sig(own['rho_3'])} where grids are {KIND_IN_WORDS[kind]}"
        if above:
            text += f", where {len(above)} of {len(own)} scores have more (best: {best} "
            text += f"{report.sig(own[best])})"
        parts.append(text)
    return f"By the median error its AUC is {'; '.join(parts)}." if parts else ""


def _flips(table: list[dict], kinds: list[str]) -> str:
    """Scores whose sign is clear on both kinds of grid and opposite, as a sentence."""
    # With one kind of grid there is nothing to flip.
    if len(kinds) < 2:
        return ""
    found = []
    for score in SCORES:
        own = [_line(table, kind, score) for kind in kinds]
        clear = all(line["low"] > 0.5 or line["high"] < 0.5 for line in own)
        if clear and len({line["low"] > 0.5 for line in own}) > 1:
            # How well it ranks once its sign is known.
            strength = geometric_mean(max(line["auc"], 1 - line["auc"]) for line in own)
            areas = " and ".join(report.sig(line["auc"]) for line in own)
            found.append((strength, f"{score} {areas}"))
    if not found:
        return ""
    ranked = [text for _, text in sorted(found, reverse=True)]
    names = " and on those ".join(KIND_IN_WORDS[kind] for kind in kinds)
    return (
        f"**{len(found)}** of {len(SCORES)} scores rank with opposite signs on grids {names}, so "
        f"none of them can be used without knowing the grid. The strongest: "
        f"{', '.join(ranked[:3])}."
    )


def _held_out(found: dict[str, list[dict]]) -> str:
    """What the best score of the other fields does on a field left out, as a sentence."""
    parts = []
    for name, lines in found.items():
        for kind in dict.fromkeys(line["grid"] for line in lines):
            own = [line for line in lines if line["grid"] == kind]
            # A field with more cells has more to say.
            mean, chosen = (
                np.average([line[which] for line in own], weights=[line["cells"] for line in own])
                for which in ("auc", "chosen with")
            )
            scores = ", ".join(dict.fromkeys(line["score"] for line in own))
            parts.append(
                f"{report.sig(mean)} instead of {report.sig(chosen)} by {name} on grids "
                f"{KIND_IN_WORDS[kind]} ({scores}; {len(own)} fields)"
            )
    if not parts:
        return ""
    return (
        f"Chosen on all other fields and read on the one left out, the best of {len(SCORES)} "
        f"scores has a mean AUC of {'; '.join(parts)}."
    )
