"""(c) By what law does the error of staleness grow with the number of devices? Read from the rows of `error`."""

import numpy as np

from experiments import report
from experiments.staleness import error, lab

QUESTION, cells, measure = error.QUESTION, error.cells, error.measure

LAWS = {
    "(n-1)/n": lambda n: (n - 1) / n,
    "log n": np.log,
    "sqrt(n)": np.sqrt,
    "n": lambda n: n,
    "constant": lambda n: np.ones(len(n)),
}
COLUMNS = ("subject", "solver", "steps")


STATISTICS = {"median": "sync_median", "RMS": "sync_rms"}


def groups(rows, statistic="median"):
    """{(subject, solver, steps): (devices, errors to the synchronous run)}, more than one device and an error above 0."""
    column = STATISTICS[statistic]
    found = {}
    for row in sorted(error.stale(rows), key=lambda r: r["devices"]):
        if row[column] > 0:
            found.setdefault(tuple(row[name] for name in COLUMNS), []).append(
                (row["devices"], row[column])
            )
    return {key: np.array(pairs, float).T for key, pairs in found.items() if len(pairs) > 1}


def misfit(devices, errors, law):
    """Root mean square of log(error / (c law(n))) with the best c: 0.1 is about 10 %."""
    return float(np.std(np.log(errors / LAWS[law](devices))))


def fits(rows, statistic="median"):
    """[{subject, law, error, misfit, best in, of}]: RMS misfit over solvers and steps, and in how many the law fits best."""
    table = []
    for subject in dict.fromkeys(r["subject"] for r in rows):
        own = [pairs for key, pairs in groups(rows, statistic).items() if key[0] == subject]
        each = np.array([[misfit(*pairs, law) for law in LAWS] for pairs in own])  # (groups, laws)
        for i, law in enumerate(LAWS):
            best = int(np.sum(each.argmin(1) == i))
            total = float(np.sqrt(np.mean(each[:, i] ** 2)))
            table.append(
                {
                    "subject": subject,
                    "law": law,
                    "error": statistic,
                    "misfit": total,
                    "best in": best,
                    "of": len(own),
                }
            )
    return table


def section(rows, command):
    """The section of the page."""
    table = [fit for statistic in STATISTICS for fit in fits(rows, statistic)]
    subjects = list(dict.fromkeys(r["subject"] for r in rows))
    fig, axes = report.canvas(len(subjects), 1, height=3.2 * len(subjects))
    for ax, subject in zip(np.atleast_1d(axes), subjects, strict=True):
        _draw(ax, {key: pairs for key, pairs in groups(rows).items() if key[0] == subject})
        ax.set_title(lab.NAMES[subject])
    ratios = [
        dict(zip(COLUMNS, key, strict=True))
        | {f"n = {n:g}": e / errors[0] for n, e in zip(devices, errors, strict=True)}
        for key, (devices, errors) in groups(rows).items()
    ]
    return report.Section(
        question="By what law does it grow with the number of devices?",
        expected="As (n-1)/n, the share of the context that is stale: 1.75 times from 2 to 8 devices, and at most 2 times for ever. A rule of thumb has "
        "sqrt(n): 2 times from 2 to 8, 4 times from 2 to 32.",
        answer="\n".join(_said(table, subject) for subject in subjects),
        figures=(
            report.picture(
                fig,
                "Error of staleness over that of two devices, against the number of devices, with the curves of three laws.",
                "Median over starts. Each thin line is one solver and number of steps, divided by its error at 2 devices; dotted: laws.",
            ),
        ),
        table=[*table, *ratios],
        caveat="The law is of first order in the staleness, so it holds for the median start. A start that changes its datum makes an error that no longer "
        "grows, and a few of them rule the RMS: its fits stand in the table.",
        command=command,
    )


def _said(table, subject):
    """The best law of one subject, by the median and by the RMS."""
    parts = []
    for statistic in STATISTICS:
        ranked = sorted(
            (t for t in table if (t["subject"], t["error"]) == (subject, statistic)),
            key=lambda t: t["misfit"],
        )
        others = ", ".join(f"{t['law']} {report.sig(t['misfit'])}" for t in ranked[1:])
        best = f"**{ranked[0]['law']}**" if statistic == "median" else ranked[0]["law"]
        parts.append(
            f"by the {statistic} {best} (misfit {report.sig(ranked[0]['misfit'])}; {others})"
        )
    return f"On {lab.NAMES[subject]} the best law is {'; '.join(parts)}."


def _draw(ax, own):
    least = min(devices[0] for devices, _ in own.values())
    most = max(devices[-1] for devices, _ in own.values())
    for (_, solver, _), (devices, errors) in own.items():
        ax.plot(
            devices, errors / errors[0], **(report.style(solver) | {"linewidth": 0.8, "alpha": 0.7})
        )
    curve = np.geomspace(least, most, 40)
    for law, colour in (("(n-1)/n", report.INK), ("sqrt(n)", report.AMBER), ("n", report.GREY)):
        ax.plot(
            curve, LAWS[law](curve) / LAWS[law](np.array([least])), ":", color=colour, linewidth=1.8
        )
        ax.annotate(
            law,
            (most, LAWS[law](most) / LAWS[law](least)),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=7,
        )
    places = sorted({n for devices, _ in own.values() for n in devices})
    ax.set(
        xscale="log",
        xlabel="devices",
        ylabel=f"error over that of {least:g} devices",
        ylim=(0, most / least),
    )
    ax.set_xticks(places, [f"{n:g}" for n in places], minor=False)
    ax.minorticks_off()
