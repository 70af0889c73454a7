"""How should so many devices work on one image, and how many are worth it?"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np

from configs.latency import DEVICES
from experiments import report
from experiments.latency import layouts
from flowjax import models
from flowjax.parallel.analysis import latency
from flowjax.parallel.analysis.latency import Device, Work

if TYPE_CHECKING:
    from configs.latency import Config

QUESTION = "planning"
# Of the table on the page.
COLUMNS = (
    "machine",
    "tokens",
    "devices",
    "layout",
    "seconds",
    "speedup",
    "exact_layout",
    "exact_seconds",
    "images_a_second",
)
# The attentions whose result does not depend on the number of devices.
EXACT = ("gather", "ulysses", "ring", "ulysses_ring")
NETWORK = "DiT-XL/2"


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a machine, number of tokens and number of devices."""
    return [
        {"question": QUESTION, "machine": machine, "tokens": tokens, "devices": n}
        for machine in config.machines
        for tokens in config.tokens
        for n in config.devices
    ]


def setting(config: "Config", key: dict) -> tuple[Work, int, np.ndarray, Device]:
    """(work, tokens, synchronous rows, device) of a cell."""
    work = latency.work(models.preset(NETWORK))
    return work, key["tokens"], latency.masked(config.steps, config.warmup), DEVICES[key["machine"]]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): the quickest layout of at most so many devices for one guided image.

    Beside it stands the quickest one whose attention is exact.
    """
    for key in todo:
        here = setting(config, key)
        counts = [n for n in config.devices if n <= key["devices"]]
        # A layout of fewer devices is allowed: the others make further images.
        best, found = layouts.quickest(*here, counts, config.patches)
        exact, of_exact = layouts.quickest(*here, counts, config.patches, attentions=EXACT)
        # One device has one layout.
        _, of_one = layouts.quickest(*here, [1], config.patches)
        alone = of_one.total
        yield (
            key,
            {
                "layout": str(best),
                "takes": best.devices,
                "attention": best.attention,
                "seconds": found.total,
                **found._asdict(),
                "speedup": alone / found.total,
                "exact_layout": str(exact),
                "exact_seconds": of_exact.total,
                "exact_speedup": alone / of_exact.total,
                # Devices that the layout does not take make further images.
                "images_a_second": key["devices"] / best.devices / found.total,
                "images_a_second_apart": key["devices"] / alone,
                "network": NETWORK,
                "steps": config.steps,
            },
        )


# -- numbers


def pays(own: list[dict], share: float) -> int:
    """The most devices whose last doubling was worth it: at least (1 + share) times as fast.

    Args:
      own: rows of one machine and number of tokens, devices doubling.
      share: the fraction of a doubling's devices that must come back as speed.
    """
    own = sorted(own, key=lambda row: row["devices"])
    most = 1
    for before, after in zip(own[:-1], own[1:], strict=True):
        # From here on more devices do not pay, even if a later doubling would.
        if before["seconds"] / after["seconds"] < 1 + share:
            break
        most = after["devices"]
    return most


def _of(rows: list[dict], machine: str, tokens: int) -> list[dict]:
    """The rows of one machine and number of tokens."""
    return [row for row in rows if (row["machine"], row["tokens"]) == (machine, tokens)]


def _levels(rows: list[dict], name: str) -> list:
    """The values of a column, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))


def worth_it(rows: list[dict], share: float) -> list[dict]:
    """The row with the most devices that pay, for each number of tokens and machine."""
    found = []
    for tokens in _levels(rows, "tokens"):
        for machine in _levels(rows, "machine"):
            own = _of(rows, machine, tokens)
            most = pays(own, share)
            row = next(row for row in own if row["devices"] == most)
            # As a text, so that the heat map gives each number of tokens one column.
            found.append({**row, "tokens": str(tokens)})
    return found


# -- figures


