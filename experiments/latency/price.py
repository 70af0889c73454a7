"""(b) What is a stale step worth, beside the quickest exact one?"""

import functools

from experiments import report
from experiments.latency import layouts, planning
from flowjax.parallel.analysis import latency

QUESTION = "price"
METHODS = ("gather", "ulysses", "ring", "stale", "pipefusion")
LINKS = {"NVLink": "by NVLink", "PCIe": "over PCIe", "TPU": "on TPUs"}
COLUMNS = (
    "machine",
    "tokens",
    "devices",
    *METHODS,
    "exact",
    "stale, all hidden",
    "worth",
    "worth_hidden",
    "worth_pipeline",
)


def cells(config):
    """One cell a machine, number of tokens and of devices of one island that share an image's tokens or layers."""
    return [
        {"question": QUESTION, "machine": machine, "tokens": tokens, "devices": n}
        for machine in config.machines
        for tokens in config.tokens
        for n in config.devices
        if n in (2, 4, 8)
    ]


def measure(config, todo):
    """Yield (key, milliseconds of a step far from the start, guided by the batch; and what staleness is worth)."""
    for key in todo:
        work, tokens, _, device = planning.setting(config, key)
        step = functools.partial(_step, config, work, tokens, key["devices"], device)
        found = {name: step(name) for name in METHODS}
        exact, hidden = step(*planning.EXACT), step("stale", hidden=1.0)
        yield key, {
            **found, "exact": exact, "stale, all hidden": hidden, "worth": exact / found["stale"],
            "worth_hidden": exact / hidden, "worth_pipeline": exact / found["pipefusion"],
            "of_gather": found["gather"] / found["stale"],
        }  # fmt: skip


def _step(config, work, tokens, devices, device, *attentions, **figures):
    """Milliseconds of one more step of the quickest layout of these attentions, on a device with other figures."""
    options = [
        o for o in layouts.layouts(work, tokens, devices, config.patches, attentions) if o.cfg == 1
    ]
    if not options:  # stages of unequal depth
        options = [
            layouts.Layout(*attentions, pipe=devices, patches=devices * 2**i) for i in range(3)
        ]
    return 1e3 * min(_slope(o, work, tokens, device._replace(**figures)) for o in options)


def _slope(layout, work, tokens, device):
    """Seconds of one more step: those of 101 rows, less those of the first, by 100."""
    longer, first = (
        layouts.seconds(layout, work, tokens, latency.masked(n, 1), device).total for n in (101, 1)
    )
    return (longer - first) / 100


def section(rows, command):
    """The section of the page."""
    most = max(r["devices"] for r in rows)
    own = [dict(r, size=f"{r['tokens']}") for r in rows if r["devices"] == most]
    fig, axes = report.canvas(3, 1, height=7.6)
    names = {"worth": "displaced patches, hidden as published", "worth_hidden": "displaced patches, all hidden",
             "worth_pipeline": "pipeline of patches"}  # fmt: skip
    for ax, (name, title) in zip(axes, names.items(), strict=True):
        report.heatmap(ax, own, x="size", y="machine", value=name, label="times as fast")
        ax.set(title=title, xlabel="tokens", ylabel="")
    said = []
    for name, title in names.items():
        parts = []
        for link, words in LINKS.items():
            values = [r[name] for r in own if link in r["machine"]]
            if values:
                parts.append(
                    f"{words} **{report.sig(min(values))} to {report.sig(max(values))}** times as fast"
                )
        said.append(f"{title[0].upper()}{title[1:]}: {', '.join(parts)}.")
    return report.Section(
        question="What is a stale step worth, beside the quickest exact one?",
        expected="Much where links are slow beside compute, little by NVLink: there exchanging heads moves 2/n of the bytes of a gather.",
        answer=f"Beside the quickest exact step on {most} devices. " + " ".join(said),
        figures=(
            report.picture(
                fig,
                "Heat maps of the worth of a stale step by machine and number of tokens.",
                f"Above 1 the stale step is quicker than the best of gather, ulysses and ring on {most} devices; milliseconds are in the table.",
            ),
        ),
        table=[{k: r[k] for k in COLUMNS} for r in rows],
        caveat="Guidance in the batch, a step far from the start. How much of a transfer compute hides is measured for DistriFusion's program, and a compiled one that starts "
        "a gather a whole layer ahead may hide more: the second map is its bound. Between stages of unequal depth a pipeline waits for the deepest.",
        command=command,
    )  # fmt: skip
