"""The claims that circulate about staleness, and the rows that each is held against."""

from typing import Any, NamedTuple

import numpy as np

from experiments import report
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
from experiments.staleness.claims import rule
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


class Claim(NamedTuple):
    """A claim, and how it is judged.

    Attributes:
      text: as it circulates.
      kind: what its number is.
      question: whose rows hold it.
      match: the columns by which the row of a subject is found.
      bound: on whose side the interval must lie.
      above: whether the claim says "more than the bound".
      weaker: the bound of "in part", or None.
      statistics: the prefixes of its columns; each must meet the rule. The first one is shown.
    """

    text: str
    kind: str
    question: str
    match: dict[str, Any]
    bound: float
    above: bool = False
    weaker: float | None = None
    statistics: tuple[str, ...] = OWN


# -- the claims


def claims(rows: list[dict]) -> list[Claim]:
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


def _on_devices(rows: list[dict]) -> list[Claim]:
    parts = [row["devices"] for row in rows] or [2]
    least, most = min(parts), max(parts)
    # What a rule of sqrt(n) expects.
    root = float(np.sqrt(most / least))
    grown = {"attention": "stale", "devices": most}
    piped = {"attention": "pipefusion", "devices": most}
    return [
        Claim(
            f"The error is larger on {most} devices than on {least}",
            GROWTH,
            pipeline.QUESTION,
            grown,
            1.0,
            above=True,
        ),
        Claim(
            f"It grows as sqrt(n): {report.sig(root)} times from {least} to {most}",
            GROWTH,
            pipeline.QUESTION,
            grown,
            NEARLY * root,
            above=True,
        ),
        Claim(
            "Patches in a pipeline have half the error",
            PIPELINE,
            pipeline.QUESTION,
            piped,
            0.5 + LITTLE,
            weaker=1.0,
        ),
    ]


def _on_warmups() -> list[Claim]:
    return [
        Claim(
            f"A warm-up of {count} of {window.STEPS} steps recovers the sample",
            LEFT,
            window.QUESTION,
            {"place": f"warm-up {count}"},
            RECOVERED,
            weaker=1 - LITTLE,
        )
        for count in (window.FEW, window.MANY)
    ]


def _on_pictures(rows: list[dict]) -> list[Claim]:
    pixels = [resolution.side_of(row["subject"]) for row in rows] or [0]
    least, most = min(pixels), max(pixels)
    return [
        Claim(
            f"A picture of {most} pixels degrades less than one of {least}, {grid} grid",
            GROWTH,
            resolution.QUESTION,
            {"subject": f"{most} pixels", "grid": grid},
            1.0,
        )
        for grid in resolution.GRIDS
    ]


def _on_solvers(rows: list[dict]) -> list[Claim]:
    steps = max((row["steps"] for row in rows), default=0)
    faster = {"solver": solvers.NAMED, "steps": steps}
    named = {
        f"DPM-Solver++ 2M strays less from its synchronous run than DDIM, {steps} steps": OWN,
        f"DPM-Solver++ 2M, stale, is nearer to the converged run, {steps} steps": TOTAL,
    }
    return [
        Claim(text, SOLVER, solvers.QUESTION, faster, 1.0, statistics=statistics)
        for text, statistics in named.items()
    ]


def _on_bits() -> list[Claim]:
    # Held keys and values, so that only the bits differ.
    sent = {"devices": subjects.DEVICES, "forecast": 0}
    forms = [*(("plain", bits) for bits in (16, 8, 4)), ("residual", 4)]
    texts = {"plain": "Messages of {} bits cost nothing", "residual": "Residuals of {} bits do not"}
    return [
        Claim(
            texts[form].format(bits),
            BITS,
            precision.QUESTION,
            sent | {"form": form, "bits": bits},
            1 + LITTLE,
        )
        for form, bits in forms
    ]


def _on_forecasts(rows: list[dict]) -> list[Claim]:
    tuned = {
        "forecast": "tuned",
        "correction": forecasts.USUAL,
        "devices": subjects.DEVICES,
        # The common number; the network has finer runs too.
        "steps": min((row["steps"] for row in rows), default=0),
    }
    return [
        Claim(
            f"A tuned forecast strays less than held copies ({sync.split()[1]} synchronous)",
            FORECAST,
            forecasts.QUESTION,
            tuned | {"sync": sync},
            1.0,
        )
        for sync in (forecasts.FIRST, forecasts.WARM)
    ]