def _seconds_figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Seconds against devices: a panel for each number of tokens, a curve for each machine."""
    sizes = _levels(rows, "tokens")
    fig, axes = report.canvas(1, len(sizes), width=3.7 * len(sizes), height=4.2)
    axes = np.atleast_1d(axes)
    for ax, tokens in zip(axes, sizes, strict=True):
        for machine in _levels(rows, "machine"):
            own = _of(rows, machine, tokens)
            devices = [row["devices"] for row in own]
            seconds = [row["seconds"] for row in own]
            ax.plot(devices, seconds, "o-", markersize=3, label=machine)
        ax.set(xscale="log", yscale="log", xlabel="devices", title=f"{tokens} tokens")
        # Devices double.
        report.measured_ticks(ax.xaxis, _levels(rows, "devices"))
        report.decade_ticks(ax.yaxis, ax.get_ylim())
    axes[0].set_ylabel("seconds an image")
    handles = axes[0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=4)
    return fig


def _devices_figure(worth: list[dict]) -> matplotlib.figure.Figure:
    """The most devices that pay, as a heat map over machines and tokens."""
    fig, ax = report.canvas(width=6.4, height=3.0)
    report.heatmap(
        ax,
        worth,
        x="tokens",
        y="machine",
        value="devices",
        log=True,
        label="devices worth it",
        text=lambda n: f"{n:.0f}",
    )
    ax.set(ylabel="")
    return fig


# -- words


def _range(worth: list[dict], tokens: int) -> str:
    """From how many devices to how many pay, over the machines, in a sentence."""
    own = [row for row in worth if row["tokens"] == str(tokens)]
    least = min(own, key=lambda row: row["devices"])
    most = max(own, key=lambda row: row["devices"])
    return (
        f"{tokens} tokens: from **{least['devices']}** ({least['machine']}: {least['layout']}, "
        f"{report.sig(least['speedup'])} times as fast as one) to "
        f"**{most['devices']}** ({most['machine']}: {most['layout']}, "
        f"{report.sig(most['speedup'])} times)."
    )


def _quickest(rows: list[dict]) -> str:
    """The quickest image of the most tokens, as a claim."""
    tokens = max(_levels(rows, "tokens"))
    best = min((row for row in rows if row["tokens"] == tokens), key=lambda row: row["seconds"])
    return (
        f"An image of {tokens} tokens takes {report.sig(best['seconds'])} s at least, on "
        f"{best['takes']} devices ({best['machine']})"
    )


def claim(rows: list[dict], share: float) -> str:
    """The most devices that pay for the fewest tokens, over all machines."""
    tokens = min(_levels(rows, "tokens"))
    own = [row for row in worth_it(rows, share) if row["tokens"] == str(tokens)]
    best = max(own, key=lambda row: row["devices"])
    return f"For {tokens} tokens at most {best['devices']} devices are worth it ({best['machine']})"


def summary(rows: list[dict], share: float) -> str:
    """The line of the page's summary."""
    text = claim(rows, share)
    return f"**Few devices pay for a small image**: {text[0].lower()}{text[1:]}."


def section(rows: list[dict], command: str, share: float) -> report.Section:
    """The section of the page; `share` as in `pays`."""
    worth = worth_it(rows, share)
    ranges = [_range(worth, tokens) for tokens in _levels(rows, "tokens")]
    seconds = report.picture(
        _seconds_figure(rows),
        "Seconds of a guided image against the number of devices, for each machine: "
        "they fall, then stay.",
        f"{rows[0]['network']}, {rows[0]['steps']} guided evaluations, "
        "the quickest layout of at most so many devices.",
        title=_quickest(rows),
    )
    devices = report.picture(
        _devices_figure(worth),
        "Heat map: the most devices worth it, by machine and number of tokens.",
        f"The most devices whose last doubling made an image at least {1 + share:g} times as fast.",
        title=claim(rows, share),
    )
    return report.Section(
        question="How many devices are worth it for one image, and how should they share it?",
        expected=(
            "Guidance's two branches first, since they say almost nothing to each other; "
            "then tokens. Little is left for a second node at 1024 tokens; "
            "65536 tokens occupy hundreds of devices."
        ),
        answer=(
            f"Most devices whose last doubling still made an image at least {1 + share:g} times "
            f"as fast. {' '.join(ranges)}"
        ),
        figures=(seconds, devices),
        table=[{name: row[name] for name in COLUMNS} for row in rows],
        caveat=(
            "A layout that takes fewer than the devices leaves the others to further images. "
            "A pipeline here shares no tokens besides, as in this package; all-to-all on a torus "
            "is counted as if every device had its link to itself; a stale layout is approximate, "
            "and what it costs in error the chapter on staleness says."
        ),
        command=command,
    )
