"""The claims that circulate about staleness, each with a number, its interval and a verdict."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import (
    forecasts,
    pipeline,
    precision,
    resolution,
    solvers,
    subjects,
    window,
    words,
)

# The fraction of an error below which a cost counts as none.
LITTLE = 0.05
# Of an error: what is left where it is recovered, and from where on nothing is.
RECOVERED, NOT_RECOVERED = 0.1, 0.5
# The fraction of its growth from which the rule of sqrt(n) is taken to hold.
NEARLY = 0.9
# Of the figure.
LIMITS = 0.02, 20
COLOURS = {
    "holds": report.GREEN,
    "fails": report.RED,
    "in part": report.AMBER,
    "undecided": report.GREY,
}

# (low, high) of a ratio's interval -> a verdict.
Judge = Callable[[float, float], str]


class Claim(NamedTuple):
    """A claim, and how it is judged.

    Attributes:
      text: as it circulates.
      number: what the number is.
      question: whose rows hold it.
      match: the columns by which the row of a subject is found.
      judge: the verdict of an interval.
      kind: which ratio of the row: "rms" or "total_rms".
    """

    text: str
    number: str
    question: str
    match: dict[str, Any]
    judge: Judge
    kind: str = "rms"


# -- verdicts


def below(least: float, low: float, high: float) -> str:
    """Whether a ratio is less than `least`, for all that its interval shows."""
    if high < least:
        return "holds"
    return "fails" if low >= least else "undecided"


def above(least: float, low: float, high: float) -> str:
    """Whether a ratio is more than `least`."""
    opposite = {"holds": "fails", "fails": "holds"}
    return opposite.get(below(least, low, high), "undecided")


def free(low: float, high: float) -> str:
    """Whether a ratio is 1 but for `LITTLE`."""
    return below(1 + LITTLE, low, high)


def recovers(low: float, high: float) -> str:
    """Whether what is left of an error is nothing much, a part of it, or all."""
    if high < RECOVERED:
        return "holds"
    if high < 1 - LITTLE:
        return "in part"
    return "fails" if low > NOT_RECOVERED else "undecided"


def _less_than(least: float) -> Judge:
    return functools.partial(below, least)


def _more_than(least: float) -> Judge:
    return functools.partial(above, least)


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
    ]


def _on_devices(rows: list[dict]) -> list[Claim]:
    parts = [row["devices"] for row in rows] or [2]
    least, most = min(parts), max(parts)
    # What a rule of sqrt(n) expects.
    root = float(np.sqrt(most / least))
    grown = {"attention": "stale", "devices": most}
    # Its ratio is to as many displaced patches.
    piped = {"attention": "pipefusion", "devices": most}
    return [
        Claim(
            "It gets worse with more devices",
            f"error at {most} over {least} devices",
            pipeline.QUESTION,
            grown,
            _more_than(1),
        ),
        Claim(
            "Warm up by base times sqrt(n)",
            f"the same growth; sqrt(n) wants {report.sig(root)}",
            pipeline.QUESTION,
            grown,
            _more_than(NEARLY * root),
        ),
        Claim(
            "Patches in a pipeline have half the error",
            f"over displaced patches, {most} parts",
            pipeline.QUESTION,
            piped,
            _less_than(0.5 + LITTLE),
        ),
    ]


def _on_warmups() -> list[Claim]:
    return [
        Claim(
            f"A warm-up of {count} steps recovers it",
            f"share of the error left, {window.STEPS} steps",
            window.QUESTION,
            {"place": f"warm-up {count}"},
            recovers,
        )
        for count in (window.FEW, window.MANY)
    ]


def _on_pictures(rows: list[dict]) -> list[Claim]:
    pixels = [resolution.side_of(row["subject"]) for row in rows] or [0]
    least, most = min(pixels), max(pixels)
    texts = {
        "uniform": "A larger picture degrades less",
        "shifted": "A larger picture degrades less (grid shifted)",
    }
    return [
        Claim(
            text,
            f"error at {most} over {least} pixels",
            resolution.QUESTION,
            {"subject": f"{most} pixels", "grid": grid},
            _less_than(1),
        )
        for grid, text in texts.items()
    ]


def _on_solvers(rows: list[dict]) -> list[Claim]:
    steps = max((row["steps"] for row in rows), default=0)
    faster = {"solver": solvers.NAMED, "steps": steps}
    return [
        Claim(
            "DPM-Solver is more robust than DDIM",
            f"2M over DDIM, each to its own run, {steps} steps",
            solvers.QUESTION,
            faster,
            _less_than(1),
        ),
        Claim(
            "DPM-Solver is better in all",
            f"2M over DDIM, to the converged run, {steps} steps",
            solvers.QUESTION,
            faster,
            _less_than(1),
            # In all: the error to the converged run.
            "total_rms",
        ),
    ]


def _on_bits() -> list[Claim]:
    # Held keys and values, so that only the bits differ.
    sent = {"devices": subjects.DEVICES, "forecast": 0}
    plain = [
        Claim(
            f"Mixed precision is free ({bits} bits)",
            "error over that of full precision",
            precision.QUESTION,
            sent | {"form": "plain", "bits": bits},
            free,
        )
        for bits in (16, 8, 4)
    ]
    residual = Claim(
        "Compensation makes 4 bits free: residuals",
        "with error feedback, over full precision",
        precision.QUESTION,
        sent | {"form": "residual", "bits": 4},
        free,
    )
    return [*plain, residual]


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
            f"Compensation helps: a forecast ({sync} synchronous)",
            "tuned over held",
            forecasts.QUESTION,
            tuned | {"sync": sync},
            _less_than(1),
        )
        for sync in (forecasts.FIRST, forecasts.WARM)
    ]


# -- numbers


def subject_of(row: dict) -> str:
    """The subject, or the network's own name where several networks are measured."""
    return row.get("network") or row["subject"]


