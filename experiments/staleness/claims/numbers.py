"""The claims that circulate about staleness, and the rows that each is held against.

The rule of the verdicts is that of `experiments.lab.claims`. Every number of a claim is read on
each subject twice, since they may disagree: as the RMS over starts, which rare large errors
rule, and as the median, which they do not touch.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.lab.claims import Claim, Part, judge, together
from experiments.staleness import (
    forecasts,
    loop,
    pareto,
    pipeline,
    precision,
    resolution,
    solvers,
    subjects,
    viewer,
    window,
)
from experiments.staleness.loop import threshold

# The fraction of an error below which a cost counts as none.
LITTLE = 0.05
# The fraction of an error that is left where it is recovered.
RECOVERED = 0.1
# The fraction of its growth from which the rule of sqrt(n) counts as right.
NEARLY = 0.9

# Kinds of claims: each has its own panel, since a ratio of 1 means something else in each.
GROWTH = "error over that of the fewest parts"
LEFT = "error over that of one synchronous step"
PIPELINE = "error of a pipeline over that of displaced patches"
SOLVER = "error of DPM-Solver++ 2M over that of DDIM"
BITS = "error over that of full precision"
FORECAST = "error of the tuned forecast over that of held copies"
VIEWER = "fraction of labels lost"
LOOP = "push from which a loop grows"
POLICY = "worst mean error of tolerances over that of warm-ups"

# The push from which all loops of `loop` grow without a correction, as docs/findings.md once said.
GROWS_FROM = 2.6

# The statistics of a ratio of errors, to the synchronous and to the converged run.
OWN, TOTAL = ("rms", "median"), ("total_rms", "total_median")


# {statistic: its name}
NAMES = {
    "rms": "RMS",
    "median": "median",
    "total_rms": "RMS",
    "total_median": "median",
    "accuracy_lost": "accuracy lost",
    "push": "push",
}
BELOW, ABOVE = "below", "above"


class Asked(NamedTuple):
    """A claim, and the rows in which its numbers stand.

    Attributes:
      text: as it circulates.
      kind: what its number is.
      question: whose rows hold it.
      match: the columns by which the row of a subject is found.
      side, bound: where the whole interval must lie.
      reopen: what would change our mind.
      statistics: the prefixes of its columns; the first one is drawn.
    """

    text: str
    kind: str
    question: str
    match: dict[str, Any]
    side: str
    bound: float
    reopen: str
    statistics: tuple[str, ...] = OWN


# -- the claims


def asked(rows: list[dict]) -> list[Asked]:
    """The claims, for the numbers of devices, steps and bits that the rows have."""
    # {question: its rows}
    of = {}
    for row in rows:
        of.setdefault(row["question"], []).append(row)
    return [
        *_on_devices(of.get(pipeline.QUESTION, [])),
        *_on_warmups(),
        *_on_pictures(of.get(resolution.QUESTION, [])),
        *_on_solvers(of.get(solvers.QUESTION, [])),
        *_on_bits(),
        *_on_forecasts(of.get(forecasts.QUESTION, [])),
        *_on_viewers(of.get(viewer.QUESTION, [])),
        _on_loops(),
    ]


def _on_devices(rows: list[dict]) -> list[Asked]:
    parts = [row["devices"] for row in rows] or [2]
    least, most = min(parts), max(parts)
    # What a rule of sqrt(n) expects.
    root = float(np.sqrt(most / least))
    grown = {"attention": "stale", "devices": most}
    piped = {"attention": "pipefusion", "devices": most}
    return [
        Asked(
            f"The error is larger on {most} devices than on {least}",
            GROWTH,
            pipeline.QUESTION,
            grown,
            ABOVE,
            1.0,
            "a network whose tokens attend within their shard only",
        ),
        Asked(
            f"The error grows as sqrt(n), {report.sig(root)} times from {least} to {most} devices",
            GROWTH,
            pipeline.QUESTION,
            grown,
            ABOVE,
            NEARLY * root,
            "more starts on emoji, whose median is too uncertain, and a larger network",
        ),
        Asked(
            "Patches in a pipeline have half the error of displaced patches",
            PIPELINE,
            pipeline.QUESTION,
            piped,
            BELOW,
            0.5 + LITTLE,
            "more starts on emoji",
        ),
    ]


def _on_warmups() -> list[Asked]:
    return [
        Asked(
            f"A warm-up of {count} of {window.STEPS} steps leaves less than a tenth of the error",
            LEFT,
            window.QUESTION,
            {"place": f"warm-up {count}"},
            BELOW,
            RECOVERED,
            "networks that decide early, as guided ones do",
        )
        for count in (window.FEW, window.MANY)
    ]


def _on_pictures(rows: list[dict]) -> list[Asked]:
    pixels = [resolution.side_of(row["subject"]) for row in rows] or [0]
    least, most = min(pixels), max(pixels)
    return [
        Asked(
            f"A picture of {most} pixels degrades less than one of {least} ({grid} grid)",
            GROWTH,
            resolution.QUESTION,
            {"subject": f"{most} pixels", "grid": grid},
            BELOW,
            1.0,
            "more starts; one network at two sizes in the place of exact fields",
        )
        for grid in resolution.GRIDS
    ]


def _on_solvers(rows: list[dict]) -> list[Asked]:
    steps = max((row["steps"] for row in rows), default=0)
    faster = {"solver": solvers.NAMED, "steps": steps}
    named = {
        f"DPM-Solver++ 2M strays less from its synchronous run than DDIM ({steps} steps)": OWN,
        f"DPM-Solver++ 2M, stale, is nearer to the converged run than DDIM ({steps} steps)": TOTAL,
    }
    return [
        Asked(
            text,
            SOLVER,
            solvers.QUESTION,
            faster,
            BELOW,
            1.0,
            "more starts; other steps, where the table of the page differs",
            statistics,
        )
        for text, statistics in named.items()
    ]


def _on_bits() -> list[Asked]:
    # Held keys and values, so that only the bits differ.
    sent = {"devices": subjects.DEVICES, "forecast": 0}
    forms = [*(("plain", bits) for bits in (16, 8, 4)), ("residual", 4)]
    texts = {"plain": "Messages of {} bits", "residual": "Messages of {} bits that are residuals"}
    return [
        Asked(
            f"{texts[form].format(bits)} cost less than {LITTLE:.0%} of the error",
            BITS,
            precision.QUESTION,
            sent | {"form": form, "bits": bits},
            BELOW,
            1 + LITTLE,
            "networks with outliers among keys, as large ones have",
        )
        for form, bits in forms
    ]


def _on_forecasts(rows: list[dict]) -> list[Asked]:
    tuned = {
        "forecast": "tuned",
        "correction": forecasts.USUAL,
        "devices": subjects.DEVICES,
        # The common number; the network has finer runs too.
        "steps": min((row["steps"] for row in rows), default=0),
    }
    return [
        Asked(
            f"A tuned forecast strays less than held copies ({sync.split()[1]} synchronous)",
            FORECAST,
            forecasts.QUESTION,
            tuned | {"sync": sync},
            BELOW,
            1.0,
            "a network of other depth or data; more starts on the exact field",
        )
        for sync in (forecasts.FIRST, forecasts.WARM)
    ]


def _on_viewers(rows: list[dict]) -> list[Asked]:
    steps = [row["steps"] for row in rows] or [0]
    most = max((row["devices"] for row in rows), default=0)
    return [
        Asked(
            f"Held copies cost less than {100 * viewer.LITTLE:.0f} points of label accuracy "
            f"({most} devices, {count} steps)",
            VIEWER,
            viewer.QUESTION,
            {"devices": most, "steps": count, "mode": "held"},
            BELOW,
            viewer.LITTLE,
            "more starts, networks of colour, a viewer that sees more than the class",
            ("accuracy_lost",),
        )
        for count in sorted({min(steps), max(steps)})
    ]


def _on_loops() -> Asked:
    return Asked(
        f"A loop grows by itself from a push of {GROWS_FROM} on, at any depth and step",
        LOOP,
        threshold.QUESTION,
        {},
        BELOW,
        GROWS_FROM,
        "it is refuted as a law; a theory of the power of depth would replace it",
        ("push",),
    )


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
