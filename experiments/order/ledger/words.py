"""The section of the page on the ledger."""

import math

import numpy as np

from experiments import report
from experiments.lab.statistics import geometric_mean
from experiments.order.ledger.figures import draw_ledger
from experiments.order.ledger.numbers import (
    COUPLED,
    COUPLING_OF,
    FACTORS,
    TIE,
    by_cell,
    ledger,
    of_order,
    over_order_2,
    thousandths,
)
from flowjax import grids


def _orders(table: list[dict], state: str) -> str:
    """How order 3 does against 2 in these cells, as words."""
    verdicts = [line[f"3 / 2, {state}: verdict"] for line in table]
    ratio = geometric_mean(line[f"3 / 2, {state}"] for line in table)
    return (
        f"{report.sig(ratio)} {state} (better in {verdicts.count('better')}, "
        f"worse in {verdicts.count('worse')} of {len(table)})"
    )


def _grouped(table: list[dict], name: str) -> list[tuple]:
    """[(value of a column, the lines that have it)], by rising value."""
    # Shifts or numbers of steps, the smallest first.
    values = sorted({line[name] for line in table})
    return [(value, [line for line in table if line[name] == value]) for value in values]


def _shares(rows: list[dict]) -> str:
    """The part of each cause of the gain of all, in these rows of order 3."""
    ranked = sorted(ledger(rows), key=lambda bar: -bar["gain"])
    return ", ".join(f"{bar['cause']} {bar['fraction']:.0%}" for bar in ranked)


def _beside(over: dict | None) -> str:
    """What order 2 has of the same causes, as sentences; empty without its rows."""
    if over is None:
        return ""
    ranked = sorted(over["bars"], key=lambda bar: -abs(bar["gain"]))
    each = ", ".join(
        f"{bar['cause']} {report.sig(math.exp(bar['gain']))} "
        f"[{report.sig(math.exp(bar['low']))}, {report.sig(math.exp(bar['high']))}]"
        for bar in ranked
    )
    return (
        f"**{over['common']:.0%}** of that mending, in logarithms, is order 2's too. The error of "
        f"3M over that of 2M goes from {report.sig(over['shipped'])} to "
        f"{report.sig(over['mended'])}; each cause divides that ratio by: {each}."
    )


def claim(plain: list[dict], over: dict | None) -> str:
    """The claim of the figure: the largest cause, and whether order 2 has it too."""
    first = max(ledger(plain), key=lambda bar: bar["gain"])
    text = f"Of 3M's error the {first['cause']} costs most, {first['fraction']:.0%}"
    return f"{text}; {over['common']:.0%} of all that is mended is 2M's too" if over else text


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    third = of_order(rows, 3)
    # The coupled ring would weigh the ring twice.
    plain = [row for row in third if row["field"] != COUPLED]
    over = over_order_2(rows)
    table = by_cell(plain)
    ranked = sorted(ledger(plain), key=lambda bar: -bar["gain"])
    # Causes whose whole interval lies on one side of zero, or on neither.
    harmful = [bar["cause"] for bar in ranked if bar["high"] < 0]
    unclear = [bar["cause"] for bar in ranked if bar["low"] <= 0 <= bar["high"]]
    divides = math.exp(sum(bar["gain"] for bar in ranked))
    # What the causes carry depends on the shift.
    least = min(row["shift"] for row in plain)
    at_one = _shares([row for row in plain if row["shift"] == least])
    by_nfe = "; ".join(
        f"{n} steps: {_orders(own, 'shipped')}, {_orders(own, 'mended')}"
        for n, own in _grouped(table, "nfe")
    )
    # Mending does not help everywhere.
    worse = sum(line["3M mended"] > line["3M shipped"] for line in table)
    names = ", ".join(dict.fromkeys(line["field"] for line in table))
    seeds = len(third[0]["log_squares"][0])
    notes = f"Mending {' and '.join(harmful)} raises the error on average. " if harmful else ""
    if unclear:
        notes += f"Undecided, since the interval holds 0: {', '.join(unclear)}. "
    return report.Section(
        question="What keeps order 3 from paying, and which cause carries how much?",
        expected="The last first-order jump carries most, then the t-uniform grid; the half "
        "weight of 3M costs the order by the book, "
        "but little at these steps, where it damps; labels cost nothing below 50 steps. Mended, "
        "order 3 beats order 2 from about 20 steps on. The combinations at order 2 were added "
        "after the first results.",
        answer=f"Mending all {len(FACTORS)} causes divides the error of DPM++ 3M by "
        f"**{report.sig(divides)}** (geometric mean over {len(plain)} cells). Parts of that gain "
        f"in log error: **{_shares(plain)}**. At shift {least:g} alone: {at_one}. {notes}\n"
        + (f"{_beside(over)}\n" if over else "")
        + f"Error of 3M over that of 2M in the same state, {by_nfe}.",
        figures=(draw_ledger(ranked, over, names, seeds, claim(plain, over)),),
        table={
            "Each cause, all cells": [
                {name: value for name, value in bar.items() if name != "fraction_interval"}
                for bar in ledger(plain)
            ],
            "Each cause, order 3 over order 2": over["bars"] if over else (),
            "Parts of each cause by shift": _by_shift(plain),
            "Errors cell by cell": [_errors(line) for line in by_cell(third)],
            "Gain of each cause cell by cell": [_causes(line) for line in by_cell(third)],
        },
        caveat=f"In {worse} of {len(table)} cells 3M is worse when all is mended. "
        f"{_remainder(third)} {_caveat(table)}",
        command=command,
    )


