"""(i) Which of 50 steps should be synchronous: the first 10, the first 40, the last, or those in between?"""

import numpy as np

from experiments import report
from experiments.staleness import draw, lab
from flowjax.parallel.stale import policies

QUESTION = "window"
STEPS, FEW, MANY = (
    50,
    10,
    40,
)  # the counts of a claim that circulates: a warm-up of 10 and of 40 of 50 steps


def policy(place, plan):
    """The policy called `place`, with FEW or MANY synchronous steps, the first step among them."""
    kind, which = place.split()
    if kind == "window":
        first = round(STEPS * (1 - float(which)))
        return policies.window(plan, plan.t[first], plan.t[first + FEW - 2])
    return {
        "warm-up": policies.warm_up, "cool-down": lambda steps, count: policies.cool_down(steps, count - 1),
    }[kind](STEPS, int(which))  # fmt: skip


WINDOWS = ("window 0.8", "window 0.6", "window 0.4")  # the time at which the window begins
PLACES = (
    "warm-up 1",
    f"warm-up {FEW}",
    *WINDOWS,
    f"cool-down {FEW}",
    f"warm-up {MANY}",
    f"cool-down {MANY}",
)


def cells(config):
    """One cell a subject and place."""
    return [
        {"question": QUESTION, "subject": subject, "place": place}
        for subject in config.asked
        for place in PLACES
    ]


def measure(config, todo):
    """Yield (key, values); ratios are to one synchronous step."""
    plan = lab.plan_of(config.one_solver, STEPS)
    return lab.measured(
        config,
        todo,
        lambda key: {"steps": STEPS, "policy": policy(key["place"], plan)},
        lambda key: key | {"place": PLACES[0]},
    )


def section(rows, command):
    """The section of the page."""
    fig, shown = draw.panels(rows, height=2.6)
    for ax, _, own in shown:
        label = "error, over that of one synchronous step"
        report.bar_ledger(
            ax,
            own[1:],
            label="place",
            value="rms_ratio",
            low="rms_low",
            high="rms_high",
            xlabel=label,
        )
        ax.axvline(1, color=report.GREY, linestyle=(0, (1, 3)))
    said = []
    for _, subject, own in shown:
        at = {r["place"]: r for r in own}
        best = min((r for r in own if r["synced"] == FEW), key=lambda r: r["rms_ratio"])
        said.append(
            f"On {lab.NAMES[subject]} a warm-up of {FEW} steps leaves {draw.ratio(at[f'warm-up {FEW}'])} of the error of one step, of {MANY} steps "
            f"{draw.ratio(at[f'warm-up {MANY}'])}; the best {FEW} are those of {best['place']}: {draw.ratio(best)}; a cool-down of {MANY} leaves "
            f"{draw.ratio(at[f'cool-down {MANY}'])}."
        )
    half = np.floor(100 * MANY / STEPS)
    return report.Section(
        question=f"Do {FEW} or {MANY} synchronous steps of {STEPS} bring the sample back, and which steps?",
        expected=f"{FEW} at the start hardly: what follows is stale as before. {MANY} cost {half:.0f} % of what staleness was to save. The steps in "
        "which the sample decides count most, and after a cool-down nothing stale is left to be said.",
        answer="\n".join(said),
        figures=(
            report.picture(
                fig,
                "Bars: the distance to the synchronous run for each place of the synchronous steps, over that of one synchronous step.",
                f"{rows[0]['solver']}, {STEPS} steps, {rows[0]['devices']} devices. A window begins at the time that its name says; the first step is "
                "always synchronous, and counts.",
            ),
        ),
        table=draw.columns(rows, ("subject", "place", "synced")),
        caveat=draw.converged(rows),
        command=command,
    )  # fmt: skip
