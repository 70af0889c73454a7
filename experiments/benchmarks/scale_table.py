"""The page of `experiments.benchmarks.scale`: summary, tables, and what they leave open."""

from collections.abc import Sequence

from experiments.latency import linear, planning

GB, MB = 1e9, 1e6
# What was found in the texts of two programs for 16 x 16 TPU v5e.
COMPILER = """\
Arguments are the weights, and little else. What is temporary beyond the formula was looked up in
two programs for 256 v5e: the weights of queries, keys and values of all layers lie there a second
time, in another layout (223 MB of a DiT-XL/2); with stale attention and 16384 tokens also scores
(67 MB in float32) and the gathered keys and values of a layer in further layouts (75 MB each).
Arrays that fit the chip's own memory (VMEM) are not counted, so a program may also have less than
the formula's. What SANA has beyond it was not looked up.
"""
UNKNOWN = """\
The seconds are a model's (`flowjax.parallel.analysis.latency`). It was fitted to published seconds
on at most 16 GPUs with softmax attention. InfiniBand was not fitted: 50 GB/s a card is its data
sheet, and a collective that leaves a node has the latency of one inside it. No rate of a TPU was
fitted, and no transfer was timed on a torus: a gather over 4 x 4 chips has no ring on v5e, and an
all-to-all over a torus is counted as if every chip had its link to itself. Groups that compete for
a link, slow devices and the start of a program on many hosts are left out. Operations are counted
for SANA and nothing of it was timed. The scale of guidance has its two branches on devices of their
own where that is quicker.
"""


def markdown(rows: list[dict], command: str, shown: Sequence[int], pays: float) -> str:
    """The page.

    Args:
      rows: of `scale.run`.
      command: that made them.
      shown: the numbers of devices that the tables have.
      pays: as in `configs.scale`.
    """
    paper = [row for row in rows if "machine" in row]
    compiled = [row for row in rows if "topology" in row]
    parts = [
        f"# One image on {_listed(shown)} devices",
        _summary(paper, shown, pays),
        "## What a device holds, receives and takes, by formula",
        *(_network(paper, name, shown) for name in _levels(paper, "network")),
        "## Where more devices stop helping",
        _limits(paper, pays),
    ]
    if compiled:
        title = "## What the compiler for TPU says of the same memory"
        parts += [title, COMPILER.strip(), _programs(compiled)]
    return "\n\n".join([*parts, "## What the numbers do not know", UNKNOWN + f"\n`{command}`\n"])


def _levels(rows: list[dict], name: str) -> list:
    """The values of a column, in the order of the rows."""
    return list(dict.fromkeys(row[name] for row in rows))


def _listed(numbers: Sequence[int]) -> str:
    """Numbers in words: "16, 64 and 256"."""
    *first, last = map(str, numbers)
    return f"{', '.join(first)} and {last}" if first else last