def _by_shift(rows: list[dict]) -> list[dict]:
    """One line a shift: the part of each cause of the gain of all."""
    return [
        {"shift": shift}
        | {
            bar["cause"]: f"{bar['fraction']:.0%}"
            for bar in ledger([row for row in rows if row["shift"] == shift])
        }
        for shift in sorted({row["shift"] for row in rows})
    ]


def _errors(line: dict) -> dict:
    """The columns of `by_cell` on errors."""
    return {name: value for name, value in line.items() if name not in FACTORS}


def _causes(line: dict) -> dict:
    """The columns of `by_cell` on causes."""
    return {name: line[name] for name in ("field", "shift", "nfe", *FACTORS)}


def _remainder(rows: list[dict]) -> str:
    """What is left when all is mended, against the same ring with straightened paths."""
    table = by_cell(rows)
    # The same cells on the ring with straightened paths.
    straight = {(t["shift"], t["nfe"]): t for t in table if t["field"] == COUPLED}
    pairs = [
        (line, straight[line["shift"], line["nfe"]])
        for line in table
        if line["field"] == COUPLING_OF and (line["shift"], line["nfe"]) in straight
    ]
    if not pairs:
        return ""
    # By what straight paths divide the error, before and after mending.
    shipped, left = (
        geometric_mean(bent[name] / other[name] for bent, other in pairs)
        for name in ("3M shipped", "3M mended")
    )
    if left > 1 + TIE:
        verdict = "curvature is a part of what is left"
    else:
        verdict = "what is left is not the paths' curvature"
    return (
        "Tying noise to data on the ring, which straightens paths, divides what is left of the "
        f"error of 3M when all is mended by {report.sig(left)}, "
        f"and the shipped one by {report.sig(shipped)} (at {pairs[0][0]['nfe']} steps): {verdict}."
    )


def _caveat(table: list[dict]) -> str:
    worst = max(table, key=lambda line: line["3 / 2, mended"])
    shipped = [grids.uniform(line["nfe"], shift=line["shift"]) for line in table]
    # On these grids truncated labels are exact labels.
    whole = sum(np.allclose(thousandths(times), times, atol=1e-9) for times in shipped)
    _, at_least_shift = _grouped(table, "shift")[0]
    gain = geometric_mean(line["3M mended"] / line["3M shipped"] for line in at_least_shift)
    return (
        "Exact first and last steps and the singlestep start cost evaluations that are not "
        "counted: this divides a loss among causes, it "
        f"is no contest. The grid is mended between the same first and last times. In {whole} of "
        f"{len(table)} cells the shipped times are whole "
        "thousandths, so that labels differ only once the grid is mended. "
        f"At the smallest shift alone mending divides the error by {report.sig(1 / gain)}. Mended "
        "3M does "
        f"worst against 2M on {worst['field']}, shift {worst['shift']:g}, {worst['nfe']} steps: "
        f"ratio {report.sig(worst['3 / 2, mended'])}. "
        f"Better and worse are beyond {TIE:.0%} with the whole interval."
    )