def _on_viewers(rows: list[dict]) -> list[Claim]:
    steps = [row["steps"] for row in rows] or [0]
    most = max((row["devices"] for row in rows), default=0)
    return [
        Claim(
            f"A classifier does not see held copies, {most} devices, {count} steps",
            VIEWER,
            viewer.QUESTION,
            {"devices": most, "steps": count, "mode": "held"},
            viewer.LITTLE,
            statistics=("accuracy_lost",),
        )
        for count in sorted({min(steps), max(steps)})
    ]


def _on_loops() -> Claim:
    return Claim(
        f"A loop grows by itself from a push of {GROWS_FROM} on, at any depth and step",
        LOOP,
        threshold.QUESTION,
        {},
        GROWS_FROM,
        statistics=("push",),
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


def _matches(row: dict, claim: Claim) -> bool:
    """Whether a row holds the number of a claim."""
    if row["question"] != claim.question:
        return False
    return all(row[name] == value for name, value in claim.match.items())


def _interval(row: dict, statistic: str) -> rule.Interval:
    return row[f"{statistic}_low"], row[f"{statistic}_high"]


def judged(rows: list[dict], configs: dict[str, dict]) -> list[dict]:
    """A row for each claim and subject that is measured.

    Args:
      rows: of all questions.
      configs: {question: the configuration that measured its rows}.

    Returns:
      [{claim, kind, bound, above, weaker, subject, starts, training seeds, value, low, high,
      verdict}], with the number and the interval of the claim's first statistic.
    """
    table = []
    for claim in claims(rows):
        for row in rows:
            if not _matches(row, claim):
                continue
            shown = claim.statistics[0]
            low, high = _interval(row, shown)
            intervals = [_interval(row, name) for name in claim.statistics]
            table.append(
                {
                    "claim": claim.text,
                    "kind": claim.kind,
                    "bound": claim.bound,
                    "above": claim.above,
                    "weaker": claim.weaker,
                    "subject": subject_of(row),
                    "starts": starts_of(row, configs.get(claim.question, {})),
                    "training seeds": trained_of(row),
                    # A difference has no suffix.
                    "value": row.get(f"{shown}_ratio", row.get(shown)),
                    "low": low,
                    "high": high,
                    "intervals": intervals,
                    "verdict": rule.of_subject(
                        intervals, claim.bound, above=claim.above, weaker=claim.weaker
                    ),
                }
            )
    return [*table, *_safest(rows, configs)]


def _safest(rows: list[dict], configs: dict[str, dict]) -> list[dict]:
    """The claim that a tolerance is the safest policy, for held copies: a ratio with no interval.

    The ratio is of the mean errors over those of the best policy, each on its worst subject.
    """
    own = [row for row in rows if row["question"] == pareto.QUESTION and row["forecast"] == 0]
    worst = {found["policy"]: found[found["worst on"]] for found in pareto.regrets(own)}
    if not {"tolerance", "warm-up"} <= worst.keys():
        return []
    return [
        {
            "claim": "A tolerance is the safest policy: nearest to the best on its worst subject",
            "kind": POLICY,
            "bound": 1.0,
            "above": False,
            "weaker": None,
            "subject": "all subjects",
            "starts": sum(
                starts_of({"subject": name}, configs.get(pareto.QUESTION, {}))
                for name in dict.fromkeys(row["subject"] for row in own)
            ),
            "training seeds": 1,
            "value": worst["tolerance"] / worst["warm-up"],
            "low": None,
            "high": None,
            "intervals": [],
            "verdict": rule.of_subject([], 1.0),
        }
    ]


def of_claims(table: list[dict]) -> dict[str, tuple[str, list[dict]]]:
    """{claim: (its verdict, its rows of `judged`)}."""
    found = {}
    for row in table:
        found.setdefault(row["claim"], []).append(row)
    return {
        claim: (rule.of_claim(row["verdict"] for row in own), own) for claim, own in found.items()
    }
