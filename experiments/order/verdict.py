"""The page in a few sentences, and the one figure that the README shows: both computed from rows."""

import numpy as np

from experiments import report
from experiments.order import (
    claims,
    clock,
    distribution,
    grid_choice,
    guided,
    learned,
    ledger,
    nfe,
    smooth,
    tolerance,
)

SHOWN = ("Euler", "DPM++ 2M", "DPM++ 3M published", "AB3")


def of(rows, module):
    """The rows of one question."""
    return [row for row in rows if row["question"] == module.QUESTION]


def lead(rows):
    """Paragraphs; a question without rows is left out."""
    found = [
        (nfe, _when), (ledger, _why), (claims, _code), (distribution, _detail), (guided, _guided), (learned, _networks),
        (tolerance, _tolerance), (grid_choice, _advice),
    ]  # fmt: skip
    return [say(of(rows, module), rows) for module, say in found if of(rows, module)]


def _when(own, rows):
    few = nfe.tally(own, "DPM++ 3M published", "DPM++ 2M", most=nfe.FEW)
    late = nfe.tally(own, "DPM++ 3M published", "DPM++ 2M", least=nfe.FEW + 1)
    euler = nfe.tally(own, "DPM++ 2M", "Euler", most=nfe.FEW)
    rates = [found["better"] / max(sum(found.values()), 1) for found in (few, late)]
    name = (
        "Order pays late" if rates[1] > rates[0] else "More evaluations do not make order pay here"
    )
    return (
        f"**{name}.** With at most {nfe.FEW} evaluations the third order of DPM-Solver++ beats the second in {few['better']} of "
        f"{sum(few.values())} cells, loses in {few['worse']} and ties in {few['tie']}; above {nfe.FEW} it wins {late['better']} of {sum(late.values())} "
        f"and loses {late['worse']}. The second order loses to Euler in {euler['worse']} of {sum(euler.values())} cells at few evaluations. All on "
        "exact fields with a correct solver: no network is needed to see it."
    )


def _why(own, rows):
    bars = sorted(
        ledger.ledger([r for r in own if r["field"] != ledger.COUPLED]), key=lambda b: -b["share"]
    )
    first, second = bars[:2]
    weight = next(b for b in bars if b["cause"] == "weight")
    return (
        f"**The {first['cause']} and the {second['cause']} decide**: of what order 3 loses, they carry {first['share']:.0%} and {second['share']:.0%}. "
        f"The half weight that makes the published order 3 second order carries {weight['share']:.0%}"
        + (
            ", which these samples do not tell from nothing."
            if weight["low"] <= 0 <= weight["high"]
            else "."
        )
    )


def _code(own, rows):
    slopes = claims.slopes(own)

    def order(name):
        return report.sig(np.mean([r["measured"] for r in slopes if r["solver"] == name]), 3)

    return (
        f"**The published third order is second order**: it measures {order('DPM++ 3M published, warm start')}; with the right weight and a singlestep "
        f"start it measures {order('DPM++ 3M exact, warm start')}, started cold {order('DPM++ 3M exact, cold start')}."
    )


def _detail(own, rows):
    width = {(r["grid"], s["solver"]): report.sig(s["spread"]) for r in own for s in r["solvers"]}
    return (
        f"**What it looks like**: on the ring with shift 3 and {distribution.NFE} evaluations 2M makes modes {width['shift 3', 'DPM++ 2M']} times as wide as "
        f"they are and Euler {width['shift 3', 'Euler']}: the jump from the last time to 0 averages detail away, and Euler's own error happens to put "
        "some back."
    )


def _guided(own, rows):
    table = guided.by_scale(own)

    def worse(scale):
        cells = [p for r in own if r["part"] == "error" and r["scale"] == scale for p in r["pairs"]]
        verdicts = [p["rms_verdict"] for p in cells if (p["a"], p["b"]) == ("DPM++ 2M", "Euler")]
        return f"{verdicts.count('worse')} of {len(verdicts)}"

    least, most = table[0], table[-1]
    return (
        f"**Guidance bends paths**: from scale {least['scale']:g} to {most['scale']:g} their acceleration goes from {report.sig(least['acceleration'])} to "
        f"{report.sig(most['acceleration'])}, and the cells where 2M is worse than Euler from {worse(least['scale'])} to {worse(most['scale'])}."
    )


def _networks(own, rows):
    names = ", ".join(dict.fromkeys(r["model"] for r in own))
    rough = of(rows, clock)
    told = f" {smooth.verdict(rows)}" if of(rows, smooth) else ""
    return (
        f"**On trained networks** ({names}): {learned.steep(rows)}"
        + (f" {clock.verdict(rough)}" if rough else "")
        + told
    )


def _tolerance(own, rows):
    public = tolerance.at_public(own)
    worse = sum(t["adaptive is"] == "worse" for t in public)
    return (
        f"**atol and rtol act in adaptive sampling only**, and at the public defaults {tolerance.PUBLIC} it is worse than the best fixed plan of equal "
        f"NFE in {worse} of {len(public)} cases."
    )


def _advice(own, rows):
    spread = grid_choice.spreads(grid_choice.flat(own, "matrix"))
    over_grids, over_solvers = (
        float(np.exp(np.mean(np.log(spread[k][:, 1])))) for k in ("grid", "solver")
    )
    top = (
        ", ".join(f"{name} ({n})" for name, n in nfe.winners(of(rows, nfe))[:3])
        if of(rows, nfe)
        else ""
    )
    return (
        f"**What to change first**: from the best to the worst grid the error grows {report.sig(over_grids)} times, from the best to the worst solver "
        f"{report.sig(over_solvers)} times."
        + (f" The solvers that most often have the lowest error: {top}." if top else "")
    )


def figure(rows):
    """Two panels: error against NFE on the ring with shift 3 (or the largest there is), and the ledger."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = fig.subplots(1, 2)
    shift = (
        3.0
        if any(r["shift"] == 3.0 for r in of(rows, nfe))
        else max(r["shift"] for r in of(rows, nfe))
    )
    solvers = nfe.flat(of(rows, nfe), "solvers")
    own = [
        r for r in solvers if r["field"] == "ring" and r["shift"] == shift and r["solver"] in SHOWN
    ]
    report.log_log(
        left, own, x="nfe", y="rms", xlabel="evaluations (NFE)", ylabel="relative RMS error"
    )
    left.set_title(f"A ring of eight modes, shift {shift:g}, exact field")
    bars = sorted(
        ledger.ledger([r for r in of(rows, ledger) if r["field"] != ledger.COUPLED]),
        key=lambda b: -b["gain"],
    )
    report.bar_ledger(
        right,
        bars,
        label="cause",
        value="share",
        xlabel="share of what order 3 loses",
        text=lambda share: f"{share:.0%}",
    )
    right.set_title("What keeps order 3 from paying")
    return fig
