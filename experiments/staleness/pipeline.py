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
# The laws in the figure.
DRAWN = {"(n-1)/n": ":", "sqrt(n)": "--"}


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
    """[{subject, way, error, misfit of each law}], see `law.misfit`."""
    table = []
    for statistic in ("rms", "median"):
        for (subject, attention), curve in groups(rows, statistic).items():
            named = {"subject": subject, "way": METHODS[attention], "error": statistic}
            table.append(named | {name: law.misfit(*curve, name) for name in law.LAWS})
    return table


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Distance to the synchronous run against the parts: a panel for each subject."""
    fig, shown = draw.panels(rows)
    for ax, _, own in shown:
        _draw(ax, own)
    return fig


def _draw(ax: matplotlib.axes.Axes, own: list[dict]) -> None:
    """The curves of one subject beside two laws, which begin at its first point."""
    named = [{**row, "method": METHODS[row["attention"]]} for row in own]
    draw.lines(ax, named, x="devices", y="sync_rms", by="method")
    places = sorted({row["devices"] for row in own})
    # Displaced patches on the fewest devices.
    first = min(own, key=lambda row: (row["attention"] != "stale", row["devices"]))
    at = np.geomspace(places[0], places[-1], 40)
    for name, style in DRAWN.items():
        grown = law.LAWS[name](at) / law.LAWS[name](np.array([places[0]]))
        ax.plot(at, first["sync_rms"] * grown, style, color=report.GREY, label=name)
    ax.set(
        xscale="log",
        xlabel="parts of an image",
        ylabel="RMS distance to the synchronous run",
        ylim=(0, None),
    )
    draw.ticks(ax, places)
    ax.legend()


# -- words


def _answer(own: list[dict], table: list[dict], subject: str) -> str:
    """How one subject's error grows, by which law, and what a pipeline makes of it."""
    at = {(row["attention"], row["devices"]): row for row in own}
    least, most = (end(n for _, n in at) for end in (min, max))
    grown, piped = at["stale", most], at["pipefusion", most]
    # The growth that the fraction of stale tokens has.
    wanted = law.LAWS["(n-1)/n"](most) / law.LAWS["(n-1)/n"](least)
    which = subject, METHODS["stale"], "rms"
    # Of displaced patches, by the RMS.
    fit = next(fit for fit in table if (fit["subject"], fit["way"], fit["error"]) == which)
    best = min(law.LAWS, key=fit.get)
    return (
        f"On {subjects.NAMES[subject]}, displaced patches have {words.ratio(grown)} times the "
        f"error at {most} parts that they have at {least}; (n-1)/n says {report.sig(wanted)}, "
        f"sqrt(n) {report.sig(np.sqrt(most / least))}; the law with the least misfit is {best} "
        f"({report.sig(fit[best])}, (n-1)/n {report.sig(fit['(n-1)/n'])}, "
        f"sqrt(n) {report.sig(fit['sqrt(n)'])}). A pipeline of {most} patches has "
        f"{words.ratio(piped)} times the error of as many displaced ones."
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
    )
    return report.Section(
        question=(
            "Does the error grow as the stale share, and does a pipeline of patches halve it?"
        ),
        expected=(
            "Displaced patches have (n-1)/n of their context stale, patches in a pipeline "
            "(M-1)/(2M), half of it on the mean: both saturate, neither is sqrt(n)."
        ),
        answer="\n".join(answers),
        figures=(picture,),
        table=[*table, *words.columns(rows, ("subject", "attention", "devices"))],
        caveat=(
            "The first patch of a pipeline has all of its context stale and the last one none, "
            "which an error's square does not average as a share does. "
            f"{words.converged(rows)}"
        ),
        command=command,
    )
