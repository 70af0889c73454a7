"""The claims that circulate about staleness, each with its bound and the rows that decide it."""

from typing import Any, NamedTuple

import numpy as np

from experiments import report
from experiments.staleness import (
    forecasts,
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
SIZE = "error of the largest pictures over that of the smallest"
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
            SIZE,
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
        f"DPM-Solver++ 2M ends nearer to its synchronous run than DDIM ({steps} steps)": OWN,
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
            f"A tuned forecast ends nearer than held copies ({sync.split()[1]} synchronous)",
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
            "more starts, larger networks, a classifier of more than the class",
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
