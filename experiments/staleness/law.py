"""By what law does the error of staleness grow with the number of devices?

Read from the rows of the question `error`; nothing is measured here.
"""

from collections.abc import Callable

import matplotlib.axes
import matplotlib.figure
import numpy as np

from experiments import report
from experiments.staleness import draw, error, subjects

QUESTION, check, cells, measure = error.QUESTION, error.check, error.cells, error.measure


def _grown(n: np.ndarray) -> np.ndarray:
    return (n - 1) / n


def _linear(n: np.ndarray) -> np.ndarray:
    return n


def _constant(n: np.ndarray) -> np.ndarray:
    return np.ones(len(n))


# {name: n devices -> error, but for a factor}
LAWS: dict[str, Callable] = {
    "(n-1)/n": _grown,
    "log n": np.log,
    "sqrt(n)": np.sqrt,
    "n": _linear,
    "constant": _constant,
}
# The laws in the figure, each with its line. That of n would leave the others no height.
DRAWN = {"(n-1)/n": "-", "sqrt(n)": "--"}
# {name of a statistic: its column}
STATISTICS = {"median": "sync_median", "RMS": "sync_rms"}
COLUMNS = ("subject", "solver", "steps")

# (devices, errors), both (N,).
Curve = np.ndarray


# -- numbers


def groups(rows: list[dict], statistic: str = "median") -> dict[tuple, Curve]:
    """{(subject, solver, steps): (devices, errors to the synchronous run)}.

    Rows of one device and errors of 0 are left out, and so are curves of a single point.
    """
    column = STATISTICS[statistic]
    found = {}
    for row in sorted(error.stale(rows), key=lambda row: row["devices"]):
        if row[column] > 0:
            key = tuple(row[name] for name in COLUMNS)
            found.setdefault(key, []).append((row["devices"], row[column]))
    return {key: np.array(pairs, float).T for key, pairs in found.items() if len(pairs) > 1}


def misfit(devices: np.ndarray, errors: np.ndarray, law: str) -> float:
    """Root mean square of log(error / (c law(n))) with the best c: 0.1 is about 10 %."""
    # The mean of the logarithms is log c, so what remains is their standard deviation.
    return float(np.std(np.log(errors / LAWS[law](devices))))


def fits(rows: list[dict], statistic: str = "median") -> list[dict]:
    """[{subject, law, error, misfit, best in, of}], one for each subject and law.

    `misfit` is the RMS over solvers and steps, and `best in` the number of these where the law
    fits best, of `of`.
    """
    table = []
    for subject in draw.by_subject(rows):
        own = [curve for key, curve in groups(rows, statistic).items() if key[0] == subject]
        # Which law is best may differ from curve to curve.
        each = np.array([[misfit(*curve, law) for law in LAWS] for curve in own])  # (curves, laws)
        for i, law in enumerate(LAWS):
            table.append(
                {
                    "subject": subject,
                    "law": law,
                    "error": statistic,
                    "misfit": float(np.sqrt(np.mean(each[:, i] ** 2))),
                    "best in": int(np.sum(each.argmin(1) == i)),
                    "of": len(own),
                }
            )
    return table


def growth(rows: list[dict]) -> list[dict]:
    """The median errors of each curve over that of the fewest devices, as rows of a table."""
    table = []
    for key, (devices, errors) in groups(rows).items():
        named = dict(zip(COLUMNS, key, strict=True))
        grown = {f"n = {n:g}": e / errors[0] for n, e in zip(devices, errors, strict=True)}
        table.append(named | grown)
    return table


# -- figures


def _figure(rows: list[dict]) -> matplotlib.figure.Figure:
    """Error against devices, relative to the fewest: a panel for each subject."""
    fig, shown = draw.panels(rows, height=3.4)
    for ax, subject, _ in shown:
        _draw(ax, {key: curve for key, curve in groups(rows).items() if key[0] == subject})
    shown[0][0].set_ylabel("error over that of the fewest")
    draw.legend(fig, columns=5)
    return fig


def _draw(ax: matplotlib.axes.Axes, own: dict[tuple, Curve]) -> None:
    """The mean curve of each solver over numbers of steps, beside two laws."""
    least = min(devices[0] for devices, _ in own.values())
    most = max(devices[-1] for devices, _ in own.values())
    for solver in dict.fromkeys(solver for _, solver, _ in own):
        curves = [curve for key, curve in own.items() if key[1] == solver]
        devices = curves[0][0]
        # The geometric mean: half and twice cancel.
        grown = np.exp(np.mean([np.log(errors / errors[0]) for _, errors in curves], axis=0))
        ax.plot(devices, grown, **report.style(solver) | {"linestyle": "none"}, label=solver)

    # The laws begin at 1 where the curves do.
    at = np.geomspace(least, most, 40)
    for name, line in DRAWN.items():
        law = LAWS[name](at) / LAWS[name](np.array([least]))
        ax.plot(at, law, line, color=report.GREY, label=name)
    ax.set(xscale="log", xlabel="devices", ylim=(0, None))
    draw.ticks(ax, [int(n) for devices, _ in own.values() for n in devices])


# -- words


def _answer(table: list[dict], subject: str) -> str:
    """The best law of one subject, by the median and by the RMS."""
    parts = []
    for statistic in STATISTICS:
        own = [fit for fit in table if (fit["subject"], fit["error"]) == (subject, statistic)]
        best, second, *_ = sorted(own, key=lambda fit: fit["misfit"])
        name = f"**{best['law']}**" if statistic == "median" else best["law"]
        parts.append(
            f"by the {statistic} {name} (misfit {report.sig(best['misfit'])}; next "
            f"{second['law']} with {report.sig(second['misfit'])})"
        )
    return f"On {subjects.NAMES[subject]} the best law is {'; '.join(parts)}."


def best_of(rows: list[dict], subject: str) -> dict:
    """The row of `fits` with the least misfit to the median errors of a subject."""
    own = [fit for fit in fits(rows) if fit["subject"] == subject]
    return min(own, key=lambda fit: fit["misfit"])


def _title(rows: list[dict]) -> str:
    """The best law of each subject with its misfit, as the claim of the figure."""
    named = []
    for subject in draw.by_subject(rows):
        best = best_of(rows, subject)
        named.append(
            f"{best['law']} on {subjects.NAMES[subject]} (misfit {report.sig(best['misfit'])})"
        )
    return f"Of the laws the median error follows best {', '.join(named)}"


def section(rows: list[dict], command: str) -> report.Section:
    """The section of the page."""
    table = [fit for statistic in STATISTICS for fit in fits(rows, statistic)]
    picture = report.picture(
        _figure(rows),
        "Error of staleness over that of the fewest devices, against the number of devices, with "
        "the curves of two laws.",
        "Each mark is the geometric mean over the numbers of steps, of the median error over that "
        "on the fewest devices.",
        title=_title(rows),
    )
    return report.Section(
        question="By what law does it grow with the number of devices?",
        expected=(
            "As (n-1)/n, the fraction of the context that is stale: 1.75 times from 2 to 8 "
            "devices, and at most 2 times for ever. A rule of thumb has sqrt(n): 2 times from 2 to "
            "8, 4 times from 2 to 32."
        ),
        answer="\n".join(_answer(table, subject) for subject in draw.by_subject(rows)),
        figures=(picture,),
        table={"Misfits of the laws": table, "Errors over that of the fewest": growth(rows)},
        caveat=(
            "A misfit of 0.1 is about 10 %. The law is of first order in the staleness, so it "
            "holds for the median start. A start that changes its datum makes an error that no "
            "longer grows, and a few of them rule the RMS."
        ),
        command=command,
    )
