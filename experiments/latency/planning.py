"""(c) How should so many devices share one image, and how many are worth it?"""

import numpy as np

from configs.latency import DEVICES
from experiments import report
from experiments.latency import layouts
from flowjax import models
from flowjax.parallel.analysis import latency

QUESTION = "planning"
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
EXACT = ("gather", "ulysses", "ring", "ulysses_ring")
NETWORK = "DiT-XL/2"


def cells(config):
    """One cell a machine, number of tokens and number of devices."""
    return [
        {"question": QUESTION, "machine": machine, "tokens": tokens, "devices": n}
        for machine in config.machines
        for tokens in config.tokens
        for n in config.devices
    ]


def setting(config, key):
    """(work, tokens, synchronous rows, device) of a cell."""
    work = latency.work(models.preset(NETWORK))
    return work, key["tokens"], latency.masked(config.steps, config.warmup), DEVICES[key["machine"]]


def measure(config, todo):
    """Yield (key, values): the quickest layout of at most so many devices for one guided image, of all and of exact ones."""
    for key in todo:
        here = setting(config, key)
        counts = [n for n in config.devices if n <= key["devices"]]
        best, found = layouts.quickest(*here, counts, config.patches)
        exact, of_exact = layouts.quickest(*here, counts, config.patches, attentions=EXACT)
        alone = layouts.quickest(*here, [1], config.patches)[1].total
        yield key, {
            "layout": str(best), "takes": best.devices, "attention": best.attention, "seconds": found.total,
            **found._asdict(), "speedup": alone / found.total, "exact_layout": str(exact),
            "exact_seconds": of_exact.total, "exact_speedup": alone / of_exact.total,
            "images_a_second": key["devices"] / best.devices / found.total,
            "images_a_second_apart": key["devices"] / alone, "network": NETWORK, "steps": config.steps,
        }  # fmt: skip


def pays(own, share):
    """The most devices whose last doubling gave back at least `share` of itself as speed: (1 + share) times as fast.

    Args:
      own: rows of one machine and number of tokens, devices doubling.
    """
    own, most = sorted(own, key=lambda r: r["devices"]), 1
    for before, after in zip(own[:-1], own[1:], strict=True):
        if before["seconds"] / after["seconds"] < 1 + share:
            break
        most = after["devices"]
    return most


def section(rows, command, share):
    """The section of the page."""
    machines, sizes = (list(dict.fromkeys(r[name] for r in rows)) for name in ("machine", "tokens"))
    fig, axes = report.canvas(len(sizes), 1, height=2.7 * len(sizes))
    for ax, tokens in zip(np.atleast_1d(axes), sizes, strict=True):
        for machine in machines:
            own = [r for r in rows if (r["machine"], r["tokens"]) == (machine, tokens)]
            ax.plot(
                [r["devices"] for r in own],
                [r["seconds"] for r in own],
                "o-",
                markersize=3,
                label=machine,
            )
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="devices",
            ylabel="seconds an image",
            title=f"{tokens} tokens",
        )
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
    np.atleast_1d(axes)[0].legend()
    worth = []
    for tokens in sizes:
        for machine in machines:
            own = [r for r in rows if (r["machine"], r["tokens"]) == (machine, tokens)]
            most = pays(own, share)
            worth.append(dict(next(r for r in own if r["devices"] == most), tokens=str(tokens)))
    counts, ax = report.canvas(height=2.6)
    report.heatmap(
        ax,
        worth,
        x="tokens",
        y="machine",
        value="devices",
        log=True,
        label="devices",
        text=lambda n: f"{n:.0f}",
    )
    ax.set(ylabel="")
    said = []
    for tokens in sizes:
        own = [r for r in worth if r["tokens"] == str(tokens)]
        least, most = (pick(own, key=lambda r: r["devices"]) for pick in (min, max))
        said.append(
            f"{tokens} tokens: from **{least['devices']}** ({least['machine']}: {least['layout']}, {report.sig(least['speedup'])} times as fast as one) to "
            f"**{most['devices']}** ({most['machine']}: {most['layout']}, {report.sig(most['speedup'])} times)."
        )
    return report.Section(
        question="How many devices are worth it for one image, and how should they share it?",
        expected="Guidance's two branches first, since they say almost nothing to each other; then tokens. Little is left for a second node at 1024 tokens; "
        "65536 tokens occupy hundreds of devices.",
        answer=f"Most devices whose last doubling still made an image at least {1 + share:g} times as fast. " + " ".join(said),
        figures=(
            report.picture(
                fig,
                "Seconds of a guided image against the number of devices, for each machine: they fall, then stay.",
                f"{rows[0]['network']}, {rows[0]['steps']} guided evaluations, the quickest layout of at most so many devices.",
            ),
            report.picture(
                counts,
                "Heat map: the most devices worth it, by machine and number of tokens.",
                f"The most devices whose last doubling made an image at least {1 + share:g} times as fast.",
            ),
        ),
        table=[{k: r[k] for k in COLUMNS} for r in rows],
        caveat="A layout that takes fewer than the devices leaves the others to further images. A pipeline here shares no tokens besides, as in this "
        "package; all-to-all on a torus is counted as if every device had its link to itself; a stale layout is approximate, and what it costs in error the chapter on staleness says.",
        command=command,
    )  # fmt: skip
