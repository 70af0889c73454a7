"""The claims that circulate about staleness, each with its number, the number's interval and what follows."""

import functools
from typing import NamedTuple

import numpy as np

from experiments import report
from experiments.staleness import (
    draw,
    forecasts,
    lab,
    pipeline,
    precision,
    resolution,
    solvers,
    window,
)

LITTLE = 0.05  # of an error: what costs no more is free
LIMITS = 0.02, 20  # of the figure


class Claim(NamedTuple):
    """A claim, and how it is judged.

    Attributes:
      text: as it circulates.
      number: what the number is.
      question: whose rows hold it.
      match: the columns by which the row of a subject is found.
      judge: (low, high) of the ratio's interval -> a verdict.
      kind: which ratio of the row: "rms" or "total_rms".
    """

    text: str
    number: str
    question: str
    match: dict
    judge: callable
    kind: str = "rms"


def below(least, low, high):
    """Whether a ratio is less than `least`, for all that its interval says."""
    return "holds" if high < least else "fails" if low >= least else "undecided"


def above(least, low, high):
    """Whether a ratio is more than `least`."""
    return {"holds": "fails", "fails": "holds"}.get(below(least, low, high), "undecided")


def free(low, high):
    """Whether a ratio is 1 but for `LITTLE`."""
    return below(1 + LITTLE, low, high)


def recovers(low, high):
    """What is left of an error: nothing much, part of it, or all."""
    return (
        "holds"
        if high < 0.1
        else "in part"
        if high < 1 - LITTLE
        else "fails"
        if low > 0.5
        else "undecided"
    )


def claims(rows):
    """The claims, for the numbers of devices and bits that the rows have."""
    parts = [r["devices"] for r in rows if r["question"] == pipeline.QUESTION] or [2]
    least, most = min(parts), max(parts)
    pixels = sorted(
        {int(r["subject"].split()[0]) for r in rows if r["question"] == resolution.QUESTION}
    ) or [0]
    steps = max((r["steps"] for r in rows if r["question"] == solvers.QUESTION), default=0)
    root = float(np.sqrt(most / least))
    grown = {"attention": "stale", "devices": most}
    sent = {"devices": lab.DEVICES, "forecast": 0, "form": "plain"}
    fewest = min((r["steps"] for r in rows if r["question"] == forecasts.QUESTION), default=0)
    guessed = {
        "forecast": "tuned",
        "correction": forecasts.USUAL,
        "devices": lab.DEVICES,
        "steps": fewest,
    }
    few, many = (f"warm-up {count}" for count in (window.FEW, window.MANY))
    faster = {"solver": "DPM++ 2M", "steps": steps}
    return [
        Claim("It gets worse with more devices", f"error at {most} over {least} devices", pipeline.QUESTION, grown,
              functools.partial(above, 1)),
        Claim("Warm up by base times sqrt(n)", f"the same growth; sqrt(n) wants {report.sig(root)}", pipeline.QUESTION, grown,
              functools.partial(above, 0.9 * root)),
        Claim("Patches in a pipeline have half the error", f"over displaced patches, {most} parts", pipeline.QUESTION,
              {"attention": "pipefusion", "devices": most}, functools.partial(below, 0.5 + LITTLE)),
        Claim(f"A warm-up of {window.FEW} steps recovers it", f"share of the error left, {window.STEPS} steps", window.QUESTION,
              {"place": few}, recovers),
        Claim(f"A warm-up of {window.MANY} steps recovers it", f"share of the error left, {window.STEPS} steps", window.QUESTION,
              {"place": many}, recovers),
        Claim("A larger picture degrades less", f"error at {pixels[-1]} over {pixels[0]} pixels", resolution.QUESTION,
              {"subject": f"{pixels[-1]} pixels", "grid": "uniform"}, functools.partial(below, 1)),
        Claim("A larger picture degrades less (grid shifted)", f"error at {pixels[-1]} over {pixels[0]} pixels", resolution.QUESTION,
              {"subject": f"{pixels[-1]} pixels", "grid": "shifted"}, functools.partial(below, 1)),
        Claim("DPM-Solver is more robust than DDIM", f"2M over DDIM, each to its own run, {steps} steps", solvers.QUESTION, faster,
              functools.partial(below, 1)),
        Claim("DPM-Solver is better in all", f"2M over DDIM, to the converged run, {steps} steps", solvers.QUESTION, faster,
              functools.partial(below, 1), "total_rms"),
        *(Claim(f"Mixed precision is free ({bits} bits)", "error over that of full precision", precision.QUESTION, sent | {"bits": bits}, free)
          for bits in (16, 8, 4)),
        Claim("Compensation makes 4 bits free: residuals", "with error feedback, over full precision", precision.QUESTION,
              sent | {"form": "residual", "bits": 4}, free),
        *(Claim(f"Compensation helps: a forecast ({first} synchronous)", "tuned over held", forecasts.QUESTION,
                guessed | {"sync": first}, functools.partial(below, 1))
          for first in ("first 1", forecasts.WARM)),
    ]  # fmt: skip


