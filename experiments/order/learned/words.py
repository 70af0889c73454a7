"""The section of the page on networks."""

import numpy as np

from experiments import report
from experiments.order import nfe
from experiments.order.learned.figures import draw_errors, draw_ratios
from experiments.order.learned.numbers import (
    PAIRS,
    QUESTION,
    agreement,
    beside,
    dial,
    rho_tells,
    slopes,
    winners,
)


def _sig(value: float) -> str:
    """Two digits, or a dash where there is nothing to set beside."""
    return report.sig(value) if np.isfinite(value) else "–"


def steep(rows: list[dict]) -> str:
    """How steep errors fall late, as a sentence; empty where there is one number of evaluations."""
    # One solver of each order, and AB3, which ends without a jump.
    shown = ("Euler", "DPM++ 2M", "DPM++ 3M exact", "AB3")
    found = [line for line in slopes(rows) if line["solver"] in shown]
    if not found:
        return ""
    parts = []
    for shift in dict.fromkeys(line["shift"] for line in found):
        own = [line for line in found if line["shift"] == shift]
        each = ", ".join(f"{line['solver']} **{_sig(line['order on networks'])}**" for line in own)
        exact = ", ".join(_sig(line["order on exact fields"]) for line in own)
        parts.append(f"at shift {shift:g} {each} (on exact fields {exact})")
    return (
        f"From {found[0]['NFE']} evaluations errors on networks fall with these orders: "
        f"{'; '.join(parts)}."
    )


def claim(rows: list[dict]) -> str:
    """The claim of the figure: how steep the error of AB3 falls on networks and on exact fields."""
    lines = [line for line in slopes(rows) if line["solver"] == "AB3"]
    if not lines:
        return "Errors on a network beside those on the exact field of its data"
    # The largest shift, which is drawn.
    found, exact = (_sig(lines[-1][f"order on {where}"]) for where in ("networks", "exact fields"))
    return (
        f"At shift {lines[-1]['shift']:g} AB3 falls with order {found} on networks and {exact} on "
        "exact fields"
    )


def answer(rows: list[dict]) -> str:
    """How steep errors fall, counts without guidance, and how often both answers agree."""
    table = beside(rows)
    same, opposite, _ = agreement(table)
    return (
        f"{steep(rows)}\nOver all pairs of solvers, guidance scales and ranges of evaluations the "
        "mean ratios on networks and on exact fields point the same way in "
        f"{same} of {len(table)} and opposite ways in {opposite}; in the rest one is a draw within "
        "2 %, or missing."
    ).strip()


def _bend(line: dict) -> str:
    """The shape of the paths of one network, and what the orders are worth on them."""
    return (
        f"{line['model']} {report.sig(line['straightness'])}, {report.sig(line['acceleration'])} "
        f"and {report.sig(line['smoothness'])}; 2M over Euler "
        f"{report.sig(line['DPM++ 2M over Euler'])}, 3M over 2M "
        f"{report.sig(line['DPM++ 3M exact over DPM++ 2M'])}"
    )


# The columns of the two tables on networks.
PATH = ("length", "straightness", "acceleration", "curvature", "smoothness", "size", "doubling")
WORTH = (
    *(f"{a} over {b}" for a, b in PAIRS),
    *(f"worse: {a}" for a, _ in PAIRS),
    "cells",
)


def _some(line: dict, names: tuple[str, ...]) -> dict:
    return {name: line[name] for name in ("model", "scale", *names)}


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page, from this question's rows and those of `nfe` and `guided`."""
    own = [row for row in rows if row["question"] == QUESTION]
    errors = [row for row in own if row["part"] == "error"]
    exact = [row for row in rows if row["question"] == nfe.QUESTION]
    # One line a network and scale.
    subjects = dial(own)
    bends = "; ".join(_bend(line) for line in subjects if line["scale"] == 1)

    # How well the free score of a run ranks the cells of networks.
    value, low, high, lost, won = rho_tells(own)
    if np.isfinite(value):
        tells = f"AUC **{report.sig(value)}** [{report.sig(low)}, {report.sig(high)}]"
    else:
        tells = "nothing to tell"
    # Who most often has the lowest error of a cell.
    most_often = ", ".join(f"{name} {count}" for name, count in winners(errors)[:4])

    # Rounding and the reference must lie well below the smallest error.
    smallest = min(line["rms"] for row in errors for line in row["solvers"])
    floor = max(line["float32"] for line in subjects if line["float32"] is not None)
    moved = max(line["doubling"] for line in subjects)
    return report.Section(
        question="Does the answer on exact fields hold on networks?",
        expected="The orders rank as on exact fields, with the crossovers shifted by guidance; "
        "straighter paths (optimal transport, reflow) leave less to "
        "gain from order. A network's field is smoother than the exact field of its data, so "
        "higher orders pay earlier.",
        answer=f"{answer(rows)} The lowest error of a cell is reached by: {most_often}.\n"
        "Straightness, acceleration and smoothness (2 where a step of 1/40 resolves the "
        f"velocity) without guidance: {bends}. Whether straighter paths leave less to gain is "
        "**undecided**: the networks with straighter paths are also rougher in time.\n"
        "rho_3, which is free of cost, on whether 3M exact loses to 2M "
        f"({lost} lost, {won} won): {tells}.",
        figures=(draw_errors(errors, exact, claim(rows)), draw_ratios(errors)),
        table={
            "Pairs on exact fields and on networks": beside(rows),
            "Orders from the two largest numbers of evaluations": slopes(rows),
            "Paths of each network": [_some(line, PATH) for line in subjects],
            "What orders are worth on each network": [_some(line, WORTH) for line in subjects],
        },
        caveat=f"{own[0]['starts']} starts a cell on networks and more on exact fields, so that "
        "more cells of networks are undecided: the ratios do not depend on that. The fields "
        "differ: without guidance they are all of the exact matrix, with it three mixtures. Each "
        "network has one training seed. A guided evaluation is two of a network. The truth is each "
        "network's own ODE, which doubling the steps of its reference moved by at most "
        f"{report.sig(moved)}; float32 moves "
        f"endpoints by at most {report.sig(floor)}; the smallest error in "
        f"these cells is {report.sig(smallest)}.",
        command=command,
    )
