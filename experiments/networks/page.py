"""The page: a section for each topic, all of it from rows."""

import os
from typing import NamedTuple

from experiments import report
from experiments.networks import comparisons, figures
from experiments.networks.catalogue import NETWORKS
from experiments.networks.comparisons import Comparison, Result
from experiments.networks.numbers import (
    ACCURACY,
    DOUBLING,
    FALLS,
    LOSS,
    ORDERS,
    PARAMETERS,
    PUSH,
    RATIOS,
    Value,
    quantities,
)
from experiments.networks.topics import HELD, ORDER, TOPICS, Topic
from flowjax import records

TITLE = "Which findings hold on networks that differ in one thing?"
DEFINITIONS = {
    "NFE": report.DEFINITIONS["NFE"],
    "order": report.DEFINITIONS["order"],
    "clock": "The number that a network receives for the time t: 1000 t or 1 - t.",
    "fall": "The factor by which halving a step divides the second difference of the velocity; 4 "
    "is smooth, 1 is a jump from evaluation to evaluation.",
    "held copies": "Stale keys and values that are used as they are; the distance is that of the "
    "samples to those of the synchronous run, over the size of the latter.",
    "push": "The largest relative error of a forecast for an oscillation, times the part of it "
    "that a layer sees. From the threshold on an error of copies grows from row to row.",
    "verdict": "From the 95 % interval over training seeds: holds, fails or undecided. With one "
    "seed always undecided beyond the network; what is so on it, by its interval over starts, "
    "stands beside.",
}
NO_TREND = "one seed each: undecided beyond these networks"


class Judged(NamedTuple):
    """A comparison with its result."""

    comparison: Comparison
    result: Result


def judged(topic: Topic, found: dict[str, dict[str, Value]]) -> list[Judged]:
    """The comparisons of a topic whose networks have rows."""
    pairs = [(each, comparisons.result(each, found)) for each in topic.comparisons]
    return [Judged(each, result) for each, result in pairs if result]


def trends(topic: Topic, found: dict[str, dict[str, Value]]) -> list[str]:
    """How quantities move with size, as sentences, where three networks or more have them."""
    sentences = []
    for size, networks in topic.trends.items():
        for quantity in (HELD, PUSH, ORDER, LOSS):
            values = {
                value: found[network][quantity].value
                for value, network in networks.items()
                if quantity in found.get(network, ())
            }
            if len(values) < 3:
                continue
            listed = ", ".join(map(report.sig, values.values()))
            sentences.append(
                f"With {size} {', '.join(map(str, values))} the quantity “{quantity}” "
                f"{comparisons.trend(list(values.values()))}: {listed} ({NO_TREND})."
            )
    return sentences


# ---- a section


def section(topic: Topic, found: dict[str, dict[str, Value]], command: str) -> report.Section:
    """The section of a topic that has comparisons."""
    networks = [network for network in topic.networks if network in found]
    results = judged(topic, found)
    picture = report.picture(
        figures.draw(networks, found),
        f"Quantities of {', '.join(NETWORKS[network].words for network in networks)}.",
        "Bars are 95 % intervals over starts. Red: networks that receive 1000 t, or a fraction of "
        "it. Blue: networks that receive 1 - t.",
        title=title(results[0]),
    )
    sentences = [comparisons.sentence(*each) for each in results]
    return report.Section(
        question=topic.question,
        expected=topic.expected,
        answer="\n".join([*sentences, *trends(topic, found)]),
        figures=(picture,),
        table={
            "Comparisons": [comparisons.line(*each) for each in results],
            "Training and labels": _table(networks, found, (PARAMETERS, LOSS, ACCURACY)),
            "Orders, and ratios of errors": _table(networks, found, (*ORDERS, *RATIOS, DOUBLING)),
            "Falls of second differences": _table(networks, found, FALLS),
            "Staleness": _table(networks, found, _stale(found)),
        },
        caveat=" ".join(
            filter(None, (topic.caveat, _equal(networks, found), _not_compared(topic, results)))
        ),
        command=command,
    )


def title(first: Judged) -> str:
    """The claim of the figure: the first comparison with its number and its verdict."""
    comparison, result = first
    number = f"{comparison.how} {comparisons.number(result)}"
    return f"{comparison.text}: {result.verdict} ({number})"


def _stale(found: dict[str, dict[str, Value]]) -> tuple[str, ...]:
    """The quantities of staleness that were measured."""
    named = dict.fromkeys(name for values in found.values() for name in values)
    return tuple(name for name in named if name.endswith("devices")) + (PUSH,)


def _table(
    networks: list[str], found: dict[str, dict[str, Value]], names: tuple[str, ...]
) -> list[dict]:
    """One line a network, with those of the quantities that some network has."""
    measured = [name for name in names if any(name in found[network] for network in networks)]
    if not measured:
        return []
    return [
        {"network": network, "what": NETWORKS[network].words}
        | {name: _text(found[network].get(name)) for name in measured}
        for network in networks
    ]


def _text(at: Value | None) -> str | float | None:
    """A number, with its interval where it has one."""
    if at is None or at.low == at.high:
        return at and at.value
    return f"{report.sig(at.value)} [{report.sig(at.low)}, {report.sig(at.high)}]"


def _not_compared(topic: Topic, results: list[Judged]) -> str:
    """Which expectations have no verdict, since a network or a quantity has no rows."""
    judged_ones = [each.comparison for each in results]
    missing = [each.text for each in topic.comparisons if each not in judged_ones]
    return f"Not compared, for want of rows: {'; '.join(missing)}." if missing else ""


def _equal(networks: list[str], found: dict[str, dict[str, Value]]) -> str:
    """The least and the greatest label accuracy, as a sentence."""
    values = [found[network][ACCURACY].value for network in networks if ACCURACY in found[network]]
    if not values:
        return ""
    return (
        f"By a classifier {min(values):.1%} to {max(values):.1%} of the networks' samples have the "
        "label that they were drawn for."
    )


# ---- the page


def findings(rows: list[dict]) -> str:
    """Every comparison and trend whose networks have rows, as a list for docs/findings.md."""
    found = quantities(rows)
    sentences = [
        sentence
        for topic in TOPICS
        for sentence in (
            *(comparisons.sentence(*each) for each in judged(topic, found)),
            *trends(topic, found),
        )
    ]
    return "".join(f"- {sentence}\n" for sentence in sentences)


def lead(rows: list[dict]) -> list[str]:
    """One sentence a topic: its first comparison."""
    found = quantities(rows)
    firsts = [judged(topic, found)[:1] for topic in TOPICS]
    return [comparisons.sentence(*first) for (first,) in filter(None, firsts)]


def make_report(workdir: str | os.PathLike) -> list[str]:
    """Draw the rows of `workdir` into report.html."""
    rows, origin = records.read(workdir), report.origin(workdir)
    found = quantities(rows)
    sections = [
        section(topic, found, origin["command"]) for topic in TOPICS if judged(topic, found)
    ]
    page = report.page(
        TITLE,
        lead(rows) or "No two networks were compared yet.",
        sections,
        definitions=DEFINITIONS,
        **origin,
    )
    return [report.write(f"{workdir}/report.html", page)]
