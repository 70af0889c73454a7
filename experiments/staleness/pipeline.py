"""(h) How does the error grow with the parts of an image, for displaced patches and for patches in a pipeline?"""

import numpy as np

from experiments import report
from experiments.staleness import draw, lab, law

QUESTION = "pipeline"
WAYS = {"stale": "displaced patches", "pipefusion": "PipeFusion"}


def cells(config):
    """One cell a subject, way and number of parts (devices, or patches in the pipeline)."""
    return [
        {"question": QUESTION, "subject": subject, "attention": attention, "devices": devices}
        for subject in config.asked
        for attention in WAYS
        for devices in config.parts
    ]


def measure(config, todo):
    """Yield (key, values); ratios: of displaced patches to the fewest parts, of PipeFusion to as many displaced patches."""

    def base(key):
        return key | (
            {"devices": min(config.parts)}
            if key["attention"] == "stale"
            else {"attention": "stale"}
        )

    return lab.measured(
        config, todo, lambda key: {name: key[name] for name in ("attention", "devices")}, base
    )


def groups(rows, statistic="rms"):
    """{(subject, attention): (devices, errors to the synchronous run)}."""
    found = {}
    for row in sorted(rows, key=lambda r: r["devices"]):
        found.setdefault((row["subject"], row["attention"]), []).append(
            (row["devices"], row[f"sync_{statistic}"])
        )
    return {key: np.array(pairs, float).T for key, pairs in found.items()}


def fits(rows):
    """[{subject, way, error, misfit of each law}], see `law.misfit`."""
    return [
        {"subject": subject, "way": WAYS[attention], "error": statistic}
        | {name: law.misfit(*pairs, name) for name in law.LAWS}
        for statistic in ("rms", "median")
        for (subject, attention), pairs in groups(rows, statistic).items()
    ]


def section(rows, command):
    """The section of the page."""
    table = fits(rows)
    fig, shown = draw.panels(rows)
    for ax, _, own in shown:
        named = [dict(r, way=WAYS[r["attention"]]) for r in own]
        draw.lines(ax, named, x="devices", y="sync_rms", by="way")
        places = sorted({r["devices"] for r in own})
        first = min(own, key=lambda r: (r["attention"] != "stale", r["devices"]))
        curve = np.geomspace(places[0], places[-1], 40)
        for name, line in (("(n-1)/n", ":"), ("sqrt(n)", "--")):
            ends = first["sync_rms"] * law.LAWS[name](curve) / law.LAWS[name](np.array([places[0]]))
            ax.plot(curve, ends, line, color=report.GREY, label=name)
        ax.set(
            xscale="log",
            xlabel="parts of an image",
            ylabel="RMS distance to the synchronous run",
            ylim=(0, None),
        )
        draw.ticks(ax, places)
        ax.legend()
    return report.Section(
        question="Does the error grow as the stale share, and does a pipeline of patches halve it?",
        expected="Displaced patches have (n-1)/n of their context stale, patches in a pipeline (M-1)/(2M), half of it on the mean: both saturate, neither is "
        "sqrt(n).",
        answer="\n".join(_said(rows, table, subject) for subject in dict.fromkeys(r["subject"] for r in rows)),
        figures=(
            report.picture(
                fig,
                "Distance to the synchronous run against the number of parts, for displaced patches and for PipeFusion, with two laws.",
                f"{rows[0]['solver']}, {rows[0]['steps']} steps, one synchronous; bands are 95 % intervals over seeds and starts.",
            ),
        ),
        table=[*table, *draw.columns(rows, ("subject", "attention", "devices"))],
        caveat="The first patch of a pipeline has all of its context stale and the last one none, which an error's square does not average as a share does. "
        + draw.converged(rows),
        command=command,
    )  # fmt: skip


def _said(rows, table, subject):
    own = {(r["attention"], r["devices"]): r for r in rows if r["subject"] == subject}
    most, least = (end(n for _, n in own) for end in (max, min))
    grown, wanted = own["stale", most], law.LAWS["(n-1)/n"](most) / law.LAWS["(n-1)/n"](least)
    fit = next(
        t for t in table if (t["subject"], t["way"], t["error"]) == (subject, WAYS["stale"], "rms")
    )
    best = min(law.LAWS, key=fit.get)
    return (
        f"On {lab.NAMES[subject]}, displaced patches have {draw.ratio(grown)} times the error at {most} parts that they have at {least}; (n-1)/n says "
        f"{report.sig(wanted)}, sqrt(n) {report.sig(np.sqrt(most / least))}; the law with the least misfit is {best} ({report.sig(fit[best])}, "
        f"(n-1)/n {report.sig(fit['(n-1)/n'])}, sqrt(n) {report.sig(fit['sqrt(n)'])}). A pipeline of {most} patches has "
        f"{draw.ratio(own['pipefusion', most])} times the error of as many displaced ones."
    )
