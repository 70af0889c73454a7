"""The rule by which a claim is judged, written down before the numbers are looked at.

A claim has parts, and each part is a number with its 95 % interval and a bound. A part is judged by
its whole interval:

    holds       the whole interval lies on the side of the bound that the claim names
    fails       the whole interval lies on the other side
    undecided   the interval contains the bound, or is not a number

and the claim by its parts:

    holds       every part holds
    fails       every part fails
    in part     some parts hold, and others do not
    undecided   no part holds, and not all fail

A comparison in which two things change at once has a confounder, and is undecided whatever its
interval. Nothing else enters: `tests/experiments/lab/test_claims.py` holds the words to this rule.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.report import sig

HOLDS, FAILS, IN_PART, UNDECIDED = "holds", "fails", "in part", "undecided"
VERDICTS = (HOLDS, IN_PART, UNDECIDED, FAILS)


class Part(NamedTuple):
    """One number of a claim, against its bound.

    Attributes:
      name: which reading it is, for example "RMS".
      value, low, high: the number and its 95 % interval.
      side: "below", "above" or "within".
      bound: a number; for "within" the pair (least, most).
    """

    name: str
    value: float
    low: float
    high: float
    side: str
    bound: float | tuple[float, float]


class Claim(NamedTuple):
    """A sentence, and what it is held against.

    Attributes:
      text: the claim.
      parts: its numbers.
      subjects: which fields or networks.
      starts: how many initial noises a subject.
      seeds: training seeds of the networks; "–" for exact fields.
      interval: what the intervals are over.
      question: of the experiment, whose rows are read.
      reopen: what would change our mind.
      counts: a clause with counts of cells beside the intervals.
      confounder: what else changes in the comparison.
    """

    text: str
    parts: Sequence[Part]
    subjects: str
    starts: str
    seeds: str
    interval: str
    question: str
    reopen: str
    counts: str = ""
    confounder: str = ""


# ---- the rule


def below(bound: float, low: float, high: float) -> str:
    """Whether a number with the interval (low, high) is below `bound`."""
    if high < bound:
        return HOLDS
    return FAILS if low > bound else UNDECIDED


def above(bound: float, low: float, high: float) -> str:
    """Whether a number with the interval (low, high) is above `bound`."""
    return below(-bound, -high, -low)


def within(bounds: tuple[float, float], low: float, high: float) -> str:
    """Whether a number with the interval (low, high) lies between two bounds."""
    least, most = bounds
    if least <= low and high <= most:
        return HOLDS
    return FAILS if high < least or low > most else UNDECIDED


def judge(part: Part) -> str:
    """The verdict on one part."""
    if math.isnan(part.low) or math.isnan(part.high):
        return UNDECIDED
    # An unknown side is a mistake in the code, and a KeyError.
    rule = {"below": below, "above": above, "within": within}[part.side]
    return rule(part.bound, part.low, part.high)


def together(verdicts: Iterable[str]) -> str:
    """The verdict on a claim from those on its parts."""
    # A single undecided part is enough to keep a claim from holding or failing in full.
    found = set(verdicts)
    if found == {HOLDS} or found == {FAILS}:
        return found.pop()
    return IN_PART if HOLDS in found else UNDECIDED


def verdict(claim: Claim) -> str:
    """The verdict on a claim."""
    # However narrow the interval, it does not say which of the two changes made the difference.
    if claim.confounder:
        return UNDECIDED
    return together(judge(part) for part in claim.parts)


# ---- words


def said(part: Part) -> str:
    """A part as a clause: "RMS 0.53 [0.41, 0.66]"."""
    return f"{part.name} {sig(part.value)} [{sig(part.low)}, {sig(part.high)}]"


def bound_of(claim: Claim) -> str:
    """The bound of a claim's parts in words: "below 1"."""
    # Parts mostly have one bound, which is said once.
    names = []
    for part in claim.parts:
        bounds = part.bound if isinstance(part.bound, tuple) else (part.bound,)
        names.append(f"{part.side} {' and '.join(f'{bound:g}' for bound in bounds)}")
    return ", ".join(dict.fromkeys(names))


def evidence(claim: Claim) -> str:
    """Numbers, bound and counts of a claim, as a sentence without its full stop."""
    text = f"{'; '.join(map(said, claim.parts))} (bound: {bound_of(claim)})"
    if claim.counts:
        text += f"; {claim.counts}"
    if claim.confounder:
        text += f"; confounded: {claim.confounder}"
    return text


def table(claims: Iterable[Claim], command: str = "") -> list[dict]:
    """One line a claim, for a page; `command` measures all rows of the experiment."""
    return [
        {
            "claim": claim.text,
            "verdict": verdict(claim),
            "evidence": evidence(claim),
            "subjects": claim.subjects,
            "starts": claim.starts,
            "training seeds": claim.seeds,
            "interval over": claim.interval,
            "command": f"{command} --config.questions={claim.question}".strip(),
            "what would change our mind": claim.reopen,
        }
        for claim in claims
    ]


def markdown(claims: Iterable[Claim]) -> str:
    """The claims as a table in Markdown, for docs/findings.md."""
    lines = ["| claim | verdict | evidence | what would change our mind |", "|---|---|---|---|"]
    for claim in claims:
        scope = (
            f"{evidence(claim)}. Subjects: {claim.subjects}; starts: {claim.starts}; training "
            f"seeds: {claim.seeds}; interval over {claim.interval}; rows: `{claim.question}`"
        )
        cells = (claim.text, f"**{verdict(claim)}**", scope, claim.reopen)
        # A bar would end the cell.
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
