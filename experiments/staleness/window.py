"""Which of 50 steps should be synchronous: the first 10, the first 40, the last, or the middle?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import comparison, draw, subjects, words
from flowjax import Plan
from flowjax.parallel.stale import policies

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "window"
check = subjects.check_comparison
# The counts of a claim that circulates: a warm-up of 10 and of 40 of 50 steps.
STEPS, FEW, MANY = 50, 10, 40
# One synchronous step, which every other place is compared with.
BASE = "warm-up 1"
# A window is named by the time at which it begins.
WINDOWS = ("window 0.8", "window 0.6", "window 0.4")
PLACES = (
    BASE,
    f"warm-up {FEW}",
    *WINDOWS,
    f"cool-down {FEW}",
    f"warm-up {MANY}",
    f"cool-down {MANY}",
)


def policy(place: str, plan: Plan) -> np.ndarray:
    """The policy called `place`: FEW or MANY synchronous steps, the first step among them."""
    kind, number = place.split()
    if kind == "warm-up":
        return policies.warm_up(STEPS, int(number))
    if kind == "cool-down":
        # The first step counts, so one less stands at the end.
        return policies.cool_down(STEPS, int(number) - 1)
    # The grid is uniform, so the time is a fraction of the steps.
    first = round(STEPS * (1 - float(number)))
    return policies.window(plan, plan.t[first], plan.t[first + FEW - 2])


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject and place."""
    return [
        {"question": QUESTION, "subject": subject, "place": place}
        for subject in config.compared_subjects
        for place in PLACES
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values); ratios are to one synchronous step."""
    plan = subjects.plan_of(config.one_solver, STEPS)

    def setup(key):
        return {"steps": STEPS, "policy": policy(key["place"], plan)}

    def base(key):
        return key | {"place": BASE}

    return comparison.measured(config, todo, setup, base)


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Bars of the ratio to one synchronous step: a panel for each subject."""
    fig, shown = draw.panels(rows, height=2.9)
    for ax, _, own in shown:
        # The first row is the cell of comparison itself.
        draw.ratio_bars(
            ax, own[1:], label="place", xlabel="RMS error over that of one synchronous step"
        )
    return fig


# -- words


def _answer(own: list[dict], subject: str) -> str:
    """What the places leave of one subject's error."""
    left = {row["place"]: words.ratio(row) for row in own}
    # All places of FEW steps are compared, whatever their kind.
    best = few_of(own)[1]["place"]
    return (
        f"On {subjects.NAMES[subject]} a warm-up of {FEW} steps leaves {left[f'warm-up {FEW}']} "
        f"of the error of one step, of {MANY} steps {left[f'warm-up {MANY}']}; the best {FEW} are "
        f"those of {best}: {left[best]}; a cool-down of {MANY} leaves {left[f'cool-down {MANY}']}."
    )


def few_of(own: list[dict]) -> tuple[dict, dict]:
    """(the warm-up of FEW steps, the best row of as many) of one subject."""
    few = [row for row in own if row["synced"] == FEW]
    warm = next(row for row in few if row["place"] == f"warm-up {FEW}")
    return warm, min(few, key=lambda row: row["rms_ratio"])


def _title(rows: list[dict]) -> str:
    """The best places of FEW steps, as the claim of the figure."""
    parts = [
        f"{few_of(own)[1]['place']} on {subjects.NAMES[subject]}"
        for subject, own in draw.by_subject(rows).items()
    ]
    return f"Which {FEW} of {STEPS} steps are best depends on the subject: {', '.join(parts)}"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    percent = np.floor(100 * MANY / STEPS)
    answers = [_answer(own, subject) for subject, own in draw.by_subject(rows).items()]
    picture = report.picture(
        _figure(rows),
        "Bars: the distance to the synchronous run for each place of the synchronous steps, over "
        "that of one synchronous step.",
        f"{rows[0]['solver']}, {STEPS} steps, {rows[0]['devices']} devices. A window begins at "
        "the time that its name says; the first step is always synchronous, and counts.",
        title=_title(rows),
    )
    return report.Section(
        question=(
            f"Do {FEW} or {MANY} synchronous steps of {STEPS} bring the sample back, "
            "and which steps?"
        ),
        expected=(
            f"{FEW} at the start hardly: what follows is stale as before. {MANY} cost "
            f"{percent:.0f} % of what staleness was to save. The steps in which the sample "
            "decides count most."
        ),
        answer="\n".join(answers),
        figures=(picture,),
        table={"Errors by place": words.columns(rows, ("subject", "place", "synced"))},
        caveat=words.converged(rows),
        command=command,
    )
