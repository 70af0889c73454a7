"""How does the error grow with the parts of an image, displaced or in a pipeline of patches?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.axes
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import comparison, draw, law, subjects, words

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "pipeline"
check = subjects.check_comparison
# {attention: its name on the page}
METHODS = {"stale": "displaced patches", "pipefusion": "PipeFusion"}
COLOURS = {"displaced patches": report.BLUE, "PipeFusion": report.AMBER}


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a subject, attention and number of parts: devices, or patches in the pipeline."""
    return [
        {"question": QUESTION, "subject": subject, "attention": attention, "devices": devices}
        for subject in config.compared_subjects
        for attention in METHODS
        for devices in config.parts
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values).

    Ratios of displaced patches are to the fewest parts, those of PipeFusion to as many displaced
    patches.
    """

    def setup(key):
        return {"attention": key["attention"], "devices": key["devices"]}

    def base(key):
        if key["attention"] == "stale":
            return key | {"devices": min(config.parts)}
        return key | {"attention": "stale"}

    return comparison.measured(config, todo, setup, base)


# -- numbers


def groups(rows: list[dict], statistic: str = "rms") -> dict[tuple[str, str], np.ndarray]:
    """{(subject, attention): (devices, errors to the synchronous run)}."""
    found = {}
    for row in sorted(rows, key=lambda row: row["devices"]):
        pair = row["devices"], row[f"sync_{statistic}"]
        found.setdefault((row["subject"], row["attention"]), []).append(pair)
    return {key: np.array(pairs, float).T for key, pairs in found.items()}


def fits(rows: list[dict]) -> list[dict]:
    """[{subject, method, statistic, misfit of each law}], see `law.misfit`."""
    table = []
    for statistic in ("rms", "median"):
        for (subject, attention), curve in groups(rows, statistic).items():
            named = {"subject": subject, "method": METHODS[attention], "statistic": statistic}
            table.append(named | {name: law.misfit(*curve, name) for name in law.LAWS})
    return table


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Distance to the synchronous run against the parts: a panel for each subject."""
    fig, shown = draw.panels(rows, height=3.4)
    for ax, _, own in shown:
        _draw(ax, own)
    shown[0][0].set_ylabel("distance to the synchronous run")
    draw.legend(fig)
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict]) -> None:
    """The curves of one subject beside two laws, which begin at its first point."""
    named = [{**row, "method": METHODS[row["attention"]]} for row in own]
    draw.lines(ax, named, x="devices", y="sync_rms", by="method", colours=COLOURS)
    places = sorted({row["devices"] for row in own})
    # Displaced patches on the fewest devices.
    first = min(own, key=lambda row: (row["attention"] != "stale", row["devices"]))
    at = np.geomspace(places[0], places[-1], 40)
    for name, line in law.DRAWN.items():
        grown = law.LAWS[name](at) / law.LAWS[name](np.array([places[0]]))
        ax.plot(at, first["sync_rms"] * grown, line, color=report.GREY, label=name)
    ax.set(xscale="log", xlabel="parts of an image", ylim=(0, None))
    draw.ticks(ax, places)


# -- words


def grown(own: list[dict]) -> dict:
    """The row of displaced patches with the most parts; its ratio is to the fewest."""
    return max((row for row in own if row["attention"] == "stale"), key=lambda row: row["devices"])


def _answer(own: list[dict], table: list[dict], subject: str) -> str:
    """How one subject's error grows, by which law, and what a pipeline makes of it."""
    at = {(row["attention"], row["devices"]): row for row in own}
    least, most = (end(n for _, n in at) for end in (min, max))
    piped = at["pipefusion", most]
    # The growth that the fraction of stale tokens has.
    wanted = law.LAWS["(n-1)/n"](most) / law.LAWS["(n-1)/n"](least)
    which = subject, METHODS["stale"]
    best = {
        fit["statistic"]: min(law.LAWS, key=fit.get)
        for fit in table
        if (fit["subject"], fit["method"]) == which
    }
    return (
        f"On {subjects.NAMES[subject]}, displaced patches have {words.ratio(grown(own))} times the "
        f"error at {most} parts that they have at {least}, by the median "
        f"{words.ratio(grown(own), 'median')}; (n-1)/n says {report.sig(wanted)}, "
        f"sqrt(n) {report.sig(np.sqrt(most / least))}. The law with the least misfit is "
        f"{best['rms']} by the RMS and {best['median']} by the median. A pipeline of {most} "
        f"patches has {words.ratio(piped)} times the error of as many displaced ones."
    )


def _title(rows: list[dict]) -> str:
    """The growth on every subject, as the claim of the figure."""
    ends = [grown(own) for own in draw.by_subject(rows).values()]
    most, least = ends[0]["devices"], min(row["devices"] for row in rows)
    return (
        f"From {least} to {most} parts the error grows "
        f"{words.span([row['rms_ratio'] for row in ends])} times, where sqrt(n) says "
        f"{report.sig(np.sqrt(most / least))}"
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = fits(rows)
    answers = [_answer(own, table, subject) for subject, own in draw.by_subject(rows).items()]
    picture = report.picture(
        _figure(rows),
        "Distance to the synchronous run against the number of parts, for displaced patches and "
        "for PipeFusion, with two laws.",
        f"{words.common(rows)}, one synchronous; bands are 95 % intervals over seeds and starts.",
        title=_title(rows),
    )
    return report.Section(
        question=(
            "Does the error grow as the stale fraction, and does a pipeline of patches halve it?"
        ),
        expected=(
            "Displaced patches have (n-1)/n of their context stale, patches in a pipeline "
            "(M-1)/(2M), half of it on the mean: both saturate, neither is sqrt(n)."
        ),
        answer="\n".join(answers),
        figures=(picture,),
        table={
            "Misfits of the laws": table,
            "Errors": words.columns(rows, ("subject", "attention", "devices")),
        },
        caveat=(
            "The first patch of a pipeline has all of its context stale and the last one none, "
            "and the RMS does not average this as a fraction does. "
            f"{words.converged(rows)}"
        ),
        command=command,
    )
