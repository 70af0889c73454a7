"""Policies: the section of the page."""

from collections.abc import Iterator

import numpy as np

from experiments import report
from experiments.staleness import draw, subjects, words
from experiments.staleness.pareto.figures import figure
from experiments.staleness.pareto.numbers import (
    MACHINE,
    NETWORK,
    duels,
    groups,
    regrets,
    seconds,
)

# How many lost duels are named.
NAMED = 3


def _answer(fought: list[dict], subject: str, forecast: int | str) -> str:
    """How many fixed policies the tolerance beats, in a sentence.

    Args:
      fought: rows of `duels`.
      subject, forecast: which of them.
    """
    own = [duel for duel in fought if (duel["subject"], duel["forecast"]) == (subject, forecast)]
    where = f"On {subjects.NAMES[subject]}, {draw.FORECASTS[forecast]}"
    if not own:
        return f"{where}, no fixed policy lies between the tolerances."
    ratios = [duel["ratio"] for duel in own]
    won = sum(ratio < 1 for ratio in ratios)
    # The geometric mean: half and twice cancel.
    mean = float(np.exp(np.mean(np.log(ratios))))
    lost = [duel for duel in own if duel["ratio"] >= 1]
    lost.sort(key=lambda duel: -duel["ratio"])
    named = ", ".join(
        f"{duel['policy']} ({report.sig(duel['ratio'])} times its error)" for duel in lost[:NAMED]
    )
    return (
        f"{where}, the tolerance beats **{won} of {len(own)}** fixed policies at as many "
        f"synchronous steps, with {report.sig(mean)} times their error on the mean"
        + (f"; it loses to {named}." if lost else ".")
    )


def _safest(rows: list[dict]) -> Iterator[str]:
    """For each forecast, how far each kind of policy is from the best at worst, as a sentence."""
    table = regrets(rows)
    for forecast in dict.fromkeys(row["forecast"] for row in rows):
        own = [found for found in table if found["forecast"] == forecast]
        own.sort(key=lambda found: found[found["worst on"]])
        listed = ", ".join(
            f"{found['policy']} {report.sig(found[found['worst on']])} "
            f"({subjects.NAMES[found['worst on']]})"
            for found in own
        )
        yield (
            f"{draw.FORECASTS[forecast].capitalize()}, the mean error over that of the best "
            "policy with as many synchronous steps is, on the subject where it is largest: "
            f"{listed}. These means have no interval, so near ones are undecided."
        )


def _title(fought: list[dict]) -> str:
    """How often a tolerance does better, as the claim of the figure."""
    won = sum(duel["ratio"] < 1 for duel in fought)
    return (
        f"A tolerance does better than {won} of {len(fought)} fixed policies of as many "
        "synchronous steps"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    fought = [duel for own in groups(rows).values() for duel in duels(own)]
    answers = [_answer(fought, *group) for group in groups(rows)]
    steps, devices = rows[0]["steps"], rows[0]["devices"]
    # What the horizontal axis costs: with three digits, since computing takes most of the time.
    least, most = (report.sig(seconds(count, steps, devices), 3) for count in (1, steps))
    picture = report.picture(
        figure(rows),
        "Distance to the synchronous run against the number of synchronous steps, a mark for each "
        "policy; lines join policies that differ in one number.",
        f"{words.common(rows)}, {devices} devices. Above held copies, below tuned forecasts. With "
        f"1 synchronous step {devices} {MACHINE} take {least} modelled seconds for a guided image "
        f"of 1024 x 1024 by {NETWORK}, with {steps} they take {most}.",
        title=_title(fought),
    )
    named = [row | {"copies": draw.FORECASTS[row["forecast"]]} for row in rows]
    columns = ("subject", "copies", "policy", "synced")
    return report.Section(
        question="Which policy buys most for its synchronous steps?",
        expected=(
            "A tolerance, which sees when keys and values change; a fixed place can only guess. "
            "It cannot know which changes matter to the sample, so a window that was chosen with "
            "the errors known may beat it."
        ),
        answer="\n".join([*answers, *_safest(rows)]),
        figures=(picture,),
        table={
            "Mean error over that of the best policy": regrets(rows),
            "Fixed policies against tolerances": fought,
            "Errors by policy": words.columns(named, columns),
        },
        caveat=(
            "A tolerance decides for the whole batch by its worst sample; alone, a sample would "
            "take fewer synchronous steps. Ratios of tolerances to fixed policies interpolate "
            f"between the tolerances measured, and have no intervals. "
            f"{words.converged(rows)}"
        ),
        command=command,
    )
