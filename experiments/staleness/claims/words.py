"""Claims: the section of the page."""

from experiments import report
from experiments.lab.claims import FAILS, HOLDS, IN_PART, VERDICTS, bound_of
from experiments.staleness import draw
from experiments.staleness.claims.asked import LITTLE, NEARLY
from experiments.staleness.claims.figures import figure
from experiments.staleness.claims.numbers import (
    Reading,
    listed,
    of_claims,
    readings,
    verdict_of,
)

RULE = (
    "The rule, which is the same on all pages: a claim names a bound, and every number of it is "
    "judged by its whole 95 % interval, on each subject by the RMS over starts and by the median. "
    "A claim holds where all lie on its side of the bound, fails where all lie on the other side, "
    "holds in part where some do, and is undecided in every other case."
)


def counted(verdicts: list[str]) -> str:
    """How often each verdict is given, in words: "3 hold, 1 fails"."""
    names = {
        HOLDS: ("holds", "hold"),
        FAILS: ("fails", "fail"),
        IN_PART: ("holds in part", "hold in part"),
    }
    parts = []
    for verdict in VERDICTS:
        count = verdicts.count(verdict)
        one, several = names.get(verdict, ("is undecided", "are undecided"))
        if count:
            parts.append(f"{count} {one if count == 1 else several}")
    return ", ".join(parts)


def claims_of(verdicts: list[str]) -> str:
    """What became of the claims of one kind, in words."""
    if len(verdicts) == 1:
        return f"the claim {counted(verdicts).removeprefix('1 ')}"
    return f"of {len(verdicts)} claims {counted(verdicts)}"


def sentences(found: list[Reading]) -> list[str]:
    """The claims of each verdict, a sentence a verdict."""
    verdicts = {text: verdict_of(own) for text, own in of_claims(found).items()}
    lines = []
    for verdict in VERDICTS:
        named = [text for text, given in verdicts.items() if given == verdict]
        if named:
            lines.append(f"**{verdict.capitalize()}**: {'; '.join(named)}.")
    return lines


def _caption(found: list[Reading]) -> str:
    """What the marks are, where there are two for each subject."""
    if max(len(reading.parts) for reading in found) == 1:
        return ""
    return "Filled, with its number: by the RMS over starts; hollow: by the median."


def _table(found: list[Reading]) -> list[dict]:
    """One row for each claim and subject."""
    bounds = {claim.text: bound_of(claim) for claim in listed(found)}
    return [
        {
            "claim": reading.claim.text,
            "subject": reading.subject,
            "starts": reading.starts,
            "training seeds": reading.trained or "–",
            "numbers": "; ".join(
                f"{part.name} {draw.with_interval(part.value, part.low, part.high)}"
                for part in reading.parts
            ),
            "bound": bounds[reading.claim.text],
            "verdict": reading.verdict,
        }
        for reading in found
    ]


def section(rows: list[dict], command: str, configs: dict[str, dict]) -> report.Section | None:
    """The section of the page, or None where no row holds the number of a claim.

    Args:
      rows: of all questions.
      command: that measured them.
      configs: {question: the configuration of its rows}.
    """
    found = readings(rows, configs)
    if not found:
        return None
    pictures = []
    for kind in dict.fromkeys(reading.claim.kind for reading in found):
        own = [reading for reading in found if reading.claim.kind == kind]
        verdicts = [verdict_of(mine) for mine in of_claims(own).values()]
        # What the marks are is said once.
        caption = "" if pictures else _caption(own)
        pictures.append(
            report.picture(
                figure(own),
                f"The {kind} with its 95 % interval for each claim and subject, coloured by the "
                "verdict.",
                caption,
                title=f"{kind[0].upper()}{kind[1:]}: {claims_of(verdicts)}",
            )
        )
    count = sum(len(reading.parts) for reading in found)
    return report.Section(
        question="What of the claims that circulate?",
        expected=(
            "That few hold as they stand: staleness saturates, a warm-up by rule spends its steps "
            "where they do not help on every subject, and no solver is immune."
        ),
        answer="\n".join([*sentences(found), RULE]),
        figures=tuple(pictures),
        table={"Every claim on every subject": _table(found)},
        caveat=(
            "A verdict is of these subjects and sizes, and of one training run of each network: "
            f"no interval contains the scatter of training. Of {count} intervals about one in "
            f"twenty misses its number. sqrt(n) counts as right from "
            f"{NEARLY:.0%} of its growth, and a cost below {LITTLE:.0%} counts as none."
        ),
        command=command,
    )
