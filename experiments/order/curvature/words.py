"""The section of the page on curvature."""

import numpy as np

from experiments import report
from experiments.order.curvature.figures import KIND_IN_WORDS, draw_roc, draw_scatter
from experiments.order.curvature.numbers import MAIN, PAIRS, SCORES, dial_of, lines_of, ranking


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = ranking(rows)
    kinds = list(dict.fromkeys(line["grid"] for line in table))

    # The two kinds of grid behave differently, so each gets its own sentence.
    def by_kind(pair: tuple[str, str]) -> str:
        return " ".join(
            f"Where they are {KIND_IN_WORDS[kind]}, {_says(table, kind, pair)}" for kind in kinds
        )

    def verdict(score: str) -> str:
        return "; it ".join(_verdict(table, kind, score) for kind in kinds)

    return report.Section(
        question="Is it the curvature of the path that makes a higher order lose?",
        expected="Straightness holds first derivatives only and cannot rank orders 2 and 3; "
        "acceleration and torsion are closer, "
        "but know nothing of the steps; the ratios of successive orders (rho), free in any run, "
        "predict best. The log-SNR grid was added after the first results on the others were seen.",
        answer="Will order 3 lose to order 2? The acceleration of the exact path "
        f"{verdict('acceleration')}. The free rho_3 {verdict('rho_3')}. "
        f"{by_kind(MAIN)}",
        figures=(draw_roc(rows), draw_scatter(rows)),
        table=sorted(table, key=lambda r: (r["pair"], r["grid"], -np.nan_to_num(r["auc"]))),
        caveat=f"Order 2 against 1: {by_kind(PAIRS[0])} {_versus_median(table)} The ring lies in "
        "a plane, so torsion is judged on the other fields alone. "
        f"Intervals draw whole fields ({len({dial_of(row) for row in rows})} of them). The best "
        f"of {len(SCORES)} scores looks better "
        "than it is; a score fixed beforehand does not. Steps of a grid uniform in t that ends at "
        "0 are, in log-SNR, log 2, log 3/2, "
        "... before the jump, however many there are: there the end can decide, and no score of "
        "the path sees it.",
        command=command,
    )


def _interval(line: dict) -> str:
    return f"[{report.sig(line['low'])}, {report.sig(line['high'])}]"


def _says(table: list[dict], kind: str, pair: tuple[str, str], most: int = 4) -> str:
    """How often the higher order loses, which score tells it, and which mislead, as sentences.

    Args:
      table: of `ranking`.
      kind: of grid.
      pair: of solvers.
      most: of the misleading scores are named.
    """
    own = lines_of(table, kind, pair)
    # The counts are the same in all lines of a kind and pair.
    first = own[0]
    counts = (
        f"{pair[0]} loses to {pair[1]} in {first['lost']} of {first['cells'] + first['ties']} "
        "cells, wins in "
        f"{first['cells'] - first['lost']} and ties in {first['ties']}"
    )
    ranked = sorted((r for r in own if np.isfinite(r["auc"])), key=lambda r: -r["auc"])
    if not ranked:
        return f"{counts}; all that is decided is decided one way, so there is nothing to predict."

    # The best of many scores is an optimistic choice; the caveat says so.
    best = ranked[0]
    area = f"AUC **{report.sig(best['auc'])}** {_interval(best)}"
    text = f"{counts}. Best score: **{best['score']}**, {area}"
    if np.isfinite(best["within NFE"]):
        text += f", {report.sig(best['within NFE'])} among cells of equal NFE"
    # Scores whose whole interval lies below 0.5, the most misleading first.
    wrong = [f"{r['score']} {report.sig(r['auc'])}" for r in reversed(ranked) if r["high"] < 0.5]
    if not wrong:
        return f"{text}."
    more = f" and {len(wrong) - most} more" if len(wrong) > most else ""
    return (
        f"{text}. The wrong way round, with their whole interval: {', '.join(wrong[:most])}{more}."
    )


def _verdict(table: list[dict], kind: str, score: str) -> str:
    """Whether a score fixed beforehand tells the loss of order 3, on one kind of grid, a clause."""
    line = next(line for line in lines_of(table, kind, MAIN) if line["score"] == score)
    where = f"where grids are {KIND_IN_WORDS[kind]}"
    if not np.isfinite(line["auc"]):
        return f"**cannot be judged** {where}"
    # 0.5 is a coin.
    if line["low"] > 0.5:
        says = "tells it"
    elif line["high"] < 0.5:
        says = "points the wrong way"
    else:
        says = "does not tell it"
    return f"**{says}** {where} (AUC {report.sig(line['auc'])} {_interval(line)})"


def _versus_median(table: list[dict]) -> str:
    """How rho_3 does when the median error decides, as a sentence."""
    # One clause a kind of grid.
    kinds = dict.fromkeys(line["grid"] for line in table)
    own = [line for kind in kinds for line in lines_of(table, kind, MAIN)]
    parts = [
        f"{report.sig(r['auc'])} by RMS and {report.sig(r['by median'])} by the median "
        f"({r['grid']})"
        for r in own
        if r["score"] == "rho_3"
    ]
    return f"The verdict depends on the statistic: rho_3 has an AUC of {'; '.join(parts)}."
