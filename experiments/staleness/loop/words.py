"""Loops: the section of the page."""

from collections.abc import Iterator

from experiments import report
from experiments.staleness import words
from experiments.staleness.loop.figures import figure
from experiments.staleness.loop.gain import COUNTS, STEPS, TIME, network_of
from experiments.staleness.loop.numbers import (
    COMMON,
    CORRECTIONS,
    FAST,
    changed,
    corrected,
    grows,
    plain,
)
from flowjax.parallel.stale.forecast import CORRECTION

# {setting: its words} of those that are changed one at a time.
CHANGES = {"layers": "stale layers", "time": "t", "steps": "steps"}
# Of the table on the page.
COLUMNS = (
    "network",
    "forecast",
    "devices",
    "correction",
    "push",
    "rate",
    "own_rate",
    "worse",
)


# -- from which push on loops grow


def splits(rows: list[dict]) -> list[str]:
    """From which push on loops grow, without a correction and with one, as sentences."""
    kinds = {"without a correction": plain(rows), "with one": corrected(rows)}
    return [split(own, name) for name, own in kinds.items() if own]


def split(rows: list[dict], name: str) -> str:
    """From which push on loops grow, as a sentence; `name` says which loops they are."""
    quiet = [row["push"] for row in rows if not grows(row)]
    loud = [row["push"] for row in rows if grows(row)]
    begins = f"{len(loud)} of {len(rows)} loops {name} grow by themselves"
    if not quiet or not loud:
        return f"{begins}."
    if max(quiet) < min(loud):
        return f"{begins}: **{_bounds(loud, quiet)}**."

    # The two kinds overlap: name what lies beyond the overlap, and count what lies within.
    sure = [push for push in loud if push > max(quiet)]
    calm = [push for push in quiet if push < min(loud)]
    if not sure or not calm:
        return f"{begins}, and no push parts them from the others."
    between = len(rows) - len(sure) - len(calm)
    return f"{begins}: **{_bounds(sure, calm)}**; of {between} between, {len(loud) - len(sure)}."


def _bounds(loud: list[float], quiet: list[float]) -> str:
    least, most = report.sig(min(loud)), report.sig(max(quiet))
    return f"all of those with a push of {least} or more and none of those up to {most}"


# -- the answer


def _runs(rows: list[dict]) -> str:
    """How much farther from the synchronous run the runs of each kind of loop end."""
    still = [row["worse"] for row in rows if not grows(row)]
    # Slow growth may not matter within the rows of a run.
    slow = [row["worse"] for row in rows if grows(row) and row["rate"] <= FAST]
    fast = [row["worse"] for row in rows if grows(row) and row["rate"] > FAST]
    parts = []
    if still:
        parts.append(
            f"whose loop does not grow end {words.span(still)} times as far from the synchronous "
            "one as held keys and values do"
        )
    if slow:
        parts.append(f"whose loop grows by less than {FAST} a row {words.span(slow)} times")
    if fast:
        parts.append(f"by more {words.span(fast)} times")
    growing = [row for row in rows if grows(row)]
    example = ""
    if growing:
        best = min(growing, key=lambda row: row["worse"])
        example = (
            f" On {best['network']} over {best['devices']} devices the {best['forecast']} forecast "
            f"grows by {report.sig(best['rate'], 3)} a row and ends "
            f"**{report.sig(best['worse'])}** times as far as held copies."
        )
    return (
        f"Growth is not harm by itself. Runs {', those '.join(parts)}. A run has {STEPS} rows, its "
        "softmax and norms saturate, and a forecast that grows slowly may gain more than it loses."
        f"{example}"
    )


def _rested(rows: list[dict]) -> Iterator[str]:
    """What the loop is while the state rests, as a sentence or none."""
    first = plain(rows)[0]["network"]
    rests = [row for row in changed(rows) if (row["network"], row["state"]) == (first, "rests")]
    if rests:
        yield (
            f"While the state rests the rate is **{report.sig(rests[0]['rate'])}**: a layer sees "
            "only what the layers before it missed, so nothing is left after as many rows as there "
            "are layers. What closes the loop is the state, which moves with the wrong velocity."
        )


def _of_changes(rows: list[dict]) -> str:
    """What depth, time and steps do to the linear forecast, as a sentence."""
    parts = []
    for name, meaning in CHANGES.items():
        own = [row for row in rows if row[name] != COMMON[name]]
        if own:
            rates = [f"{report.sig(row[name])}: {report.sig(row['rate'], 3)}" for row in own]
            parts.append(f"{meaning} {', '.join(rates)}")
    if not parts:
        return ""
    return f"The linear forecast's rate on 8 devices by {'; by '.join(parts)}."


def _setting(rows: list[dict]) -> str:
    """For which networks, depth and steps the numbers are, as a sentence."""
    names = list(dict.fromkeys(row["network"] for row in rows))
    depths = {network_of(name).card.config.depth for name in names}
    depth = ", ".join(map(str, sorted(depths)))
    return (
        f"Measured on {' and '.join(names)}, {depth} stale layers, at t = {TIME} of {STEPS} steps. "
        "The place where growth begins is no law: it moves with depth and steps."
    )


def _title(rows: list[dict]) -> str:
    """How many loops grow, as the claim of the figure."""
    own = plain(rows)
    loud = [row["push"] for row in own if grows(row)]
    quiet = [row["push"] for row in own if not grows(row)]
    if loud and quiet and max(quiet) < min(loud):
        return (
            f"Without a correction growth begins between a push of {report.sig(max(quiet))} and "
            f"{report.sig(min(loud))}, at this depth and these steps"
        )
    return f"{len(loud)} of {len(own)} loops without a correction grow"


# -- the section


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    measured = plain(rows) + corrected(rows)
    answers = [_setting(rows), *splits(rows), _runs(measured), *_rested(rows)]
    listed = ", ".join(map(str, CORRECTIONS))
    picture = report.picture(
        figure(plain(rows), corrected(rows)),
        "Growth of an error a row, and the error of whole runs over that of held keys and values, "
        "against the push of the loop, for two networks, with corrections and without.",
        "Push: the part of what is missed that a layer sees, times max |1 - W|. Filled: six "
        f"forecasts on 2, 4 and 8 devices. Hollow: corrected by the receiver, by {listed} on "
        f"{COUNTS[-1]} devices, and by {CORRECTION} on fewer. t = {TIME}, {STEPS} steps.",
        title=_title(rows),
    )
    return report.Section(
        question="When does an error of copies grow from row to row?",
        expected=(
            "Where a forecast misses much of an oscillation: each layer forecasts anew what the "
            "layers before it missed, so the loop's gain is a power of its push, (n-1)/n max |1 - "
            "W| without a correction, with the number of layers as exponent. Steep forecasts are "
            "then unstable on many devices and in deep networks. A correction lessens it up to a "
            "fraction near 1/2, and more of it makes it worse."
        ),
        answer="\n".join(answers),
        figures=(picture,),
        table={
            "Loops": [
                {name: row[name] for name in COLUMNS} | {"grows": grows(row)} for row in measured
            ]
        },
        caveat=(
            "A rate is that of one time of one path, for one depth and one number of steps; the "
            "next section changes these. Worse is the error of a complete run over that of held "
            "copies; where little is missed it also contains what the forecast gains. "
            f"{_of_changes(changed(rows))}"
        ),
        command=command,
    )
