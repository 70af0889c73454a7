"""The summary of the page, one claim a line, and the figure of the README, both from rows."""

from types import ModuleType

from matplotlib.figure import Figure

from experiments import report
from experiments.order import convergence, learned, ledger, nfe, smooth, tolerance

SHOWN = ("Euler", "DPM++ 2M", "DPM++ 3M published", "AB3")


def rows_of(rows: list[dict], module: ModuleType) -> list[dict]:
    """The rows of one question."""
    return [row for row in rows if row["question"] == module.QUESTION]


# ---- numbers


def _ledger(rows: list[dict]) -> list[dict]:
    """The ledger of order 3 without the coupled ring, which serves its remainder only."""
    third = ledger.of_order(rows, 3)
    return ledger.ledger([row for row in third if row["field"] != ledger.COUPLED])


# ---- words


def lead(rows: list[dict]) -> list[str]:
    """The lines of the summary, `report.LINES` at most; a question without rows has none."""
    # In the order in which they stand on the page.
    makers = (
        (nfe, _bashforth),
        (nfe, _dpm),
        (ledger, _why),
        (convergence, _published),
        (learned, _networks),
        (smooth, _clock),
        (tolerance, _tolerance),
    )
    lines = []
    for module, make in makers:
        own = rows_of(rows, module)
        line = make(own, rows) if own else ""
        if line:
            lines.append(line)
    return lines


def _family(own: list[dict], name: str) -> dict | None:
    """The line of a family over all shifts, with the most evaluations that there are."""
    lines = [line for line in nfe.families(own) if line["family"] == name]
    lines = [line for line in lines if line["shift"] == "all"]
    return lines[-1] if lines else None


def _wins(line: dict) -> str:
    return (
        f"with {line['NFE']} evaluations {line['a']} has a lower error than {line['b']} in "
        f"{line['better']} of {line['cells']} cells"
    )


def _bashforth(own: list[dict], rows: list[dict]) -> str:
    """What the third order of Adams-Bashforth is worth, and why."""
    line = _family(own, "Adams-Bashforth")
    if line is None:
        return ""
    if nfe.pays(line):
        return (
            f"**Adams-Bashforth's third order pays**: {_wins(line)}; its last step is no "
            "first-order jump to t = 0."
        )
    return f"**Adams-Bashforth's third order does not pay here**: {_wins(line)}."


def _dpm(own: list[dict], rows: list[dict]) -> str:
    """What the third order of DPM-Solver++ is worth with exact weights."""
    line = _family(own, "DPM-Solver++ multistep, exact weights")
    if line is None:
        return ""
    says = "pays too" if nfe.pays(line) else "does not pay"
    return f"**DPM-Solver++'s third order {says}**: {_wins(line)}."


def _why(own: list[dict], rows: list[dict]) -> str:
    """The largest cause of the error of order 3."""
    first = max(_ledger(own), key=lambda bar: bar["fraction"])
    text = (
        f"**The {first['cause']} costs DPM-Solver++ most**: of what can be mended of the error of "
        f"3M it carries {first['fraction']:.0%}"
    )
    return f"{text}; order 2 loses most of that as well." if _is_common(own) else f"{text}."


def _is_common(own: list[dict]) -> bool:
    """Whether more than half of the gain of mending is order 2's too."""
    over = ledger.over_order_2(own)
    return over is not None and over["common"] > 0.5


def _published(own: list[dict], rows: list[dict]) -> str:
    """The measured order of the published third order."""
    # 2.5 lies between the order by the name and the measured one.
    order = convergence.mean_order(convergence.slopes(own), "DPM++ 3M published, warm start")
    says = "is second order" if order < 2.5 else "is third order"
    return f"**The published third order {says}**: it measures {report.sig(order, 3)}."


def _networks(own: list[dict], rows: list[dict]) -> str:
    """How steep errors fall on networks with the clock of DiT."""
    lines = [line for line in learned.slopes(rows) if line["solver"] == "AB3"]
    if not lines:
        return ""
    # The largest shift; averages over shifts would hide where an order is kept.
    line = lines[-1]
    order = line["order on networks"]
    return (
        f"**On trained networks order is {'kept' if order >= 2 else 'lost'}**: at shift "
        f"{line['shift']:g} the error of AB3 falls with order {report.sig(order)} from "
        f"{line['NFE']} evaluations."
    )


def _clock(own: list[dict], rows: list[dict]) -> str:
    """Whether a slow clock gives the order back."""
    claim = smooth.claim(rows)
    return f"**A slow clock helps**: {claim[0].lower()}{claim[1:]}."


def _tolerance(own: list[dict], rows: list[dict]) -> str:
    """What error control is worth at the public tolerances."""
    public = tolerance.at_public(own)
    worse = sum(line["adaptive is"] == "worse" for line in public)
    return (
        "**atol and rtol act in adaptive sampling only**: at the public defaults it is worse than "
        f"the best fixed plan, chosen in hindsight, in {worse} of {len(public)} cases."
    )


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
    report.log_log(left, drawn, x="nfe", y="rms")
    left.set_title(f"A ring of eight modes, shift {shift:g}, exact field")

    report.bar_ledger(
        # All causes, the largest first.
        right,
        sorted(_ledger(rows_of(rows, ledger)), key=lambda bar: -bar["gain"]),
        label="cause",
        value="fraction",
        xlabel="part of what mending gains, in log error",
        text=lambda fraction: f"{fraction:.0%}",
    )
    right.set_title("What costs DPM-Solver++ 3M its accuracy")
    return fig