def subject_of(row):
    """ "field", "emoji", "network"; or the network's own name where several are asked."""
    return row.get("network") or row["subject"]


def judged(rows):
    """[{claim, number, subject, ratio, low, high, verdict}]: each claim on each subject whose rows are there."""
    table = []
    for claim in claims(rows):
        for row in rows:
            if row["question"] == claim.question and all(
                row[name] == value for name, value in claim.match.items()
            ):
                ratio, low, high = (row[f"{claim.kind}_{end}"] for end in ("ratio", "low", "high"))
                table.append(
                    {
                        "claim": claim.text,
                        "number": claim.number,
                        "subject": subject_of(row),
                        "ratio": ratio,
                    }
                    | {"low": low, "high": high, "verdict": claim.judge(low, high)}
                )
    return table


def sentences(rows):
    """A sentence a claim: its verdicts with their numbers."""
    said = {}
    for found in judged(rows):
        subject = lab.NAMES.get(found["subject"], f"the network {found['subject']}")
        number = draw.ratio(
            {"rms_ratio": found["ratio"], "rms_low": found["low"], "rms_high": found["high"]}
        )
        told = f"{found['verdict']} on {subject}, {number}"
        said.setdefault((found["claim"], found["number"]), []).append(told)
    return [f"**{claim}** ({number}): {'; '.join(told)}." for (claim, number), told in said.items()]


def section(rows, command):
    """The section of the page, or None where no row speaks of a claim."""
    table = judged(rows)
    if not table:
        return None
    fig, ax = report.canvas(width=6.4, height=0.5 + 0.24 * len(table))
    colours = {
        "holds": report.GREEN,
        "fails": report.RED,
        "in part": report.AMBER,
        "undecided": report.GREY,
    }
    names, before = [], None
    for place, found in enumerate(table):
        low, ratio, high = (np.clip(found[name], *LIMITS) for name in ("low", "ratio", "high"))
        ax.plot([low, high], [place] * 2, color=colours[found["verdict"]], linewidth=2.5)
        ax.plot(ratio, place, "o", color=colours[found["verdict"]])
        names.append(
            found["subject"]
            if found["claim"] == before
            else f"{found['claim']}: {found['subject']}"
        )
        before = found["claim"]
    ax.set_yticks(range(len(table)), names, fontsize=7)
    ax.axvline(1, color=report.INK, linewidth=0.8)
    ax.set(xscale="log", xlim=LIMITS, xlabel="ratio of errors, 95 % interval")
    ax.invert_yaxis()
    for verdict, colour in colours.items():
        ax.plot([], [], "o", color=colour, label=verdict)
    fig.legend(loc="outside lower center", ncols=4)
    return report.Section(
        question="What of the claims that circulate?",
        expected="That few hold as they are told: staleness saturates, a warm-up by rule spends its steps where they do not help on every subject, and no "
        "solver is immune.",
        answer="\n".join(sentences(rows)),
        figures=(
            report.picture(
                fig,
                "For each claim and subject the ratio of errors with its interval, coloured by the verdict.",
                "Green holds, red fails, amber in part. Each ratio is of RMS errors on the same starts, to the own synchronous run unless it says in all.",
            ),
        ),
        table=table,
        caveat=f"A verdict is of these subjects and sizes. Free is what costs less than {LITTLE:.0%}; recovering means that less than a tenth of the error "
        "is left; the rule of sqrt(n) is taken to hold from nine tenths of its growth. On exact fields a few starts that change their datum rule the RMS, hence the wide intervals.",
        command=command,
    )  # fmt: skip
