"""What does synchrony cost with linear attention, beside softmax attention?

A device of a SANA receives sums over keys, whose size does not depend on the image, and a row of
tokens from either neighbour. A device of a DiT receives the keys and values of the others. Both
have equally many tokens here.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from configs.latency import DEVICES
from experiments import report
from experiments.latency import planning, price
from flowjax import models
from flowjax.models.sana_sizes import SanaConfig
from flowjax.parallel import traffic
from flowjax.parallel.analysis import latency
from flowjax.parallel.mesh import without_devices

if TYPE_CHECKING:
    from configs.latency import Config

QUESTION = "linear"
FAMILY = "SANA-1.6B"
# {pixels a side: the name of the preset}
SIZES = {size: f"{FAMILY}/{size}" for size in ("1024", "2K", "4K")}
DTYPE = "bfloat16"
GUIDANCE = 4.5  # any scale: both branches are in one batch
# Staleness pays where a step is at least so many times as fast as the quickest exact one.
PAYS = 1.1
# {column: the title of its heat map}
MAPS = {
    "worth": f"linear attention ({FAMILY})",
    "worth_softmax": f"softmax attention ({planning.NETWORK})",
}
# Of the table on the page.
COLUMNS = (
    "machine",
    "pixels",
    "tokens",
    "devices",
    "MB, sums and rows",
    "MB, sums",
    "MB, keys and values",
    "ms, linear",
    "ms, linear, stale",
    "worth",
    "worth_hidden",
    "ms, softmax",
    "ms, softmax, stale",
    "worth_softmax",
    "speedup",
)


# -- the measurement


def cells(config: "Config") -> list[dict]:
    """One cell a machine, size of the image and number of devices of one island."""
    return [
        {"question": QUESTION, "machine": machine, "pixels": size, "devices": n}
        for machine in config.machines
        for size in SIZES
        for n in config.devices
        if n in price.ISLAND
    ]


def measure(config: "Config", todo: Iterable[dict]) -> Iterator[tuple[dict, dict]]:
    """Yield (key, values): megabytes and milliseconds of one step, and what staleness is worth."""
    softmax = latency.work(models.preset(planning.NETWORK))
    for key in todo:
        sana = dataclasses.replace(models.preset(SIZES[key["pixels"]]), dtype=DTYPE)
        n, device = key["devices"], DEVICES[key["machine"]]

        def step(work, *attentions, tokens=sana.tokens, n=n, device=device, **figures):
            return price.step(config, work, tokens, n, device, *attentions, **figures)

        linear = latency.work(sana)
        exact, stale = step(linear, "gather"), step(linear, "stale")
        quickest, displaced = step(softmax, *planning.EXACT), step(softmax, "stale")
        alone = price.step(config, linear, sana.tokens, 1, device, "gather")
        sums, rows, keys = received(sana, n)
        yield (
            key,
            {
                "tokens": sana.tokens,
                "MB, sums and rows": (sums + rows) / 1e6,
                "MB, sums": sums / 1e6,
                "MB, keys and values": keys / 1e6,
                "ms, linear": exact,
                "ms, linear, stale": stale,
                "worth": exact / stale,
                "worth_hidden": exact / step(linear, "stale", hidden=1.0),
                "ms, softmax": quickest,
                "ms, softmax, stale": displaced,
                "worth_softmax": quickest / displaced,
                "speedup": alone / exact,
            },
        )


def received(sana: SanaConfig, devices: int) -> tuple[int, int, int]:
    """Bytes that a device receives in a guided step: (sums, rows, keys and values).

    Keys and values are those of a DiT with as many tokens.
    """
    mesh = without_devices(devices)
    dtype = jnp.dtype(DTYPE)
    shape = (1, *sana.size, sana.channels)
    # A stale row without an exchange receives the rows alone.
    nothing_sent = np.zeros(1, bool)
    ((rows, both),) = traffic.linear_rows(sana, shape, mesh, GUIDANCE, dtype, nothing_sent)
    side = 2 * math.isqrt(sana.tokens)  # patches of 2
    dit = models.preset(planning.NETWORK, size=(side, side), dtype=DTYPE)
    shape = (1, side, side, dit.channels)
    of_keys = traffic.exact_rows(dit, shape, mesh, "gather", GUIDANCE, dtype, 1)
    return int(both - rows), int(rows), int(of_keys[0, 1])


# -- numbers


def paying(rows: list[dict], name: str = "worth") -> list[dict]:
    """[{machine, pixels, devices}]: the fewest devices on which staleness pays, None for none."""
    found = []
    for machine, pixels in dict.fromkeys((row["machine"], row["pixels"]) for row in rows):
        own = [row for row in rows if (row["machine"], row["pixels"]) == (machine, pixels)]
        counts = [row["devices"] for row in own if row[name] >= PAYS]
        least = min(counts, default=None)
        found.append({"machine": machine, "pixels": pixels, "devices": least})
    return found


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """A heat map over machines and sizes for each of MAPS, on the most devices."""
    most = max(row["devices"] for row in rows)
    own = [row for row in rows if row["devices"] == most]
    return price.heat_maps(own, MAPS, "pixels", "pixels a side")


# -- words


def _where(rows: list[dict], name: str) -> str:
    """On which machines, sizes and devices staleness pays, in words."""
    found = [line for line in paying(rows, name) if line["devices"]]
    if not found:
        return "nowhere"
    return "; ".join(
        f"{line['machine']}, {line['pixels']}: from {line['devices']} devices" for line in found
    )


def _count(rows: list[dict], name: str) -> int:
    """In how many cells staleness pays."""
    return sum(row[name] >= PAYS for row in rows)


def claim(rows: list[dict]) -> str:
    """The claim of the figure."""
    return (
        f"A stale step is at least {PAYS:g} times as fast in {_count(rows, 'worth')} of "
        f"{len(rows)} cells with linear attention, in {_count(rows, 'worth_softmax')} with softmax"
    )


def summary(rows: list[dict]) -> str:
    """The line of the page's summary."""
    return (
        f"**Linear attention**: a stale step is at least {PAYS:g} times as fast as a synchronous "
        f"one in {_count(rows, 'worth')} of {len(rows)} cells; with softmax attention in "
        f"{_count(rows, 'worth_softmax')}."
    )


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    most = max(row["devices"] for row in rows)
    # Bytes do not depend on the machine.
    machine = rows[0]["machine"]
    sizes = ", ".join(
        f"**{report.sig(row['MB, sums and rows'])}** ({report.sig(row['MB, sums'])} of them sums) "
        f"and {report.sig(row['MB, keys and values'])} at {row['pixels']}"
        for row in rows
        if (row["machine"], row["devices"]) == (machine, most)
    )
    hidden = _count(rows, "worth_hidden")
    picture = report.picture(
        _figure(rows),
        "Heat maps of the worth of a stale step by machine and size, for linear and for softmax "
        "attention.",
        f"On {most} devices. Red: the stale step is quicker than the quickest exact one; blue: it "
        "is slower.",
        title=claim(rows),
    )
    return report.Section(
        question="What does synchrony cost with linear attention?",
        expected=(
            "Little, since the sums do not grow with the image. What is left is the latency of the "
            "exchanges, which counts in small images on many devices."
        ),
        answer=(
            f"Megabytes that each of {most} devices receives in a guided step, with linear "
            f"attention and in a {planning.NETWORK} with as many tokens: {sizes} pixels.\n"
            f"Staleness pays (at least {PAYS:g} times as fast) with linear attention: "
            f"{_where(rows, 'worth')}. With softmax attention: {_where(rows, 'worth_softmax')}.\n"
            f"If all of the sums' transfer were hidden, it would pay in {hidden} of {len(rows)} "
            "cells."
        ),
        figures=(picture,),
        table=[{name: row[name] for name in COLUMNS} for row in rows],
        caveat=(
            f"Guidance in the batch, {DTYPE}, a step far from the start. Nothing was measured with "
            "linear attention: its operations are counted, and rates, latency and hiding are those "
            "that fit published seconds of softmax attention. The rows for the convolution are "
            "waited for in stale steps too, with two rounds of latency."
        ),
        command=command,
    )
