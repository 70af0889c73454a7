"""The beginning of the page in a few sentences, and the figure of the README, both from rows."""

from types import ModuleType

from matplotlib.figure import Figure

from experiments import report
from experiments.lab.statistics import geometric_mean
from experiments.order import (
    clock,
    convergence,
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


def rows_of(rows: list[dict], module: ModuleType) -> list[dict]:
    """The rows of one question."""
    return [row for row in rows if row["question"] == module.QUESTION]


# ---- numbers


def _ledger(rows: list[dict]) -> list[dict]:
    """The ledger without the coupled ring, which serves its remainder only."""
    third = ledger.of_order(rows, 3)
    return ledger.ledger([row for row in third if row["field"] != ledger.COUPLED])


# ---- words


def lead(rows: list[dict]) -> list[str]:
    """Paragraphs; a question without rows is left out."""
    # In the order in which they stand on the page.
    paragraphs = (
        (nfe, _when),
        (ledger, _why),
        (convergence, _code),
        (distribution, _detail),
        (guided, _guided),
        (learned, _networks),
        (tolerance, _tolerance),
        (grid_choice, _advice),
    )
    return [
        paragraph(rows_of(rows, module), rows)
        for module, paragraph in paragraphs
        if rows_of(rows, module)
    ]


def _when(own: list[dict], rows: list[dict]) -> str:
    """At how many evaluations order pays."""
    # Cells in which the published third order wins, at few evaluations and at more.
    few = nfe.tally(own, "DPM++ 3M published", "DPM++ 2M", most=nfe.FEW)
    late = nfe.tally(own, "DPM++ 3M published", "DPM++ 2M", least=nfe.FEW + 1)
    euler = nfe.tally(own, "DPM++ 2M", "Euler", most=nfe.FEW)
    # The headline depends on where order pays more often.
    rate_few, rate_late = (found["better"] / max(sum(found.values()), 1) for found in (few, late))
    if rate_late > rate_few:
        name = "Order pays late"
    else:
        name = "More evaluations do not make order pay here"
    return (
        f"**{name}.** With at most {nfe.FEW} evaluations the third order of DPM-Solver++ beats "
        f"the second in {few['better']} of "
        f"{sum(few.values())} cells, loses in {few['worse']} and ties in {few['tie']}; above "
        f"{nfe.FEW} it wins {late['better']} of {sum(late.values())} "
        f"and loses {late['worse']}. The second order loses to Euler in {euler['worse']} of "
        f"{sum(euler.values())} cells at few evaluations. All on "
        "exact fields with a correct solver: no network is needed to see it."
    )


def _why(own: list[dict], rows: list[dict]) -> str:
    """Which causes keep order 3 from paying."""
    # The causes by the part of the loss that they carry.
    bars = sorted(_ledger(own), key=lambda bar: -bar["fraction"])
    first, second = bars[:2]
    weight = next(bar for bar in bars if bar["cause"] == "weight")
    unclear = weight["low"] <= 0 <= weight["high"]
    return (
        f"**The {first['cause']} and the {second['cause']} decide**: of what order 3 loses, they "
        f"carry {first['fraction']:.0%} and {second['fraction']:.0%}. "
        "The half weight that makes the published order 3 second order carries "
        f"{weight['fraction']:.0%}"
        f"{', which these samples do not tell from nothing.' if unclear else '.'}"
    )


def _code(own: list[dict], rows: list[dict]) -> str:
    """The measured order of the published third order."""
    table = convergence.slopes(own)

    def order(name: str) -> str:
        return report.sig(convergence.mean_order(table, name), 3)

    return (
        "**The published third order is second order**: it measures "
        f"{order('DPM++ 3M published, warm start')}; with the right weight and a singlestep "
        f"start it measures {order('DPM++ 3M exact, warm start')}, started cold "
        f"{order('DPM++ 3M exact, cold start')}."
    )


def _detail(own: list[dict], rows: list[dict]) -> str:
    """What the last jump does to samples."""
    # Widths of modes relative to the truth.
    width = {
        (row["grid"], line["solver"]): report.sig(line["spread"])
        for row in own
        for line in row["solvers"]
    }
    return (
        f"**What it looks like**: on the ring with shift 3 and {distribution.NFE} evaluations 2M "
        f"makes modes {width['shift 3', 'DPM++ 2M']} times as wide as "
        f"they are and Euler {width['shift 3', 'Euler']}: the jump from the last time to 0 "
        "averages detail away, and Euler's own error happens to put "
        "some back."
    )


def _guided(own: list[dict], rows: list[dict]) -> str:
    """What guidance does to paths and to order."""
    table = guided.by_scale(own)
    # The ends of the guidance scales.
    least, most = table[0], table[-1]

    def worse(scale: float) -> str:
        cells = [row for row in own if row["part"] == "error" and row["scale"] == scale]
        verdicts = guided.rms_verdicts(cells, ("DPM++ 2M", "Euler"))
        return f"{verdicts.count('worse')} of {len(verdicts)}"

    return (
        f"**Guidance bends paths**: from scale {least['scale']:g} to {most['scale']:g} their "
        f"acceleration goes from {report.sig(least['acceleration'])} to "
        f"{report.sig(most['acceleration'])}, and the cells where 2M is worse than Euler from "
        f"{worse(least['scale'])} to {worse(most['scale'])}."
    )


def _networks(own: list[dict], rows: list[dict]) -> str:
    """The answer on networks, and why."""
    names = ", ".join(dict.fromkeys(row["model"] for row in own))
    text = f"**On trained networks** ({names}): {learned.steep(rows)}"
    # Why, in the time that the network receives.
    if rows_of(rows, clock):
        text += f" {clock.answer(rows_of(rows, clock))}"
    # And whether a smooth time mends it.
    if rows_of(rows, smooth):
        text += f" {smooth.answer(rows)}"
    return text


def _tolerance(own: list[dict], rows: list[dict]) -> str:
    """What atol and rtol do."""
    # One line a field and method.
    public = tolerance.at_public(own)
    worse = sum(line["adaptive is"] == "worse" for line in public)
    return (
        "**atol and rtol act in adaptive sampling only**, and at the public defaults "
        f"{tolerance.PUBLIC} it is worse than the best fixed plan of equal "
        f"NFE in {worse} of {len(public)} cases."
    )


def _advice(own: list[dict], rows: list[dict]) -> str:
    """What to change first, the grid or the solver."""
    # Worst over best: over grids with the solver fixed, and the other way round.
    spread = grid_choice.spreads(grid_choice.flat(own, "matrix"))
    over_grids, over_solvers = (geometric_mean(spread[k][:, 1]) for k in ("grid", "solver"))
    text = (
        "**What to change first**: from the best to the worst grid the error grows "
        f"{report.sig(over_grids)} times, from the best to the worst solver "
        f"{report.sig(over_solvers)} times."
    )
    # The solvers with the most cells.
    most_often = nfe.winners(rows_of(rows, nfe))[:3]
    if most_often:
        top = ", ".join(f"{name} ({n})" for name, n in most_often)
        text += f" The solvers that most often have the lowest error: {top}."
    return text


# ---- figures


def figure(rows: list[dict]) -> Figure:
    """Two panels: error against NFE on the ring, and the ledger.

    The ring has shift 3, or the largest shift there is.
    """
    fig = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = fig.subplots(1, 2)

    own = rows_of(rows, nfe)
    shifts = {row["shift"] for row in own}
    shift = 3.0 if 3.0 in shifts else max(shifts)
    drawn = [
        line
        for line in nfe.flat(own, "solvers")
        if (line["field"], line["shift"]) == ("ring", shift) and line["solver"] in SHOWN
    ]
    report.log_log(
        left, drawn, x="nfe", y="rms", xlabel="evaluations (NFE)", ylabel="relative RMS error"
    )
    left.set_title(f"A ring of eight modes, shift {shift:g}, exact field")

    report.bar_ledger(
        # All causes, the largest first.
        right,
        sorted(_ledger(rows_of(rows, ledger)), key=lambda bar: -bar["gain"]),
        label="cause",
        value="fraction",
        xlabel="share of what order 3 loses",
        text=lambda fraction: f"{fraction:.0%}",
    )
    right.set_title("What keeps order 3 from paying")
    return fig