def _matches(row: dict, claim: Claim) -> bool:
    """Whether a row holds the number of a claim."""
    if row["question"] != claim.question:
        return False
    return all(row[name] == value for name, value in claim.match.items())


def judged(rows: list[dict]) -> list[dict]:
    """[{claim, number, subject, ratio, low, high, verdict}] for each subject that has a row."""
    table = []
    for claim in claims(rows):
        for row in rows:
            if not _matches(row, claim):
                continue
            # A ratio of errors and its 95 % interval.
            ratio, low, high = (row[f"{claim.kind}_{end}"] for end in ("ratio", "low", "high"))
            table.append(
                {
                    "claim": claim.text,
                    "number": claim.number,
                    "subject": subject_of(row),
                    "ratio": ratio,
                    "low": low,
                    "high": high,
                    "verdict": claim.judge(low, high),
                }
            )
    return table


# -- figures


def _figure(table: list[dict]) -> matplotlib.figure.Figure:
    """The ratio of each claim and subject with its interval, coloured by the verdict."""
    fig, ax = report.canvas(width=6.4, height=0.5 + 0.24 * len(table))
    names, before = [], None
    for place, found in enumerate(table):
        # An interval beyond the axes ends at their edge.
        low, ratio, high = (np.clip(found[name], *LIMITS) for name in ("low", "ratio", "high"))
        colour = COLOURS[found["verdict"]]
        ax.plot([low, high], [place] * 2, color=colour, linewidth=2.5)
        ax.plot(ratio, place, "o", color=colour)
        # The claim stands at its first subject only.
        first = f"{found['claim']}: {found['subject']}"
        names.append(found["subject"] if found["claim"] == before else first)
        before = found["claim"]
    ax.set_yticks(range(len(table)), names, fontsize=7)
    ax.axvline(1, color=report.INK, linewidth=0.8)
    ax.set(xscale="log", xlim=LIMITS, xlabel="ratio of errors, 95 % interval")
    ax.invert_yaxis()
    # The legend names verdicts, not claims.
    for verdict, colour in COLOURS.items():
        ax.plot([], [], "o", color=colour, label=verdict)
    fig.legend(loc="outside lower center", ncols=4)
    return fig


# -- words


def sentences(rows: list[dict]) -> list[str]:
    """A sentence a claim: its verdicts with their numbers."""
    # {(claim, number): verdicts in words}
    verdicts = {}
    for found in judged(rows):
        name = found["subject"]
        subject = subjects.NAMES.get(name, f"the network {name}")
        ratio = {f"rms_{end}": found[end] for end in ("ratio", "low", "high")}
        verdict = f"{found['verdict']} on {subject}, {words.ratio(ratio)}"
        verdicts.setdefault((found["claim"], found["number"]), []).append(verdict)
    return [
        f"**{claim}** ({number}): {'; '.join(each)}." for (claim, number), each in verdicts.items()
    ]


def section(rows: list[dict], command: str) -> report.Section | None:
    """The section of the page, or None where no row holds the number of a claim."""
    table = judged(rows)
    if not table:
        return None
    picture = report.picture(
        _figure(table),
        "For each claim and subject the ratio of errors with its interval, coloured by the "
        "verdict.",
        "Green holds, red fails, amber in part. Each ratio is of RMS errors on the same starts, to "
        "the own synchronous run unless it says in all.",
    )
    return report.Section(
        question="What of the claims that circulate?",
        expected=(
            "That few hold as they are told: staleness saturates, a warm-up by rule spends its "
            "steps where they do not help on every subject, and no solver is immune."
        ),
        answer="\n".join(sentences(rows)),
        figures=(picture,),
        table=table,
        caveat=(
            f"A verdict is of these subjects and sizes. Free is what costs less than {LITTLE:.0%}; "
            "recovering means that less than a tenth of the error is left; the rule of sqrt(n) is "
            "taken to hold from nine tenths of its growth. On exact fields a few starts that "
            "change their datum rule the RMS, hence the wide intervals."
        ),
        command=command,
    )
