"""Does staleness harm linear attention as much as softmax attention?

Two networks have one data set, seed, clock and training. One has softmax attention, whose devices
exchange keys and values; the other has linear attention, whose devices exchange sums over keys.
Both run the same plans from the same starts. In a stale step a device sees its own part of this
step, and that of the others from the step before.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.figure
import numpy as np

from experiments import report
from experiments.cli.run import check_names
from experiments.lab import statistics
from experiments.lab.subjects import check_networks
from experiments.staleness import draw, subjects, words
from flowjax import distances, models

if TYPE_CHECKING:
    from configs.staleness import Config

QUESTION = "linear"
# A row of an image stays on one device, so 8 x 8 digits lie on 8 devices at most.
COUNTS = (2, 4, 8)
# The relative difference of two distances that counts as none.
BAND = 0.1
# {verdict of `statistics.verdict`: its word on the page}
VERDICTS = {"better": "better", "worse": "worse", "tie": "alike", "undecided": "undecided"}


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a network, number of steps and number of devices."""
    starts = {"starts": config.linear_starts}  # for each seed
    return [
        {"question": QUESTION, "network": network, "steps": steps, "devices": devices, **starts}
        for network in config.linear_networks
        for steps in config.linear_steps
        for devices in COUNTS
    ]


def check(config: "Config") -> None:
    """Refuse networks that there are not, or whose rows do not divide among the devices."""
    check_names("one_solver", config.one_solver, subjects.ONE_ROW_SOLVERS)
    known = [
        name
        for name in config.linear_networks
        if name not in (subjects.RANDOM, subjects.RANDOM_LINEAR)
    ]
    check_networks("linear_networks", known)
    for name in known:
        sizes = models.load(name).card.config
        rows = sizes.size[0] // sizes.patch
        if rows % max(COUNTS):
            raise ValueError(
                f"--config.linear_networks: {name!r} has {rows} rows of tokens; wanted a multiple "
                f"of {max(COUNTS)}, the most devices, each of which holds whole rows."
            )


class Errors(NamedTuple):
    """Relative errors (B,) of one cell, and where they come from.

    Attributes:
      stale: from the stale run to the synchronous one.
      own: from the synchronous run to the converged one.
      seed: (B,) of the starts.
      doubling: how far the converged run moved when its steps doubled.
      staleness: the root mean square relative staleness of what was exchanged.
    """

    stale: np.ndarray
    own: np.ndarray
    seed: np.ndarray
    doubling: float
    staleness: float


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values) of runs with held copies and one synchronous step.

    Beside the distance to the synchronous run stand two ratios of it on the same starts:
    `rms_ratio` and `median_ratio` to the first network, `own_rms_ratio` and `own_median_ratio` to
    the solver's own error on the same network.
    """
    first = config.linear_networks[0]
    errors_of = functools.cache(functools.partial(_errors, config))
    for key in todo:
        setting = key["steps"], key["devices"], key["starts"]
        here, there = errors_of(key["network"], *setting), errors_of(first, *setting)
        low, high = distances.bootstrap(
            here.stale, np.median, seed=0, groups=here.seed, resamples=statistics.RESAMPLES
        )
        over_own = statistics.paired(here.stale, here.own, here.seed, BAND)
        yield (
            key,
            {
                **_named("sync_", statistics.summary(here.stale, here.seed)),
                "sync_median_low": low,
                "sync_median_high": high,
                "own_rms": float(distances.rms(here.own)),
                "own_median": float(np.median(here.own)),
                **statistics.paired(here.stale, there.stale, here.seed, BAND),
                **_named("own_", over_own),
                "first": first,
                "solver": config.one_solver,
                "samples": len(here.seed),
                "doubling": here.doubling,
                "staleness": here.staleness,
            },
        )


def _errors(config: "Config", network: str, steps: int, devices: int, starts: int) -> Errors:
    """The `Errors` of one cell."""
    own = dataclasses.replace(config, network=network)
    key = subjects.compared(own, "network")._replace(starts=starts)
    subject = subjects.subject(key)
    plan = subjects.plan_of(config.one_solver, steps)
    found = subject.end(plan, subject.exchange(plan, devices))
    synchronous = subjects.synchronous(key, config.one_solver, steps)
    return Errors(
        stale=subject.errors(found.x, synchronous),
        own=subject.errors(synchronous, subject.exact),
        seed=subject.seed,
        doubling=subject.doubling,
        staleness=found.staleness,
    )


def _named(prefix: str, values: dict) -> dict:
    """The values with a prefix before their names."""
    return {prefix + name: value for name, value in values.items()}


# -- numbers


def compared(rows: list[dict]) -> list[dict]:
    """The rows of the other networks, which have a ratio to the first."""
    return [row for row in rows if row["network"] != row["first"]]


def word(row: dict, kind: str = "rms") -> str:
    """What the interval of a ratio to the first network says, one of the words of `VERDICTS`."""
    return VERDICTS[statistics.verdict(row, kind, BAND)]


def counts(rows: list[dict], kind: str = "rms") -> dict[str, int]:
    """{word: in how many cells it holds}, all words in the order of `VERDICTS`."""
    found = [word(row, kind) for row in compared(rows)]
    return {name: found.count(name) for name in VERDICTS.values()}


def at(rows: list[dict], network: str, steps: int) -> list[dict]:
    """The rows of one network with so many steps, in the order of the devices."""
    own = [row for row in rows if (row["network"], row["steps"]) == (network, steps)]
    return sorted(own, key=lambda row: row["devices"])


def middle(rows: list[dict]) -> int:
    """The number of steps with which the answer is given."""
    steps = sorted({row["steps"] for row in rows})
    return steps[len(steps) // 2]


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Distance to the synchronous run against devices, a panel for each number of steps."""
    steps = sorted({row["steps"] for row in rows})
    fig, axes = draw.side_by_side([f"{n} steps" for n in steps], height=3.4, sharey=True)
    for ax, n in zip(axes, steps, strict=True):
        own = [row for row in rows if row["steps"] == n]
        draw.lines(ax, own, x="devices", y="sync_rms", by="network", colours=draw.NETWORKS)
        # The solver's own error does not depend on the devices.
        for network, level in {row["network"]: row["own_rms"] for row in own}.items():
            colour = draw.NETWORKS.get(network, report.GREY)
            label = f"solver's own error, {network}"
            ax.axhline(level, color=colour, linestyle=draw.DOTTED["linestyle"], label=label)
        ax.set(xscale="log", yscale="log", xlabel="devices")
        draw.ticks(ax, [row["devices"] for row in own])
    # The panels have one vertical axis, whose limits are known after all are drawn.
    for ax in axes:
        draw.decades(ax)
    axes[0].set_ylabel("distance to the synchronous run")
    draw.legend(fig)
    return fig


