"""What the rows say of each claim, on each subject, and the verdict.

The rule of the verdicts is that of `experiments.lab.claims`. Every number of a claim is read on
each subject twice, since the two may disagree: as the RMS over starts, which rare large errors
rule, and as the median, which they do not touch.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from experiments.lab.claims import Claim, Part, judge, together
from experiments.staleness import loop, pareto, subjects
from experiments.staleness.claims.asked import BELOW, LOOP, POLICY, Asked, asked
from experiments.staleness.loop import threshold

# {statistic: its name}
NAMES = {
    "rms": "RMS",
    "median": "median",
    "total_rms": "RMS",
    "total_median": "median",
    "accuracy_lost": "accuracy lost",
    "push": "push",
}

# -- numbers


def subject_of(row: dict) -> str:
    """The subject's name on the page, or the network's own where several are measured."""
    if row["question"] == threshold.QUESTION:
        return f"{row['network']}, {row['layers']} stale layers, {row['steps']} steps"
    return subjects.NAMES[row["subject"]] if not row.get("network") else row["network"]


def starts_of(row: dict, config: dict) -> int:
    """How many starts a row was measured from, by the configuration that measured it."""
    if "starts" in row:
        return row["starts"]
    if row.get("question") == threshold.QUESTION:
        return loop.SAMPLES
    name = row["subject"]
    kind = "pixel" if name.endswith("pixels") else name.removesuffix("-smooth")
    return config["seeds"] * config[f"compared_{kind}_starts"]


def trained_of(row: dict) -> int:
    """From how many training seeds the networks of a row come; 0 for an exact field."""
    return 1 if row.get("network") or row["subject"] in subjects.NETWORKS else 0


def _matches(row: dict, claim: Asked) -> bool:
    """Whether a row holds the number of a claim."""
    if row["question"] != claim.question:
        return False
    return all(row[name] == value for name, value in claim.match.items())


def _part(row: dict, statistic: str, claim: Asked) -> Part:
    """The number of a row; a ratio has a suffix, a difference has none."""
    return Part(
        name=NAMES[statistic],
        value=row.get(f"{statistic}_ratio", row.get(statistic)),
        low=row[f"{statistic}_low"],
        high=row[f"{statistic}_high"],
        side=claim.side,
        bound=claim.bound,
    )


class Reading(NamedTuple):
    """What one subject says of a claim.

    Attributes:
      claim: what was asked.
      subject: its name on the page.
      starts: how many.
      trained: from how many training seeds.
      parts: a `Part` for each statistic.
    """

    claim: Asked
    subject: str
    starts: int
    trained: int
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> str:
        """The verdict of this subject alone."""
        return together(map(judge, self.parts))


def readings(rows: list[dict], configs: dict[str, dict]) -> list[Reading]:
    """A `Reading` for each claim and subject that is measured.

    Args:
      rows: of all questions.
      configs: {question: the configuration that measured its rows}.
    """
    found = [
        Reading(
            claim=claim,
            subject=subject_of(row),
            starts=starts_of(row, configs.get(claim.question, {})),
            trained=trained_of(row),
            parts=tuple(_part(row, statistic, claim) for statistic in claim.statistics),
        )
        for claim in asked(rows)
        for row in rows
        if _matches(row, claim)
    ]
    return [*found, *_safest(rows, configs)]


def _safest(rows: list[dict], configs: dict[str, dict]) -> list[Reading]:
    """The claim that a tolerance is the safest policy, for held copies: a ratio with no interval.

    The ratio is of the mean errors over those of the best policy, each on its worst subject.
    """
    own = [row for row in rows if row["question"] == pareto.QUESTION and row["forecast"] == 0]
    worst = {found["policy"]: found[found["worst on"]] for found in pareto.regrets(own)}
    if not {"tolerance", "warm-up"} <= worst.keys():
        return []
    claim = Asked(
        "Of all policies a tolerance is nearest to the best one on its worst subject",
        POLICY,
        pareto.QUESTION,
        {},
        BELOW,
        1.0,
        "an interval: the kept rows hold errors of single policies, and not of their means",
        ("mean",),
    )
    names = dict.fromkeys(row["subject"] for row in own)
    config = configs.get(pareto.QUESTION, {})
    ratio = worst["tolerance"] / worst["warm-up"]
    part = Part("ratio of means", ratio, np.nan, np.nan, claim.side, claim.bound)
    starts = sum(starts_of({"subject": name}, config) for name in names)
    return [Reading(claim, "all subjects", starts, 1, (part,))]


def of_claims(found: list[Reading]) -> dict[str, list[Reading]]:
    """{text of a claim: its readings}."""
    table = {}
    for reading in found:
        table.setdefault(reading.claim.text, []).append(reading)
    return table


def verdict_of(found: list[Reading]) -> str:
    """The verdict of a claim from its readings on all subjects."""
    return together(judge(part) for reading in found for part in reading.parts)


def listed(found: list[Reading]) -> list[Claim]:
    """The claims as `experiments.lab.claims` writes them, each with all its subjects."""
    claims = []
    for text, own in of_claims(found).items():
        first = own[0].claim
        # A bisection leaves a bracket, and not an interval over starts.
        over = "bisection" if first.kind == LOOP else "seeds and starts"
        claims.append(
            Claim(
                text=text,
                parts=[
                    part._replace(name=f"{reading.subject} {part.name}")
                    for reading in own
                    for part in reading.parts
                ],
                subjects=", ".join(dict.fromkeys(reading.subject for reading in own)),
                starts=_joined(reading.starts for reading in own),
                seeds=_joined(reading.trained or "–" for reading in own),
                interval="none" if first.kind == POLICY else over,
                question=first.question,
                reopen=first.reopen,
            )
        )
    return claims


def _joined(values: Iterable[Any]) -> str:
    """Different values in their order: "80, 25, 20"."""
    return ", ".join(dict.fromkeys(map(str, values)))