def _lines(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table."""
    every = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def _rest(row: dict) -> float:
    """Bytes on a device that are not weights."""
    return row["buffers"] + row["gathered"] + row["activations"]


# -- the summary


def _summary(rows: list[dict], shown: Sequence[int], pays: float) -> str:
    """Claims in words, each from the rows."""
    large = [row for row in rows if row["devices"] in shown]
    fullest = max(large, key=lambda row: row["total"] / row["room"])
    tightest = min(large, key=lambda row: row["room"])
    others = max(_rest(row) for row in large if row["machine"] == tightest["machine"])
    fits = (tightest["room"] - others) / 2 / GB
    most = {
        network: [
            (worth(rows, machine, network, pays)["devices"], machine)
            for machine in _levels(rows, "machine")
        ]
        for network in _levels(rows, "network")
    }
    counts = "; ".join(
        f"{network}: {min(found)[0]} ({min(found)[1]}) to {max(found)[0]} ({max(found)[1]})"
        for network, found in most.items()
    )
    return "\n".join(
        [
            f"- Memory is no limit. The fullest device holds {fullest['total'] / GB:.2f} of "
            f"{fullest['room'] / GB:.0f} GB ({fullest['machine']}, {fullest['network']}, "
            f"{fullest['devices']} devices, {fullest['method']} attention), "
            f"{fullest['weights'] / fullest['total']:.0%} of it weights.",
            "- Every device holds all weights, so more devices make room for no larger network. In "
            f"half precision weights stop fitting {tightest['machine']} at about {fits:.1f} "
            "billion parameters; then the layers or the weights must be divided.",
            "- Tokens run out first. A doubling of the devices still makes an image at least "
            f"{1 + pays:g} times as fast up to so many devices, with exact attention: {counts}.",
            f"- {_floor(rows)}",
            f"- {_stale(large)}",
        ]
    )


def _floor(rows: list[dict]) -> str:
    """The most tokens a device with which a layer no longer takes its products' time."""
    short = [row for row in rows if row["limit"] != "products" and row["method"] == "exact"]
    if not short:
        return "A layer takes the time of its products everywhere here."
    most = max(short, key=lambda row: row["tokens"])
    reason = {
        "floor": "starting its programs",
        "weights": "reading its weights",
    }[most["limit"]]
    return (
        f"Below some tokens on a device a layer takes the time of {reason} instead of its "
        f"products: {most['network']} from {most['devices']} devices on ({most['machine']}, "
        f"{most['tokens']} tokens a device)."
    )


def _stale(rows: list[dict]) -> str:
    """Where a stale step is quicker than the quickest exact one, in a sentence."""
    cells = {}
    for row in rows:
        key = row["machine"], row["network"], row["devices"]
        cells.setdefault(key, {})[row["method"]] = row["step"]
    ratios = {key: own["exact"] / own["stale"] for key, own in cells.items() if len(own) == 2}
    count = sum(ratio >= linear.PAYS for ratio in ratios.values())
    machine, network, devices = best = max(ratios, key=ratios.get)
    return (
        f"A stale step is at least {linear.PAYS:g} times as fast as the quickest exact one in "
        f"{count} of {len(ratios)} cells of the tables, at most {ratios[best]:.2g} times "
        f"({network} on {devices} devices, {machine})."
    )


def _exact(rows: list[dict], machine: str, network: str) -> list[dict]:
    """The rows of exact attention of one machine and network, devices rising."""
    return sorted(
        (
            row
            for row in rows
            if (row["machine"], row["network"], row["method"]) == (machine, network, "exact")
        ),
        key=lambda row: row["devices"],
    )


def worth(rows: list[dict], machine: str, network: str, pays: float) -> dict:
    """The row with the most devices whose last doubling was worth it, of exact attention."""
    own = _exact(rows, machine, network)
    most = planning.pays(own, pays)
    return next(row for row in own if row["devices"] == most)


# -- the tables


def _network(rows: list[dict], network: str, shown: Sequence[int]) -> str:
    """The table of one network."""
    header = [
        "machine",
        "devices",
        "layout",
        "tokens a device",
        "weights, GB",
        "keys, values, sums, MB",
        "activations, MB",
        "received a step, MB",
        "a step, ms (waiting)",
        "a layer takes the time of",
        "an image, s",
    ]
    lines = [
        [
            row["machine"],
            str(row["devices"]),
            row["layout"],
            str(row["tokens"]),
            f"{row['weights'] / GB:.2f}",
            f"{(row['buffers'] + row['gathered']) / MB:.3g}",
            f"{row['activations'] / MB:.3g}",
            f"{row['received'] / MB:.3g}",
            f"{1e3 * row['step']:.3g} ({1e3 * row['exposed']:.3g})",
            row["limit"],
            f"{row['seconds']:.3g}",
        ]
        for row in rows
        if row["network"] == network and row["devices"] in shown
    ]
    return f"### {network}\n\n" + _lines(header, lines)


def _limits(rows: list[dict], pays: float) -> str:
    """Where doublings stop paying, and the quickest image, of each network and machine."""
    header = [
        "network",
        "machine",
        "worth it up to",
        "as fast as one device",
        "a layer takes its products' time up to",
        "quickest image",
    ]
    lines = []
    for network in _levels(rows, "network"):
        for machine in _levels(rows, "machine"):
            own = _exact(rows, machine, network)
            best = worth(rows, machine, network, pays)
            full = [row for row in own if row["limit"] == "products"][-1]
            quickest = min(
                (r for r in rows if (r["machine"], r["network"]) == (machine, network)),
                key=lambda row: row["seconds"],
            )
            lines.append(
                [
                    network,
                    machine,
                    f"{best['devices']} devices, {best['tokens']} tokens each",
                    f"{own[0]['seconds'] / best['seconds']:.3g} times",
                    f"{full['devices']} devices, {full['tokens']} tokens each",
                    f"{quickest['seconds']:.3g} s on {quickest['devices']} ({quickest['method']})",
                ]
            )
    return _lines(header, lines)


def _programs(rows: list[dict]) -> str:
    """The compiled programs beside the formula."""
    header = [
        "topology",
        "network",
        "attention",
        "arguments, GB (weights)",
        "temporary, MB",
        "by formula, MB",
        "more than that, MB",
        "compiled in, s",
    ]
    lines = [
        [
            row["topology"],
            row["network"],
            row["attention"],
            f"{row['arguments'] / GB:.2f} ({row['weights'] / GB:.2f})",
            f"{row['temporary'] / MB:.0f}",
            f"{_rest(row) / MB:.0f}",
            f"{(row['temporary'] - _rest(row)) / MB:.0f}",
            f"{row['compiling']:.0f}",
        ]
        for row in rows
    ]
    return _lines(header, lines)