# -- words


def _each(found: dict[str, int]) -> str:
    """The counts of `counts` in words: "worse in 3, alike in 2"."""
    return ", ".join(f"{name} in {count}" for name, count in found.items() if count)


def _answer(rows: list[dict]) -> str:
    """How often each word holds, the ratios at some steps, and the distance beside the solver's."""
    first, steps = rows[0]["first"], middle(rows)
    others = list(dict.fromkeys(row["network"] for row in compared(rows)))
    lines = []
    for other in others:
        own = [row for row in rows if row["network"] == other]
        lines.append(
            f"The distance of {other} beside that of {first}, in {len(own)} cells of steps and "
            f"devices: by the RMS {_each(counts(own))}; by the median "
            f"{_each(counts(own, 'median'))}."
        )
        ratios = ", ".join(
            f"{words.ratio(row)} times on {row['devices']} devices ({word(row)})"
            for row in at(rows, other, steps)
        )
        lines.append(f"With {steps} steps the RMS distance of {other} is {ratios}.")
    over_own = " and ".join(
        f"{words.ratio(last, 'own_rms')} on {network}"
        for network in (first, *others)
        for last in at(rows, network, steps)[-1:]
    )
    devices = max(row["devices"] for row in rows)
    lines.append(
        f"With {steps} steps over {devices} devices the distance is, times the solver's own error: "
        f"{over_own}."
    )
    return "\n".join(lines)


def claim(rows: list[dict]) -> str:
    """The claim of the figure."""
    found, cells = counts(rows), len(compared(rows))
    return (
        f"Stale sums move samples more than stale keys and values in {found['worse']} of {cells} "
        f"cells, less in {found['better']}"
    )


def _lines(rows: list[dict]) -> list[dict]:
    """The rows as the page lists them."""
    return [
        {
            "network": row["network"],
            "steps": row["steps"],
            "devices": row["devices"],
            "RMS distance": words.error(row),
            "median distance": draw.with_interval(
                *(row[f"sync_median{end}"] for end in ("", "_low", "_high"))
            ),
            "ratio of RMS": words.ratio(row).replace("**", ""),
            "ratio of medians": words.ratio(row, "median").replace("**", ""),
            "by RMS": word(row),
            "solver's own": row["own_rms"],
            "over the solver's own": words.ratio(row, "own_rms").replace("**", ""),
        }
        for row in rows
    ]


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    first = rows[0]["first"]
    moved = max(row["doubling"] for row in rows)
    picture = report.picture(
        _figure(rows),
        "The distance to the synchronous run against the number of devices, for softmax and for "
        "linear attention, at several numbers of steps.",
        f"{rows[0]['solver']}, one synchronous step, held copies; bands are 95 % intervals; "
        "dotted: the distance of the synchronous run to the converged one.",
        title=claim(rows),
    )
    return report.Section(
        question="Does staleness harm linear attention as much as softmax attention?",
        expected=(
            "Sums over keys are averages over many tokens and should change less in a step than "
            "single keys and values, and the convolution reads rows of this step. So stale sums "
            f"should move samples less. The rule: worse or better than {first} where the whole "
            f"95 % interval of the ratio lies beyond a factor {1 + BAND:g}, alike where it lies "
            "within, undecided otherwise."
        ),
        answer=_answer(rows),
        figures=(picture,),
        table={f"Distances, and their ratios to those of {first}": _lines(rows)},
        caveat=(
            f"Two networks of one million parameters with one training seed each, "
            f"{rows[0]['samples']} starts. An interval speaks for other starts of these networks, "
            "not for other trainings. The networks differ in more than attention: the one with "
            "linear attention has a convolution too, whose rows are always those of this step. "
            f"The converged runs moved by at most {report.sig(moved)} when their steps doubled."
        ),
        command=command,
    )
