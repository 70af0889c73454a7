"""Claims: the section of the page."""

from experiments import report
from experiments.staleness import draw
from experiments.staleness.claims import rule
from experiments.staleness.claims.figures import figure
from experiments.staleness.claims.numbers import LITTLE, NEARLY, judged, of_claims

RULE = (
    "The rule, which was written down before the table: a claim names a bound. It holds on a "
    "subject where the 95 % intervals lie wholly on its side, that of the RMS over starts and that "
    "of the median. It fails where both lie wholly on the other side, in part where they meet a "
    "weaker bound only, and is undecided in every other case. Over subjects it has the verdict "
    "that all agree on; in part where it holds on one and fails on another; else it is undecided."
)


def counted(verdicts: list[str]) -> str:
    """How often each verdict is given, in words: "3 hold, 1 fails"."""
    plural = {rule.HOLDS: "hold", rule.FAILS: "fail", rule.IN_PART: "hold in part"}
    singular = {rule.HOLDS: "holds", rule.FAILS: "fails", rule.IN_PART: "holds in part"}
    parts = []
    for verdict in rule.VERDICTS:
        count = verdicts.count(verdict)
        names = singular if count == 1 else plural
        if count:
            be = "is" if count == 1 else "are"
            parts.append(f"{count} {names.get(verdict, f'{be} undecided')}")
    return ", ".join(parts)


def sentences(table: list[dict]) -> list[str]:
    """The claims of each verdict, a sentence a verdict."""
    found = of_claims(table)
    lines = []
    for verdict in rule.VERDICTS:
        named = [claim for claim, (given, _) in found.items() if given == verdict]
        if named:
            lines.append(f"**{verdict.capitalize()}**: {'; '.join(named)}.")
    return lines


def listed(table: list[dict]) -> list[dict]:
    """The rows of the page's table: one for each claim and subject."""
    return [
        {
            "claim": row["claim"],
            "subject": row["subject"],
            "starts": row["starts"],
            "training seeds": row["training seeds"],
            "number": row["kind"],
            "value": draw.with_interval(row["value"], row["low"], row["high"]),
            "bound": bound_of(row),
            "verdict": row["verdict"],
        }
        for row in table
    ]


def bound_of(row: dict) -> str:
    """The bound of a row of `judged`, with its side."""
    side = "above" if row["above"] else "below"
    weaker = f", in part {side} {report.sig(row['weaker'])}" if row["weaker"] else ""
    return f"{side} {report.sig(row['bound'])}{weaker}"


def section(rows: list[dict], command: str, configs: dict[str, dict]) -> report.Section | None:
    """The section of the page, or None where no row holds the number of a claim.

    Args:
      rows: of all questions.
      command: that measured them.
      configs: {question: the configuration of its rows}.
    """
    table = judged(rows, configs)
    if not table:
        return None
    pictures = []
    for kind in dict.fromkeys(row["kind"] for row in table):
        own = [row for row in table if row["kind"] == kind]
        verdicts = [verdict for verdict, _ in of_claims(own).values()]
        pictures.append(
            report.picture(
                figure(own),
                f"The {kind} with its 95 % interval for each claim and subject, coloured by the "
                "verdict.",
                title=f"{kind[0].upper()}{kind[1:]}: of {len(verdicts)} claims {counted(verdicts)}",
            )
        )
    return report.Section(
        question="What of the claims that circulate?",
        expected=(
            "That few hold as they stand: staleness saturates, a warm-up by rule spends its steps "
            "where they do not help on every subject, and no solver is immune."
        ),
        answer="\n".join([*sentences(table), RULE]),
        figures=tuple(pictures),
        table={"Every claim on every subject": listed(table)},
        caveat=(
            "A verdict is of these subjects and sizes, and of one training run of each network: "
            "no interval contains the scatter of training. "
            f"Of {len(table)} intervals about one in twenty misses its number. A cost below "
            f"{LITTLE:.0%} counts as none; sqrt(n) counts as right from {NEARLY:.0%} of its growth."
        ),
        command=command,
    )
